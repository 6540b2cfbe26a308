//! The loop of one shard thread: take what waits, step the copies, carry out the effects. What is decided is decided in
//! `protocol::copies`, which the simulator's processes drive as well.
//!
//! All batches of one turn go to the writer together, all messages to a peer together. No effect waits for another.

use super::differing::Differing;
use super::host::{ShardView, Wanted};
use super::judged::Judged;
use super::mailbox::Mailbox;
use super::pace::NodePace;
use super::responder::{ReadResponder, Responder};
use super::served::{Asked, Served};
use crate::clock;
use crate::peers::Peers;
use crate::storage::{Database, Report as StoreReport, Sink, State, Submitter, Writer};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::{Epoch, NodeId, ProcessId, RequestId, Revision, ShardId};
use understudy_protocol::control::NodeControl;
use understudy_protocol::control::message as control;
use understudy_protocol::copies::{Copies, Out};
use understudy_protocol::effect::{
    Assignment, Caller, Clients, Context, Effect, Input, Lease, Report, SealedCopy,
};
use understudy_protocol::request::{DedupEntry, Request};
use understudy_protocol::shard::message::Message;
use understudy_protocol::shard::{
    Freshness, LogView, ReadAnswer, ReadLevel, Replica, ScrubbedPage, Settings,
};
use understudy_protocol::store::{Batch, StoreError};
use understudy_protocol::time::{Duration as Length, Instant};

/// How long a thread waits for something to do before it lets time pass for its replicas.
const TICK: Duration = Duration::from_millis(10);

/// Told of a copy that can no longer go on.
pub type OnBroken = Arc<dyn Fn(ShardId, &StoreError) + Send + Sync>;

/// What a thread shares with the rest of the node.
#[derive(Clone)]
pub struct Outside {
    pub me: ProcessId,
    pub settings: Settings,
    pub database: Arc<Database>,
    pub control: Arc<Mutex<NodeControl>>,
    pub clients: Arc<dyn Clients + Send + Sync>,
    pub peers: Arc<Peers>,
    pub pace: Arc<NodePace>,
    /// Called once for each copy that can no longer go on.
    pub broken: OnBroken,
    /// Counts what becomes of orphans.
    pub judged: Arc<Judged>,
    /// Counts reads.
    pub served: Arc<Served>,
    /// Counts what was forwarded and is not the same here.
    pub differing: Arc<Differing>,
}

/// What can be asked of a thread.
pub(super) enum Command {
    Assign {
        shard: ShardId,
        row: Assignment,
    },
    Write {
        shard: ShardId,
        request: Request,
        copies: u32,
        deadline: Instant,
        responder: Responder,
        site: Option<Box<str>>,
    },
    Read {
        shard: ShardId,
        keys: Vec<Bytes>,
        wanted: Wanted,
        responder: ReadResponder,
    },
    Message {
        shard: ShardId,
        from: NodeId,
        message: Message,
    },
    /// A dropped reply says that there is no such copy.
    Seal {
        wanted: control::Claim,
        /// As in [`Input::Seal`].
        grace: Option<Length>,
        reply: oneshot::Sender<SealedCopy>,
    },
    /// A dropped reply says that this process is not meant.
    HandOver {
        wanted: control::HandOver,
        give_up_at: Instant,
        reply: oneshot::Sender<SealedCopy>,
    },
    Delete {
        shard: ShardId,
        revision: Revision,
    },
    View {
        shard: ShardId,
        level: ReadLevel,
        reply: oneshot::Sender<Result<ShardView, Failure>>,
    },
    Dedup {
        shard: ShardId,
        id: RequestId,
        reply: oneshot::Sender<Result<Known, Failure>>,
    },
    Follow {
        shard: ShardId,
        reply: oneshot::Sender<Result<watch::Receiver<LogView>, Failure>>,
    },
    Reports {
        reply: oneshot::Sender<Vec<(ShardId, Report)>>,
    },
    /// A dropped reply says that there is no such copy.
    Scrub {
        shard: ShardId,
        after: Option<Bytes>,
        bytes_max: usize,
        deadline: Instant,
        reply: oneshot::Sender<Result<ScrubbedPage, Failure>>,
    },
    Stored(StoreReport),
    Stop,
}

