//! Every bound on sizes and counts, one line each, with what happens beyond it.
//!
//! Sizes are bytes, times milliseconds. A crossed bound is `TOO_LARGE` or `FIELD_INVALID` (nothing applied) unless the
//! line says otherwise. Those a setting can change are named here with their default.

/// Longest key; beyond it `TOO_LARGE`. An empty key is `FIELD_INVALID`.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Longest name of a component.
pub const COMPONENT_NAME_BYTES_MAX: usize = 256;
/// Most components of one object; the write that would cross it has the outcome *failed*, reason TOO_LARGE.
pub const COMPONENTS_PER_OBJECT_MAX: usize = 1_024;
/// Longest value of a component, also after an append (that is an outcome, since it depends on the state).
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Most operations plus preconditions of one request.
pub const OPS_PER_REQUEST_MAX: usize = 1_000;
/// Most bytes of keys and new values of one request.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest record, old values included; the write that would cross it has the outcome *failed*, reason TOO_LARGE.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest gRPC message on the public port, at both ends; beyond it gRPC itself answers OUT_OF_RANGE.
pub const PUBLIC_MESSAGE_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Largest gRPC message on the internal port, at both ends.
pub const INTERNAL_MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;
/// Most bytes that one page of a scan holds (one object may cross it alone).
pub const SCAN_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Most objects of one page of a scan; a larger page size is cut to it.
pub const SCAN_PAGE_OBJECTS_MAX: usize = 10_000;
/// Most conflicts of one page of a list; a larger page size is cut to it.
pub const CONFLICTS_PAGE_MAX: usize = 1_000;
/// Bytes of the present objects that one conflict is shown with; with more their components are left out.
pub const CONFLICT_VALUES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most keys of one read.
pub const KEYS_PER_READ_MAX: usize = 1_000;
/// Tokens of one session read: one for each epoch that the session saw since its last answered session read.
pub const SESSION_TOKENS_MAX: usize = 65;
/// Longest name of a namespace, a site, a node or a binding: UTF-8, no control characters.
pub const NAME_BYTES_MAX: usize = 255;
/// Shards of a namespace: at least 1; beyond the bound `FIELD_INVALID`.
pub const SHARDS_PER_NAMESPACE_MAX: u32 = 4_096;
/// Shards of a namespace when the creator does not say.
pub const SHARDS_PER_NAMESPACE_DEFAULT: u32 = 16;
/// Copies of a shard, the primary included.
pub const COPIES_MAX: u32 = 7;
/// Namespaces of a cluster.
pub const NAMESPACES_MAX: usize = 10_000;
/// User bindings of a cluster.
pub const BINDINGS_MAX: usize = 100_000;
/// Endpoints of one binding.
pub const ENDPOINTS_PER_BINDING_MAX: usize = 64;

/// Dedup entries that a shard keeps per client; beyond it the oldest goes and the floor rises over it.
pub const DEDUP_ENTRIES_PER_CLIENT: usize = 10_000;
/// How long a dedup entry is kept when the client says nothing.
pub const DEDUP_AGE_MS: u64 = 24 * 3_600 * 1_000;

