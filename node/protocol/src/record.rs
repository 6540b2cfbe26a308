//! Records: one entry of a shard's log, and its stored form, version 1 (docs/record-format.md is the contract).
//!
//! A record is serialised once, by the primary, and stored and sent as it is. It carries everything needed to apply it,
//! to undo it, and to judge later whether it may be applied again. Each bears the running checksum of the one before, so
//! that the checksum of a record covers the whole log up to it.

use crate::change::ObjectChange;
use crate::codec::{Malformed, Put, Reader};
use crate::conflict::ConflictBody;
use crate::expiry::{Entries, ExpiryBody};
use crate::request::{DedupEntry, Op, Outcome, Precondition, decode_content, encode_content};
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::{Epoch, Pair, RequestId, ShardId, Version};

/// One entry of a shard's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub shard: ShardId,
    pub pair: Pair,
    /// The pair of the record before this one in the log; (0, 0) for the first.
    pub previous: Pair,
    /// The pair of the newest epoch-start record before this one; (0, 0) for the first.
    pub previous_epoch_start: Pair,
    /// The running checksum up to and with the record before.
    pub previous_checksum: u64,
    /// Milliseconds since 1970 on the primary's clock; for people and for the age of the log, never for decisions.
    pub time_ms: u64,
    pub body: Body,
}

/// What a record is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A client's request, its outcome and what it changed.
    Request(Box<RequestBody>),
    /// The first record of an epoch. It changes no object.
    EpochStart,
    /// A request that a failover cut off and that is not applied again.
    Conflict(Box<ConflictBody>),
    /// Dedup entries that all copies forget at this version. It changes no object.
    Expiry(Box<ExpiryBody>),
}

/// A client's request as it ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestBody {
    pub id: RequestId,
    pub fingerprint: u64,
    pub ops: Vec<Op>,
    pub preconditions: Vec<Precondition>,
    pub outcome: Outcome,
    /// One for each object that was read, tested or written, in the order of their keys.
    pub changes: Vec<ObjectChange>,
    /// Where the same effect was recorded before, on branches that were cut off, the oldest first. Empty: it ran here.
    pub earlier: Vec<Pair>,
}

/// A record in its stored form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodedRecord {
    pub pair: Pair,
    pub bytes: Bytes,
    /// The running checksum up to and with this record.
    pub checksum: u64,
}

/// The first format. A reader refuses what it does not know; it never guesses.
pub const FORMAT: u8 = 1;

const KIND_REQUEST: u8 = 1;
const KIND_EPOCH_START: u8 = 2;
const KIND_EXPIRY: u8 = 3;
const KIND_CONFLICT: u8 = 4;
const KIND_RECORDED_AGAIN: u8 = 5;
const KIND_DISCARDED: u8 = 6;

/// Length (4), format (1), kind (1), shard (8), epoch (8), version (8).
const HEAD: usize = 30;
/// crc32c.
const TAIL: usize = 4;

impl Record {
    /// The dedup entry of the request that the record is about.
    pub fn dedup(&self) -> Option<(RequestId, DedupEntry)> {
        match &self.body {
            Body::Request(body) => Some((
                body.id,
                DedupEntry {
                    pair: self.pair,
                    fingerprint: body.fingerprint,
                    outcome: body.outcome.clone(),
                    conflicts: Vec::new(),
                },
            )),
            Body::Conflict(body) => Some((body.id, body.entry(self.pair))),
            Body::EpochStart | Body::Expiry(_) => None,
        }
    }

    /// What the record makes of the dedup entries.
    pub fn dedup_after(&self) -> Entries {
        match &self.body {
            Body::Expiry(body) => body.after(),
            _ => self
                .dedup()
                .map(|(id, entry)| (id, Some(entry)))
                .into_iter()
                .collect(),
        }
    }

    /// What its undo makes of them.
    pub fn dedup_before(&self) -> Entries {
        match &self.body {
            Body::Request(body) => vec![(body.id, None)],
            Body::Conflict(body) => vec![(body.id, body.replaced.clone())],
            Body::Expiry(body) => body.before(),
            Body::EpochStart => Entries::new(),
        }
    }

    pub fn changes(&self) -> &[ObjectChange] {
        match &self.body {
            Body::Request(body) => &body.changes,
            Body::Conflict(body) => body.change.as_slice(),
            Body::EpochStart | Body::Expiry(_) => &[],
        }
    }

