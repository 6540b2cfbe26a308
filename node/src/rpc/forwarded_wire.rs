//! Records on their way to a copy, to and from the wire, in each form in which they are sent.
//!
//! What is malformed, too large or of another shard is refused whole. What an operation asks is read by the replica that takes it.

use super::peer_wire::{decode_object, encode_object};
use super::wire::{pair, to_pair};
use bytes::Bytes;
use understudy_proto::{Epoch, ShardId, v1};
use understudy_protocol::codec::Malformed;
use understudy_protocol::forwarded::{EncodedOperation, Forwarded};
use understudy_protocol::record::EncodedRecord;
use understudy_protocol::shard::message::Records;
use v1::forwarded_record::Form;

/// Records that all go as they are logged need no form of their own.
pub(super) fn encode(m: Records) -> v1::Records {
    let (mut records, mut forwarded) = (Vec::new(), Vec::new());
    let plain = |record: &Forwarded| matches!(record, Forwarded::Record(_));
    let all_plain = m.records.iter().all(plain);
    for record in m.records {
        let form = match record {
            Forwarded::Record(record) if all_plain => {
                records.push(record.bytes);
                continue;
            }
            Forwarded::Record(record) => Form::Record(record.bytes),
            Forwarded::Operation(operation) => Form::Operation(operation.bytes),
            Forwarded::WithObjects(record, objects) => Form::WithObjects(v1::RecordWithObjects {
                record: record.bytes,
                objects: objects.into_iter().map(encode_object).collect(),
            }),
        };
        forwarded.push(v1::ForwardedRecord { form: Some(form) });
    }
    v1::Records {
        epoch: m.epoch.0,
        stream: m.stream,
        records,
        commit: Some(pair(m.commit)),
        forwarded,
    }
}

pub(super) fn decode(shard: ShardId, m: v1::Records) -> Result<Records, Malformed> {
    if !m.records.is_empty() && !m.forwarded.is_empty() {
        return Err(Malformed("records in two places"));
    }
    let plain = |bytes: Bytes| EncodedRecord::check(shard, bytes).map(Forwarded::Record);
    let records = m.records.into_iter().map(plain);
    let forwarded = m.forwarded.into_iter();
    let forwarded = forwarded.map(|record| decode_form(shard, record));
    Ok(Records {
        epoch: Epoch(m.epoch),
        stream: m.stream,
        records: records.chain(forwarded).collect::<Result<_, _>>()?,
        commit: to_pair(m.commit),
    })
}

fn decode_form(shard: ShardId, m: v1::ForwardedRecord) -> Result<Forwarded, Malformed> {
    match m.form.ok_or(Malformed("a record in no form"))? {
        Form::Record(bytes) => EncodedRecord::check(shard, bytes).map(Forwarded::Record),
        Form::Operation(bytes) => EncodedOperation::check(bytes).map(Forwarded::Operation),
        Form::WithObjects(m) => {
            let record = EncodedRecord::check(shard, m.record)?;
            let objects = m.objects.into_iter().map(decode_object);
            Ok(Forwarded::WithObjects(
                record,
                objects.collect::<Result<_, _>>()?,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::{ClientId, NamespaceId, Pair, RequestId, Sequence};
    use understudy_protocol::evaluate::perform;
    use understudy_protocol::record::{Body, Record};
    use understudy_protocol::request::{Op, Request};

    const SHARD: ShardId = ShardId(6);

    /// A message with a record in each form.
    fn records() -> Records {
        let id = RequestId {
            client: ClientId(5),
            sequence: Sequence(1),
        };
        let put = Op::Put {
            key: Bytes::from_static(b"here"),
            value: Bytes::from_static(b"v"),
        };
        let request = Request::new(id, NamespaceId(1), vec![put], Vec::new(), Sequence(0));
        let record = |version| {
            let pair = Pair::new(2, version);
            let nothing = |_: &Bytes| Ok::<_, Malformed>(None);
            let (body, written) = perform(&request, pair, nothing).expect("nothing is read");
            let record = Record {
                shard: SHARD,
                pair,
                previous: Pair::new(2, version - 1),
                previous_epoch_start: Pair::new(2, 1),
                previous_checksum: 9,
                time_ms: 77,
                body: Body::Request(Box::new(body)),
            };
            (record.encode(), written)
        };
        let operation = EncodedOperation::of(&record(3).0).expect("it is shorter");
        let (with_objects, mut written) = record(4);
        written.push((Bytes::from_static(b"gone"), None));
        Records {
            epoch: Epoch(2),
            stream: 3,
            records: vec![
                Forwarded::Record(record(2).0),
                Forwarded::Operation(operation),
                Forwarded::WithObjects(with_objects, written),
            ],
            commit: Pair::ZERO,
        }
    }

    #[test]
    fn a_record_survives_the_wire_in_each_form() {
        let sent = records();
        assert_eq!(decode(SHARD, encode(sent.clone())), Ok(sent));
    }

    #[test]
    fn records_that_are_sent_as_they_are_logged_stand_alone() {
        let mut sent = records();
        sent.records.truncate(1);
        let wire = encode(sent.clone());
        assert_eq!((wire.records.len(), wire.forwarded.len()), (1, 0));
        assert_eq!(decode(SHARD, wire), Ok(sent));
    }

    #[test]
    fn malformed_records_are_refused() {
        let mutilated = |change: fn(&mut v1::Records)| {
            let mut wire = encode(records());
            change(&mut wire);
            decode(SHARD, wire)
        };
        assert!(mutilated(|_| ()).is_ok());
        assert!(mutilated(|wire| wire.records.push(Bytes::new())).is_err());
        assert!(mutilated(|wire| wire.forwarded[0].form = None).is_err());
        let form = |bytes: &'static [u8]| Some(Form::Operation(Bytes::from_static(bytes)));
        assert!(
            mutilated(|wire| wire.forwarded[1].form = Some(Form::Record(Bytes::new()))).is_err()
        );
        for bytes in [&b""[..], b"\x01", b"\x02\x02\x03"] {
            let mut wire = encode(records());
            wire.forwarded[1].form = form(bytes);
            assert!(decode(SHARD, wire).is_err(), "{bytes:?}");
        }
        assert!(decode(ShardId(7), encode(records())).is_err());
        let mut wire = encode(records());
        if let Some(Form::WithObjects(m)) = &mut wire.forwarded[2].form {
            m.objects[0].object = Bytes::from_static(b"x");
        }
        assert!(decode(SHARD, wire).is_err());
    }
}
