//! The stored form of records: every kind survives it, every damage is refused, and its bytes are pinned.
//!
//! When a golden test fails the format changed: that needs a new format number and a reader for the old one, not new
//! golden bytes.

use bytes::Bytes;
use proptest::prelude::*;
use understudy_proto::{ClientId, Pair, RequestId, Revision, Sequence, ShardId};
use understudy_protocol::change::{Change, ComponentChange, ObjectChange};
use understudy_protocol::conflict::{Conflict, ConflictBody, ConflictReason};
use understudy_protocol::expiry::{ClientExpiry, ClientState, ExpiryBody, ShardState};
use understudy_protocol::object::{Component, LastWrite, Object, Value};
use understudy_protocol::record::{Body, EncodedRecord, Record, RequestBody};
use understudy_protocol::request::{DedupEntry, FailedOp, Op, OpResult, Outcome, Precondition};

fn data() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn pair() -> impl Strategy<Value = Pair> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, version)| Pair::new(epoch, version))
}

/// A pair that a record can have: never (0, 0).
fn real_pair() -> impl Strategy<Value = Pair> {
    (any::<u64>(), 1..=u64::MAX).prop_map(|(epoch, version)| Pair::new(epoch, version))
}

fn id() -> impl Strategy<Value = RequestId> {
    (any::<u128>(), any::<u64>()).prop_map(|(client, sequence)| RequestId {
        client: ClientId(client),
        sequence: Sequence(sequence),
    })
}

fn last() -> impl Strategy<Value = LastWrite> {
    (pair(), id()).prop_map(|(pair, request)| LastWrite { pair, request })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        data().prop_map(Value::Data),
        any::<i64>().prop_map(Value::Counter)
    ]
}

