//! What a copy keeps on disk, as the protocol sees it: the parts, the atomic batches that change them, and the reads.
//!
//! Whoever drives a replica owes three things: the changes of one [`Batch`] become durable together or not at all; the
//! batches of a shard become durable in the order in which they were emitted; `Persisted` is reported only when the batch
//! survives a power cut and every read of [`Stored`] sees it. Batches of several shards may share one write.

pub use crate::staged::Staged;

use crate::codec::{Malformed, Put, Reader};
use crate::object::Object;
use crate::record::EncodedRecord;
use crate::request::DedupEntry;
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use understudy_proto::{Epoch, Pair, RequestId, ShardId, Version};

/// One copy of a shard's objects, log and dedup entries. A rebuilt copy is filled beside under the next number and then
/// switched in by one write of [`Meta`]; the old one is dropped. Promise and orphan log belong to no generation.
pub type Generation = u32;

/// What a copy knows of itself beside its log. Written whole, and only when it changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The highest epoch that the copy was sealed for or saw. It takes nothing of an older one. Never falls.
    pub promise: Epoch,
    pub live: Contents,
    /// A rebuild under way.
    pub staging: Option<Staging>,
}

/// Where the log of a generation begins and which epochs it holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    pub generation: Generation,
    /// The log holds the records after this one; (0, 0): from the first.
    pub base: Pair,
    /// The running checksum at the base.
    pub base_checksum: u64,
    /// The pairs of all epoch-start records up to the log's end, also of those trimmed away. Kept for ever.
    pub epoch_starts: Vec<Pair>,
    /// in_sync: the commit point as far as it was learned; the objects hold the records up to it and none after it. `None`: a
    /// lazy shard, the objects hold the whole log.
    pub applied: Option<Pair>,
}

/// A rebuild under way: what arrived goes into `contents.generation`, beside the live one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Staging {
    pub contents: Contents,
    /// Where the source stood when it read the newest chunk: from there on the staged copy is consistent.
    pub consistent_at: Pair,
    pub progress: CopyProgress,
    /// A coalesced delta: what is staged goes over the live generation, whose objects hold the log up to this pair. `None`: a full
    /// copy.
    pub delta_since: Option<Pair>,
    /// Of a delta: the bytes that were staged of it and of the records that came with it.
    pub bytes: u64,
}

/// How far a full copy, or a delta, came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyProgress {
    /// Objects after this key are still to come.
    Objects { after: Option<Bytes> },
    /// Dedup entries after this id are still to come.
    Dedup { after: Option<RequestId> },
    /// All chunks arrived; records after the base bring it up to date.
    Records,
}

