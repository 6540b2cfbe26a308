//! Which group and cluster this manager belongs to, and whether a call comes from the same.
//!
//! The *group id* is drawn from the list of initial managers, so that it is known before the first election; the
//! *cluster id* is drawn by the first leader and known once that command is applied. A call bears the group id and,
//! when known, the cluster id behind it. A manager that waits to be added takes both from the first call for it.

use super::codec;
use super::log::Log;
use super::types::ManagerNode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use understudy_proto::ClusterId;
use understudy_proto::failure::{Failure, Reason};

/// Stored in the log's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    manager: u64,
    group: Option<ClusterId>,
    cluster: Option<ClusterId>,
}

pub(crate) struct Identity {
    stored: Mutex<Stored>,
    /// `None` once the group has stopped.
    log: Mutex<Option<Log>>,
}

impl Identity {
    /// What the folder says; a new folder takes the group of `initial`.
    pub(crate) fn open(
        log: Log,
        manager: u64,
        initial: &BTreeMap<u64, ManagerNode>,
    ) -> io::Result<Identity> {
        let stored = match log.identity::<Stored>()? {
            Some(stored) if stored.manager != manager => {
                let other = stored.manager;
                return Err(codec::invalid(format!(
                    "it belongs to manager {other}, not to {manager}"
                )));
            }
            Some(stored) => stored,
            None => {
                let group = (!initial.is_empty()).then(|| group_of(initial));
                let stored = Stored {
                    manager,
                    group,
                    cluster: None,
                };
                log.save_identity(&stored)?;
                stored
            }
        };
        Ok(Identity {
            stored: Mutex::new(stored),
            log: Mutex::new(Some(log)),
        })
    }

    pub(crate) fn manager(&self) -> u64 {
        self.stored.lock().manager
    }

    /// What a call bears.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let stored = *self.stored.lock();
        let ids = stored.group.into_iter().chain(stored.cluster);
        ids.flat_map(ClusterId::to_bytes).collect()
    }

    /// The tables name the cluster: the first name holds.
    pub(crate) fn founded(&self, cluster: ClusterId) -> io::Result<()> {
        let mut stored = self.stored.lock();
        match stored.cluster {
            Some(known) if known == cluster => Ok(()),
            Some(known) => Err(codec::invalid(format!(
                "cluster {cluster} in a folder of cluster {known}"
            ))),
            None => {
                stored.cluster = Some(cluster);
                self.save(&stored)
            }
        }
    }

    fn save(&self, stored: &Stored) -> io::Result<()> {
        match self.log.lock().as_ref() {
            Some(log) => log.save_identity(stored),
            None => Err(io::Error::other("the group has stopped")),
        }
    }

    /// Lets go of the log, so that its folder can be opened again.
    pub(crate) fn close(&self) {
        self.log.lock().take();
    }

    /// Refuses a call of another group or cluster, or for another manager.
    pub(crate) fn check(&self, wire: &[u8], target: Option<u64>) -> Result<(), Failure> {
        let (group, cluster) = parse(wire)?;
        let mut stored = self.stored.lock();
        if target.is_some_and(|target| target != stored.manager) {
            let here = stored.manager;
            return Err(refused(format!(
                "the call is for another manager, here is manager {here}"
            )));
        }
        let Some(known) = stored.group else {
            stored.group = Some(group);
            stored.cluster = cluster;
            return self.save(&stored).map_err(|error| {
                Failure::no(
                    Reason::StorageFailed,
                    format!("the identity is not stored: {error}"),
                )
            });
        };
        let same = known == group && agree(stored.cluster, cluster);
        same.then_some(())
            .ok_or_else(|| refused("the call is of another cluster".to_string()))
    }
}

fn agree(here: Option<ClusterId>, there: Option<ClusterId>) -> bool {
    here.is_none() || there.is_none() || here == there
}

fn parse(wire: &[u8]) -> Result<(ClusterId, Option<ClusterId>), Failure> {
    let (group, cluster) = wire.split_at(wire.len().min(16));
    let field = || {
        Failure::field(
            "cluster_id",
            "cluster_id has 16 or 32 bytes between managers",
        )
    };
    let group = ClusterId::from_slice(group).ok_or_else(field)?;
    match cluster {
        [] => Ok((group, None)),
        bytes => Ok((group, Some(ClusterId::from_slice(bytes).ok_or_else(field)?))),
    }
}

fn refused(why: String) -> Failure {
    Failure::no(Reason::NotAllowed, why)
}

/// The same for the same list, whatever its order in a file.
fn group_of(initial: &BTreeMap<u64, ManagerNode>) -> ClusterId {
    let list: Vec<String> = initial
        .iter()
        .map(|(id, node)| format!("{id}@{}", node.internal_address))
        .collect();
    ClusterId(xxhash_rust::xxh3::xxh3_128(list.join(",").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str) -> ManagerNode {
        ManagerNode {
            internal_address: address.to_string(),
            public_address: String::new(),
        }
    }

    fn open(folder: &std::path::Path, id: u64, initial: &[(u64, &str)]) -> io::Result<Identity> {
        let (log, _) = Log::open(&folder.join("raft"))?;
        let initial = initial
            .iter()
            .map(|(id, address)| (*id, node(address)))
            .collect();
        Identity::open(log, id, &initial)
    }

    #[test]
    fn a_call_of_another_cluster_or_for_another_manager_is_refused() {
        let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let list = [(1, "a:1"), (2, "b:1")];
        let first = open(folders[0].path(), 1, &list).unwrap();
        let second = open(folders[1].path(), 2, &list).unwrap();
        let foreign = open(folders[2].path(), 2, &[(2, "b:1")]).unwrap();
        assert!(second.check(&first.to_wire(), Some(2)).is_ok());
        assert!(second.check(&first.to_wire(), Some(3)).is_err());
        assert!(foreign.check(&first.to_wire(), Some(2)).is_err());

        first.founded(ClusterId(7)).unwrap();
        assert!(
            second.check(&first.to_wire(), None).is_ok(),
            "it does not know yet"
        );
        second.founded(ClusterId(8)).unwrap();
        assert!(second.check(&first.to_wire(), None).is_err());
        assert!(first.founded(ClusterId(8)).is_err());

        let joiner = open(folders[3].path(), 3, &[]).unwrap();
        assert!(joiner.check(&first.to_wire(), Some(3)).is_ok());
        assert_eq!(joiner.to_wire(), first.to_wire());
        assert!(joiner.check(&foreign.to_wire(), Some(3)).is_err());
        assert!(joiner.check(&[1], Some(3)).is_err());
    }

    #[test]
    fn a_folder_of_another_manager_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), 1, &[(1, "a:1")]).unwrap());
        assert!(open(folder.path(), 2, &[(1, "a:1")]).is_err());
        assert!(open(folder.path(), 1, &[]).is_ok());
    }
}
