//! All of a story: machines, messages under way, the shard's row, time, and the commands that move them.
//!
//! Decides nothing: a command is one stimulus to one replica, or several in a fixed order, and the trace says what came of
//! each. Those invariants that one shard's copies can show look on; what breaks one fails, whatever the file expects.

use super::command::{Parsed, Words, number, write};
use super::machine::{Machine, SHARD};
use super::managers::NamedRow;
use super::{show, trace};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::failure::Failure;
use understudy_proto::limits::{DELTA_RECORDS_MIN, DELTA_WALKS_MAX};
use understudy_proto::{Epoch, NodeId, Pair};
use understudy_protocol::effect::{Assignment, Caller, Effect, Input};
use understudy_protocol::invariants::{Checked, Commit, Holder, Invariants};
use understudy_protocol::request::Request;
use understudy_protocol::shard::message::Message;
use understudy_protocol::shard::{Freshness, ReadAnswer, ReadLevel, Settings};
use understudy_protocol::testing::Part;
use understudy_protocol::time::{Duration, Instant};

pub struct World {
    pub(super) now: Instant,
    pub(super) settings: Settings,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    pub(super) network: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    pub(super) row: Option<NamedRow>,
    callers: Vec<Call>,
    pub(super) trace: Vec<Line>,
    pub(super) invariants: Invariants,
    violation: Option<String>,
}

/// A line of the trace, and whether it is for somebody outside the shard's copies.
pub(super) struct Line {
    pub text: String,
    pub outside: bool,
}

/// Who waits for an answer, by the number of its caller.
struct Call {
    name: String,
    request: Option<Request>,
    read: Option<Asked>,
}

/// A read that may wait.
struct Asked {
    key: Bytes,
    freshness: Freshness,
}

fn machine_row(machine: &Machine) -> Option<&Assignment> {
    machine.replica.as_ref()?.assignment()
}

impl World {
    pub fn new() -> World {
        World {
            now: Instant::ZERO,
            settings: Settings {
                interval: Duration::from_millis(100),
                log_bytes: 64 * 1024 * 1024,
                log_age: Duration::from_millis(3_600_000),
                delta_records_min: DELTA_RECORDS_MIN,
                delta_walks_max: DELTA_WALKS_MAX,
            },
            machines: BTreeMap::new(),
            network: BTreeMap::new(),
            row: None,
            callers: Vec::new(),
            trace: Vec::new(),
            invariants: Invariants::default(),
            violation: None,
        }
    }

