//! What the copies of a shard say to each other. Every message bears the sender's epoch; a receiver that promised a higher
//! one takes nothing from it.
//!
//! A stream is a subscription of a copy at its primary, by a number that the copy draws anew each time. Messages may be
//! lost, repeated and reordered: each can be recognised as stale, and whoever waits asks again.

use crate::object::Object;
use crate::record::EncodedRecord;
use crate::request::DedupEntry;
use crate::store::CopyProgress;
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
    pub records: Vec<EncodedRecord>,
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

/// From a primary to every copy of the entry, once an interval: where the primary stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    pub epoch: Epoch,
    /// Durable at the primary.
    pub position: Pair,
    /// The primary's log begins after this; copies trim theirs up to it.
    pub base: Pair,
    /// As in [`Records`].
    pub commit: Pair,
}

/// The receiver of a message promised a newer epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    pub epoch: Epoch,
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
        }
    }
}