impl Meta {
    /// Of a copy that has nothing.
    pub fn empty() -> Meta {
        Meta {
            promise: Epoch::ZERO,
            live: Contents::default(),
            staging: None,
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        let staged = self.staging.as_ref().map(|staging| &staging.contents);
        let commits = [Some(&self.live), staged]
            .into_iter()
            .flatten()
            .any(|contents| contents.applied.is_some());
        let delta_since = self
            .staging
            .as_ref()
            .and_then(|staging| staging.delta_since);
        let format = match (delta_since, commits) {
            (Some(_), _) => FORMAT_DELTA,
            (None, true) => FORMAT_IN_SYNC,
            (None, false) => FORMAT,
        };
        out.put_u8(format);
        out.put_u64(self.promise.0);
        encode_contents(&self.live, format, &mut out);
        match &self.staging {
            None => out.put_u8(0),
            Some(staging) => {
                out.put_u8(1);
                encode_contents(&staging.contents, format, &mut out);
                out.put_pair(staging.consistent_at);
                staging.progress.encode(&mut out);
                if let Some(since) = delta_since {
                    out.put_pair(since);
                    out.put_u64(staging.bytes);
                }
            }
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Meta, Malformed> {
        if bytes.len() < 5 {
            return Err(Malformed("truncated"));
        }
        let end = bytes.len() - 4;
        let crc = u32::from_be_bytes(bytes[end..].try_into().expect("four bytes"));
        if crc != crc32c::crc32c(&bytes[..end]) {
            return Err(Malformed("crc"));
        }
        let mut reader = Reader::new(bytes.slice(..end));
        let format = reader.u8()?;
        if !matches!(format, FORMAT | FORMAT_IN_SYNC | FORMAT_DELTA) {
            return Err(Malformed("shard meta of an unknown format"));
        }
        let promise = Epoch(reader.u64()?);
        let live = decode_contents(&mut reader, format)?;
        let staging = match reader.bool()? {
            false if format == FORMAT_DELTA => return Err(Malformed("a delta that is not staged")),
            false => None,
            true => Some(Staging {
                contents: decode_contents(&mut reader, format)?,
                consistent_at: reader.pair()?,
                progress: CopyProgress::decode(&mut reader)?,
                delta_since: match format {
                    FORMAT_DELTA => Some(reader.pair()?),
                    _ => None,
                },
                bytes: match format {
                    FORMAT_DELTA => reader.u64()?,
                    _ => 0,
                },
            }),
        };
        reader.finish()?;
        Ok(Meta {
            promise,
            live,
            staging,
        })
    }
}

const FORMAT: u8 = 1;
/// Of the meta of an in_sync shard: each contents end with the applied pair.
const FORMAT_IN_SYNC: u8 = 2;
/// While a delta is staged, in a shard of either mode: as of an in_sync one, and what is staged ends with the delta's beginning.
const FORMAT_DELTA: u8 = 3;

fn encode_contents(contents: &Contents, format: u8, out: &mut BytesMut) {
    out.put_u32(contents.generation);
    out.put_pair(contents.base);
    out.put_u64(contents.base_checksum);
    out.put_varint(contents.epoch_starts.len() as u64);
    for start in &contents.epoch_starts {
        out.put_pair(*start);
    }
    if format != FORMAT {
        out.put_u8(u8::from(contents.applied.is_some()));
        out.put_pair(contents.applied.unwrap_or_default());
    }
}

fn decode_contents(reader: &mut Reader, format: u8) -> Result<Contents, Malformed> {
    Ok(Contents {
        generation: reader.u32()?,
        base: reader.pair()?,
        base_checksum: reader.u64()?,
        epoch_starts: (0..reader.count()?)
            .map(|_| reader.pair())
            .collect::<Result<_, _>>()?,
        applied: if format != FORMAT {
            let known = reader.bool()?;
            let applied = reader.pair()?;
            known.then_some(applied)
        } else {
            None
        },
    })
}

impl CopyProgress {
    /// As it is sent.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    pub fn from_bytes(bytes: Bytes) -> Result<CopyProgress, Malformed> {
        let mut reader = Reader::new(bytes);
        let progress = CopyProgress::decode(&mut reader)?;
        reader.finish()?;
        Ok(progress)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            CopyProgress::Objects { after: None } => out.put_u8(1),
            CopyProgress::Objects { after: Some(key) } => {
                out.put_u8(2);
                out.put_bytes_field(key);
            }
            CopyProgress::Dedup { after: None } => out.put_u8(3),
            CopyProgress::Dedup { after: Some(id) } => {
                out.put_u8(4);
                out.put_request_id(*id);
            }
            CopyProgress::Records => out.put_u8(5),
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<CopyProgress, Malformed> {
        Ok(match reader.u8()? {
            1 => CopyProgress::Objects { after: None },
            2 => CopyProgress::Objects {
                after: Some(reader.bytes_field()?),
            },
            3 => CopyProgress::Dedup { after: None },
            4 => CopyProgress::Dedup {
                after: Some(reader.request_id()?),
            },
            5 => CopyProgress::Records,
            _ => return Err(Malformed("phase of a full copy")),
        })
    }
}

/// Changes of one shard that become durable together. `Persisted` names it by its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub shard: ShardId,
    /// Rising by one for each batch of a replica since it was opened.
    pub number: u64,
    pub changes: Vec<StoreChange>,
}

/// One change. The order inside a batch counts where the same thing is changed twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreChange {
    /// At the end of the generation's log, under its version.
    AppendRecord {
        generation: Generation,
        record: EncodedRecord,
    },
    PutObject {
        generation: Generation,
        key: Bytes,
        object: Option<Object>,
    },
    PutDedup {
        generation: Generation,
        id: RequestId,
        entry: Option<DedupEntry>,
    },
    PutMeta(Meta),
    /// Takes the last record out of the generation's log and puts it into the shard's orphan log, with the epoch starts
    /// of the branch that it was on.
    MoveToOrphans {
        generation: Generation,
        record: EncodedRecord,
        epoch_starts: Vec<Pair>,
    },
    /// Takes the last record out of the generation's log for good: an undone epoch start.
    RemoveRecord {
        generation: Generation,
        version: Version,
    },
    /// Takes the record out of the orphan log.
    DropOrphan {
        pair: Pair,
    },
    /// Removes the log's records up to and with this version.
    TrimLog {
        generation: Generation,
        upto: Version,
    },
    /// Removes objects, dedup entries and log of a generation.
    DropGeneration {
        generation: Generation,
    },
    /// Removes everything of the shard but its promise (in the meta that follows) and its orphan log.
    DropCopy,
    /// What a delta says of an object or a dedup entry, beside the live generation.
    PutStaged {
        generation: Generation,
        item: Staged,
    },
}

/// What a copy holds when its process starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    pub meta: Meta,
    /// The last record of the live generation's log, and of the staged one.
    pub last: Option<EncodedRecord>,
    pub staged_last: Option<EncodedRecord>,
    /// Records in the orphan log.
    pub orphans: u64,
}

