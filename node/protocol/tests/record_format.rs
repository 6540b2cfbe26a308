//! The stored form of records: every kind survives it, every damage is refused, and its bytes are pinned.
//!
//! When a golden test fails the format changed: that needs a new format number and a reader for the old one, not new
//! golden bytes.

use bytes::Bytes;
use proptest::prelude::*;
use understudy_proto::{ClientId, Pair, RequestId, Sequence, ShardId};
use understudy_protocol::change::{Change, ComponentChange, ObjectChange};
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

fn body() -> impl Strategy<Value = Body> {
    let request = (
        id(),
        any::<u64>(),
        proptest::collection::vec(op(), 0..4),
        proptest::collection::vec(precondition(), 0..3),
        outcome(),
        proptest::collection::vec(object_change(), 0..3),
    )
        .prop_map(
            |(id, fingerprint, ops, preconditions, outcome, changes)| RequestBody {
                id,
                fingerprint,
                ops,
                preconditions,
                outcome,
                changes,
            },
        );
    prop_oneof![
        4 => request.prop_map(|body| Body::Request(Box::new(body))),
        1 => Just(Body::EpochStart),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (
        any::<u64>(),
        pair(),
        pair(),
        pair(),
        any::<u64>(),
        any::<u64>(),
        body(),
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
    fn every_dedup_entry_survives_its_stored_form(
        pair in pair(),
        fingerprint: u64,
        outcome in outcome(),
    ) {
        let entry = DedupEntry { pair, fingerprint, outcome };
        prop_assert_eq!(DedupEntry::decode(entry.encode()), Ok(entry));
    }

    #[test]
    fn every_object_survives_its_stored_form(object in object()) {
        prop_assert_eq!(Object::decode(object.encode()), Ok(object));
    }

    #[test]
    fn hostile_bytes_behind_a_valid_frame_never_panic(
        kind in 0..4u8,
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
        })),
    }
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
    for record in [epoch_start(), put()] {
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
    for reserved in [3, 4, 0, 255] {
        assert_eq!(reseal(5, reserved), "record of an unknown kind");
    }
}

#[test]
fn a_record_of_another_shard_is_refused() {
    let bytes = put().encode().bytes;
    assert!(EncodedRecord::check(ShardId(8), bytes).is_err());
}
