//! The short form of a record: what it says, which records have one, and that nothing but it is taken for one.

use bytes::Bytes;
use proptest::prelude::*;
use understudy_proto::limits::RECORD_BYTES_MAX;
use understudy_proto::{ClientId, NamespaceId, Pair, RequestId, Sequence, ShardId};
use understudy_protocol::evaluate::perform;
use understudy_protocol::forwarded::{EncodedOperation, Forwarded};
use understudy_protocol::object::{LastWrite, Object};
use understudy_protocol::record::{Body, EncodedRecord, Record};
use understudy_protocol::request::{Op, Precondition, Request, plain_object};

fn request() -> Request {
    let id = RequestId {
        client: ClientId(7),
        sequence: Sequence(300),
    };
    let key = || Bytes::from_static(b"k");
    let ops = vec![
        Op::Append {
            key: key(),
            name: Bytes::new(),
            data: Bytes::from_static(b"more"),
        },
        Op::Get { key: key() },
    ];
    let preconditions = vec![Precondition::Absent {
        key: key(),
        absent: false,
    }];
    Request::new(id, NamespaceId(1), ops, preconditions, Sequence(299))
}

fn stands() -> Option<Object> {
    let last = LastWrite {
        pair: Pair::new(1, 4),
        request: RequestId {
            client: ClientId(9),
            sequence: Sequence(1),
        },
    };
    Some(plain_object(Bytes::from_static(b"stands"), last))
}

fn record_of(request: &Request) -> Record {
    let pair = Pair::new(2, 70_000);
    let (body, _) = perform(request, pair, |_| Ok::<_, ()>(stands())).expect("it can be read");
    Record {
        shard: ShardId(6),
        pair,
        previous: Pair::new(2, 69_999),
        previous_epoch_start: Pair::new(2, 5),
        previous_checksum: 11,
        time_ms: 1_795_000_000_000,
        body: Body::Request(Box::new(body)),
    }
}

fn short() -> (EncodedRecord, EncodedOperation) {
    let record = record_of(&request()).encode();
    let operation = EncodedOperation::of(&record).expect("a request has a short form");
    (record, operation)
}

#[test]
fn the_short_form_says_what_a_copy_cannot_know() {
    let (record, operation) = short();
    assert!(operation.bytes.len() < record.bytes.len());
    let said = operation.decode().expect("it can be read");
    assert_eq!((said.pair, said.checksum), (record.pair, record.checksum));
    assert_eq!(said.time_ms, 1_795_000_000_000);
    // The mark of the client is no part of the record.
    let asked = Request {
        answered_upto: Sequence(0),
        ..request()
    };
    assert_eq!(said.request, asked);
    let checked = EncodedOperation::check(operation.bytes.clone());
    assert_eq!(checked.as_ref(), Ok(&operation));
}

/// With it, the previous record's pair and checksum and the newest epoch start a copy forms the record again.
#[test]
fn the_record_can_be_formed_again_from_it() {
    let (record, operation) = short();
    let said = operation.decode().expect("it can be read");
    let (body, _) =
        perform(&said.request, said.pair, |_| Ok::<_, ()>(stands())).expect("it can be read");
    let again = Record {
        time_ms: said.time_ms,
        body: Body::Request(Box::new(body)),
        ..record_of(&request())
    };
    assert_eq!(again.encode(), record);
}

#[test]
fn its_bytes_do_not_change() {
    let (record, operation) = short();
    let mut expected = vec![1, 2, 0xf0, 0xa2, 4];
    expected.extend(record.checksum.to_be_bytes());
    // 1,795,000,000,000 ms.
    expected.extend([0x80, 0xbc, 0xd9, 0xf2, 0x9e, 0x34]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    expected.extend([0xac, 2]);
    expected.extend(request().fingerprint.to_be_bytes());
    expected.extend([2, 6, 1, b'k', 0, 4, b'm', b'o', b'r', b'e', 7, 1, b'k']);
    expected.extend([1, 3, 1, b'k', 0]);
    assert_eq!(operation.bytes, expected);
}

#[test]
fn only_a_request_that_ran_here_has_one() {
    let mut again = record_of(&request());
    let Body::Request(body) = &mut again.body else {
        panic!("it is a request");
    };
    body.earlier.push(Pair::new(1, 9));
    assert_eq!(EncodedOperation::of(&again.encode()), None);
    let start = Record {
        body: Body::EpochStart,
        ..again
    };
    assert_eq!(EncodedOperation::of(&start.encode()), None);
    // Bytes that are no record have none either.
    for length in [0, 5, 6, 30, 40] {
        let bytes = Bytes::from(vec![1; length]);
        let nothing = EncodedRecord {
            pair: Pair::ZERO,
            bytes,
            checksum: 0,
        };
        assert_eq!(EncodedOperation::of(&nothing), None, "{length} bytes");
    }
}

#[test]
fn a_damaged_one_is_refused() {
    let (_, operation) = short();
    let bytes = operation.bytes;
    for length in 0..bytes.len() {
        let cut = EncodedOperation::check(bytes.slice(..length));
        assert!(cut.and_then(|cut| cut.decode()).is_err(), "cut at {length}");
    }
    let long = Bytes::from([&bytes[..], &[0]].concat());
    let long = EncodedOperation::check(long).expect("its head is right");
    assert!(long.decode().is_err());
    let other = Bytes::from([&[2], &bytes[1..]].concat());
    assert!(EncodedOperation::check(other).is_err(), "another form");
    let mut large = bytes.to_vec();
    large.resize(RECORD_BYTES_MAX + 1, 0);
    assert!(EncodedOperation::check(large.into()).is_err());
}

#[test]
fn a_form_counts_for_what_it_takes() {
    let (record, operation) = short();
    let plain = Forwarded::Record(record.clone());
    let whole = Forwarded::WithObjects(record, vec![(Bytes::from_static(b"k"), stands())]);
    let short = Forwarded::Operation(operation);
    assert!(short.size() < plain.size() && plain.size() + 6 < whole.size());
    assert_eq!(whole.pair(), short.pair());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, at in 0usize..100, flip in 1u8..) {
        if let Ok(operation) = EncodedOperation::check(bytes.into()) {
            let _ = operation.decode();
        }
        let mut bytes = short().1.bytes.to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(operation) = EncodedOperation::check(bytes.into()) {
            let _ = operation.decode();
        }
    }
}
