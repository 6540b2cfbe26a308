//! What the copies of a shard say to each other. Every message bears the sender's epoch; a receiver that promised a higher
//! one takes nothing from it.
//!
//! A stream is a subscription of a copy at its primary, by a number that the copy draws anew each time. Messages may be
//! lost, repeated and reordered: each can be recognised as stale, and whoever waits asks again.

use crate::conflict::ConflictReason;
use crate::forwarded::Forwarded;
use crate::object::Object;
use crate::request::DedupEntry;
use crate::store::{CopyProgress, Orphan};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use understudy_proto::{CopyId, Epoch, Pair, RequestId};

/// A message about one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Subscribe(Subscribe),
    Branch(Branch),
    Records(Records),
    Ack(Ack),
    CopyChunk(CopyChunk),
    Pulse(Pulse),
    Reject(Reject),
    Submit(Submit),
    Submitted(Submitted),
    Delta(DeltaChunk),
    Scrub(Scrub),
    Scrubbed(Scrubbed),
}

/// From a copy to its primary: send me what comes after my position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribe {
    pub epoch: Epoch,
    pub stream: u64,
    pub copy: CopyId,
    /// The end of the copy's log (of the staged one while it is rebuilt).
    pub position: Pair,
    /// The running checksum there.
    pub checksum: u64,
    pub epoch_starts: Vec<Pair>,
    /// Bytes that may be under way without an acknowledgement.
    pub credit: u64,
    /// The copy is being rebuilt and wants what follows here.
    pub copying: Option<CopyProgress>,
    /// The copy's log (the staged one while it is rebuilt) begins after this.
    pub base: Pair,
    /// The copy takes a delta, or has one under way, from here on: its objects hold the log up to it. `None`: it takes none.
    pub delta_since: Option<Pair>,
    /// What the namespace forwards came to another here: the copy wants records as they are logged.
    pub whole: bool,
}

/// From a primary: how the copy's log relates to the primary's, and what comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Branch {
    pub epoch: Epoch,
    pub stream: u64,
    pub cut: Pair,
    pub mode: BranchMode,
}

/// What a subscription leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BranchMode {
    /// Records follow from the copy's position.
    Records,
    /// Undo to the cut, then subscribe again.
    Undo,
    /// The log no longer reaches back to the cut: begin a full copy.
    Rebuild,
}

/// Records in order, without a gap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    pub epoch: Epoch,
    pub stream: u64,
    pub records: Vec<Forwarded>,
    /// in_sync: up to here everything is committed. Lazy: (0, 0).
    pub commit: Pair,
}

/// From a copy: this is durable here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    pub epoch: Epoch,
    pub stream: u64,
    pub copy: CopyId,
    pub position: Pair,
    /// When it was sent, by the copy's own clock: the primary gives it back.
    pub sent: Instant,
    /// The newest beacon that it answers with this, if it answers one.
    pub beacon: Option<BeaconAnswer>,
}

/// The stream of an acknowledgement that acknowledges nothing and only answers a beacon.
pub const NO_STREAM: u64 = 0;

/// What a primary asks its witnesses for with a pulse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beacon {
    /// When it was sent, by the primary's own clock: the answer gives it back.
    pub sent: Instant,
    /// The lease that it asks for, from when it was sent.
    pub lease: Duration,
    /// Whether the primary has a lease now, from whomever.
    pub leased: bool,
}

/// A witness's answer: what the beacon said, so that the primary need not remember it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeaconAnswer {
    pub sent: Instant,
    pub lease: Duration,
}

/// A piece of a full copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyChunk {
    pub epoch: Epoch,
    pub stream: u64,
    /// What the chunk continues: a chunk is taken only when this is the copy's own progress.
    pub continues: CopyProgress,
    /// The progress once the chunk is taken.
    pub then: CopyProgress,
    /// What was durable at the source before it read the chunk, with the running checksum and the epoch starts there.
    pub from: Pair,
    pub checksum: u64,
    pub epoch_starts: Vec<Pair>,
    /// What the chunk holds is not later than this.
    pub at: Pair,
    pub objects: Vec<(Bytes, Object)>,
    pub dedup: Vec<(RequestId, DedupEntry)>,
}