    /// What happened since the last call, as lines.
    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.drain(..).map(|line| line.text).collect()
    }

    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Runs one command. `Err`: it is not understood, or cannot be done here.
    pub fn run(&mut self, line: &str) -> Parsed<()> {
        if let Some(command) = line.strip_prefix("quietly ") {
            self.run(command)?;
            self.trace.retain(|line| line.outside);
            return Ok(());
        }
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        if name == "write" {
            return self.write(rest);
        }
        let mut words = Words::new(rest);
        match name {
            "copies" => self.copies(&mut words)?,
            "cluster" => self.cluster(&mut words)?,
            "row" => self.new_row(&mut words)?,
            "tell" => self.tell(words.next_node()?)?,
            "lease" => self.lease(&mut words)?,
            "clients" => self.know_clients(&mut words)?,
            "beacons" => self.beacons(&mut words)?,
            "pace" => self.set_pace(&mut words)?,
            "read" => self.read(&mut words)?,
            "scrub" => self.scrub(&mut words)?,
            "lose" => self.damage(&mut words, true)?,
            "alter" => self.damage(&mut words, false)?,
            "persist" => {
                let node = words.next_node()?;
                self.sync(node, words.next_number()?)?;
                self.report(node)?;
            }
            "sync" => self.sync(words.next_node()?, words.next_number()?)?,
            "report" => self.report(words.next_node()?)?,
            "deliver" => self.deliver(&mut words)?,
            "drop" => self.drop_messages(&mut words)?,
            "repeat" => self.repeat(&mut words)?,
            "defer" => self.defer(&mut words)?,
            "network" => self.show_network(),
            "settle" => self.settle()?,
            "time" => {
                self.now = self.now + Duration::from_millis(number(words.next("milliseconds")?)?)
            }
            "tick" => self.tick(words.all_nodes()?)?,
            "seal" => self.seal(&mut words)?,
            "delete" => self.delete(&mut words)?,
            "crash" => self.crash(&mut words)?,
            "start" => self.start(words.next_node()?)?,
            "show" => {
                let machine = self.machine(words.next_node()?)?;
                let lines = match words.next("what to show")? {
                    "age" => vec![show::age(machine, self.now)?],
                    what => show::show(machine, what)?,
                };
                lines.into_iter().for_each(|line| self.say(line));
            }
            "compare" => self.compare(&words.all_nodes()?)?,
            _ => return Err(format!("no command is called '{name}'")),
        }
        words.finish()?;
        self.check_holders();
        Ok(())
    }

    // ---- clients

    fn write(&mut self, text: &str) -> Parsed<()> {
        let write = write(text)?;
        let id = trace::request_id(write.request.id);
        let times = self.callers.iter().filter(|call| {
            call.request
                .as_ref()
                .is_some_and(|request| request.id == write.request.id)
        });
        let name = match times.count() {
            0 => id,
            before => format!("{id} (call {})", before + 1),
        };
        self.say(format!("n{} is asked {name}", write.node));
        let caller = self.call(name, Some(write.request.clone()));
        let deadline = self.now + Duration::from_millis(write.within_ms);
        let (request, copies) = (write.request, write.copies);
        self.step(
            write.node,
            Input::Write {
                caller,
                request,
                copies,
                deadline,
            },
        )
    }

    pub(super) fn call(&mut self, name: String, request: Option<Request>) -> Caller {
        self.callers.push(Call {
            name,
            request,
            read: None,
        });
        Caller(self.callers.len() as u64 - 1)
    }

    fn read(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let key = Bytes::copy_from_slice(words.next("a key")?.as_bytes());
        let level = words.option("level");
        let freshness = match level {
            Some("session") => Some(Freshness::Session(words.pairs_option("token")?)),
            Some("bounded") => {
                let staleness = words.number_option("staleness")?.unwrap_or(0);
                Some(Freshness::Bounded(Duration::from_millis(staleness)))
            }
            _ => None,
        };
        if let Some(freshness) = freshness {
            let within_ms = words.number_option("within")?.unwrap_or(10_000);
            return self.fresh_read(node, key, freshness, within_ms);
        }
        let level = match level {
            None => ReadLevel::Primary,
            Some("any") => ReadLevel::Any,
            Some(other) => return Err(format!("no read level is called '{other}'")),
        };
        let now = self.now;
        let machine = self.machine(node)?;
        let process = machine.process();
        match machine.read(now, std::slice::from_ref(&key), level)? {
            Ok(answer) => {
                let found = trace::object(&key, answer.objects[0].as_ref());
                self.say_outside(format!("n{node} answers: {found}, token {}", answer.token));
                let read = self.invariants.on_read(process, SHARD, answer.token);
                self.check(read);
                let row = machine_row(self.machine(node)?);
                if row.is_some_and(|row| row.in_sync.is_some()) {
                    let objects = [(key.clone(), answer.objects[0].clone())];
                    let newest = level == ReadLevel::Primary;
                    let read = self.invariants.on_committed_read(
                        process,
                        SHARD,
                        newest,
                        answer.token,
                        &objects,
                    );
                    self.check(read);
                }
                if level == ReadLevel::Primary {
                    self.check_served(node)?;
                }
            }
            Err(failure) => {
                self.say_outside(format!("n{node} refuses: {}", trace::failed(&failure)))
            }
        }
        Ok(())
    }

    /// A read of level session or bounded: it may wait.
    fn fresh_read(
        &mut self,
        node: NodeId,
        key: Bytes,
        freshness: Freshness,
        within_ms: u64,
    ) -> Parsed<()> {
        let reads = self.callers.iter().filter(|call| call.read.is_some());
        let name = format!("read {}", reads.count() + 1);
        self.say(format!("n{node} is asked {name}"));
        let caller = self.call(name, None);
        self.callers[caller.0 as usize].read = Some(Asked {
            key: key.clone(),
            freshness: freshness.clone(),
        });
        let deadline = self.now + Duration::from_millis(within_ms);
        let keys = vec![key];
        self.step(
            node,
            Input::Read {
                caller,
                keys,
                freshness,
                deadline,
            },
        )
    }

    fn read_answered(
        &mut self,
        node: NodeId,
        caller: Caller,
        answer: Result<ReadAnswer, Failure>,
        as_primary: bool,
    ) -> Parsed<()> {
        let call = &self.callers[caller.0 as usize];
        let name = call.name.clone();
        let asked = call.read.as_ref().ok_or("an answer to no read")?;
        let (key, freshness) = (asked.key.clone(), asked.freshness.clone());
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                let why = trace::failed(&failure);
                self.say_outside(format!("  n{node} refuses {name}: {why}"));
                return Ok(());
            }
        };
        let found = trace::object(&key, answer.objects[0].as_ref());
        let token = answer.token;
        let age = match answer.age {
            Some(age) => format!("{} ms old at most", age.as_millis()),
            None => "of unknown age".to_string(),
        };
        self.say_outside(format!(
            "  n{node} answers {name}: {found}, token {token}, {age}"
        ));
        if as_primary {
            self.check_served(node)?;
        }
        let (upto_us, saw) = match &freshness {
            Freshness::Bounded(staleness) => {
                (Some(self.now.0.saturating_sub(staleness.0)), &[][..])
            }
            Freshness::Session(tokens) => (None, tokens.as_slice()),
        };
        let process = self.machine(node)?.process();
        let keys = [key];
        let sound = self
            .invariants
            .on_fresh_read(process, SHARD, &keys, &answer, upto_us);
        self.check(sound);
        let session = self.invariants.on_session_read(SHARD, saw, token);
        self.check(session);
        Ok(())
    }

    /// The primary compares a page of objects with its copies.
    fn scrub(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let after = words
            .option("after")
            .map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let within_ms = words.number_option("within")?.unwrap_or(1_000);
        let bytes_max = words.number_option("bytes")?.unwrap_or(65_536);
        self.say(format!("n{node} is to compare objects"));
        let caller = self.call("the scrub".to_string(), None);
        let deadline = self.now + Duration::from_millis(within_ms);
        self.step(
            node,
            Input::Scrub {
                caller,
                after,
                bytes_max,
                deadline,
            },
        )
    }

    /// Behind the back of the copy its disk loses an object, or has another value in it.
    fn damage(&mut self, words: &mut Words, lose: bool) -> Parsed<()> {
        let node = words.next_node()?;
        let key = Bytes::copy_from_slice(words.next("a key")?.as_bytes());
        let machine = self.machine_mut(node)?;
        let generation = machine.generation()?;
        let done = match lose {
            true => machine.store.lose_object(SHARD, generation, &key),
            false => {
                let part = Part::Object(generation, key);
                let flip =
                    |bytes: &mut Vec<u8>| *bytes.last_mut().expect("no object is empty") ^= 1;
                machine.store.damage(SHARD, &part, flip)
            }
        };
        match done {
            true => Ok(()),
            false => Err(format!("n{node} has no such object on its disk")),
        }
    }

    fn tick(&mut self, nodes: Vec<NodeId>) -> Parsed<()> {
        let nodes = if nodes.is_empty() {
            self.running()
        } else {
            nodes
        };
        for node in nodes {
            let before = self.trace.len();
            self.say(format!("n{node} ticks"));
            self.step(node, Input::Tick)?;
            if self.trace.len() == before + 1 {
                self.trace.pop();
            }
        }
        Ok(())
    }

    // ---- one step, and what comes of it

    pub(super) fn step(&mut self, node: NodeId, input: Input) -> Parsed<()> {
        let now = self.now;
        let before = self.commit_point(node)?;
        let effects = self.machine_mut(node)?.step(now, input)?;
        self.check_commit(node, before)?;
        for effect in effects {
            self.carry_out(node, effect)?;
        }
        let machine = self.machine(node)?;
        let serving = machine
            .replica
            .as_ref()
            .and_then(|replica| replica.report().serving);
        if let Some(epoch) = serving {
            let serves = self
                .invariants
                .on_serving(self.machine(node)?.process(), SHARD, epoch);
            self.check(serves);
        }
        Ok(())
    }

    /// The epoch in which the copy acts as primary of an in_sync shard, and up to where it committed.
    fn commit_point(&self, node: NodeId) -> Parsed<(Option<Epoch>, Option<Pair>)> {
        let replica = self.machine(node)?.replica.as_ref();
        Ok(replica.map_or((None, None), |it| (it.claim(), it.committed())))
    }

    fn check_commit(&mut self, node: NodeId, before: (Option<Epoch>, Option<Pair>)) -> Parsed<()> {
        let after = self.commit_point(node)?;
        let machine = self.machine(node)?;
        let row = machine.replica.as_ref().and_then(|it| it.assignment());
        let set = row.and_then(|row| row.in_sync.clone());
        if let (Some(epoch), Some(pair), Some(set)) = (before.0.or(after.0), after.1, set)
            && before.1 != after.1
            && before.1.is_some()
        {
            let copy = machine.copy();
            let commit = Commit {
                copy,
                epoch,
                pair,
                set,
            };
            let checked = self.invariants.on_committed(SHARD, &commit);
            self.check(checked);
        }
        Ok(())
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) -> Parsed<()> {
        match effect {
            Effect::Persist(batch) => {
                let mut lines = trace::batch(&batch).into_iter();
                let head = lines.next().unwrap_or_default();
                self.say(format!("  n{node} {head}"));
                lines.for_each(|line| self.say(format!("  {line}")));
                let machine = self.machines.get_mut(&node).ok_or_else(|| unknown(node))?;
                let formed = self.invariants.on_formed(machine.copy(), &batch);
                machine.unsynced.push_back(batch.clone());
                machine
                    .store
                    .write(batch)
                    .map_err(|reason| reason.to_string())?;
                self.check(formed);
            }
            Effect::Send { to, message } => {
                self.say(format!("  n{node} -> n{to}: {}", trace::message(&message)));
                if let Message::Submit(submit) = &message {
                    let pairs: Vec<_> = submit.orphans.iter().map(|o| o.record.pair).collect();
                    let copy = self.machine(node)?.copy();
                    let submitted = self.invariants.on_submit(copy, SHARD, submit.epoch, &pairs);
                    self.check(submitted);
                }
                self.network
                    .entry((node, to))
                    .or_default()
                    .push_back(message);
            }
            Effect::Reply { caller, answer } => {
                let call = &self.callers[caller.0 as usize];
                let (name, request) = (call.name.clone(), call.request.clone());
                let verb = if answer.is_ok() { "answers" } else { "refuses" };
                self.say_outside(format!(
                    "  n{node} {verb} {name}: {}",
                    trace::answer(&answer)
                ));
                if let (Ok(answer), Some(request)) = (&answer, request) {
                    self.check_served(node)?;
                    let process = self.machine(node)?.process();
                    let answered = self.invariants.on_answer(process, SHARD, &request, answer);
                    self.check(answered);
                    let now = self.now.0;
                    self.invariants.on_acknowledged(SHARD, answer.pair, now);
                }
            }
            Effect::Sealed { answer, .. } => {
                self.say_outside(format!(
                    "  n{node} tells the managers: {}",
                    trace::sealed(&answer)
                ));
            }
            Effect::Ask(ask) => {
                self.say_outside(format!("  n{node} asks the managers {}", trace::ask(&ask)));
            }
            Effect::Unask(ask) => {
                let what = trace::ask(&ask);
                self.say_outside(format!("  n{node} no longer asks the managers {what}"));
            }
            Effect::Dropped { pair, request } => {
                let id = trace::request_id(request);
                self.say(format!("  n{node} drops {pair} ({id}), never acknowledged"));
            }
            Effect::Differs { pair, what } => {
                let what = trace::difference(pair, &what);
                self.say(format!("  n{node} {what}"));
            }
            // The record says the same.
            Effect::Judged(_) => {}
            Effect::Scrubbed { answer, .. } => {
                let found = match &answer {
                    Ok(page) => trace::scrubbed(page),
                    Err(failure) => trace::failed(failure),
                };
                self.say_outside(format!("  n{node} compared: {found}"));
            }
            Effect::Broken(error) => self.say_outside(format!("  n{node} IS BROKEN: {error}")),
            Effect::Read {
                caller,
                answer,
                as_primary,
            } => self.read_answered(node, caller, answer, as_primary)?,
        }
        Ok(())
    }

    // ---- the invariants look on

    pub(super) fn check(&mut self, checked: Checked) {
        if let Err(violation) = checked {
            self.violation.get_or_insert_with(|| violation.to_string());
        }
    }

    pub(super) fn check_served(&mut self, node: NodeId) -> Parsed<()> {
        let now = self.now;
        let machine = self.machine(node)?;
        let serving = machine
            .replica
            .as_ref()
            .and_then(|replica| replica.report().serving);
        let holds = machine.holds(now).is_some();
        let served = self
            .invariants
            .on_served(machine.process(), SHARD, serving, holds);
        self.check(served);
        Ok(())
    }

    fn check_holders(&mut self) {
        let holders = self.machines.values().filter_map(|machine| {
            let epoch = machine.holds(self.now)?;
            Some(Holder {
                process: machine.process(),
                epoch,
            })
        });
        let holders: Vec<Holder> = holders.collect();
        let one = self.invariants.on_holders(SHARD, &holders);
        self.check(one);
        let witnessed: Vec<Checked> = self
            .machines
            .values()
            .filter_map(|machine| {
                let replica = machine.replica.as_ref()?;
                let demanded = replica.demanded_witnesses();
                let sound = || {
                    self.invariants
                        .on_witnessed(SHARD, machine.process(), &demanded)
                };
                replica.has_witnesses(self.now).then(sound)
            })
            .collect();
        witnessed
            .into_iter()
            .for_each(|checked| self.check(checked));
    }

    fn compare(&mut self, nodes: &[NodeId]) -> Parsed<()> {
        let machines = nodes
            .iter()
            .map(|node| self.machine(*node))
            .collect::<Parsed<Vec<_>>>()?;
        let checked: Vec<Checked> = machines
            .iter()
            .map(|machine| {
                self.invariants
                    .check_copy(machine.copy(), SHARD, &machine.store)
            })
            .collect();
        let found = show::compare(&machines)?;
        self.say(format!("{}: {found}", trace::nodes(nodes.iter().copied())));
        checked.into_iter().for_each(|checked| self.check(checked));
        let kept = self.invariants.check_acknowledged(SHARD);
        self.check(kept);
        Ok(())
    }

    // ---- small things

    pub(super) fn say(&mut self, text: String) {
        self.trace.push(Line {
            text,
            outside: false,
        });
    }

    pub(super) fn say_outside(&mut self, text: String) {
        self.trace.push(Line {
            text,
            outside: true,
        });
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        let running = self
            .machines
            .values()
            .filter(|machine| machine.replica.is_some());
        running.map(|machine| machine.node).collect()
    }

    pub(super) fn machine(&self, node: NodeId) -> Parsed<&Machine> {
        self.machines.get(&node).ok_or_else(|| unknown(node))
    }

    pub(super) fn machine_mut(&mut self, node: NodeId) -> Parsed<&mut Machine> {
        self.machines.get_mut(&node).ok_or_else(|| unknown(node))
    }
}

pub fn unknown(node: NodeId) -> String {
    format!("there is no n{node}")
}
