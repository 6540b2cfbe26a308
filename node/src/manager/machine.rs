//! The state machine: applies the log to the tables in memory and makes, keeps and installs snapshots of them.
//!
//! The tables live in memory and are rebuilt from the newest snapshot and the log behind it; a snapshot on disk is
//! therefore durable before the log is cut. Readers look through [`View`]; they hold a lock only while a closure runs.

use super::snapshot::{self, Header, Snapshots};
use super::types::{LogId, Membership, Reply, Snapshot, SnapshotMeta, TypeConfig};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use understudy_proto::Revision;
use understudy_protocol::tables::Tables;

/// What follows from the log up to one index.
#[derive(Clone, Debug, Default)]
struct State {
    tables: Tables,
    applied: Option<LogId>,
    membership: Membership,
    ever: BTreeSet<u64>,
}

/// The tables as this manager has applied them; clones share them.
#[derive(Clone, Debug)]
pub struct View {
    state: Arc<RwLock<State>>,
    revision: watch::Sender<Revision>,
}

impl View {
    /// Looks at the tables. `look` must be short: applying waits for it.
    pub fn look<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.state.read().tables)
    }

    /// Every manager that was ever in the group.
    pub(crate) fn ever(&self) -> BTreeSet<u64> {
        self.state.read().ever.clone()
    }

    /// Wakes at each new revision of the tables.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, revision) = {
            let mut state = self.state.write();
            (change(&mut state), state.tables.revision())
        };
        self.revision.send_if_modified(|known| {
            let newer = *known != revision;
            *known = revision;
            newer
        });
        result
    }
}

pub(crate) struct Machine {
    view: View,
    snapshots: Snapshots,
}

impl Machine {
    pub(crate) fn new(snapshots: Snapshots) -> Machine {
        let view = View {
            state: Arc::default(),
            revision: watch::Sender::new(Revision::ZERO),
        };
        Machine { view, snapshots }
    }

    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }
}

impl State {
    fn apply(
        &mut self,
        id: LogId,
        payload: EntryPayload<super::types::Proposal, u64, super::types::ManagerNode>,
    ) -> Reply {
        self.applied = Some(id);
        let answer = match payload {
            EntryPayload::Normal(proposal) => Some(self.tables.apply(id.index, &proposal.0).answer),
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                self.ever.extend(membership.nodes().map(|(id, _)| *id));
                self.membership = Membership::new(Some(id), membership);
                None
            }
        };
        // The first entry of all has index 0, which the tables start from.
        if answer.is_none() && id.index > self.tables.applied() {
            self.tables.skip(id.index);
        }
        Reply(answer)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let state = self.view.state.read();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let reply = self
                .view
                .change(|state| state.apply(entry.log_id, entry.payload));
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.view.state.read().clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        let (meta, snapshots) = (meta.clone(), self.snapshots.clone());
        let state = on_a_thread(move || {
            let (header, tables) = snapshot::decode(&snapshot)?;
            snapshots.save(&meta, &snapshot)?;
            Ok(State {
                tables,
                applied: meta.last_log_id,
                membership: meta.last_membership,
                ever: header.ever,
            })
        });
        let state = state.await?;
        self.view.change(|kept| *kept = state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let kept = self.snapshots.load()?;
        Ok(kept.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Holds a copy of the state at one index, so that applying goes on while it is encoded and written.
pub(crate) struct Builder {
    state: State,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        on_a_thread(move || {
            let header = Header {
                meta: state.meta(),
                ever: state.ever,
            };
            let bytes = snapshot::encode(&header, &state.tables)?;
            snapshots.save(&header.meta, &bytes)?;
            Ok(Snapshot {
                meta: header.meta,
                snapshot: bytes,
            })
        })
        .await
    }
}

/// Runs what takes long, and blocks, outside the runtime's threads.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (answer, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("raft-snapshot".to_string())
        .spawn(move || drop(answer.send(work())))?;
    result
        .await
        .map_err(|_| io::Error::other("the snapshot's thread has ended"))?
}
