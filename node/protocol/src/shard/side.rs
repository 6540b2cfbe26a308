//! One generation of a copy's contents in memory: where its log ends, and what of it is on its way to the disk.

use super::overlay::Overlay;
use crate::object::Object;
use crate::record::EncodedRecord;
use crate::request::DedupEntry;
use crate::store::{Contents, Generation, StoreError, Stored};
use understudy_proto::{Pair, RequestId, ShardId};

/// The live generation, or the one that is being rebuilt beside it.
#[derive(Debug)]
pub(super) struct Side {
    pub generation: Generation,
    /// The end of the log, durable or not.
    pub position: Pair,
    /// The running checksum there.
    pub checksum: u64,
    pub overlay: Overlay,
}

impl Side {
    pub fn open(contents: &Contents, last: Option<&EncodedRecord>) -> Side {
        let (position, checksum) = last.map_or((contents.base, contents.base_checksum), |record| {
            (record.pair, record.checksum)
        });
        Side {
            generation: contents.generation,
            position,
            checksum,
            overlay: Overlay::default(),
        }
    }

    /// The state that the next write meets.
    pub fn newest(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        match self.overlay.newest(key) {
            Some(state) => Ok(state.clone()),
            None => stored.object(shard, self.generation, key),
        }
    }

    /// The state that a read sees.
    pub fn durable(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        key: &[u8],
    ) -> Result<Option<Object>, StoreError> {
        match self.overlay.durable(key) {
            Some(state) => Ok(state.clone()),
            None => stored.object(shard, self.generation, key),
        }
    }

    /// The dedup entry of a request, and the batch that carries it (0: it is durable).
    pub fn dedup(
        &self,
        shard: ShardId,
        stored: &dyn Stored,
        id: RequestId,
    ) -> Result<Option<(u64, DedupEntry)>, StoreError> {
        match self.overlay.dedup(id) {
            Some((batch, entry)) => Ok(entry.clone().map(|entry| (*batch, entry))),
            None => Ok(stored
                .dedup(shard, self.generation, id)?
                .map(|entry| (0, entry))),
        }
    }
}