/// Writes that wait in one shard's mailbox; beyond it `OVERLOADED` (nothing applied).
pub const SHARD_MAILBOX_MAX: usize = 65_536;
/// Clients that a node registers with the managers at the same time; beyond it `OVERLOADED`.
pub const REGISTRATIONS_MAX: usize = 1_024;
/// Reads of one shard that wait at a copy for a version; beyond it `OVERLOADED`.
pub const READS_WAITING_MAX: usize = 4_096;
/// Bytes of their keys; beyond it `OVERLOADED`.
pub const READS_WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Records that a primary holds formed and not yet durable; beyond it new writes wait in the mailbox.
pub const PENDING_RECORDS_MAX: usize = 16_384;
/// Bytes of such records.
pub const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of records in one message to a copy (a single larger record goes alone).
pub const RECORDS_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Records in one message to a copy.
pub const RECORDS_MESSAGE_MAX: usize = 4_096;
/// Bytes that a primary sends a copy beyond what the copy acknowledged (its credit).
pub const STREAM_CREDIT_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes of objects that are compared between copies at once.
pub const SCRUB_PAGE_BYTES: usize = 64 * 1024;
/// Pages of a shard that are compared at the same time.
pub const SCRUB_PAGES_MAX: usize = 4;
/// Keys that differ, of a copy in a page, that are told one by one.
pub const SCRUB_KEYS_TOLD_MAX: usize = 10;
/// Bytes of objects in one chunk of a full copy.
pub const COPY_CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that one commit round writes; what waits beyond it goes into the next round.
pub const COMMIT_ROUND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that wait for the store's writer; beyond it shard threads take no new work until it told them of room.
pub const WRITER_QUEUE_BYTES_MAX: usize = 2 * COMMIT_ROUND_BYTES_MAX;
/// Records of the ends of all logs that a node compares with the objects at its start; each copy gets its share, at least 16.
pub const START_CHECK_RECORDS_MAX: usize = 100_000;
/// Bytes of such records; each copy gets its share, at least 64 KiB.
pub const START_CHECK_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Damaged stores that a data folder keeps; with one more the node does not start until a person moved some away.
pub const DAMAGED_STORES_MAX: usize = 3;
/// Connections to the public port at a time; one more waits until another ends. Fewer where few files may be open.
pub const PUBLIC_CONNECTIONS_MAX: usize = 4_096;
/// Connections to the internal port.
pub const INTERNAL_CONNECTIONS_MAX: usize = 1_024;
/// Connections to the admin port.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// How long a connection to the admin port may stay.
pub const ADMIN_CONNECTION_MS_MAX: u64 = 10_000;
/// How long a new connection may take to say the first 24 bytes of HTTP/2; beyond it it is closed.
pub const FIRST_WORDS_MS_MAX: u64 = 10_000;
/// Requests of one stream that are not answered yet; beyond it the server stops reading the stream.
pub const STREAM_IN_FLIGHT_MAX: usize = 4_096;
/// Requests in one message of a stream.
pub const STREAM_BATCH_MAX: usize = 1_024;
/// Longest deadline that a request may ask for; a longer one is cut to it.
pub const DEADLINE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Deadline when the caller gives none.
pub const DEADLINE_MS_DEFAULT: u64 = 10_000;

/// Bytes of orphans in one message of a copy to its primary, and in one step of a primary with its own (a larger one goes
/// alone).
pub const SUBMIT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of copies' orphans that a primary judged and that are not durable yet; beyond it the copies wait.
pub const GIVEN_BACK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Orphans of a copy that were judged and wait to leave its orphan log; beyond it the rest waits.
pub const ORPHANS_JUDGED_MAX: usize = 100_000;
/// Sites that a primary tells updates by, of a shard whose primary follows its writers; those of further sites count in the
/// whole only.
pub const WRITER_SITES_MAX: usize = 16;

/// How far a client id may be dated in the future of the Sessions table's clock.
pub const CLIENT_ID_FUTURE_MS: u64 = 60_000;
/// How far back a client id may be dated: the registration floor's distance from the table's clock.
pub const SESSION_HORIZON_MS: u64 = 24 * 3_600 * 1_000;

/// Records that a copy must be behind before a coalesced delta is thought of; below it the records are sent.
pub const DELTA_RECORDS_MIN: u64 = 10_000;
/// Bytes of a coalesced delta, with what the primary remembers to make it; beyond it the records are sent.
pub const DELTA_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that a copy stages of a delta and of the records that come with it; beyond it the copy gives the delta up.
pub const DELTA_STAGED_BYTES_MAX: usize = 2 * DELTA_BYTES_MAX;
/// Bytes of log that a primary reads in one step for a delta (a single larger record goes alone).
pub const DELTA_READ_BYTES: usize = 256 * 1024;
/// Objects or dedup entries that a primary looks up in one step for a delta, and that one of its chunks holds.
pub const DELTA_ITEMS_PER_STEP: usize = 1_000;
/// Deltas that a node prepares at the same time, each of its shard threads its part of them and at least one; who wants one more
/// asks again.
pub const DELTA_WALKS_MAX: usize = 16;

const _: () = assert!(
    REQUEST_BYTES_MAX < PUBLIC_MESSAGE_BYTES_MAX,
    "a full request fits a public message"
);
const _: () = assert!(
    RECORD_BYTES_MAX < INTERNAL_MESSAGE_BYTES_MAX,
    "a full record fits an internal message"
);
const _: () = assert!(
    KEY_BYTES_MAX + VALUE_BYTES_MAX < REQUEST_BYTES_MAX,
    "a full object fits a request"
);
