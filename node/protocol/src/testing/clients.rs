//! What a process that is not real knows of clients.

use crate::effect::{ClientSession, Clients, Keep};
use std::collections::BTreeSet;
use understudy_proto::{ClientId, Revision, ShardId};

/// All are open but for those that are named.
#[derive(Clone, Default, Debug)]
pub struct KnownClients {
    pub ended: BTreeSet<ClientId>,
    pub revision: Revision,
    pub keep: Keep,
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
}