/// A piece of a coalesced delta: the last state of what was written after the position of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeltaChunk {
    pub epoch: Epoch,
    pub stream: u64,
    /// As in [`CopyChunk`].
    pub continues: CopyProgress,
    pub then: CopyProgress,
    /// As in the subscription.
    pub since: Pair,
    /// The delta speaks of all that was written after `since` and up to here; the running checksum and the epoch starts here.
    pub upto: Pair,
    pub checksum: u64,
    pub epoch_starts: Vec<Pair>,
    /// What the chunk holds is not later than this.
    pub at: Pair,
    /// In key order. `None`: it is gone.
    pub objects: Vec<(Bytes, Option<Object>)>,
    /// In the order of the ids. `None`: it was forgotten.
    pub dedup: Vec<(RequestId, Option<DedupEntry>)>,
}

/// From a primary to every copy of the entry, once an interval: where the primary stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    pub epoch: Epoch,
    /// Durable at the primary.
    pub position: Pair,
    /// The primary's log begins after this; copies trim theirs up to it.
    pub base: Pair,
    /// Only under the primary's lease, and only once it heard from the copy.
    pub echo: Option<Echo>,
    /// As in [`Records`].
    pub commit: Pair,
    /// On which the primary feeds the copy; 0: on none.
    pub stream: u64,
    /// Only from a node that makes progress.
    pub beacon: Option<Beacon>,
}

/// The newest acknowledgement of a copy that the primary took before it stood where the pulse says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo {
    /// The copy's stream: which of its processes sent it.
    pub stream: u64,
    /// By the clock of that process.
    pub sent: Instant,
}

/// The receiver of a message promised a newer epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    pub epoch: Epoch,
}

/// From a copy to its primary: orphans to judge, in the order of their pairs. With none it asks how far those that were
/// judged are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submit {
    pub epoch: Epoch,
    /// Of the copy's newest subscription; the answer bears it, so that a late one to an earlier process or role is known.
    pub stream: u64,
    pub copy: CopyId,
    pub orphans: Vec<Orphan>,
}

/// From a primary: what became of the orphans that were submitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submitted {
    pub epoch: Epoch,
    pub stream: u64,
    /// One for each orphan of the message, in its order.
    pub fates: Vec<Fate>,
    /// Up to here the primary's log is durable there and at every secondary that is not joining.
    pub everywhere: Pair,
}

/// What became of an orphan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// The orphan.
    pub pair: Pair,
    pub kind: FateKind,
    /// Where its request stands now.
    pub stands: Pair,
}

/// How an orphan was judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FateKind {
    /// It was there already, under its own or its request's pair.
    Stands,
    /// Recorded again with its changes.
    Applied,
    /// Recorded again as the failed outcome that it is.
    OutcomeOnly,
    Conflict(ConflictReason),
    /// By the namespace's policy; a record tells of it.
    Discarded,
}

/// From a primary to a copy: what have you of these keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scrub {
    pub epoch: Epoch,
    /// Of the copy's newest subscription.
    pub stream: u64,
    /// Of the page, for its answer.
    pub number: u64,
    /// The keys after this one and up to the last one, inclusive; `None`: from the first key, to the end.
    pub after: Option<Bytes>,
    pub last: Option<Bytes>,
    /// The page holds nothing later than this: what is to be compared has to be at least here.
    pub at: Pair,
    /// Of the page: a copy that has the same need not list it.
    pub digest: u64,
}

/// From a copy: what it has of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scrubbed {
    pub epoch: Epoch,
    pub stream: u64,
    pub copy: CopyId,
    pub number: u64,
    /// What is told is not later than this.
    pub at: Pair,
    /// All of it is the same, and none of it is listed.
    pub same: bool,
    /// The copy has more keys in the page than it lists.
    pub more: bool,
    /// In the order of their keys.
    pub entries: Vec<ScrubEntry>,
}

/// An object, as far as copies compare it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ScrubEntry {
    pub key: Bytes,
    /// Of its last write.
    pub pair: Pair,
    /// xxh3 over its stored form.
    pub digest: u64,
}

impl Message {
    pub fn epoch(&self) -> Epoch {
        match self {
            Message::Subscribe(message) => message.epoch,
            Message::Branch(message) => message.epoch,
            Message::Records(message) => message.epoch,
            Message::Ack(message) => message.epoch,
            Message::CopyChunk(message) => message.epoch,
            Message::Pulse(message) => message.epoch,
            Message::Reject(message) => message.epoch,
            Message::Submit(message) => message.epoch,
            Message::Submitted(message) => message.epoch,
            Message::Delta(message) => message.epoch,
            Message::Scrub(message) => message.epoch,
            Message::Scrubbed(message) => message.epoch,
        }
    }
}