    pub fn request_id(&self) -> Option<RequestId> {
        match &self.body {
            Body::Request(body) => Some(body.id),
            Body::Conflict(body) => Some(body.id),
            Body::EpochStart | Body::Expiry(_) => None,
        }
    }

    /// Whether a failover that cuts the record off undoes it for good: nobody asked for it.
    pub fn is_own(&self) -> bool {
        matches!(self.body, Body::EpochStart | Body::Expiry(_))
    }

    pub fn is_epoch_start(&self) -> bool {
        matches!(self.body, Body::EpochStart)
    }

    pub fn encode(&self) -> EncodedRecord {
        let mut out = BytesMut::with_capacity(512);
        out.put_u32(0);
        out.put_u8(FORMAT);
        out.put_u8(match &self.body {
            Body::Request(body) if body.earlier.is_empty() => KIND_REQUEST,
            Body::Request(_) => KIND_RECORDED_AGAIN,
            Body::EpochStart => KIND_EPOCH_START,
            Body::Conflict(body) if body.change.is_none() => KIND_DISCARDED,
            Body::Conflict(_) => KIND_CONFLICT,
            Body::Expiry(_) => KIND_EXPIRY,
        });
        out.put_u64(self.shard.0);
        out.put_u64(self.pair.epoch.0);
        out.put_u64(self.pair.version.0);
        out.put_pair(self.previous);
        out.put_pair(self.previous_epoch_start);
        out.put_u64(self.previous_checksum);
        out.put_varint(self.time_ms);
        match &self.body {
            Body::Request(body) => body.encode(&mut out),
            Body::Conflict(body) => body.encode(&mut out),
            Body::Expiry(body) => body.encode(&mut out),
            Body::EpochStart => {}
        }
        let length = u32::try_from(out.len() + TAIL - 4).expect("a record is at most 16 MiB");
        out[..4].copy_from_slice(&length.to_be_bytes());
        let checksum = running_checksum(&out);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        EncodedRecord {
            pair: self.pair,
            bytes: out.freeze(),
            checksum,
        }
    }

    /// Checks length, format and crc, then reads. The bytes are exactly one record.
    pub fn decode(bytes: &Bytes) -> Result<(Record, EncodedRecord), Malformed> {
        Record::read(bytes, true)
    }

    /// As [`Record::decode`], for a place where nothing but a request may stand: a conflict holds no conflict, however
    /// deep hostile bytes would nest them.
    pub(crate) fn decode_request_only(bytes: &Bytes) -> Result<(Record, EncodedRecord), Malformed> {
        Record::read(bytes, false)
    }

    fn read(bytes: &Bytes, any_kind: bool) -> Result<(Record, EncodedRecord), Malformed> {
        let body_end = check_frame(bytes)?;
        let checksum = running_checksum(&bytes[..body_end]);
        let mut reader = Reader::new(bytes.slice(4..body_end));
        if reader.u8()? != FORMAT {
            return Err(Malformed("record of an unknown format"));
        }
        let kind = reader.u8()?;
        let shard = ShardId(reader.u64()?);
        let pair = Pair {
            epoch: Epoch(reader.u64()?),
            version: Version(reader.u64()?),
        };
        let previous = reader.pair()?;
        let previous_epoch_start = reader.pair()?;
        let previous_checksum = reader.u64()?;
        let time_ms = reader.varint()?;
        let body = match kind {
            KIND_REQUEST => Body::Request(Box::new(decode_request(&mut reader, Vec::new())?)),
            KIND_RECORDED_AGAIN => {
                let earlier = decode_earlier(&mut reader)?;
                Body::Request(Box::new(decode_request(&mut reader, earlier)?))
            }
            KIND_EPOCH_START if any_kind => Body::EpochStart,
            KIND_CONFLICT | KIND_DISCARDED if any_kind => {
                let discarded = kind == KIND_DISCARDED;
                Body::Conflict(Box::new(ConflictBody::decode(&mut reader, discarded)?))
            }
            KIND_EXPIRY if any_kind => Body::Expiry(Box::new(ExpiryBody::decode(&mut reader)?)),
            _ => return Err(Malformed("record of an unknown kind")),
        };
        reader.finish()?;
        let record = Record {
            shard,
            pair,
            previous,
            previous_epoch_start,
            previous_checksum,
            time_ms,
            body,
        };
        Ok((
            record,
            EncodedRecord {
                pair,
                bytes: bytes.clone(),
                checksum,
            },
        ))
    }

