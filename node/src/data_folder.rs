//! A process's data folder: who it belongs to (`CLUSTER`), and that only one process uses it (`LOCK`).
//!
//! ```text
//! <data>/LOCK       held by the process that uses the folder, with its process id
//! <data>/CLUSTER    the role, and once known the cluster, the id, the store id and a store still to be set aside
//! ```
//!
//! The file is written beside and renamed, and never changes what it once said, but for the id of a store that was damaged
//! and is replaced. A folder that is of another role or cluster, in use, or full of somebody else's files is refused before
//! anything in it is touched.

use crate::process::RoleError;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use understudy_proto::{ClusterId, StoreId};

/// The format of the `CLUSTER` file; another one is refused.
const FORMAT: u32 = 1;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Manager,
    Node,
    Agent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Manager => "manager",
            Role::Node => "node",
            Role::Agent => "agent",
        })
    }
}

/// What the folder says about its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    pub role: Role,
    /// Unset until the process first heard of its cluster.
    pub cluster: Option<ClusterId>,
    /// A manager's or node's id; unset until a node first joined.
    pub id: Option<u64>,
    /// A node's store; drawn when the folder is made, and anew when a damaged store is set aside.
    pub store: Option<StoreId>,
    /// The files of the store are still those of this damaged one: they are set aside before anything opens them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_set_aside: Option<StoreId>,
}

/// A folder in use by this process; dropping it gives it free.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder when it is not there, locks it, and checks the role. A new folder's identity is written at once.
    pub fn open(path: &Path, role: Role) -> Result<DataFolder, RoleError> {
        let io = |what: &str, error: io::Error| unusable(path, &format!("cannot {what}: {error}"));
        fs::create_dir_all(path).map_err(|error| io("make the folder", error))?;
        let lock = lock(path)?;
        let identity = match read(path).map_err(|error| io("read CLUSTER", error))? {
            Some(identity) => check(path, identity?, role)?,
            None => {
                refuse_foreign(path)?;
                let identity = Identity {
                    format: FORMAT,
                    role,
                    cluster: None,
                    id: None,
                    store: (role == Role::Node).then(new_store),
                    to_set_aside: None,
                };
                write(path, &identity).map_err(|error| io("write CLUSTER", error))?;
                identity
            }
        };
        Ok(DataFolder {
            path: path.to_path_buf(),
            identity,
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The process belongs to this cluster under this id: written the first time, compared every other time.
    pub fn belongs_to(&mut self, cluster: ClusterId, id: u64) -> Result<(), RoleError> {
        let identity = &self.identity;
        if let Some(known) = identity.cluster.filter(|known| *known != cluster) {
            let why =
                format!("it is of cluster {known}, and the managers are of cluster {cluster}");
            return Err(unusable(
                &self.path,
                &format!("{why}; name another folder or other managers"),
            ));
        }
        if let Some(known) = identity.id.filter(|known| *known != id) {
            let why = format!("it is of {} {known}, not of {id}", identity.role);
            return Err(unusable(&self.path, &format!("{why}; name another folder")));
        }
        if identity.cluster.is_some() && identity.id.is_some() {
            return Ok(());
        }
        let joined = Identity {
            cluster: Some(cluster),
            id: Some(id),
            ..identity.clone()
        };
        self.change(joined)
    }

    /// Draws a new store id, durably, before the store of the old one is set aside: what that one promised, nobody of the
    /// new id ever said. Until [`DataFolder::store_was_set_aside`] every start sets the old files aside first.
    pub fn discard_store(&mut self) -> Result<(), RoleError> {
        let identity = self.identity.clone();
        self.change(Identity {
            to_set_aside: identity.to_set_aside.or(identity.store),
            store: Some(new_store()),
            ..identity
        })
    }

    /// The old store's files are out of the way.
    pub fn store_was_set_aside(&mut self) -> Result<(), RoleError> {
        self.change(Identity {
            to_set_aside: None,
            ..self.identity.clone()
        })
    }

    fn change(&mut self, identity: Identity) -> Result<(), RoleError> {
        write(&self.path, &identity)
            .map_err(|error| unusable(&self.path, &format!("cannot write CLUSTER: {error}")))?;
        self.identity = identity;
        Ok(())
    }
}

fn new_store() -> StoreId {
    StoreId(rand::random())
}

fn unusable(path: &Path, why: &str) -> RoleError {
    RoleError::FolderUnusable(format!("{}: {why}", path.display()))
}

fn lock(path: &Path) -> Result<File, RoleError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("LOCK"));
    let mut file = file.map_err(|error| unusable(path, &format!("cannot open LOCK: {error}")))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        let mut owner = String::new();
        // Only for the message.
        let _ = file.read_to_string(&mut owner);
        let why = match error {
            rustix::io::Errno::WOULDBLOCK => {
                let owner = owner.trim();
                format!("it is in use by process {owner}; stop that one or name another folder")
            }
            error => format!("it cannot be locked: {error}"),
        };
        return Err(unusable(path, &why));
    }
    let noted = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.map_err(|error| unusable(path, &format!("cannot write LOCK: {error}")))?;
    Ok(file)
}

