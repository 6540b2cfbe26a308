//! What a process that is not real knows of clients.

use crate::effect::{ClientSession, Clients, Keep};
use crate::tables::{ConflictPolicy, Forward};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{ClientId, Revision, ShardId};

/// All are open but for those that are named.
#[derive(Clone, Default, Debug)]
pub struct KnownClients {
    pub ended: BTreeSet<ClientId>,
    pub revision: Revision,
    pub keep: Keep,
    /// Of all shards that are not named otherwise.
    pub conflicts: ConflictPolicy,
    pub conflicts_of: BTreeMap<ShardId, ConflictPolicy>,
    /// Likewise.
    pub forward: Forward,
    pub forward_of: BTreeMap<ShardId, Forward>,
}

impl Clients for KnownClients {
    fn session(&self, client: ClientId) -> ClientSession {
        match self.ended.contains(&client) {
            true => ClientSession::Ended,
            false => ClientSession::Open,
        }
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn keep(&self, _: ShardId) -> Keep {
        self.keep
    }

    fn conflicts(&self, shard: ShardId) -> ConflictPolicy {
        let named = self.conflicts_of.get(&shard);
        named.copied().unwrap_or(self.conflicts)
    }

    fn forward(&self, shard: ShardId) -> Forward {
        let named = self.forward_of.get(&shard);
        named.copied().unwrap_or(self.forward)
    }
}