fn object() -> impl Strategy<Value = Object> {
    let components = proptest::collection::btree_map(data(), (value(), pair()), 1..4);
    (last(), components).prop_map(|(last, components)| Object {
        last,
        components: components
            .into_iter()
            .map(|(name, (value, pair))| Component { name, value, pair })
            .collect(),
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (data(), data()).prop_map(|(key, value)| Op::Put { key, value }),
        data().prop_map(|key| Op::Delete { key }),
        (data(), data(), data()).prop_map(|(key, name, value)| Op::SetComponent {
            key,
            name,
            value
        }),
        (data(), data()).prop_map(|(key, name)| Op::RemoveComponent { key, name }),
        (data(), data(), any::<i64>()).prop_map(|(key, name, delta)| Op::Add { key, name, delta }),
        (data(), data(), data()).prop_map(|(key, name, data)| Op::Append { key, name, data }),
        data().prop_map(|key| Op::Get { key }),
    ]
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        (data(), pair()).prop_map(|(key, pair)| Precondition::LastPair { key, pair }),
        (data(), data(), value()).prop_map(|(key, name, value)| Precondition::ComponentValue {
            key,
            name,
            value
        }),
        (data(), any::<bool>()).prop_map(|(key, absent)| Precondition::Absent { key, absent }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let result = prop_oneof![
        any::<bool>().prop_map(OpResult::Existed),
        any::<i64>().prop_map(OpResult::Counter),
        any::<u64>().prop_map(OpResult::Length),
        proptest::option::of(object()).prop_map(OpResult::Object),
    ];
    let why = prop_oneof![
        Just(FailedOp::WrongKind),
        Just(FailedOp::Overflow),
        Just(FailedOp::TooLarge)
    ];
    prop_oneof![
        proptest::collection::vec(result, 0..4).prop_map(Outcome::Applied),
        any::<u32>().prop_map(Outcome::ConditionFailed),
        (any::<u32>(), why).prop_map(|(index, why)| Outcome::Failed(index, why)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (
            proptest::option::of((value(), pair())),
            proptest::option::of(value())
        )
            .prop_map(|(old, new)| Change::Set { old, new }),
        (proptest::option::of(real_pair()), any::<i64>())
            .prop_map(|(old_pair, delta)| Change::Add { old_pair, delta }),
        (proptest::option::of(real_pair()), any::<u64>(), data()).prop_map(
            |(old_pair, old_length, data)| Change::Append {
                old_pair,
                old_length,
                data
            }
        ),
    ]
}

fn object_change() -> impl Strategy<Value = ObjectChange> {
    let component = (data(), change()).prop_map(|(name, change)| ComponentChange { name, change });
    (
        data(),
        proptest::option::of(last()),
        proptest::collection::vec(component, 0..3),
    )
        .prop_map(|(key, before, components)| ObjectChange {
            key,
            before,
            components,
        })
}

fn request_body() -> impl Strategy<Value = RequestBody> {
    (
        id(),
        any::<u64>(),
        proptest::collection::vec(op(), 0..4),
        proptest::collection::vec(precondition(), 0..3),
        outcome(),
        proptest::collection::vec(object_change(), 0..3),
        proptest::collection::vec(pair(), 0..3),
    )
        .prop_map(
            |(id, fingerprint, ops, preconditions, outcome, changes, earlier)| RequestBody {
                id,
                fingerprint,
                ops,
                preconditions,
                outcome,
                changes,
                earlier,
            },
        )
}

fn dedup_entry() -> impl Strategy<Value = DedupEntry> {
    (
        pair(),
        any::<u64>(),
        outcome(),
        proptest::collection::vec(pair(), 0..3),
    )
        .prop_map(|(pair, fingerprint, outcome, conflicts)| DedupEntry {
            pair,
            fingerprint,
            outcome,
            conflicts,
        })
}

fn conflict_body() -> impl Strategy<Value = ConflictBody> {
    let reason = prop_oneof![
        Just(ConflictReason::ObjectChanged),
        Just(ConflictReason::OutcomeConflict),
        Just(ConflictReason::MayHaveRun),
        Just(ConflictReason::CannotBeTold),
        Just(ConflictReason::ByPolicy),
    ];
    let stands = proptest::collection::vec(proptest::option::of(last()), 3);
    (
        record_of(request_body().prop_map(|body| Body::Request(Box::new(body)))),
        reason,
        stands,
        proptest::option::of(dedup_entry()),
        proptest::option::of(object()),
        any::<bool>(),
    )
        .prop_map(
            |(cut_off, reason, mut stands, replaced, before, discarded)| {
                stands.truncate(cut_off.changes().len());
                let conflict = Conflict::new(reason, cut_off, stands).expect("it is a request");
                match discarded {
                    true => ConflictBody::discarded(conflict, replaced),
                    false => ConflictBody::new(conflict, replaced, before.as_ref()),
                }
            },
        )
}

fn client_expiry(client: u128) -> impl Strategy<Value = ClientExpiry> {
    (
        proptest::option::of(any::<u64>()),
        proptest::option::of(dedup_entry()),
        proptest::collection::btree_map(1..=u64::MAX, dedup_entry(), 0..3),
    )
        .prop_map(move |(more, before, removed)| {
            let last = removed.keys().next_back().copied().unwrap_or(0);
            ClientExpiry {
                client: ClientId(client),
                floor: more.map(|more| Sequence(last.saturating_add(more))),
                before,
                removed: removed
                    .into_iter()
                    .map(|(n, entry)| (Sequence(n), entry))
                    .collect(),
            }
        })
}

fn expiry_body() -> impl Strategy<Value = ExpiryBody> {
    let clients = proptest::collection::btree_set(any::<u128>(), 1..4)
        .prop_flat_map(|ids| ids.into_iter().map(client_expiry).collect::<Vec<_>>());
    (any::<u64>(), proptest::option::of(dedup_entry()), clients).prop_map(
        |(sessions, before, clients)| ExpiryBody {
            sessions: Revision(sessions),
            before,
            clients,
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        4 => request_body().prop_map(|body| Body::Request(Box::new(body))),
        2 => conflict_body().prop_map(|body| Body::Conflict(Box::new(body))),
        2 => expiry_body().prop_map(|body| Body::Expiry(Box::new(body))),
        1 => Just(Body::EpochStart),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    record_of(body())
}

fn record_of(body: impl Strategy<Value = Body>) -> impl Strategy<Value = Record> {
    (
        any::<u64>(),
        pair(),
        pair(),
        pair(),
        any::<u64>(),
        any::<u64>(),
        body,
    )
        .prop_map(
            |(shard, pair, previous, start, checksum, time_ms, body)| Record {
                shard: ShardId(shard),
                pair,
                previous,
                previous_epoch_start: start,
                previous_checksum: checksum,
                time_ms,
                body,
            },
        )
}

proptest! {
    #[test]
    fn every_record_survives_its_stored_form(record in record()) {
        let encoded = record.encode();
        prop_assert_eq!(Record::peek_pair(&encoded.bytes), Ok(record.pair));
        let checked = EncodedRecord::check(record.shard, encoded.bytes.clone());
        prop_assert_eq!(checked.as_ref(), Ok(&encoded));
        let (decoded, again) = Record::decode(&encoded.bytes).unwrap();
        prop_assert_eq!(&again, &encoded);
        prop_assert_eq!(decoded, record);
    }

    #[test]
    fn every_dedup_entry_survives_its_stored_form(entry in dedup_entry()) {
        prop_assert_eq!(entry.encode()[0], if entry.conflicts.is_empty() { 1 } else { 2 });
        prop_assert_eq!(DedupEntry::decode(entry.encode()), Ok(entry));
    }

    #[test]
    fn every_object_survives_its_stored_form(object in object()) {
        prop_assert_eq!(Object::decode(object.encode()), Ok(object));
    }

    #[test]
    fn hostile_bytes_behind_a_valid_frame_never_panic(
        kind in 0..7u8,
        rest in proptest::collection::vec(any::<u8>(), 24..200),
    ) {
        let mut bytes = vec![0, 0, 0, 0, 1, kind];
        bytes.extend(rest);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_be_bytes());
        let _ = Record::decode(&Bytes::from(bytes));
    }

    #[test]
    fn hostile_values_never_panic(bytes: Vec<u8>) {
        let _ = Object::decode(Bytes::from(bytes.clone()));
        let _ = DedupEntry::decode(Bytes::from(bytes.clone()));
        let _ = Record::decode(&Bytes::from(bytes));
    }
}

/// The first record of a shard: epoch 1 starts.
fn epoch_start() -> Record {
    Record {
        shard: ShardId(7),
        pair: Pair::new(1, 1),
        previous: Pair::ZERO,
        previous_epoch_start: Pair::ZERO,
        previous_checksum: 0,
        time_ms: 1_795_365_000_123,
        body: Body::EpochStart,
    }
}

/// The record after it: `put k = v` under a condition, and a counter in the same transaction.
fn put() -> Record {
    let key = Bytes::from_static(b"k");
    let value = Value::Data(Bytes::from_static(b"v"));
    let id = RequestId {
        client: ClientId(0x0123_4567_89ab_7def_8123_4567_89ab_cdef),
        sequence: Sequence(300),
    };
    Record {
        shard: ShardId(7),
        pair: Pair::new(1, 2),
        previous: Pair::new(1, 1),
        previous_epoch_start: Pair::new(1, 1),
        previous_checksum: epoch_start().encode().checksum,
        time_ms: 1_795_365_000_124,
        body: Body::Request(Box::new(RequestBody {
            id,
            fingerprint: 0x1122_3344_5566_7788,
            ops: vec![
                Op::Put {
                    key: key.clone(),
                    value: Bytes::from_static(b"v"),
                },
                Op::Add {
                    key: key.clone(),
                    name: Bytes::from_static(b"n"),
                    delta: -2,
                },
            ],
            preconditions: vec![Precondition::Absent {
                key: key.clone(),
                absent: true,
            }],
            outcome: Outcome::Applied(vec![OpResult::Existed(false), OpResult::Counter(-2)]),
            changes: vec![ObjectChange {
                key,
                before: None,
                components: vec![
                    ComponentChange {
                        name: Bytes::new(),
                        change: Change::Set {
                            old: None,
                            new: Some(value),
                        },
                    },
                    ComponentChange {
                        name: Bytes::from_static(b"n"),
                        change: Change::Add {
                            old_pair: None,
                            delta: -2,
                        },
                    },
                ],
            }],
            earlier: vec![],
        })),
    }
}

/// The put was cut off; under its id stands another outcome, and `k` has another last writer.
fn conflict() -> Record {
    let id = put().request_id().expect("it is a request");
    let stands = LastWrite {
        pair: Pair::new(2, 4),
        request: id,
    };
    let replaced = DedupEntry {
        pair: Pair::new(2, 4),
        fingerprint: 0x1122_3344_5566_7788,
        outcome: Outcome::ConditionFailed(0),
        conflicts: vec![],
    };
    let conflict = Conflict::new(ConflictReason::OutcomeConflict, put(), vec![Some(stands)]);
    let conflict = conflict.expect("it is a request");
    Record {
        shard: ShardId(7),
        pair: Pair::new(2, 5),
        previous: Pair::new(2, 4),
        previous_epoch_start: Pair::new(2, 2),
        previous_checksum: 9,
        time_ms: 1_795_365_000_125,
        body: Body::Conflict(Box::new(ConflictBody::new(conflict, Some(replaced), None))),
    }
}

/// The same, and nobody is asked.
fn discarded() -> Record {
    let mut record = conflict();
    if let Body::Conflict(body) = &mut record.body {
        body.change = None;
    }
    record
}

/// The put was cut off twice and is applied a third time.
fn put_again() -> Record {
    let mut record = put();
    if let Body::Request(body) = &mut record.body {
        body.earlier = vec![Pair::new(1, 2), Pair::new(2, 9)];
    }
    record.pair = Pair::new(3, 300);
    record
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_an_epoch_start_are_pinned() {
    let encoded = epoch_start().encode();
    assert_eq!(
        hex(&encoded.bytes),
        concat!(
            "00000030",         // length of what follows
            "01",               // format
            "02",               // kind: epoch start
            "0000000000000007", // shard
            "0000000000000001", // epoch
            "0000000000000001", // version
            "0000",             // pair of the record before
            "0000",             // pair of the epoch start before
            "0000000000000000", // running checksum of the record before
            "bba7dfa0a034",     // time in milliseconds
            "47c06974",         // crc32c
        )
    );
    assert_eq!(encoded.checksum, 0xc5c0_72c7_a68f_2c4e);
}

/// Client 9 forgets number 5; client 10 ended.
fn expiry() -> ExpiryBody {
    let entry = |version| DedupEntry {
        pair: Pair::new(1, version),
        fingerprint: 0xf1,
        outcome: Outcome::Applied(vec![OpResult::Counter(3)]),
        conflicts: Vec::new(),
    };
    ExpiryBody {
        sessions: Revision(77),
        before: None,
        clients: vec![
            ClientExpiry {
                client: ClientId(9),
                floor: Some(Sequence(5)),
                before: None,
                removed: vec![(Sequence(5), entry(2))],
            },
            ClientExpiry {
                client: ClientId(10),
                floor: None,
                before: Some(entry(4)),
                removed: vec![(Sequence(8), entry(3))],
            },
        ],
    }
}

#[test]
fn an_expiry_leaves_floors_and_its_undo_what_was_before() {
    let at = |client, sequence| RequestId {
        client: ClientId(client),
        sequence: Sequence(sequence),
    };
    let body = expiry();
    let state = ClientState {
        floor: Sequence(5),
        removed: Pair::new(1, 2),
    };
    let shard = ShardState {
        sessions: Revision(77),
        removed: Pair::new(1, 4),
    };
    assert_eq!(
        body.after(),
        [
            (at(9, 5), None),
            (at(9, 0), Some(state.entry())),
            (at(10, 8), None),
            (at(10, 0), None),
            (at(0, 0), Some(shard.entry())),
        ]
    );
    assert_eq!(ClientState::of(&state.entry()), state);
    assert_eq!(ShardState::of(&shard.entry()), shard);
    let entry = |client: usize| Some(body.clients[client].removed[0].1.clone());
    assert_eq!(
        body.before(),
        [
            (at(9, 5), entry(0)),
            (at(9, 0), None),
            (at(10, 8), entry(1)),
            (at(10, 0), body.clients[1].before.clone()),
            (at(0, 0), None),
        ]
    );
}

#[test]
fn an_expiry_out_of_order_is_refused() {
    let written = |change: &dyn Fn(&mut ExpiryBody)| {
        let mut body = expiry();
        change(&mut body);
        let record = Record {
            body: Body::Expiry(Box::new(body)),
            ..put()
        };
        Record::decode(&record.encode().bytes).map(|_| ())
    };
    assert_eq!(written(&|_| {}), Ok(()));
    assert!(written(&|body| body.clients.clear()).is_err());
    assert!(written(&|body| body.clients.reverse()).is_err());
    assert!(written(&|body| body.clients[0].floor = Some(Sequence(4))).is_err());
    assert!(written(&|body| body.clients[0].removed[0].0 = Sequence(0)).is_err());
    assert!(
        written(&|body| {
            let twice = body.clients[0].removed[0].clone();
            body.clients[0].removed.push(twice);
        })
        .is_err()
    );
}

#[test]
fn the_bytes_of_an_expiry_are_pinned() {
    let record = Record {
        body: Body::Expiry(Box::new(expiry())),
        ..put()
    };
    let encoded = hex(&record.encode().bytes);
    let body = concat!(
        "000000000000004d",                 // revision of the tables
        "00",                               // no state of the shard before
        "02",                               // clients
        "00000000000000000000000000000009", // client
        "05",                               // its floor
        "01",                               // it stays
        "00",                               // no state before
        "01",                               // removed
        "05",                               // number
        "0f",                               // bytes of the entry
    );
    assert!(encoded.contains(body), "{encoded}");
}

#[test]
fn the_bytes_of_a_put_are_pinned() {
    let encoded = put().encode();
    assert_eq!(
        hex(&encoded.bytes),
        concat!(
            "00000070",                         // length of what follows
            "01",                               // format
            "01",                               // kind: request
            "0000000000000007",                 // shard
            "0000000000000001",                 // epoch
            "0000000000000002",                 // version
            "0101",                             // pair of the record before
            "0101",                             // pair of the epoch start before
            "c5c072c7a68f2c4e",                 // running checksum of the record before
            "bca7dfa0a034",                     // time in milliseconds
            "0123456789ab7def8123456789abcdef", // client
            "ac02",                             // sequence 300
            "1122334455667788",                 // fingerprint
            "02",                               // two operations
            "01016b0176",                       // put k = v
            "05016b016e03",                     // add n of k, -2 in zigzag
            "01",                               // one precondition
            "03016b01",                         // k is absent
            "0102",                             // applied, two results
            "01",                               // did not exist
            "0303",                             // counter -2
            "01",                               // one object
            "016b00",                           // k, absent before
            "02",                               // two components
            "00030001", // the plain value: set from absent, data of one byte
            "76",
            "016e05000003", // n: added -2, absent before
            "cf71aa40",     // crc32c
        )
    );
    assert_eq!(encoded.checksum, 0x526a_e832_ba7e_8a8a);
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    for record in [epoch_start(), put(), put_again(), conflict(), discarded()] {
        let bytes = record.encode().bytes;
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes.slice(..length)).is_err());
            assert!(EncodedRecord::check(record.shard, bytes.slice(..length)).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let damaged = Bytes::from(damaged);
            assert!(Record::decode(&damaged).is_err(), "bit {bit}");
            assert!(EncodedRecord::check(record.shard, damaged).is_err());
        }
        let mut long = bytes.to_vec();
        long.push(0);
        assert!(Record::decode(&long.into()).is_err());
    }
}

#[test]
fn what_this_version_does_not_know_is_refused_by_name() {
    let reseal = |at: usize, to: u8| {
        let mut bytes = epoch_start().encode().bytes.to_vec();
        let end = bytes.len() - 4;
        bytes[at] = to;
        let crc = crc32c::crc32c(&bytes[..end]).to_be_bytes();
        bytes[end..].copy_from_slice(&crc);
        Record::decode(&bytes.into()).unwrap_err().0
    };
    assert_eq!(reseal(4, 2), "record of an unknown format");
    for reserved in [7, 0, 255] {
        assert_eq!(reseal(5, reserved), "record of an unknown kind");
    }
}

#[test]
fn the_bytes_of_a_conflict_are_pinned() {
    let cut_off = hex(&put().encode().bytes);
    let bytes = hex(&conflict().encode().bytes);
    let body = concat!(
        "0123456789ab7def8123456789abcdef", // client
        "ac02",                             // sequence 300
        "01",                               // it takes the place of an entry
        "0d",                               // of 13 bytes:
        "0102041122334455667788",           // format, 2.4, fingerprint
        "0200",                             // condition 1 failed
        "2b",                               // a key of 43 bytes:
        "ffff63",                           // conflicts
        "0123456789ab7def8123456789abcdef", // client
        "000000000000012c",                 // sequence
        "00000000000000010000000000000002", // the cut-off record's pair
        "00",                               // absent before
        "0100",                             // one component, the plain value
        "0300",                             // set from absent, data
        "8d01",                             // of 141 bytes:
        "0102",                             // format, outcome conflict
        "74",                               // a record of 116 bytes:
    );
    let stands = "010102040123456789ab7def8123456789abcdefac02";
    let at = bytes
        .find(body)
        .expect("the body's head is as it is written down");
    let rest = &bytes[at + body.len()..];
    assert_eq!(&rest[..cut_off.len()], cut_off);
    assert_eq!(&rest[cut_off.len()..rest.len() - 8], stands);
    assert_eq!(&bytes[8..12], "0104");
}

#[test]
fn the_bytes_of_a_discarded_record_are_those_of_its_conflict() {
    let (kept, discarded) = (conflict().encode().bytes, discarded().encode().bytes);
    let (kept, discarded) = (hex(&kept), hex(&discarded));
    assert_eq!(&discarded[8..12], "0106");
    let value = "8d010102"; // of 141 bytes: format, outcome conflict
    let (of_kept, of_discarded) = (kept.find(value).unwrap(), discarded.find(value).unwrap());
    assert_eq!(
        discarded[of_discarded..discarded.len() - 8],
        kept[of_kept..kept.len() - 8]
    );
    let entry = "010d01020411223344556677880200"; // the entry whose place it takes
    assert_eq!(&discarded[of_discarded - entry.len()..of_discarded], entry);
}

#[test]
fn a_request_recorded_again_names_its_earlier_pairs_first() {
    let (again, first) = (put_again().encode(), put().encode());
    let (again, first) = (hex(&again.bytes), hex(&first.bytes));
    assert_eq!(&again[8..12], "0105");
    let body = "0123456789ab7def8123456789abcdefac02";
    let (at, first_at) = (again.find(body).unwrap(), first.find(body).unwrap());
    assert_eq!(&again[at - 10..at], "0201020209");
    assert_eq!(again[at..again.len() - 8], first[first_at..first.len() - 8]);
    let (decoded, _) = Record::decode(&put_again().encode().bytes).unwrap();
    assert_eq!(decoded, put_again());
}

#[test]
fn a_conflict_under_another_key_or_inside_a_conflict_is_refused() {
    let mut other = conflict();
    if let Body::Conflict(body) = &mut other.body {
        let change = body.change.as_mut().expect("it is put");
        change.key = Bytes::from_static(b"k");
    }
    let refused = Record::decode(&other.encode().bytes).unwrap_err().0;
    assert_eq!(refused, "a conflict under another one's key");
    let Body::Conflict(body) = conflict().body else {
        unreachable!("it is a conflict")
    };
    let record = put().encode().bytes;
    let nested = conflict().encode().bytes;
    let mut bytes = body.conflict.encode().to_vec();
    let at = bytes
        .windows(record.len())
        .position(|w| w == record)
        .unwrap();
    // The length before it takes one byte for the put and two for the conflict.
    let length = [nested.len() as u8 | 0x80, (nested.len() >> 7) as u8];
    let inner: Vec<u8> = length.into_iter().chain(nested).collect();
    bytes.splice(at - 1..at + record.len(), inner);
    let refused = Conflict::decode(&bytes.into()).unwrap_err().0;
    assert_eq!(refused, "record of an unknown kind");
}

#[test]
fn a_conflict_keeps_what_took_effect_as_the_answer() {
    let (id, entry) = conflict().dedup().expect("it has one");
    assert_eq!(Some(id), put().request_id());
    assert_eq!(entry.pair, Pair::new(2, 5));
    assert_eq!(entry.outcome, Outcome::ConditionFailed(0));
    assert_eq!(entry.conflicts, vec![Pair::new(1, 2)]);
    let Body::Conflict(body) = conflict().body else {
        unreachable!("it is a conflict")
    };
    // With nothing under the id the outcome is that of the record that was cut off.
    let alone = ConflictBody::new(body.conflict.clone(), None, None);
    assert_eq!(
        alone.entry(Pair::new(2, 5)).outcome,
        body.conflict.request().outcome
    );
}

#[test]
fn a_record_of_another_shard_is_refused() {
    let bytes = put().encode().bytes;
    assert!(EncodedRecord::check(ShardId(8), bytes).is_err());
}
