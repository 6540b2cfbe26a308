//! What a system under test has to offer: which processes it consists of, clients that speak to it, and who holds which role.
//!
//! The harness starts, breaks and joins the processes; it knows nothing of what they do. To test another system, implement
//! [`System`] and [`Client`] for it: the workloads and their checkers stay as they are. `jepsen/examples/etcd` does so for etcd.
//! Here is all that it takes, for processes that only sleep and registers that nothing can break, since they are in the clients:
//!
//! ```
//! use futures::future::BoxFuture;
//! use std::collections::BTreeMap;
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//! use understudy_jepsen::history::Value;
//! use understudy_jepsen::live::harness::{Options, Subject};
//! use understudy_jepsen::live::process::Start;
//! use understudy_jepsen::live::system::*;
//! use understudy_jepsen::live::workload::Shape;
//!
//! type Registers = Arc<Mutex<BTreeMap<Value, Value>>>;
//!
//! struct Toy(Registers);
//! struct ToyClient(Registers);
//!
//! impl Client for ToyClient {
//!     fn invoke<'a>(&'a mut self, op: &'a Op) -> BoxFuture<'a, Done> {
//!         Box::pin(async move {
//!             let mut registers = self.0.lock().unwrap();
//!             let now = registers.entry(op.key.clone().unwrap()).or_default();
//!             match (op.f, op.value.pair()) {
//!                 ("read", _) => return Done::ok(now.clone()),
//!                 // It certainly changed nothing. What may have changed something is `Done::info`.
//!                 ("cas", Some((old, _))) if old != now => return Done::fail(op, "another value"),
//!                 ("cas", Some((_, new))) => *now = new.clone(),
//!                 _ => *now = op.value.clone(),
//!             }
//!             Done::ok(op.value.clone())
//!         })
//!     }
//! }
//!
//! impl System for Toy {
//!     fn members(&self) -> Vec<Member> {
//!         let member = |name: &str| Member { name: name.to_string(), group: "toys" };
//!         vec![member("one"), member("two"), member("three")]
//!     }
//!
//!     fn offers(&self) -> Offers {
//!         Offers { keeps: Keeps::Always, reads: Reads::Fresh }
//!     }
//!
//!     fn start_of(&self, member: usize, hosts: &[Host]) -> Start {
//!         Start {
//!             program: "sleep".into(),
//!             arguments: vec!["600".to_string()],
//!             environment: Vec::new(),
//!             log: hosts[member].log.clone(),
//!         }
//!     }
//!
//!     // A real one keeps the hosts, and waits until its processes are a cluster.
//!     fn prepare(self: Arc<Self>, _hosts: Vec<Host>) -> BoxFuture<'static, anyhow::Result<()>> {
//!         Box::pin(async { Ok(()) })
//!     }
//!
//!     fn healthy(&self) -> BoxFuture<'_, Result<String, String>> {
//!         Box::pin(async { Ok("'one' leads".to_string()) })
//!     }
//!
//!     fn client(&self, _number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>> {
//!         let client: Box<dyn Client> = Box::new(ToyClient(self.0.clone()));
//!         Box::pin(async { Ok(client) })
//!     }
//!
//!     fn holders(&self, _role: Role) -> BoxFuture<'_, anyhow::Result<Vec<usize>>> {
//!         Box::pin(async { Ok(vec![0]) })
//!     }
//! }
//!
//! fn main() -> anyhow::Result<()> {
//!     let store = tempfile::tempdir()?;
//!     // A program has them in its own arguments, with `#[command(flatten)]`.
//!     let options = Options {
//!         workload: "register".to_string(),
//!         nemesis: "kill-one".to_string(),
//!         time: Duration::from_secs(5),
//!         seed: Some(1),
//!         clients: 3,
//!         rate: 300,
//!         plain: true,
//!         store: store.path().to_path_buf(),
//!         list: false,
//!     };
//!     let subject = Subject {
//!         system: Arc::new(Toy(Registers::default())),
//!         name: "toy".to_string(),
//!         setting: "three that sleep".to_string(),
//!         command: "cargo run --example toy --".to_string(),
//!     };
//!     assert_eq!(options.choose(&[Shape::Register])?.test(subject)?, 0);
//!     Ok(())
//! }
//! ```

use super::process::Start;
use crate::history::Value;
use crate::history::event::Type;
use futures::future::BoxFuture;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

/// A process of the system.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    /// Members of a group vote or copy among themselves: majorities are counted inside a group.
    pub group: &'static str,
}

