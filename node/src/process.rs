//! What a server role is started with, and how it ends: listeners that are already bound, the word to stop, and what the
//! admin port shows.
//!
//! Roles start with ports that are known to be theirs, so that "port in use" is told once, before a data folder is
//! touched. A role returns when it has stopped cleanly.

use crate::admin::Admin;
use crate::config::Listen;
use crate::listening::Room;
use std::fmt;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Why a role does not start, or ended. Each is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleError {
    /// The settings contradict something that only the start could find out. Exit status 2.
    Config(String),
    /// The data folder cannot be used: locked, of another role or cluster, damaged. Nothing in it was changed. Status 3.
    FolderUnusable(String),
    /// Everything else. Status 1.
    Failed(String),
}

impl RoleError {
    pub fn exit_status(&self) -> u8 {
        match self {
            RoleError::Failed(_) => 1,
            RoleError::Config(_) => 2,
            RoleError::FolderUnusable(_) => 3,
        }
    }
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleError::Config(why) => write!(f, "configuration: {why}"),
            RoleError::FolderUnusable(why) => write!(f, "the data folder is unusable: {why}"),
            RoleError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for RoleError {}

/// The three ports of a process, bound.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    pub internal: TcpListener,
    pub admin: TcpListener,
}

/// The addresses that the listeners got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub public: SocketAddr,
    pub internal: SocketAddr,
    pub admin: SocketAddr,
}

impl Listeners {
    pub async fn bind(listen: &Listen) -> Result<Listeners, RoleError> {
        Ok(Listeners {
            public: bind("listen.public", &listen.public).await?,
            internal: bind("listen.internal", &listen.internal).await?,
            admin: bind("listen.admin", &listen.admin).await?,
        })
    }

    pub fn bound(&self) -> Result<Bound, RoleError> {
        let address = |listener: &TcpListener| {
            let address = listener.local_addr();
            address
                .map_err(|error| RoleError::Failed(format!("a bound port has no address: {error}")))
        };
        Ok(Bound {
            public: address(&self.public)?,
            internal: address(&self.internal)?,
            admin: address(&self.admin)?,
        })
    }
}

/// Binds one port. `key`: the setting that names it.
pub async fn bind(key: &str, address: &str) -> Result<TcpListener, RoleError> {
    TcpListener::bind(address).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("{key} = {address} is in use by another process; stop that one or choose another port")
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("{key} = {address} is not allowed for this user; choose a port above 1023")
            }
            std::io::ErrorKind::AddrNotAvailable => {
                format!("{key} = {address} is no address of this machine; choose one that is")
            }
            _ => format!("{key} = {address} cannot be listened on: {error}"),
        };
        RoleError::Failed(why)
    })
}

/// What others are told to reach: the advertised address, or else the one that was bound.
pub fn advertised(advertise: &str, bound: SocketAddr) -> String {
    match advertise {
        "" => bound.to_string(),
        address => address.to_string(),
    }
}

/// The boot of this machine's kernel, as the kernel names it; empty where it does not say.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|id| id.trim().to_string()).unwrap_or_default()
}

/// The word to stop. Clones hear it all; it is never taken back.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Says the word. Dropping it says it too, so that nothing outlives its starter.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

pub fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when the process is to stop. For `serve_with_incoming_shutdown`, `select!` and the like.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error means that the stopper is gone, which is the same word.
        let _ = receiver.wait_for(|stopping| *stopping).await;
    }
}

/// What main hands to a role.
#[derive(Debug)]
pub struct Process {
    pub public: TcpListener,
    pub internal: TcpListener,
    pub bound: Bound,
    pub stop: Stop,
    /// How many connections each of the ports takes.
    pub room: Room,
    /// Metrics, readiness and status; main serves its port before the role starts and until it has ended.
    pub admin: Admin,
}
