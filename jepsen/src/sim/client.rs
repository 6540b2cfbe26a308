//! A client: one step of its workload after the other, retried under the same id until the deadline.
//!
//! It walks its cached copies of the shard, follows a named primary, and asks the managers when the list is exhausted.
//! An answer without certainty is *unknown* for ever, whatever later attempts say, unless one of them is answered.

use super::env::{Env, wall_ms};
use super::event::{Done, Event, Parcel, Wake};
use super::network::Place;
use crate::dice::{Dice, Purpose};
use crate::history::{History, Kind, Line};
use crate::workload::{Condition, Level, Mixed, Operation, Seen, Step};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use understudy_client::ShardTokens;
use understudy_proto::failure::{Advice, Applied, Failure, Reason};
use understudy_proto::shard_of_key::shard_index;
use understudy_proto::{ClientId, NamespaceId, NodeId, Pair, RequestId, Sequence, ShardId};
use understudy_protocol::conflict::resolution;
use understudy_protocol::object::Value;
use understudy_protocol::request::{Op, Precondition, Request};
use understudy_protocol::shard::{Freshness, ReadLevel};
use understudy_protocol::tables::Command;
use understudy_protocol::time::Duration;

const ATTEMPT_US: u64 = 400_000;
const PAUSE_US: u64 = 30_000;
/// Attempts after which the managers are asked, whatever the answers were.
const WALK_MAX: u32 = 4;
/// Acknowledged updates that a client may ask again late.
const PAST_MAX: usize = 24;
/// How often it does, and how often it ends its session.
const LATE_PERMILLE: u32 = 40;
const END_PERMILLE: u32 = 4;
/// How often it decides a conflict, once there are some.
const DECIDE_PERMILLE: u32 = 60;

/// Where the namespaces' shards are.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub first_shard: ShardId,
    pub shards: u32,
    pub managers: usize,
}

impl Space {
    /// One half of the shards is of the first namespace, the other of the second: one of the two may be in_sync.
    fn namespace_of(&self, shard: ShardId) -> NamespaceId {
        let number = shard.0 - self.first_shard.0;
        NamespaceId(1 + number / u64::from(self.shards / 2))
    }
}

#[derive(Debug)]
pub struct Client {
    number: usize,
    id: ClientId,
    dice: Dice,
    /// Of its own, so that what it decides shifts nothing else.
    decisions: Dice,
    workload: Mixed,
    space: Space,
    sequence: u64,
    calls: u64,
    /// For each shard its copies, the primary first.
    routes: BTreeMap<ShardId, Vec<usize>>,
    task: Option<Task>,
    last: Option<(ShardId, Request, Vec<String>)>,
    /// Updates that were acknowledged, the newest last.
    past: VecDeque<(ShardId, Request, Vec<String>)>,
    /// Whether it says up to where it needs no answers any more.
    marks: bool,
    /// Steps that come before the workload's.
    pub errands: VecDeque<Step>,
    /// No step is begun any more once the errands are done.
    pub resting: bool,
    /// Steps that came to nothing certain or failed while running errands.
    pub errands_failed: u64,
    think_us: u64,
    /// What session reads ask for, as the Rust client keeps it.
    tokens: BTreeMap<ShardId, ShardTokens>,
    /// Every pair that an answer named since the last FORKED.
    saw: BTreeMap<ShardId, Vec<Pair>>,
}

/// One step under way.
#[derive(Debug)]
struct Task {
    step: Step,
    shard: ShardId,
    what: What,
    errand: bool,
    deadline_us: u64,
    call: u64,
    targets: VecDeque<usize>,
    walked: u32,
    /// Some attempt may have taken effect.
    open: bool,
}

#[derive(Clone, Debug)]
enum What {
    Write {
        request: Request,
        copies: u32,
        keys: Vec<String>,
    },
    Read {
        keys: Vec<Bytes>,
        level: Level,
    },
}

