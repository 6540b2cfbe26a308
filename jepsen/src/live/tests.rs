//! Whole runs against a toy: processes that only sleep, and registers in this process that keep or forget what they are told.
//!
//! They show what a verdict depends on: what clients saw, processes that end, and faults that did not come.

use super::nemesis::{self, Applied, Cut, Kind, Outcome};
use super::process::Start;
use super::run::{self, Conclusion, Ran};
use super::system::{
    Change, Client, Done, Host, Keeps, Member, Offers, Op, Reads, Refused, Role, System,
};
use super::worker::Load;
use super::workload;
use crate::history::Value;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Now and then a read shows nothing.
    Forgets,
    /// A process ends by itself.
    Ends,
    /// Somebody lacks when all is healed.
    StaysIll,
    /// Who serves changes all the time.
    Wanders,
    /// It says who serves only when the run is nearly over.
    Dawdles,
    /// Nobody can write to it once it was broken.
    ReadsOnly,
}

struct Toy {
    fault: Fault,
    offers: Offers,
    registers: Arc<Mutex<BTreeMap<Value, Value>>>,
    looks: AtomicU64,
}

struct ToyClient {
    forgets: bool,
    reads_only: bool,
    reads: u64,
    registers: Arc<Mutex<BTreeMap<Value, Value>>>,
}

impl Client for ToyClient {
    fn invoke<'a>(&'a mut self, op: &'a Op) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let key = op.key.clone().unwrap();
            let mut registers = self.registers.lock().unwrap();
            let now = registers.get(&key).cloned().unwrap_or_default();
            match (op.f, op.value.pair()) {
                ("write", _) if self.reads_only => Done::fail(op, "no writes"),
                ("read", _) => {
                    self.reads += 1;
                    let forgets = self.forgets && self.reads.is_multiple_of(20);
                    Done::ok(if forgets { Value::Nil } else { now })
                }
                ("cas", Some((old, _))) if *old != now => Done::fail(op, "another value"),
                ("cas", Some((_, new))) => {
                    registers.insert(key, new.clone());
                    Done::ok(op.value.clone())
                }
                _ => {
                    registers.insert(key, op.value.clone());
                    Done::ok(op.value.clone())
                }
            }
        })
    }
}

impl System for Toy {
    fn members(&self) -> Vec<Member> {
        let member = |name: &str| Member {
            name: name.to_string(),
            group: "toys",
        };
        vec![member("one"), member("two")]
    }

    fn offers(&self) -> Offers {
        self.offers
    }

    fn start_of(&self, member: usize, hosts: &[Host]) -> Start {
        let seconds = match (self.fault, member) {
            (Fault::Ends, 1) => "1",
            _ => "60",
        };
        Start {
            program: "sleep".into(),
            arguments: vec![seconds.to_string()],
            environment: Vec::new(),
            log: hosts[member].log.clone(),
        }
    }

    fn prepare(self: Arc<Self>, _hosts: Vec<Host>) -> BoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn healthy(&self) -> BoxFuture<'_, Result<String, String>> {
        let state = match self.fault {
            Fault::StaysIll => Err("ill".to_string()),
            Fault::Wanders => {
                let look = self.looks.fetch_add(1, Ordering::Relaxed);
                Ok(format!("epoch {look}"))
            }
            _ => Ok("epoch 1".to_string()),
        };
        Box::pin(async { state })
    }

    fn client(&self, _number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>> {
        let client: Box<dyn Client> = Box::new(ToyClient {
            reads_only: self.fault == Fault::ReadsOnly,
            forgets: self.fault == Fault::Forgets,
            reads: 0,
            registers: self.registers.clone(),
        });
        Box::pin(async { Ok(client) })
    }

    fn holders(&self, _role: Role) -> BoxFuture<'_, anyhow::Result<Vec<usize>>> {
        let dawdles = self.fault == Fault::Dawdles;
        Box::pin(async move {
            if dawdles {
                tokio::time::sleep(Duration::from_millis(3_000)).await;
            }
            Ok(vec![0])
        })
    }

    fn change(&self, _change: Change) -> BoxFuture<'_, Result<String, Refused>> {
        Box::pin(async { Err(Refused::No("a toy does not change".to_string())) })
    }
}