/// `None`: there is none yet. The inner error tells a file that is damaged or of another format.
fn read(path: &Path) -> io::Result<Option<Result<Identity, RoleError>>> {
    let text = match fs::read_to_string(path.join("CLUSTER")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let parsed = toml::from_str::<Identity>(&text);
    Ok(Some(parsed.map_err(|error| {
        let why = format!("its CLUSTER file cannot be read: {}", error.message());
        unusable(
            path,
            &format!("{why}; restore the file or name another folder"),
        )
    })))
}

fn check(path: &Path, identity: Identity, role: Role) -> Result<Identity, RoleError> {
    if identity.format != FORMAT {
        let why = format!(
            "its format is {}, this build knows {FORMAT}",
            identity.format
        );
        return Err(unusable(
            path,
            &format!("{why}; use the build that made it"),
        ));
    }
    if identity.role != role {
        let why = format!(
            "it is a {}'s, not a {role}'s; name another folder",
            identity.role
        );
        return Err(unusable(path, &why));
    }
    Ok(identity)
}

/// A new folder holds nothing of anybody else.
fn refuse_foreign(path: &Path) -> Result<(), RoleError> {
    let entries = fs::read_dir(path);
    let entries = entries.map_err(|error| unusable(path, &format!("cannot be listed: {error}")))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = ["LOCK", "CLUSTER.new", "lost+found"];
        if !ours.iter().any(|known| name == *known) {
            let name = name.to_string_lossy();
            let why = format!(
                "it holds '{name}' and no CLUSTER file, so it is not ours; name an empty folder"
            );
            return Err(unusable(path, &why));
        }
    }
    Ok(())
}

fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    let text = toml::to_string(identity).map_err(io::Error::other)?;
    let beside = path.join("CLUSTER.new");
    let mut file = File::create(&beside)?;
    file.write_all(b"# Who this folder belongs to. Written by understudy; do not edit.\n")?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path.join("CLUSTER"))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<DataFolder, RoleError>) -> String {
        match result {
            Err(RoleError::FolderUnusable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_keeps_its_role_cluster_and_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let mut open = DataFolder::open(&path, Role::Node).unwrap();
        let store = open.identity().store;
        assert!(store.is_some());
        open.belongs_to(ClusterId(7), 3).unwrap();
        assert!(
            message(DataFolder::open(&path, Role::Node))
                .contains(&format!("in use by process {}", std::process::id()))
        );
        drop(open);

        assert!(
            message(DataFolder::open(&path, Role::Manager)).contains("a node's, not a manager's")
        );
        let mut open = DataFolder::open(&path, Role::Node).unwrap();
        assert_eq!(open.identity().store, store);
        assert_eq!(open.identity().cluster, Some(ClusterId(7)));
        open.belongs_to(ClusterId(7), 3).unwrap();
        assert!(
            open.belongs_to(ClusterId(8), 3)
                .unwrap_err()
                .to_string()
                .contains("of cluster")
        );
        assert!(
            open.belongs_to(ClusterId(7), 4)
                .unwrap_err()
                .to_string()
                .contains("of node 3, not of 4")
        );
    }

    #[test]
    fn a_store_that_is_discarded_is_remembered_until_it_is_out_of_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut open = DataFolder::open(folder.path(), Role::Node).unwrap();
        open.belongs_to(ClusterId(7), 3).unwrap();
        let old = open.identity().store;
        open.discard_store().unwrap();
        drop(open);
        let mut open = DataFolder::open(folder.path(), Role::Node).unwrap();
        let new = open.identity().store;
        assert_ne!(new, old);
        assert_eq!(open.identity().to_set_aside, old);
        // Drawn once more before the files were moved: they are still the first one's.
        open.discard_store().unwrap();
        assert_eq!(open.identity().to_set_aside, old);
        open.store_was_set_aside().unwrap();
        drop(open);
        let open = DataFolder::open(folder.path(), Role::Node).unwrap();
        assert_eq!(open.identity().to_set_aside, None);
        assert!(open.identity().store != old && open.identity().store != new);
        assert_eq!(open.identity().id, Some(3));
    }

    #[test]
    fn a_folder_with_somebody_elses_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        assert!(message(DataFolder::open(folder.path(), Role::Node)).contains("'thesis.tex'"));
        assert!(!folder.path().join("CLUSTER").exists());
        let damaged = tempfile::tempdir().unwrap();
        std::fs::write(damaged.path().join("CLUSTER"), "role = 3").unwrap();
        assert!(message(DataFolder::open(damaged.path(), Role::Node)).contains("cannot be read"));
    }
}