/// A record that a failover cut off, as the orphan log keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    pub record: EncodedRecord,
    /// The epoch starts of the branch that it was on.
    pub epoch_starts: Vec<Pair>,
}

impl Orphan {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.record.bytes.len() + 32);
        out.put_u8(FORMAT);
        out.put_varint(self.epoch_starts.len() as u64);
        for start in &self.epoch_starts {
            out.put_pair(*start);
        }
        out.put_slice(&self.record.bytes);
        out.freeze()
    }

    /// The orphan that the store keeps for this shard under this pair.
    pub fn decode(shard: ShardId, pair: Pair, bytes: &Bytes) -> Result<Orphan, Malformed> {
        let orphan = Orphan::received(shard, bytes)?;
        if orphan.record.pair != pair {
            return Err(Malformed("record under another one's key"));
        }
        Ok(orphan)
    }

    /// An orphan of this shard that another copy sent.
    pub fn received(shard: ShardId, bytes: &Bytes) -> Result<Orphan, Malformed> {
        let mut reader = Reader::new(bytes.clone());
        if reader.u8()? != FORMAT {
            return Err(Malformed("orphan of an unknown format"));
        }
        let epoch_starts = (0..reader.count()?)
            .map(|_| reader.pair())
            .collect::<Result<_, _>>()?;
        let record = reader.take(reader.remaining())?;
        let (decoded, record) = crate::record::Record::decode(&record)?;
        if decoded.shard != shard {
            return Err(Malformed("record of another shard"));
        }
        Ok(Orphan {
            record,
            epoch_starts,
        })
    }
}

