//! A record as it is sent to a copy: whole, as the operation alone, or whole with the objects that it left.
//!
//! Whatever is sent, the log is the same on every copy, byte for byte. A copy that gets an operation forms the record itself, and
//! takes it only when its running checksum is the primary's (docs/record-format.md). Bytes that are not one of the forms are
//! [`Malformed`]; nothing here panics on them.

use crate::codec::{Malformed, Put, Reader};
use crate::object::Object;
use crate::record::EncodedRecord;
use crate::request::{Request, decode_content};
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::limits::{OPS_PER_REQUEST_MAX, RECORD_BYTES_MAX};
use understudy_proto::{Pair, Sequence};

/// One record on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forwarded {
    /// As it is logged.
    Record(EncodedRecord),
    /// What the copy cannot know of it.
    Operation(EncodedOperation),
    /// As it is logged, and under each key that it wrote what stood there afterwards; `None`: nothing.
    WithObjects(EncodedRecord, Objects),
}

/// What a record left, in the order of the keys.
pub type Objects = Vec<(Bytes, Option<Object>)>;

/// The short form of a request that was recorded for the first time, as it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodedOperation {
    pub pair: Pair,
    pub bytes: Bytes,
}

/// What such a form says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    pub pair: Pair,
    /// The running checksum up to and with the record that the primary formed.
    pub checksum: u64,
    pub time_ms: u64,
    pub request: Request,
}

impl Operation {
    /// As every request that a primary takes: a resolution of a conflict has twice the operations, and a condition for each.
    pub fn is_within_limits(&self) -> bool {
        let most = 2 * OPS_PER_REQUEST_MAX;
        self.request.ops.len() <= most && self.request.preconditions.len() <= most
    }
}

/// The only form so far. A reader refuses what it does not know.
const FORM_OPERATION: u8 = 1;

impl Forwarded {
    pub fn pair(&self) -> Pair {
        match self {
            Forwarded::Record(record) | Forwarded::WithObjects(record, _) => record.pair,
            Forwarded::Operation(operation) => operation.pair,
        }
    }

    /// About as many bytes as it takes on its way.
    pub fn size(&self) -> usize {
        match self {
            Forwarded::Record(record) => record.bytes.len(),
            Forwarded::WithObjects(record, objects) => record.bytes.len() + size_of(objects),
            Forwarded::Operation(operation) => operation.bytes.len(),
        }
    }
}

/// About as many bytes as the objects take.
pub fn size_of(objects: &Objects) -> usize {
    let size = |object: &Object| -> usize {
        let parts = object.components.iter();
        parts.map(|c| c.name.len() + c.value.size() + 24).sum()
    };
    let sizes = objects
        .iter()
        .map(|(key, object)| key.len() + 48 + object.as_ref().map_or(0, size));
    sizes.sum()
}

impl EncodedOperation {
    /// The short form of a record. `None`: it has none, or one that would not be smaller.
    pub fn of(record: &EncodedRecord) -> Option<EncodedOperation> {
        let (time_ms, content) = record.content()?;
        let mut out = BytesMut::with_capacity(content.len() + 48);
        out.put_u8(FORM_OPERATION);
        out.put_pair(record.pair);
        out.put_u64(record.checksum);
        out.put_varint(time_ms);
        out.put_slice(&content);
        (out.len() < record.bytes.len()).then(|| EncodedOperation {
            pair: record.pair,
            bytes: out.freeze(),
        })
    }

    /// Looks at form and size of received bytes, and at the pair. The rest is read by the replica that takes it.
    pub fn check(bytes: Bytes) -> Result<EncodedOperation, Malformed> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(Malformed("an operation that is larger than any record"));
        }
        let (pair, _) = head(&bytes)?;
        Ok(EncodedOperation { pair, bytes })
    }

    pub fn decode(&self) -> Result<Operation, Malformed> {
        let (pair, mut reader) = head(&self.bytes)?;
        let checksum = reader.u64()?;
        let time_ms = reader.varint()?;
        let id = reader.request_id()?;
        let fingerprint = reader.u64()?;
        let (ops, preconditions) = decode_content(&mut reader)?;
        reader.finish()?;
        Ok(Operation {
            pair,
            checksum,
            time_ms,
            request: Request {
                id,
                ops,
                preconditions,
                // It is no part of a record.
                answered_upto: Sequence(0),
                fingerprint,
            },
        })
    }
}

fn head(bytes: &Bytes) -> Result<(Pair, Reader), Malformed> {
    let mut reader = Reader::new(bytes.clone());
    match reader.u8()? {
        FORM_OPERATION => Ok((reader.pair()?, reader)),
        _ => Err(Malformed("an operation of an unknown form")),
    }
}