/// Who waits for an effect that bears a caller.
enum Waiting {
    /// With the site that it comes from, if that is to be counted.
    Write(Responder, Option<Box<str>>),
    Seal(oneshot::Sender<SealedCopy>),
    Read(ReadResponder, Asked),
    Scrub(oneshot::Sender<Result<ScrubbedPage, Failure>>),
}

pub(super) struct Driver {
    outside: Outside,
    submitter: Submitter,
    mailbox: Arc<Mailbox<Command>>,
    turned: Arc<AtomicU64>,
    copies: Copies,
    followers: BTreeMap<ShardId, watch::Sender<LogView>>,
    waiting: HashMap<u64, Waiting>,
    next_caller: u64,
    store: State,
    /// Empty between two steps.
    out: Out,
    batches: Vec<Batch>,
    next_tick: Instant,
}

/// What a copy knows of a request.
#[derive(Debug)]
pub enum Known {
    Entry(Box<DedupEntry>),
    /// It has no entry, and may have had one.
    Forgotten,
    Nothing,
}

struct ControlLease(Arc<Mutex<NodeControl>>);

impl Lease for ControlLease {
    fn holds(&self, shard: ShardId, epoch: Epoch, now: Instant) -> bool {
        lock(&self.0).holds(shard, epoch, now)
    }

    fn beacon(&self, now: Instant) -> Option<Length> {
        lock(&self.0).beacon(now)
    }

    fn retired(&self) -> bool {
        lock(&self.0).is_retired()
    }
}

fn lock(control: &Mutex<NodeControl>) -> MutexGuard<'_, NodeControl> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

struct ToMailbox(Arc<Mailbox<Command>>);

impl Sink for ToMailbox {
    fn report(&self, report: StoreReport) {
        self.0.push(Command::Stored(report));
    }
}

fn context<'a>(outside: &'a Outside, lease: &'a ControlLease) -> Context<'a> {
    Context {
        now: clock::now(),
        wall_ms: clock::unix_ms(),
        stored: &*outside.database,
        lease,
        clients: &*outside.clients,
        pace: &*outside.pace,
    }
}

impl Driver {
    pub fn new(
        outside: Outside,
        writer: &Writer,
        mailbox: Arc<Mailbox<Command>>,
        turned: Arc<AtomicU64>,
    ) -> Driver {
        Driver {
            submitter: writer.submitter(ToMailbox(mailbox.clone())),
            copies: Copies::new(outside.me, outside.settings.clone()),
            outside,
            mailbox,
            turned,
            followers: BTreeMap::new(),
            waiting: HashMap::new(),
            next_caller: 0,
            store: State::Writing,
            out: Out::default(),
            batches: Vec::new(),
            next_tick: Instant::ZERO,
        }
    }

    /// Opens the copy of a shard as the store has it, perhaps empty.
    pub fn open(&mut self, shard: ShardId) -> Result<(), StoreError> {
        let saved = self.outside.database.open_shard(shard)?;
        self.copies.open(shard, saved, clock::now());
        Ok(())
    }