/// A read failed. The copy cannot go on as it is; what is damaged is rebuilt, never guessed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// The disk refused.
    Io(String),
    /// What was read is not what was written.
    Corrupt(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io(what) => write!(f, "the disk failed: {what}"),
            StoreError::Corrupt(what) => write!(f, "damaged data: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// One page of a range read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The range has nothing after the items.
    pub done: bool,
}

/// Counts what a page holds: everything that fits, and at least one item.
#[derive(Debug)]
pub struct PageBudget {
    left: usize,
    empty: bool,
}

impl PageBudget {
    pub fn new(bytes_max: usize) -> PageBudget {
        PageBudget {
            left: bytes_max,
            empty: true,
        }
    }

    /// Whether the next item, with so many bytes of key and value, still belongs to the page.
    pub fn takes(&mut self, bytes: usize) -> bool {
        if !self.empty && bytes > self.left {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.empty = false;
        true
    }
}

/// Reads of what is durable. It may be ahead of what was reported as persisted, never behind it.
pub trait Stored {
    fn object(
        &self,
        shard: ShardId,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError>;
    fn dedup(
        &self,
        shard: ShardId,
        generation: Generation,
        id: RequestId,
    ) -> Result<Option<DedupEntry>, StoreError>;
    /// The record of a version.
    fn record(
        &self,
        shard: ShardId,
        generation: Generation,
        version: Version,
    ) -> Result<Option<EncodedRecord>, StoreError>;
    /// Records from a version on, in order, until the bytes are reached (at least one where there is one).
    fn records(
        &self,
        shard: ShardId,
        generation: Generation,
        from: Version,
        bytes_max: usize,
    ) -> Result<Vec<EncodedRecord>, StoreError>;
    /// Objects after a key, in key order, until the bytes are reached (at least one where there is one).
    fn objects_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Page<(Bytes, Object)>, StoreError>;
    /// Dedup entries after an id, in the order of the ids, likewise.
    fn dedup_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<RequestId>,
        bytes_max: usize,
    ) -> Result<Page<(RequestId, DedupEntry)>, StoreError>;
    /// Records of the orphan log after a pair, in the order of their pairs, likewise.
    fn orphans(
        &self,
        shard: ShardId,
        after: Option<Pair>,
        bytes_max: usize,
    ) -> Result<Page<Orphan>, StoreError>;
    /// What a staged delta says of the thing that is kept under that key ([`Staged::key`]). `None`: nothing.
    fn staged(
        &self,
        shard: ShardId,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Staged>, StoreError>;
    /// All that a staged delta says after a key, in the order of the keys, likewise.
    fn staged_after(
        &self,
        shard: ShardId,
        generation: Generation,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Page<Staged>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::{ClientId, Sequence};
    #[test]
    fn meta_survives_its_stored_form_and_damage_is_refused() {
        let contents = Contents {
            generation: 3,
            base: Pair::new(2, 9),
            base_checksum: 77,
            epoch_starts: vec![Pair::new(1, 1), Pair::new(2, 5)],
            applied: None,
        };
        let id = RequestId {
            client: ClientId(5),
            sequence: Sequence(6),
        };
        let (mut lazy, mut delta) = (true, false);
        for progress in [
            CopyProgress::Records,
            CopyProgress::Objects { after: None },
            CopyProgress::Objects { after: None },
            CopyProgress::Objects {
                after: Some(Bytes::from_static(b"k")),
            },
            CopyProgress::Dedup { after: Some(id) },
            CopyProgress::Records,
        ] {
            let staging = Staging {
                contents: contents.clone(),
                consistent_at: Pair::new(2, 12),
                progress,
                delta_since: delta.then_some(Pair::new(2, 8)),
                bytes: if delta { 700 } else { 0 },
            };
            delta = !delta;
            let in_sync = Contents {
                applied: Some(Pair::new(2, 7)),
                ..contents.clone()
            };
            let meta = Meta {
                promise: Epoch(4),
                live: if lazy { contents.clone() } else { in_sync },
                staging: Some(staging),
            };
            lazy = !lazy;
            let bytes = meta.encode();
            assert_eq!(Meta::decode(&bytes), Ok(meta));
            for at in 0..bytes.len() {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 0x10;
                assert!(Meta::decode(&damaged.into()).is_err());
            }
        }
    }
}