impl Client {
    pub fn new(seed: u64, number: usize, space: Space) -> Client {
        let mut dice = Dice::new(seed, Purpose::Clients, 500 + number as u64);
        Client {
            number,
            id: ClientId::from_parts(wall_ms(0) + number as u64, dice.wide() >> 54),
            workload: Mixed::new(seed, number as u64, space.shards),
            space,
            sequence: 0,
            calls: 0,
            routes: BTreeMap::new(),
            task: None,
            last: None,
            past: VecDeque::new(),
            marks: dice.permille(600),
            errands: VecDeque::new(),
            resting: false,
            errands_failed: 0,
            think_us: dice.between(2_000, 60_000),
            dice,
            decisions: Dice::new(seed, Purpose::Decisions, 2_000 + number as u64),
            tokens: BTreeMap::new(),
            saw: BTreeMap::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    pub fn on_wake(&mut self, wake: Wake, env: &mut Env, history: &mut History) {
        match wake {
            Wake::Next => self.begin(env, history),
            Wake::Retry { call } if self.is_on(call) => self.attempt(env),
            Wake::TimedOut { call } if self.is_on(call) => {
                if let Some(task) = &mut self.task {
                    task.open = true;
                }
                self.try_again(env, history, None);
            }
            _ => {}
        }
    }

    fn is_on(&self, call: u64) -> bool {
        self.task.as_ref().is_some_and(|task| task.call == call)
    }

    fn wake(&self, delay_us: u64, wake: Wake, env: &mut Env) {
        env.after(
            delay_us,
            Event::Client {
                client: self.number,
                wake,
            },
        );
    }

    fn begin(&mut self, env: &mut Env, history: &mut History) {
        if self.task.is_some() {
            return;
        }
        let errand = self.errands.pop_front();
        if errand.is_none() && self.resting {
            return;
        }
        let is_errand = errand.is_some();
        let step = errand.unwrap_or_else(|| self.workload.step());
        if !is_errand && self.dice.permille(END_PERMILLE) {
            self.end_session(env);
        }
        let late = !is_errand && self.dice.permille(LATE_PERMILLE);
        let chosen = match late.then(|| self.ask_late()).flatten() {
            Some(late) => Some((Step::Again, late)),
            None if is_errand => None,
            None => self.decide(env),
        };
        let (step, prepared) = match chosen {
            Some((step, what)) => (step, Some(what)),
            None => {
                let prepared = self.prepare(&step);
                (step, prepared)
            }
        };
        let Some((shard, what)) = prepared else {
            return self.rest(env);
        };
        let patience = if is_errand {
            20_000_000
        } else {
            self.dice.between(500_000, 6_000_000)
        };
        self.task = Some(Task {
            step,
            shard,
            what,
            errand: is_errand,
            deadline_us: env.now_us + patience,
            call: 0,
            targets: VecDeque::new(),
            walked: 0,
            open: false,
        });
        self.record(env, history, Kind::Invoke, None, None);
        self.attempt(env);
    }

    fn rest(&mut self, env: &mut Env) {
        let think = self.dice.between(self.think_us / 2, self.think_us * 2);
        self.wake(think, Wake::Next, env);
    }

    /// An old request once more, as a network may bring it late.
    fn ask_late(&mut self) -> Option<(ShardId, What)> {
        let at = self.dice.index(self.past.len().max(1));
        let (shard, request, keys) = self.past.get(at).cloned()?;
        let what = What::Write {
            request,
            copies: 0,
            keys,
        };
        Some((shard, what))
    }

    /// Decides a conflict that it was shown, now or long ago: to leave what is there, or to write something else.
    fn decide(&mut self, env: &Env) -> Option<(Step, (ShardId, What))> {
        if env.shown.is_empty() || !self.decisions.permille(DECIDE_PERMILLE) {
            return None;
        }
        let conflict = env.shown[self.decisions.index(env.shown.len())].clone();
        self.sequence += 1;
        let id = RequestId {
            client: self.id,
            sequence: Sequence(self.sequence),
        };
        let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        let keys: Vec<String> = conflict.objects.iter().map(|(key, _)| text(key)).collect();
        let writes = self.decisions.permille(600);
        let operations: Vec<Operation> = keys
            .iter()
            .take(usize::from(writes))
            .map(|key| Operation::Put {
                key: key.clone(),
                value: format!("decided by {} with {}", self.number, self.sequence),
            })
            .collect();
        let conditions = conflict.objects.into_iter().map(|(key, last)| match last {
            Some(pair) => Precondition::LastPair { key, pair },
            None => Precondition::Absent { key, absent: true },
        });
        // Without conditions on the objects it is the conflict alone that a decision depends on.
        let conditions = match self.decisions.permille(700) {
            true => conditions.collect(),
            false => Vec::new(),
        };
        let shard = conflict.shard;
        let namespace = self.space.namespace_of(shard);
        let ops = operations.iter().map(op).collect();
        let mark = Sequence(0);
        let request = resolution(id, namespace, conflict.shown, ops, conditions, mark);
        self.last = Some((shard, request.clone(), keys.clone()));
        let step = Step::Update {
            operations,
            conditions: Vec::new(),
            copies: 0,
        };
        let what = What::Write {
            request,
            copies: 0,
            keys,
        };
        Some((step, (shard, what)))
    }

    /// Ends its session and goes on under another id.
    fn end_session(&mut self, env: &mut Env) {
        let client = self.id;
        for manager in 0..self.space.managers {
            let id = RequestId {
                client,
                sequence: Sequence(1),
            };
            let command = Command::CloseSession { client };
            let parcel = Parcel::Propose { id, command };
            env.send(Place::Client(self.number), Place::Manager(manager), parcel);
        }
        env.note(format_args!("c{} ends {client}", self.number + 1));
        let at = wall_ms(env.now_us) + self.number as u64;
        self.id = ClientId::from_parts(at, self.dice.wide() >> 54);
        self.sequence = 0;
        self.last = None;
    }

    fn prepare(&mut self, step: &Step) -> Option<(ShardId, What)> {
        let shard = |key: &str| {
            let index = shard_index(key.as_bytes(), self.space.shards);
            ShardId(self.space.first_shard.0 + u64::from(index))
        };
        match step {
            Step::Update {
                operations,
                conditions,
                copies,
            } => {
                let shard = shard(operations.first()?.key());
                self.sequence += 1;
                let request = self.request(shard, self.sequence, operations, conditions);
                let keys: Vec<String> = operations.iter().map(|o| o.key().to_string()).collect();
                self.last = Some((shard, request.clone(), keys.clone()));
                Some((
                    shard,
                    What::Write {
                        request,
                        copies: *copies,
                        keys,
                    },
                ))
            }
            Step::Again => {
                let (shard, request, keys) = self.last.clone()?;
                Some((
                    shard,
                    What::Write {
                        request,
                        copies: 0,
                        keys,
                    },
                ))
            }
            Step::Misuse { operations } => {
                let (shard, last, _) = self.last.clone()?;
                let request = self.request(shard, last.id.sequence.0, operations, &[]);
                Some((
                    shard,
                    What::Write {
                        request,
                        copies: 0,
                        keys: Vec::new(),
                    },
                ))
            }
            Step::Read { keys, level } => {
                let shard = shard(keys.first()?);
                let keys = keys.iter().map(|key| Bytes::from(key.clone())).collect();
                let level = *level;
                Some((shard, What::Read { keys, level }))
            }
        }
    }

    fn request(
        &self,
        shard: ShardId,
        number: u64,
        ops: &[Operation],
        conditions: &[Condition],
    ) -> Request {
        let id = RequestId {
            client: self.id,
            sequence: Sequence(number),
        };
        let ops = ops.iter().map(op).collect();
        let conditions = conditions.iter().map(precondition).collect();
        let namespace = self.space.namespace_of(shard);
        let mark = if self.marks { number - 1 } else { 0 };
        Request::new(id, namespace, ops, conditions, Sequence(mark))
    }

    /// One call: to the next copy of the list, or to a manager when there is none.
    fn attempt(&mut self, env: &mut Env) {
        self.calls += 1;
        let call = self.calls;
        let manager = self.dice.index(self.space.managers);
        let Some(task) = &mut self.task else { return };
        task.call = call;
        if task.targets.is_empty() && task.walked < WALK_MAX {
            task.targets
                .extend(self.routes.get(&task.shard).into_iter().flatten());
            if matches!(&task.what, What::Read { level, .. } if *level != Level::Primary) {
                // Any copy will do: one after the other, from one that the dice choose.
                let first = self.dice.index(task.targets.len().max(1));
                task.targets.rotate_left(first);
            }
        }
        let from = Place::Client(self.number);
        let shard = task.shard;
        match task.targets.pop_front().filter(|_| task.walked < WALK_MAX) {
            Some(node) => {
                task.walked += 1;
                let patience_us = task.deadline_us.saturating_sub(env.now_us);
                let parcel = match &task.what {
                    What::Write {
                        request, copies, ..
                    } => {
                        let (request, copies) = (request.clone(), *copies);
                        Parcel::Execute {
                            call,
                            shard,
                            request,
                            copies,
                            patience_us,
                        }
                    }
                    What::Read { keys, level } => {
                        let freshness = match level {
                            Level::Primary | Level::Any => None,
                            Level::Session => {
                                let tokens = self.tokens.get(&shard).cloned();
                                Some(Freshness::Session(tokens.unwrap_or_default().pairs()))
                            }
                            Level::Bounded { staleness_ms } => {
                                Some(Freshness::Bounded(Duration::from_millis(*staleness_ms)))
                            }
                        };
                        Parcel::Read {
                            call,
                            shard,
                            keys: keys.clone(),
                            level: match level {
                                Level::Primary => ReadLevel::Primary,
                                _ => ReadLevel::Any,
                            },
                            freshness: freshness.map(|freshness| (freshness, patience_us)),
                        }
                    }
                };
                env.send(from, Place::Node(node), parcel);
            }
            None => {
                task.walked = 0;
                task.targets.clear();
                env.send(
                    from,
                    Place::Manager(manager),
                    Parcel::Locate { call, shard },
                );
            }
        }
        self.wake(ATTEMPT_US, Wake::TimedOut { call }, env);
    }

    pub fn on_located(&mut self, call: u64, shard: ShardId, copies: Vec<usize>, env: &mut Env) {
        if !copies.is_empty() {
            self.routes.insert(shard, copies);
        }
        if self.is_on(call) {
            self.wake(PAUSE_US / 3, Wake::Retry { call }, env);
        }
    }

    pub fn on_answered(
        &mut self,
        call: u64,
        answer: Result<Done, Failure>,
        env: &mut Env,
        history: &mut History,
    ) {
        if !self.is_on(call) {
            return;
        }
        match answer {
            Ok(done) => self.finish(done, env, history),
            Err(failure) => {
                if let (Some(task), Applied::Unknown) = (&mut self.task, failure.applied) {
                    task.open = true;
                }
                self.try_again(env, history, Some(failure));
            }
        }
    }

    fn finish(&mut self, done: Done, env: &mut Env, history: &mut History) {
        let (pair, result) = match &done {
            Done::Written(answer) => (answer.pair, format!("{:?}", answer.outcome)),
            Done::Read { token, found } => (*token, format!("{found:?}")),
        };
        if let (Done::Written(_), Some(task)) = (&done, &self.task)
            && let What::Write { keys, request, .. } = &task.what
        {
            if matches!(task.step, Step::Update { .. }) {
                self.past
                    .push_back((task.shard, request.clone(), keys.clone()));
                if self.past.len() > PAST_MAX {
                    self.past.pop_front();
                }
            }
            let seen = Seen {
                epoch: pair.epoch.0,
                version: pair.version.0,
            };
            let keys = keys.clone();
            self.workload.saw(keys, seen);
        }
        self.keep(pair, env);
        self.record(env, history, Kind::Ok, Some(result), Some(pair));
        self.close(env);
    }

    /// I9, by all that this client ever saw; what it asks with is only what it has to keep.
    fn keep(&mut self, pair: Pair, env: &mut Env) {
        let Some(task) = &self.task else { return };
        let (shard, tokens) = (task.shard, self.tokens.entry(task.shard).or_default());
        let saw = self.saw.entry(shard).or_default();
        match &task.what {
            What::Read {
                level: Level::Session,
                ..
            } => {
                let checked = env.invariants.on_session_read(shard, saw, pair);
                env.check(checked);
                let asked = tokens.pairs();
                tokens.settle(&asked, pair);
            }
            _ => tokens.raise(pair),
        }
        saw.push(pair);
    }

    fn try_again(&mut self, env: &mut Env, history: &mut History, failure: Option<Failure>) {
        let Some(task) = &mut self.task else { return };
        let advice = failure
            .as_ref()
            .map_or(Advice::TryElsewhere, |f| f.reason.advice());
        if failure.as_ref().is_some_and(|f| f.reason == Reason::Forked) {
            self.tokens.remove(&task.shard);
            self.saw.remove(&task.shard);
        }
        let over = env.now_us >= task.deadline_us;
        let stop = matches!(
            advice,
            Advice::Stop | Advice::TellUnknown | Advice::NewClientId
        );
        if over || stop {
            let open = task.open;
            self.errands_failed += u64::from(task.errand);
            let kind = if open { Kind::Unknown } else { Kind::Failed };
            let why = failure.map_or("no answer".to_string(), |f| f.reason.to_string());
            self.record(env, history, kind, Some(why), None);
            return self.close(env);
        }
        if let Some(node) = failure.as_ref().and_then(|f| f.metadata.get("primary"))
            && let Ok(id) = node.parse::<NodeId>()
            && let Some(Place::Node(node)) = env.place(id)
        {
            task.targets.push_front(node);
        }
        let call = task.call;
        self.wake(PAUSE_US, Wake::Retry { call }, env);
    }

    fn close(&mut self, env: &mut Env) {
        self.task = None;
        self.rest(env);
    }

    fn record(
        &self,
        env: &mut Env,
        history: &mut History,
        kind: Kind,
        result: Option<String>,
        pair: Option<Pair>,
    ) {
        let Some(task) = &self.task else { return };
        let request = match &task.what {
            What::Write { request, .. } => Some(request.id.to_string()),
            What::Read { .. } => None,
        };
        let number = match &task.what {
            What::Write { request, .. } => request.id.sequence.0,
            What::Read { .. } => 0,
        };
        let (client, shard) = (self.number + 1, task.shard);
        env.note(format_args!(
            "c{client} {kind:?} s{shard} #{number} {pair:?} {result:?}"
        ));
        history.push(Line {
            index: 0,
            time_us: env.now_us,
            client: self.number as u64,
            kind,
            request,
            step: task.step.clone(),
            result,
            pair: pair.map(|pair| pair.to_string()),
        });
    }
}

fn op(operation: &Operation) -> Op {
    let bytes = |text: &String| Bytes::from(text.clone());
    match operation {
        Operation::Put { key, value } => Op::Put {
            key: bytes(key),
            value: bytes(value),
        },
        Operation::Delete { key } => Op::Delete { key: bytes(key) },
        Operation::Set {
            key,
            component,
            value,
        } => Op::SetComponent {
            key: bytes(key),
            name: bytes(component),
            value: bytes(value),
        },
        Operation::Remove { key, component } => Op::RemoveComponent {
            key: bytes(key),
            name: bytes(component),
        },
        Operation::Add {
            key,
            component,
            delta,
        } => Op::Add {
            key: bytes(key),
            name: bytes(component),
            delta: *delta,
        },
        Operation::Append {
            key,
            component,
            data,
        } => Op::Append {
            key: bytes(key),
            name: bytes(component),
            data: bytes(data),
        },
        Operation::Get { key } => Op::Get { key: bytes(key) },
    }
}

fn precondition(condition: &Condition) -> Precondition {
    let bytes = |text: &String| Bytes::from(text.clone());
    match condition {
        Condition::Pair {
            key,
            epoch,
            version,
        } => Precondition::LastPair {
            key: bytes(key),
            pair: Pair::new(*epoch, *version),
        },
        Condition::Value {
            key,
            component,
            value,
        } => Precondition::ComponentValue {
            key: bytes(key),
            name: bytes(component),
            value: Value::Data(bytes(value)),
        },
        Condition::Absent { key, absent } => Precondition::Absent {
            key: bytes(key),
            absent: *absent,
        },
    }
}