    pub fn run(mut self) {
        let mut commands = Vec::new();
        let mut stop = false;
        while !stop {
            self.mailbox.drain(TICK, &mut commands);
            self.turned.store(clock::now().0, Relaxed);
            for command in commands.drain(..) {
                stop |= matches!(command, Command::Stop);
                self.handle(command);
            }
            if clock::now() >= self.next_tick {
                self.tick();
            }
            self.flush();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Assign { shard, row } => self.assign(shard, row),
            Command::Write {
                shard,
                request,
                copies,
                deadline,
                responder,
                site,
            } => {
                let waiting = Waiting::Write(responder, site);
                self.write(shard, request, copies, deadline, waiting);
            }
            Command::Read {
                shard,
                keys,
                wanted,
                responder,
            } => {
                let asked = Asked::from(&wanted);
                match wanted {
                    Wanted::Now(level) => {
                        let answer = self.read(shard, &keys, level);
                        self.outside.served.note(asked, &answer);
                        responder.send(answer);
                    }
                    Wanted::Fresh(freshness, deadline) => {
                        let waiting = Waiting::Read(responder, asked);
                        self.fresh_read(shard, keys, freshness, deadline, waiting);
                    }
                }
            }
            Command::Message {
                shard,
                from,
                message,
            } => drop(self.step(shard, Input::Message { from, message })),
            Command::Seal {
                wanted,
                grace,
                reply,
            } => self.seal(wanted, grace, reply),
            Command::HandOver {
                wanted,
                give_up_at,
                reply,
            } => self.hand_over(&wanted, give_up_at, reply),
            Command::Delete { shard, revision } => {
                self.step(shard, Input::Delete { revision });
            }
            Command::View {
                shard,
                level,
                reply,
            } => drop(reply.send(self.view(shard, level))),
            Command::Dedup { shard, id, reply } => drop(reply.send(self.dedup(shard, id))),
            Command::Follow { shard, reply } => drop(reply.send(self.follow(shard))),
            Command::Reports { reply } => {
                let reports = self.copies.iter();
                let reports = reports.map(|(shard, replica)| (shard, replica.report()));
                drop(reply.send(reports.collect()));
            }
            Command::Scrub {
                shard,
                after,
                bytes_max,
                deadline,
                reply,
            } => {
                let caller = self.caller(Waiting::Scrub(reply));
                let input = Input::Scrub {
                    caller,
                    after,
                    bytes_max,
                    deadline,
                };
                if !self.step(shard, input) {
                    self.waiting.remove(&caller.0);
                }
            }
            Command::Stored(report) => self.stored(report),
            Command::Stop => {}
        }
    }

    fn assign(&mut self, shard: ShardId, row: Assignment) {
        if self.copies.lacks(shard, &row)
            && let Err(error) = self.open(shard)
        {
            (self.outside.broken)(shard, &error);
            return;
        }
        self.step(shard, Input::Assignment(row));
    }

    fn seal(
        &mut self,
        wanted: control::Claim,
        grace: Option<Length>,
        reply: oneshot::Sender<SealedCopy>,
    ) {
        let caller = self.caller(Waiting::Seal(reply));
        let input = Input::Seal {
            caller,
            epoch: wanted.epoch,
            hand_over: None,
            grace,
        };
        if !self.step(wanted.shard, input) {
            self.waiting.remove(&caller.0);
        }
    }

    fn hand_over(
        &mut self,
        wanted: &control::HandOver,
        give_up_at: Instant,
        reply: oneshot::Sender<SealedCopy>,
    ) {
        let caller = self.caller(Waiting::Seal(reply));
        match self.copies.hand_over(wanted, caller, give_up_at) {
            Some(input) => drop(self.step(wanted.shard, input)),
            None => drop(self.waiting.remove(&caller.0)),
        }
    }

    fn write(
        &mut self,
        shard: ShardId,
        request: Request,
        copies: u32,
        deadline: Instant,
        waiting: Waiting,
    ) {
        let refused = match &self.store {
            State::Writing if self.submitter.has_room() => None,
            State::Writing => Some(Failure::no(
                Reason::Overloaded,
                "too much waits for the disk; ask again",
            )),
            State::Full => Some(Failure::no(
                Reason::StorageFull,
                "this node's disk is full; make room on it",
            )),
            State::Failed(failure) => Some(Failure::no(failure.reason, failure.message.clone())),
        };
        if let Some(failure) = refused.or_else(|| self.unknown(shard)) {
            if let Waiting::Write(responder, _) = waiting {
                responder.send(Err(failure));
            }
            return;
        }
        let caller = self.caller(waiting);
        self.step(
            shard,
            Input::Write {
                caller,
                request,
                copies,
                deadline,
            },
        );
    }

    fn unknown(&self, shard: ShardId) -> Option<Failure> {
        let here = self.copies.get(shard).is_some();
        (!here).then(|| {
            Failure::no(Reason::NotPrimary, "this node has no copy of the shard")
                .with("shard", shard.to_string())
        })
    }