    /// The pair of an encoded record, without reading the rest.
    pub fn peek_pair(bytes: &[u8]) -> Result<Pair, Malformed> {
        if bytes.len() < HEAD {
            return Err(Malformed("truncated"));
        }
        let number =
            |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Pair::new(number(14), number(22)))
    }
}

impl EncodedRecord {
    /// Checks length, format, crc and shard of stored or received bytes, without reading what the record says.
    pub fn check(shard: ShardId, bytes: Bytes) -> Result<EncodedRecord, Malformed> {
        let body_end = check_frame(&bytes)?;
        if bytes[4] != FORMAT {
            return Err(Malformed("record of an unknown format"));
        }
        let owner = u64::from_be_bytes(bytes[6..14].try_into().expect("eight bytes"));
        if owner != shard.0 {
            return Err(Malformed("record of another shard"));
        }
        Ok(EncodedRecord {
            pair: Record::peek_pair(&bytes)?,
            checksum: running_checksum(&bytes[..body_end]),
            bytes,
        })
    }

    /// Of a request that was recorded for the first time: its time, and the part of the bytes that holds its id, fingerprint,
    /// operations and preconditions. `None`: it is no such record.
    pub(crate) fn content(&self) -> Option<(u64, Bytes)> {
        if *self.bytes.get(5)? != KIND_REQUEST {
            return None;
        }
        let end = self.bytes.len().checked_sub(TAIL)?;
        let body = self.bytes.get(HEAD..end).map(|_| HEAD..end)?;
        let mut reader = Reader::new(self.bytes.slice(body));
        let read = |reader: &mut Reader| -> Result<(u64, usize), Malformed> {
            reader.pair()?;
            reader.pair()?;
            reader.u64()?;
            let time_ms = reader.varint()?;
            let from = end - reader.remaining();
            reader.request_id()?;
            reader.u64()?;
            decode_content(reader)?;
            Ok((time_ms, from))
        };
        let (time_ms, from) = read(&mut reader).ok()?;
        let upto = end - reader.remaining();
        Some((time_ms, self.bytes.slice(from..upto)))
    }
}

impl RequestBody {
    fn encode(&self, out: &mut BytesMut) {
        if !self.earlier.is_empty() {
            out.put_varint(self.earlier.len() as u64);
            for pair in &self.earlier {
                out.put_pair(*pair);
            }
        }
        out.put_request_id(self.id);
        out.put_u64(self.fingerprint);
        encode_content(&self.ops, &self.preconditions, out);
        self.outcome.encode(out);
        out.put_varint(self.changes.len() as u64);
        for change in &self.changes {
            change.encode(out);
        }
    }
}

fn decode_earlier(reader: &mut Reader) -> Result<Vec<Pair>, Malformed> {
    let earlier: Vec<Pair> = (0..reader.count()?)
        .map(|_| reader.pair())
        .collect::<Result<_, _>>()?;
    match earlier.is_empty() {
        true => Err(Malformed("recorded again, and nowhere before")),
        false => Ok(earlier),
    }
}

fn decode_request(reader: &mut Reader, earlier: Vec<Pair>) -> Result<RequestBody, Malformed> {
    let id = reader.request_id()?;
    let fingerprint = reader.u64()?;
    let (ops, preconditions) = decode_content(reader)?;
    let outcome = Outcome::decode(reader)?;
    let changes = (0..reader.count()?)
        .map(|_| ObjectChange::decode(reader))
        .collect::<Result<_, _>>()?;
    Ok(RequestBody {
        id,
        fingerprint,
        ops,
        preconditions,
        outcome,
        changes,
        earlier,
    })
}

/// Where the body ends, when length and crc are right.
fn check_frame(bytes: &[u8]) -> Result<usize, Malformed> {
    if bytes.len() < HEAD + TAIL {
        return Err(Malformed("truncated"));
    }
    let length = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    if length + 4 != bytes.len() {
        return Err(Malformed("length"));
    }
    let body_end = bytes.len() - TAIL;
    let crc = u32::from_be_bytes(bytes[body_end..].try_into().expect("four bytes"));
    if crc != crc32c::crc32c(&bytes[..body_end]) {
        return Err(Malformed("crc"));
    }
    Ok(body_end)
}

/// checksum(v) = H(checksum(v-1), record v): the record holds checksum(v-1), so its digest covers both.
fn running_checksum(body: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(body)
}
