//! Applies planned faults to a run, and takes them back.
//!
//! A fault counts as installed when it was seen to hold: the process is gone or stands still, packets met the rule, the system
//! says that it did what was asked. Everything is taken back when its time is over or the run's is.

use super::plan::LENGTH_LEAST_MS;
use super::shapes;
use super::{Applied, Cut, Harm, Kind, Outcome, Planned, Target, Wanted};
use crate::dice::{Dice, Purpose};
use crate::live::machines::Machines;
use crate::live::network::Rule;
use crate::live::recorder::Recorder;
use crate::live::system::{Change, Refused, Role, System};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Between two transfers while they come again and again.
const TRANSFER_EVERY: Duration = Duration::from_millis(1_200);
const LENGTH_LEAST: Duration = Duration::from_millis(LENGTH_LEAST_MS);
/// How long a node may take to hand over what it serves.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const OVER: &str = "the run was over";

pub struct Nemesis {
    tasks: JoinSet<anyhow::Result<Applied>>,
    stop: watch::Sender<bool>,
}

/// What a fault acts on.
#[derive(Clone)]
struct World {
    machines: Arc<Machines>,
    system: Arc<dyn System>,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
}

/// What has to be done to take a fault back.
enum Undo {
    Heal(u64),
    Resume(usize),
    Restart(usize),
    TakeBack(usize),
}

struct Begun {
    what: String,
    /// From here on it holds.
    begun: Instant,
    outcome: Outcome,
    undo: Vec<Undo>,
}

impl Begun {
    fn skipped(why: impl Into<String>) -> Begun {
        Begun {
            what: String::new(),
            begun: Instant::now(),
            outcome: Outcome::Skipped(why.into()),
            undo: Vec::new(),
        }
    }
}

impl Nemesis {
    /// Times of the plan count from now.
    pub fn start(
        planned: Vec<Planned>,
        wanted: &[Wanted],
        machines: Arc<Machines>,
        system: Arc<dyn System>,
        recorder: Recorder,
    ) -> Nemesis {
        let (stop, stopped) = watch::channel(false);
        let world = World {
            machines,
            system,
            recorder,
            stop: stopped,
        };
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for fault in planned {
            let name = wanted[fault.wanted].name.clone();
            tasks.spawn(world.clone().live_through(fault, name, began));
        }
        Nemesis { tasks, stop }
    }

    /// Takes back what holds, and tells what was.
    /// And what went wrong with those that are missing.
    pub async fn end(mut self) -> (Vec<Applied>, Vec<anyhow::Error>) {
        // Everybody may have gone already.
        let _ = self.stop.send(true);
        let (mut all, mut troubles) = (Vec::new(), Vec::new());
        while let Some(applied) = self.tasks.join_next().await {
            match applied {
                Ok(Ok(applied)) => all.push(applied),
                Ok(Err(trouble)) => troubles.push(trouble.context("a fault")),
                Err(panicked) => troubles.push(panicked.into()),
            }
        }
        all.sort_by_key(|applied: &Applied| applied.began_ns);
        (all, troubles)
    }
}

impl World {
    async fn live_through(
        mut self,
        fault: Planned,
        wanted: String,
        began: Instant,
    ) -> anyhow::Result<Applied> {
        self.sleep_until(began + fault.at).await;
        let began_ns = self.recorder.now_ns();
        let name = fault.kind.name();
        // Finding out whom it hits, or doing it again and again, takes its time.
        self.recorder.nemesis(&format!("begin {name}"), "")?;
        let over = *self.stop.borrow();
        let mut begun = match over {
            true => Begun::skipped(OVER),
            false => self.begin(&fault).await?,
        };
        let mut held = begun.begun.elapsed();
        if begun.outcome.name() == "skipped" {
            let what = format!("skipped: {}", begun.outcome.why());
            self.recorder.nemesis(name, &what)?;
        } else {
            let what = format!(
                "{} {}: {}",
                begun.outcome.name(),
                begun.what,
                begun.outcome.why()
            );
            self.recorder
                .nemesis(name, what.trim_end_matches([':', ' ']))?;
            // Counted from when it began to hold, for finding out whom it hits may take as long as the fault.
            self.sleep_until(begun.begun + fault.length).await;
            held = begun.begun.elapsed();
            if held < LENGTH_LEAST && begun.outcome == Outcome::Installed {
                let why = format!("it held for only {} ms", held.as_millis());
                begun.outcome = Outcome::Indeterminate(why);
            }
            self.take_back(&mut begun).await?;
            self.recorder.nemesis(&format!("end {name}"), &begun.what)?;
        }
        Ok(Applied {
            wanted,
            kind: fault.kind,
            began_ns,
            ended_ns: self.recorder.now_ns(),
            held,
            what: begun.what,
            outcome: begun.outcome,
        })
    }