const LINEARIZABLE: Offers = Offers {
    keeps: Keeps::Always,
    reads: Reads::Fresh,
};

async fn run(fault: Fault, offers: Offers, faults: &str) -> (Ran, Conclusion) {
    let scratch = tempfile::tempdir().unwrap();
    let wanted = nemesis::parse(faults).unwrap();
    let plan = run::Plan {
        system: Arc::new(Toy {
            fault,
            offers,
            registers: Arc::default(),
            looks: AtomicU64::default(),
        }),
        workload: Arc::from(workload::named("register").unwrap()),
        wanted: wanted.clone(),
        load: Load {
            workers: 3,
            rate: 600.0,
            time: Duration::from_millis(5_000),
            seed: 1,
        },
        own_end: None,
        scratch: scratch.path().to_path_buf(),
        store: scratch.path().to_path_buf(),
        heal_limit: Duration::from_millis(300),
    };
    let ran = run::run(plan).await;
    let conclusion = ran.conclusion(&wanted);
    (ran, conclusion)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_as_good_as_what_was_seen_and_what_was_broken() {
    let lazy = Offers {
        keeps: Keeps::GivenBack,
        ..LINEARIZABLE
    };
    let (good, forgetful, caught, missed, skipped, ended, ill, wanders, silent, short) = tokio::join!(
        run(Fault::None, LINEARIZABLE, "kill-one"),
        run(Fault::Forgets, LINEARIZABLE, "pause-primary"),
        run(Fault::Forgets, lazy, "none"),
        run(Fault::None, lazy, "none"),
        run(Fault::None, LINEARIZABLE, "partition-one"),
        run(Fault::Ends, LINEARIZABLE, "none"),
        run(Fault::StaysIll, LINEARIZABLE, "none"),
        run(Fault::Wanders, LINEARIZABLE, "none"),
        run(Fault::ReadsOnly, LINEARIZABLE, "none"),
        run(Fault::Dawdles, LINEARIZABLE, "pause-primary"),
    );
    assert_eq!(good.1, Conclusion::AsPromised, "{:?}", good.0);
    assert_eq!(good.0.faults.len(), 1);
    let said = |conclusion: &Conclusion, what: &str| conclusion.reasons().concat().contains(what);
    assert!(said(&forgetful.1, "not linearizable") && forgetful.1.exit_code() == 1);
    assert!(!forgetful.0.found[0].lines.is_empty());
    assert_eq!(caught.1, Conclusion::AsPromised);
    // Where nobody was cut off nothing has to be seen; where somebody was, it has.
    let (mut ran, conclusion) = missed;
    assert_eq!(conclusion, Conclusion::AsPromised);
    ran.faults.push(Applied {
        wanted: "partition".to_string(),
        kind: Kind::Partition(Cut::Primary),
        began_ns: 0,
        ended_ns: 1,
        held: Duration::from_secs(2),
        what: String::new(),
        outcome: Outcome::Installed,
    });
    assert!(matches!(ran.conclusion(&[]), Conclusion::Invalid(why) if why[0].contains("cut off")));
    assert!(said(&skipped.1, "never installed") && skipped.1.exit_code() == 4);
    assert!(said(&ended.1, "two ended by itself") && ended.1.exit_code() == 1);
    assert!(said(&ill.1, "ill") && ill.1.exit_code() == 1);
    assert!(said(&silent.1, "the last write") && silent.1.exit_code() == 1);
    assert!(said(&short.1, "held for only") && short.1.exit_code() == 4);
    assert!(said(&wanders.1, "became epoch") && wanders.1.exit_code() == 1);
}