    fn read(
        &mut self,
        shard: ShardId,
        keys: &[Bytes],
        level: ReadLevel,
    ) -> Result<ReadAnswer, Failure> {
        let replica = self.replica(shard)?;
        let answer = self.with_context(|context| replica.read(context, keys, level))?;
        if level == ReadLevel::Primary {
            // The lease is checked again after the values were read.
            self.with_context(|context| replica.check_primary(context))?;
        }
        Ok(answer)
    }

    /// A read that may wait in its replica.
    fn fresh_read(
        &mut self,
        shard: ShardId,
        keys: Vec<Bytes>,
        freshness: Freshness,
        deadline: Instant,
        waiting: Waiting,
    ) {
        if let Some(failure) = self.unknown(shard) {
            if let Waiting::Read(responder, _) = waiting {
                responder.send(Err(failure));
            }
            return;
        }
        let caller = self.caller(waiting);
        let input = Input::Read {
            caller,
            keys,
            freshness,
            deadline,
        };
        self.step(shard, input);
    }

    fn read_answered(
        &mut self,
        shard: ShardId,
        caller: Caller,
        answer: Result<ReadAnswer, Failure>,
        as_primary: bool,
    ) {
        let Some(Waiting::Read(responder, asked)) = self.waiting.remove(&caller.0) else {
            return;
        };
        // The lease is checked again after the values were read.
        let checked = match (&answer, self.copies.get(shard)) {
            (Ok(_), Some(replica)) if as_primary => {
                self.with_context(|context| replica.check_primary(context))
            }
            _ => Ok(()),
        };
        let answer = checked.and(answer);
        self.outside.served.note(asked, &answer);
        responder.send(answer);
    }

    fn view(&self, shard: ShardId, level: ReadLevel) -> Result<ShardView, Failure> {
        let replica = self.replica(shard)?;
        self.with_context(|context| match level {
            ReadLevel::Primary => replica.check_primary(context),
            ReadLevel::Any => replica.check_readable(),
        })?;
        Ok(ShardView {
            log: replica.log_view(),
            report: replica.report(),
        })
    }

    fn dedup(&self, shard: ShardId, id: RequestId) -> Result<Known, Failure> {
        let replica = self.replica(shard)?;
        let known = self.with_context(|context| {
            Ok(match replica.durable_dedup(context, id)? {
                Some(entry) => Known::Entry(Box::new(entry)),
                None if replica.is_forgotten(context, id)? => Known::Forgotten,
                None => Known::Nothing,
            })
        });
        known.map_err(|error| {
            let reason = match error {
                StoreError::Io(_) => Reason::StorageFailed,
                StoreError::Corrupt(_) => Reason::StorageCorrupt,
            };
            Failure::new(reason, Applied::No, error.to_string())
        })
    }

    fn follow(&mut self, shard: ShardId) -> Result<watch::Receiver<LogView>, Failure> {
        let view = self.replica(shard)?.log_view();
        let sender = self
            .followers
            .entry(shard)
            .or_insert_with(|| watch::Sender::new(view.clone()));
        sender.send_if_modified(|known| std::mem::replace(known, view.clone()) != view);
        Ok(sender.subscribe())
    }

    fn replica(&self, shard: ShardId) -> Result<&Replica, Failure> {
        self.copies
            .get(shard)
            .ok_or_else(|| self.unknown(shard).expect("it is not here"))
    }