/// Where a member runs.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: Ipv4Addr,
    /// The first of ten ports that nobody else uses there.
    pub port: u16,
    /// Its data, and nothing else.
    pub folder: PathBuf,
    pub log: PathBuf,
}

/// Whom a fault is to hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Who serves writes: members of the group that holds the data.
    Primary,
    /// Who leads the group that decides who serves.
    Leader,
}

/// What the system is asked to do to itself while it is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Hand the serving of something over to another member; of what, the number chooses.
    Transfer { pick: u64 },
    /// Empty a member of what it serves, and take that back.
    Drain { member: usize, undo: bool },
}

/// What the system, as it is set up for this run, promises its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offers {
    pub keeps: Keeps,
    pub reads: Reads,
}

impl Offers {
    pub fn linearizable(self) -> bool {
        self.keeps == Keeps::Always && self.reads == Reads::Fresh
    }
}

/// What a read sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// Everything that was acknowledged before it.
    Fresh,
    /// At least what its session saw and wrote before.
    OfSession,
    /// What was once there.
    Old,
}

/// What becomes of an acknowledged write when who acknowledged it is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeps {
    Always,
    /// It may be gone for a while, and comes back when nobody else changed what it was about.
    GivenBack,
}

/// One operation of a workload: what the history shows of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Op {
    pub f: &'static str,
    pub key: Option<Value>,
    pub value: Value,
}

impl Op {
    pub fn new(f: &'static str, value: Value) -> Op {
        Op {
            f,
            key: None,
            value,
        }
    }

    pub fn keyed(f: &'static str, key: i64, value: Value) -> Op {
        Op {
            f,
            key: Some(Value::Int(key)),
            value,
        }
    }
}

/// What came of an operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Done {
    pub kind: Type,
    /// What the history shows as its value.
    pub value: Value,
    /// For people: why, or who answered.
    pub note: String,
}

impl Done {
    pub fn ok(value: Value) -> Done {
        Done {
            kind: Type::Ok,
            value,
            note: String::new(),
        }
    }

    /// It certainly changed nothing, and never will.
    pub fn fail(op: &Op, why: impl Into<String>) -> Done {
        Done {
            kind: Type::Fail,
            value: op.value.clone(),
            note: why.into(),
        }
    }

    /// It may have happened, or may yet.
    pub fn info(op: &Op, why: impl Into<String>) -> Done {
        Done {
            kind: Type::Info,
            value: op.value.clone(),
            note: why.into(),
        }
    }
}

/// A client of one worker, which has at most one operation under way.
pub trait Client: Send {
    /// Does it. An answer that did not come is `info`, unless it cannot have happened.
    fn invoke<'a>(&'a mut self, op: &'a Op) -> BoxFuture<'a, Done>;
}

/// A system of processes. Members are named by their place in [`System::members`].
pub trait System: Send + Sync + 'static {
    fn members(&self) -> Vec<Member>;

    fn offers(&self) -> Offers;

    /// How a member is started, the first time and again.
    fn start_of(&self, member: usize, hosts: &[Host]) -> Start;

    /// Called once, when all processes were started: waits for them, and makes what the workload needs.
    fn prepare(self: Arc<Self>, hosts: Vec<Host>) -> BoxFuture<'static, anyhow::Result<()>>;

    /// Whether everything is as it should be when nothing is broken; else what is not. What comes back then is another one
    /// after each change of who serves or leads, and is only compared.
    fn healthy(&self) -> BoxFuture<'_, Result<String, String>>;

    /// A client for a worker.
    fn client(&self, number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>>;

    /// The client of what is done when all is whole: it reads what is there, whatever level the workers' reads have.
    fn last_client(&self, number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>> {
        self.client(number)
    }

    /// The members that have a role now; one for each thing that is served, so a member may come several times.
    fn holders(&self, role: Role) -> BoxFuture<'_, anyhow::Result<Vec<usize>>>;

    /// Asks for a change; tells what was done. What a system does not have is refused, and then that fault is skipped.
    fn change(&self, _change: Change) -> BoxFuture<'_, Result<String, Refused>> {
        Box::pin(async { Err(Refused::No("this system has no such thing".to_string())) })
    }

    /// A last look at what only this system can tell, once it is healthy again and all is read: sentences about what must
    /// not be.
    fn inspect(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Why a change did not come.
#[derive(Clone, Debug)]
pub enum Refused {
    /// Nothing was done.
    No(String),
    /// It may have been done.
    Perhaps(String),
}