    /// Or until the run's time is over.
    async fn sleep_until(&mut self, until: Instant) {
        tokio::select! {
            () = sleep_until(until) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }

    fn is_over(&self) -> bool {
        *self.stop.borrow()
    }

    async fn begin(&mut self, fault: &Planned) -> anyhow::Result<Begun> {
        let mut dice = Dice::new(fault.seed, Purpose::LiveFaults, 1);
        match fault.kind {
            Kind::Partition(shape) => self.partition(shape, &mut dice).await,
            Kind::Harm(harm) => Ok(self.harm(harm, &mut dice)),
            Kind::Kill(target) => self.processes(target, &mut dice, true).await,
            Kind::Pause(target) => self.processes(target, &mut dice, false).await,
            Kind::Transfer => Ok(self.transfers(&mut dice, fault.length).await),
            Kind::Drain => self.drain(&mut dice).await,
        }
    }

    async fn partition(&self, shape: Cut, dice: &mut Dice) -> anyhow::Result<Begun> {
        let Some(network) = self.machines.network() else {
            return Ok(Begun::skipped("the processes share the machine's network"));
        };
        let primaries = match shape {
            Cut::Primary => match self.system.holders(Role::Primary).await {
                Ok(primaries) => primaries,
                Err(error) => return Ok(Begun::skipped(format!("who serves? {error:#}"))),
            },
            _ => Vec::new(),
        };
        if self.is_over() {
            return Ok(Begun::skipped(OVER));
        }
        let groups = self.machines.groups().into_iter();
        let groups: Vec<Vec<usize>> = groups.map(|group| self.machines.in_group(group)).collect();
        let (links, named) = match shapes::cut(shape, &groups, &primaries, dice) {
            Ok(cut) => cut,
            Err(why) => return Ok(Begun::skipped(why)),
        };
        let what = format!("{} ({} links)", self.machines.names(&named), links.len());
        let rule = Rule {
            cut: true,
            ..Rule::default()
        };
        let id = network.install(links, rule);
        Ok(Begun {
            what,
            begun: Instant::now(),
            outcome: Outcome::Installed,
            undo: vec![Undo::Heal(id)],
        })
    }

    /// Between all members, or all links of one; clients are members of the network like others.
    fn harm(&self, harm: Harm, dice: &mut Dice) -> Begun {
        let Some(network) = self.machines.network() else {
            return Begun::skipped("the processes share the machine's network");
        };
        let count = self.machines.members().len();
        let ends = 0..=count;
        let one = dice.permille(400).then(|| dice.index(count));
        let hit =
            |from: usize, to: usize| from != to && one.is_none_or(|one| from == one || to == one);
        let links = ends.clone().flat_map(|from| {
            let to = ends.clone().filter(move |to| hit(from, *to));
            to.map(move |to| (from, to))
        });
        let (rule, how) = shapes::harm(harm, dice);
        let whom = one.map_or("everywhere".to_string(), |one| self.machines.names(&[one]));
        let id = network.install(links.collect(), rule);
        Begun {
            what: format!("{whom}, {how}"),
            begun: Instant::now(),
            outcome: Outcome::Installed,
            undo: vec![Undo::Heal(id)],
        }
    }

    async fn processes(
        &self,
        target: Target,
        dice: &mut Dice,
        kill: bool,
    ) -> anyhow::Result<Begun> {
        let hit = match self.targets(target, dice).await {
            Ok(hit) => hit,
            Err(why) => return Ok(Begun::skipped(why)),
        };
        if self.is_over() {
            return Ok(Begun::skipped(OVER));
        }
        let (mut done, mut undo) = (Vec::new(), Vec::new());
        for member in hit.iter().copied() {
            let process = self.machines.process(member);
            let yes = match kill {
                true => process.kill().await?,
                false => process.pause().await?,
            };
            if yes {
                done.push(member);
                undo.push(match kill {
                    true => Undo::Restart(member),
                    false => Undo::Resume(member),
                });
            }
        }
        if done.is_empty() {
            let names = self.machines.names(&hit);
            return Ok(Begun::skipped(format!(
                "{names}: another fault was there first"
            )));
        }
        let outcome = match done.len() == hit.len() {
            true => Outcome::Installed,
            false => Outcome::Indeterminate("another fault was at some of them first".to_string()),
        };
        Ok(Begun {
            what: self.machines.names(&done),
            begun: Instant::now(),
            outcome,
            undo,
        })
    }

    async fn targets(&self, target: Target, dice: &mut Dice) -> Result<Vec<usize>, String> {
        let count = self.machines.members().len();
        Ok(match target {
            Target::One => vec![dice.index(count)],
            Target::All => (0..count).collect(),
            Target::Majority => {
                let groups = self.machines.groups();
                let mut group = self.machines.in_group(groups[dice.index(groups.len())]);
                shapes::shuffle(&mut group, dice);
                group.truncate(group.len() / 2 + 1);
                group
            }
            Target::Holder(role) => {
                let holders = self.system.holders(role).await;
                let holders = holders.map_err(|error| format!("who is it? {error:#}"))?;
                // Each once, in an order that the managers' answer does not decide.
                let holders: BTreeSet<usize> = holders.into_iter().collect();
                let holders: Vec<usize> = holders.into_iter().collect();
                match holders.is_empty() {
                    true => return Err("nobody".to_string()),
                    false => vec![*dice.pick(&holders)],
                }
            }
        })
    }

    async fn transfers(&mut self, dice: &mut Dice, length: Duration) -> Begun {
        let begun = Instant::now();
        let until = begun + length;
        let (mut done, mut perhaps, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        while Instant::now() < until && !self.is_over() {
            let pick = dice.word();
            match self.system.change(Change::Transfer { pick }).await {
                Ok(what) => done.push(what),
                Err(Refused::Perhaps(why)) => perhaps.push(why),
                Err(Refused::No(why)) => refused.push(why),
            }
            self.sleep_until(Instant::now() + TRANSFER_EVERY).await;
        }
        let what = format!(
            "{} done, {} perhaps, {} refused",
            done.len(),
            perhaps.len(),
            refused.len()
        );
        let outcome = match (done.first(), perhaps.pop()) {
            (Some(_), _) => Outcome::Installed,
            (None, Some(why)) => Outcome::Indeterminate(why),
            (None, None) => Outcome::Skipped(refused.pop().unwrap_or_default()),
        };
        Begun {
            what,
            begun,
            outcome,
            undo: Vec::new(),
        }
    }

    async fn drain(&self, dice: &mut Dice) -> anyhow::Result<Begun> {
        let member = match self.targets(Target::Holder(Role::Primary), dice).await {
            Ok(members) => members[0],
            Err(why) => return Ok(Begun::skipped(why)),
        };
        if self.is_over() {
            return Ok(Begun::skipped(OVER));
        }
        let change = Change::Drain {
            member,
            undo: false,
        };
        let (what, outcome) = match self.system.change(change).await {
            Ok(what) => (what, self.left_empty(member).await),
            Err(Refused::Perhaps(why)) => (String::new(), Outcome::Indeterminate(why)),
            Err(Refused::No(why)) => return Ok(Begun::skipped(why)),
        };
        Ok(Begun {
            what: format!("{} {what}", self.machines.names(&[member])),
            begun: Instant::now(),
            outcome,
            undo: vec![Undo::TakeBack(member)],
        })
    }

    /// The managers only begin when they say yes: it is a fault once nothing is served there any more.
    async fn left_empty(&self, member: usize) -> Outcome {
        let until = Instant::now() + DRAIN_LIMIT;
        loop {
            let why = match self.system.holders(Role::Primary).await {
                Ok(holders) if !holders.contains(&member) => return Outcome::Installed,
                Ok(_) => "it still serves".to_string(),
                Err(error) => format!("who serves? {error:#}"),
            };
            if Instant::now() >= until || self.is_over() {
                return Outcome::Indeterminate(why);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn take_back(&self, begun: &mut Begun) -> anyhow::Result<()> {
        for undo in std::mem::take(&mut begun.undo) {
            match undo {
                Undo::Heal(id) => {
                    let met = self
                        .machines
                        .network()
                        .map_or(0, |network| network.remove(id));
                    begun.what = format!("{}, met by {met} packets", begun.what);
                    if met == 0 {
                        let why = "no packet met it".to_string();
                        begun.outcome = Outcome::Indeterminate(why);
                    }
                }
                Undo::Resume(member) => {
                    // Killed meanwhile when there is nothing to resume.
                    self.machines.process(member).resume().await?;
                }
                Undo::Restart(member) => {
                    let process = self.machines.process(member);
                    if !process.runs() {
                        process.start().await?;
                    }
                }
                Undo::TakeBack(member) => self.use_again(member).await?,
            }
        }
        Ok(())
    }

    /// Managers may be away just now; a node that stays drained would be no fault of the system's.
    async fn use_again(&self, member: usize) -> anyhow::Result<()> {
        let change = Change::Drain { member, undo: true };
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.system.change(change).await {
                Ok(_) => return Ok(()),
                Err(Refused::No(why) | Refused::Perhaps(why)) if Instant::now() >= until => {
                    anyhow::bail!("the drain cannot be taken back: {why}")
                }
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    }
}