    fn with_context<T>(&self, act: impl FnOnce(&Context<'_>) -> T) -> T {
        let lease = ControlLease(self.outside.control.clone());
        act(&context(&self.outside, &lease))
    }

    fn stored(&mut self, report: StoreReport) {
        match report {
            StoreReport::Persisted(upto) => {
                for (shard, number) in upto {
                    self.step(shard, Input::Persisted { number });
                }
            }
            StoreReport::State(state) => {
                let mut control = lock(&self.outside.control);
                match &state {
                    State::Writing => control.set_condition(control::Condition::Serving),
                    State::Full => control.set_condition(control::Condition::StoreUnwell),
                    State::Failed(failure) => {
                        if control.fail_store() {
                            tracing::error!(%failure, "the store takes no writes any more; this node acts as primary no more, and \
                                answers reads of its copies until it is restarted");
                        }
                    }
                }
                drop(control);
                self.store = state;
            }
            StoreReport::Room => {}
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        self.next_tick = now + Length(TICK.as_micros() as u64);
        let interval = lock(&self.outside.control).interval();
        self.copies.set_interval(interval);
        let shards: Vec<ShardId> = self.copies.iter().map(|(shard, _)| shard).collect();
        for shard in shards {
            self.step(shard, Input::Tick);
        }
        self.copies.reports(&mut self.out.notices);
        self.give_notices();
        for shares in self.copies.writers(now) {
            lock(&self.outside.control).writers(shares);
        }
    }

    fn caller(&mut self, waiting: Waiting) -> Caller {
        self.next_caller += 1;
        self.waiting.insert(self.next_caller, waiting);
        Caller(self.next_caller)
    }

    /// One step of one replica, and what it came to. False: there is no copy of the shard.
    fn step(&mut self, shard: ShardId, input: Input) -> bool {
        let lease = ControlLease(self.outside.control.clone());
        let context = context(&self.outside, &lease);
        let here = self.copies.step(&context, shard, input, &mut self.out);
        self.give_notices();
        let mut effects = std::mem::take(&mut self.out.effects);
        for effect in effects.drain(..) {
            self.carry_out(shard, effect);
        }
        self.out.effects = effects;
        here
    }

    fn give_notices(&mut self) {
        if self.out.notices.is_empty() {
            return;
        }
        let mut control = lock(&self.outside.control);
        for notice in self.out.notices.drain(..) {
            notice.give(&mut control);
        }
    }

    fn carry_out(&mut self, shard: ShardId, effect: Effect) {
        match effect {
            Effect::Persist(batch) => self.batches.push(batch),
            Effect::Send { to, message } => self.outside.peers.send(to, shard, message),
            Effect::Reply { caller, answer } => {
                if let Some(Waiting::Write(responder, site)) = self.waiting.remove(&caller.0) {
                    if let (Some(site), Ok(answer)) = (site, &answer)
                        && !answer.duplicate
                    {
                        self.copies.wrote(shard, &site, clock::now());
                    }
                    responder.send(answer);
                }
            }
            Effect::Sealed { caller, answer } => {
                if let Some(Waiting::Seal(reply)) = self.waiting.remove(&caller.0) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Judged(fate) => self.outside.judged.note(shard, fate),
            Effect::Differs { pair, what } => self.outside.differing.note(shard, pair, &what),
            Effect::Scrubbed { caller, answer } => {
                if let Some(Waiting::Scrub(reply)) = self.waiting.remove(&caller.0) {
                    let _ = reply.send(answer);
                }
            }
            Effect::Broken(error) => (self.outside.broken)(shard, &error),
            Effect::Ask(_) | Effect::Unask(_) => unreachable!("it became a notice"),
            Effect::Read {
                caller,
                answer,
                as_primary,
            } => self.read_answered(shard, caller, answer, as_primary),
            Effect::Dropped { pair, request } => tracing::info!(
                %shard, %pair, %request,
                "a record that was cut off and never acknowledged is dropped"
            ),
        }
    }

    /// Hands all batches of the turn to the writer, and tells followers of logs.
    fn flush(&mut self) {
        if !self.batches.is_empty() {
            let batches = std::mem::take(&mut self.batches);
            if let Err(failure) = self.submitter.submit(batches) {
                self.store = State::Failed(failure);
            }
        }
        self.followers.retain(|_, sender| !sender.is_closed());
        for (shard, sender) in &self.followers {
            if let Some(replica) = self.copies.get(*shard) {
                let visible = replica.report().applied;
                sender.send_if_modified(|known| {
                    let moved = known.durable != visible;
                    if moved {
                        *known = replica.log_view();
                    }
                    moved
                });
            }
        }
    }
}
