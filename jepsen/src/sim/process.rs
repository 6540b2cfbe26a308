//! The twin of a node's shard driver: it gives replicas their stimuli and carries out what they emit.
//!
//! Beside the replicas it has the node's side of heartbeats and leases. What is decided is decided there; here are only
//! the joints: rows to assignments, reports to heartbeats, seals to replicas, answers to whoever asked.

use super::disk::Disk;
use super::env::{Clock, Env, wall_ms};
use super::event::{Done, Parcel};
use super::network::Place;
use super::start_check::finds_nothing;
use crate::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::{
    ClientId, Epoch, Pair, ProcessId, RequestId, Revision, Sequence, ShardId, StoreId,
};
use understudy_protocol::control::message::{
    Ask, Claim, CopyReport, ExitReport, HandOver, HandOverAnswer, HandOverOutcome, HandOverRequest,
    HeartbeatAnswer, SealAnswer, SealOutcome, SealRequest,
};
use understudy_protocol::control::{Answered, NodeControl};
use understudy_protocol::effect::{
    self, Answer, Assignment, Caller, Context, Effect, Input, SealedCopy,
};
use understudy_protocol::invariants::Holder;
use understudy_protocol::request::Request;
use understudy_protocol::shard::{ReadLevel, Replica, Settings};
use understudy_protocol::store::{Batch, Meta, StoreChange};
use understudy_protocol::tables::{
    Answer as Told, BootId, Command, LaunchId, Refusal, Registration, ShardEntry,
};
use understudy_protocol::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);
const ASK_AGAIN_US: u64 = 100_000;

#[derive(Debug)]
pub struct Process {
    pub run: u64,
    node: usize,
    store: StoreId,
    launch: LaunchId,
    registration: RequestId,
    managers: usize,
    /// The manager that is asked next.
    target: usize,
    next_ask_us: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Registering,
    Running(Box<Running>),
    /// It cannot go on: superseded, or its disk refused.
    Ending,
}

#[derive(Debug)]
struct Running {
    id: ProcessId,
    control: NodeControl,
    replicas: BTreeMap<ShardId, Replica>,
    rows: BTreeMap<ShardId, ShardEntry>,
    known: Revision,
    wanted: Revision,
    claims: BTreeMap<ShardId, Epoch>,
    asks: BTreeMap<ShardId, BTreeSet<Ask>>,
    callers: BTreeMap<Caller, Origin>,
    last_caller: u64,
    /// In which epoch it served, and whether under a lease, at the last step of a replica.
    act: (Option<Epoch>, bool),
    failed: bool,
}

/// For whom a replica works.
#[derive(Clone, Debug)]
enum Origin {
    Client {
        place: Place,
        call: u64,
        shard: ShardId,
        request: Box<Request>,
    },
    Seal {
        place: Place,
        claim: Claim,
    },
    HandOver {
        place: Place,
        hand_over: HandOver,
    },
}

/// Where the driver stands while it handles one stimulus.
struct Turn<'a> {
    node: usize,
    clock: Clock,
    disk: &'a mut Disk,
    env: &'a mut Env,
}

impl Turn<'_> {
    fn now(&self) -> Instant {
        self.clock.read(self.env.now_us)
    }

    fn send(&mut self, to: Place, parcel: Parcel) {
        self.env.send(Place::Node(self.node), to, parcel);
    }
}

struct Leases<'a>(&'a NodeControl);

impl effect::Lease for Leases<'_> {
    fn holds(&self, shard: ShardId, epoch: Epoch, now: Instant) -> bool {
        self.0.holds(shard, epoch, now)
    }
}

impl State {
    fn end_if(&mut self, has_to_end: bool) {
        if has_to_end {
            *self = State::Ending;
        }
    }
}

impl Process {
    pub fn start(
        node: usize,
        run: u64,
        store: StoreId,
        managers: usize,
        dice: &mut Dice,
    ) -> Process {
        let client = ClientId::from_parts(wall_ms(0), dice.wide() >> 54);
        Process {
            run,
            node,
            store,
            launch: LaunchId(format!("n{}-{run}", node + 1)),
            registration: RequestId {
                client,
                sequence: Sequence(run),
            },
            managers,
            target: dice.index(managers),
            next_ask_us: 0,
            state: State::Registering,
        }
    }

    pub fn id(&self) -> Option<ProcessId> {
        self.running().map(|running| running.id)
    }

    fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    pub fn has_to_end(&self) -> bool {
        match &self.state {
            State::Registering => false,
            State::Running(running) => running.failed,
            State::Ending => true,
        }
    }

    pub fn exit_report(&self) -> Option<ExitReport> {
        let id = self.id()?;
        let launch = self.launch.clone();
        Some(ExitReport {
            node: id.node,
            incarnation: id.incarnation,
            launch,
        })
    }

    pub fn replica(&self, shard: ShardId) -> Option<&Replica> {
        self.running()?.replicas.get(&shard)
    }

    /// The lease that this process believes to hold for the shard.
    pub fn holder(&self, shard: ShardId, now: Instant) -> Option<Holder> {
        let running = self.running()?;
        let epoch = *running.claims.get(&shard)?;
        let process = running.id;
        running
            .control
            .holds(shard, epoch, now)
            .then_some(Holder { process, epoch })
    }

    pub fn on_tick(&mut self, clock: Clock, disk: &mut Disk, env: &mut Env) {
        let mut turn = Turn {
            node: self.node,
            clock,
            disk,
            env,
        };
        self.ask_managers(&mut turn);
        if let State::Running(running) = &mut self.state {
            running.on_tick(&mut turn);
        }
    }

    /// Registers, or fetches rows that are known to have changed.
    fn ask_managers(&mut self, turn: &mut Turn) {
        if turn.env.now_us < self.next_ask_us {
            return;
        }
        let parcel = match &self.state {
            State::Registering => {
                let command = Command::RegisterNode(self.registration());
                Parcel::Propose {
                    id: self.registration,
                    command,
                }
            }
            State::Running(running) => Parcel::Fetch {
                after: running.known,
            },
            State::Ending => return,
        };
        self.next_ask_us = turn.env.now_us + ASK_AGAIN_US;
        turn.send(Place::Manager(self.target), parcel);
        self.target = (self.target + 1) % self.managers;
    }

    fn registration(&self) -> Registration {
        Registration {
            name: format!("n{}", self.node + 1),
            store: self.store,
            launch: self.launch.clone(),
            boot: BootId("boot".to_string()),
            capacity: 1,
            ..Registration::default()
        }
    }

    pub fn on_persisted(
        &mut self,
        shard: ShardId,
        number: u64,
        clock: Clock,
        disk: &mut Disk,
        env: &mut Env,
    ) {
        let mut turn = Turn {
            node: self.node,
            clock,
            disk,
            env,
        };
        if let State::Running(running) = &mut self.state {
            running.step(shard, Input::Persisted { number }, &mut turn);
        }
    }

    pub fn on_parcel(
        &mut self,
        from: Place,
        parcel: Parcel,
        clock: Clock,
        disk: &mut Disk,
        env: &mut Env,
    ) {
        let mut turn = Turn {
            node: self.node,
            clock,
            disk,
            env,
        };
        match (&mut self.state, parcel) {
            (State::Registering, Parcel::Told { id, answer }) if id == self.registration => {
                self.on_registered(answer, &mut turn);
            }
            (State::Running(running), Parcel::HeartbeatAnswer(answer)) => {
                let has_to_end = running.on_heartbeat_answer(from, answer, &mut turn);
                self.state.end_if(has_to_end);
            }
            (State::Running(running), parcel) => running.on_parcel(from, parcel, &mut turn),
            (_, Parcel::Execute { call, .. } | Parcel::Read { call, .. }) => {
                let failure = Failure::no(Reason::Starting, "the process registers");
                turn.send(
                    from,
                    Parcel::Answered {
                        call,
                        answer: Err(failure),
                    },
                );
            }
            _ => {}
        }
    }

    fn on_registered(&mut self, answer: Result<Told, Refusal>, turn: &mut Turn) {
        let id = match answer {
            Ok(Told::Registered { process }) => process,
            Ok(_) => return,
            // The name is still borne by a process that counts as living: asked again under a new id.
            Err(_) => {
                self.registration.sequence = Sequence(self.registration.sequence.0 + 1_000);
                return;
            }
        };
        turn.env.note(format_args!("n{} is {id}", self.node + 1));
        turn.env.hosts.insert(id.node, self.node);
        turn.env.registered.insert(self.node, id.copy());
        let managers = (0..self.managers).map(Env::manager_id).collect();
        let mut running = Running {
            id,
            control: NodeControl::new(id, managers, INTERVAL),
            replicas: BTreeMap::new(),
            rows: BTreeMap::new(),
            known: Revision::ZERO,
            wanted: Revision::ZERO,
            claims: BTreeMap::new(),
            asks: BTreeMap::new(),
            callers: BTreeMap::new(),
            last_caller: 0,
            act: (None, false),
            failed: false,
        };
        for shard in turn.disk.store.shards().unwrap_or_default() {
            running.open(shard, turn);
        }
        self.state = State::Running(Box::new(running));
        self.next_ask_us = turn.env.now_us;
        self.ask_managers(turn);
    }
}

impl Running {
    fn open(&mut self, shard: ShardId, turn: &mut Turn) {
        let settings = Settings {
            interval: INTERVAL,
            log_bytes: LOG_BYTES,
            log_age: Duration::from_millis(1_000),
        };
        match turn.disk.store.open_shard(shard) {
            Err(error) => {
                turn.env
                    .note(format_args!("{} cannot open s{shard}: {error}", self.id));
                self.failed = true;
            }
            Ok(saved) => {
                let sound = finds_nothing(self.id.copy(), shard, &saved, &turn.disk.store);
                turn.env.check(sound);
                let replica = Replica::open(shard, self.id, saved, settings, turn.now());
                let durable = replica.report().durable;
                let checked = turn
                    .env
                    .invariants
                    .on_opened(self.id.copy(), shard, durable);
                turn.env.check(checked);
                self.replicas.insert(shard, replica);
            }
        }
    }

    fn on_tick(&mut self, turn: &mut Turn) {
        let shards: Vec<ShardId> = self.replicas.keys().copied().collect();
        for shard in shards {
            self.step(shard, Input::Tick, turn);
        }
        self.open_named(turn);
        self.heartbeat(turn);
    }

    fn heartbeat(&mut self, turn: &mut Turn) {
        let now = turn.now();
        let progress = turn.disk.makes_progress(turn.env.now_us, INTERVAL.0 * 2);
        let wall = wall_ms(turn.env.now_us);
        if let Some((manager, request)) = self.control.next_heartbeat(now, wall, progress)
            && let Some(place) = turn.env.place(manager)
        {
            turn.send(place, Parcel::Heartbeat(request));
        }
    }

    /// True: this process has to end.
    fn on_heartbeat_answer(
        &mut self,
        from: Place,
        answer: HeartbeatAnswer,
        turn: &mut Turn,
    ) -> bool {
        let Place::Manager(manager) = from else {
            return false;
        };
        let now = turn.now();
        let answered = self
            .control
            .on_answer(now, Env::manager_id(manager), answer);
        let Answered {
            deletable,
            tables_revision,
            register,
            superseded,
        } = answered;
        self.wanted = self.wanted.max(tables_revision.unwrap_or_default());
        if self.wanted > self.known {
            turn.send(from, Parcel::Fetch { after: self.known });
        }
        for (shard, revision) in deletable {
            self.delete(shard, revision, turn);
        }
        register || superseded
    }

    fn on_parcel(&mut self, from: Place, parcel: Parcel, turn: &mut Turn) {
        match parcel {
            Parcel::Shard { shard, message } => {
                let Place::Node(host) = from else { return };
                let sender = turn
                    .env
                    .hosts
                    .iter()
                    .find(|(_, h)| **h == host)
                    .map(|(id, _)| *id);
                if let Some(from) = sender {
                    self.step(shard, Input::Message { from, message }, turn);
                }
            }
            // An answer to the process before this one starts too late.
            Parcel::Rows {
                after,
                revision,
                rows,
            } if after <= self.known => self.on_rows(revision, rows, turn),
            Parcel::Seal(request) if request.to == self.id => self.on_seal(from, request, turn),
            Parcel::HandOver(request) if request.to == self.id => {
                self.on_hand_over(from, request, turn);
            }
            Parcel::Execute {
                call,
                shard,
                request,
                copies,
                patience_us,
            } => {
                self.control.active(request.id.client);
                let caller = self.caller(Origin::Client {
                    place: from,
                    call,
                    shard,
                    request: Box::new(request.clone()),
                });
                let deadline = turn.now() + Duration(patience_us);
                let input = Input::Write {
                    caller,
                    request,
                    copies,
                    deadline,
                };
                if !self.step(shard, input, turn) {
                    let failure = self.not_here(shard);
                    self.reply(caller, Err(failure), turn);
                }
            }
            Parcel::Read {
                call,
                shard,
                keys,
                level,
            } => {
                let answer = self.read(shard, &keys, level, turn);
                turn.send(from, Parcel::Answered { call, answer });
            }
            _ => {}
        }
    }

    fn not_here(&self, shard: ShardId) -> Failure {
        let failure = Failure::no(Reason::NotPrimary, "no copy of the shard is here");
        match self.rows.get(&shard).and_then(|row| row.primary) {
            Some(primary) => failure.with("primary", primary.node.to_string()),
            None => failure,
        }
    }

    fn caller(&mut self, origin: Origin) -> Caller {
        self.last_caller += 1;
        let caller = Caller(self.last_caller);
        self.callers.insert(caller, origin);
        caller
    }

    fn read(
        &mut self,
        shard: ShardId,
        keys: &[bytes::Bytes],
        level: ReadLevel,
        turn: &mut Turn,
    ) -> Result<Done, Failure> {
        let Some(replica) = self.replicas.get(&shard) else {
            return Err(self.not_here(shard));
        };
        let leases = Leases(&self.control);
        let context = Context {
            now: turn.now(),
            wall_ms: wall_ms(turn.env.now_us),
            stored: &turn.disk.store,
            lease: &leases,
        };
        let answer = replica.read(&context, keys, level)?;
        if level == ReadLevel::Primary {
            replica.check_primary(&context)?;
        }
        let report = replica.report();
        let (id, now) = (self.id, turn.now());
        if level == ReadLevel::Primary {
            let holds = report
                .serving
                .is_some_and(|epoch| self.control.holds(shard, epoch, now));
            let checked = turn
                .env
                .invariants
                .on_served(id, shard, report.serving, holds);
            turn.env.check(checked);
        }
        let checked = turn.env.invariants.on_read(id, shard, answer.token);
        turn.env.check(checked);
        let found = answer.objects.iter().map(Option::is_some).collect();
        Ok(Done::Read {
            token: answer.token,
            found,
        })
    }

    // ---- rows

    fn on_rows(&mut self, revision: Revision, rows: Vec<(ShardId, ShardEntry)>, turn: &mut Turn) {
        if revision <= self.known {
            return;
        }
        self.known = revision;
        for (shard, row) in rows {
            let newer = self
                .rows
                .get(&shard)
                .is_none_or(|old| old.revision < row.revision);
            if newer {
                self.on_row(shard, row, turn);
            }
        }
        self.open_named(turn);
    }

    fn on_row(&mut self, shard: ShardId, row: ShardEntry, turn: &mut Turn) {
        for ask in self.asks.remove(&shard).unwrap_or_default() {
            self.control.withdraw(&ask);
        }
        self.rows.insert(shard, row);
        if self.replicas.contains_key(&shard) {
            self.assign(shard, turn);
        }
    }

    /// Copies that a row names and that are not open yet.
    fn open_named(&mut self, turn: &mut Turn) {
        let me = self.id.copy();
        let missing = |(shard, row): (&ShardId, &ShardEntry)| {
            (row.names(me) && !self.replicas.contains_key(shard)).then_some(*shard)
        };
        let missing: Vec<ShardId> = self.rows.iter().filter_map(missing).collect();
        for shard in missing {
            // A copy that was just deleted is opened once that is durable.
            if !turn.disk.is_unsynced(shard) {
                self.open(shard, turn);
                self.assign(shard, turn);
            }
        }
    }

    fn assign(&mut self, shard: ShardId, turn: &mut Turn) {
        let row = &self.rows[&shard];
        let me = self.id.copy();
        let assignment = Assignment {
            revision: row.revision,
            epoch: row.epoch,
            primary: row.primary,
            secondaries: row.secondaries.clone(),
            joining: row.joining.iter().copied().collect(),
            oldest_open_cut: row.open_cuts.iter().map(|cut| cut.cut).min(),
            open_cut_lists_me: row.cut_lists(me),
        };
        self.step(shard, Input::Assignment(assignment), turn);
    }

    /// The managers let the copy go: everything but its promise is removed.
    fn delete(&mut self, shard: ShardId, upto: Revision, turn: &mut Turn) {
        let newer = self.rows.get(&shard).is_some_and(|row| row.revision > upto);
        let named = self
            .rows
            .get(&shard)
            .is_some_and(|row| row.names(self.id.copy()));
        if newer || named || turn.disk.is_unsynced(shard) {
            return;
        }
        let Some(replica) = self.replicas.remove(&shard) else {
            return;
        };
        let meta = Meta {
            promise: replica.meta().promise,
            ..Meta::empty()
        };
        let _ = turn.disk.store.open_shard(shard);
        let changes = vec![StoreChange::DropCopy, StoreChange::PutMeta(meta)];
        self.claims.remove(&shard);
        self.control.give_up(shard);
        self.write(
            Batch {
                shard,
                number: 1,
                changes,
            },
            turn,
        );
        self.control.report(CopyReport {
            shard,
            present: false,
            last: Pair::ZERO,
            promised: replica.meta().promise,
            followed: Epoch::ZERO,
            orphans: 0,
        });
    }

    // ---- seals

    fn on_seal(&mut self, from: Place, request: SealRequest, turn: &mut Turn) {
        for claim in request.seals {
            let (shard, epoch) = (claim.shard, claim.epoch);
            let caller = self.caller(Origin::Seal { place: from, claim });
            let input = Input::Seal {
                caller,
                epoch,
                hand_over: None,
            };
            if !self.step(shard, input, turn) {
                self.callers.remove(&caller);
                self.answer_seal(from, claim, SealOutcome::NoCopy, turn);
            }
        }
    }

    fn on_hand_over(&mut self, from: Place, request: HandOverRequest, turn: &mut Turn) {
        let give_up_at = turn.now() + request.limit;
        for hand_over in request.hand_overs {
            let (shard, epoch) = (hand_over.shard, hand_over.new_epoch);
            // Only the primary of that epoch is meant; asked again after its promise it just tells it once more.
            let acts = self.claims.get(&shard) == Some(&hand_over.epoch);
            let promise = self.replicas.get(&shard).map(|r| r.meta().promise);
            if !acts && promise != Some(epoch) {
                continue;
            }
            let plan = effect::HandOver {
                to: hand_over.target,
                give_up_at,
            };
            let caller = self.caller(Origin::HandOver {
                place: from,
                hand_over,
            });
            let input = Input::Seal {
                caller,
                epoch,
                hand_over: acts.then_some(plan),
            };
            self.step(shard, input, turn);
        }
    }

    fn answer_seal(&mut self, to: Place, claim: Claim, outcome: SealOutcome, turn: &mut Turn) {
        let answer = SealAnswer {
            from: self.id,
            seals: vec![(claim, outcome)],
        };
        turn.send(to, Parcel::SealAnswer(answer));
    }

    fn on_sealed(&mut self, caller: Caller, answer: SealedCopy, turn: &mut Turn) {
        let Some(origin) = self.callers.remove(&caller) else {
            return;
        };
        if let SealedCopy::Promised {
            epoch,
            position,
            complete,
        } = answer
        {
            let shard = match &origin {
                Origin::Seal { claim, .. } => claim.shard,
                Origin::HandOver { hand_over, .. } => hand_over.shard,
                Origin::Client { shard, .. } => *shard,
            };
            if complete {
                let copy = self.id.copy();
                let row = self.rows.get(&shard);
                let follows = row.is_some_and(|row| row.epoch >= epoch);
                let checked = turn
                    .env
                    .invariants
                    .on_sealed(copy, shard, epoch, position, follows);
                turn.env.check(checked);
            }
        }
        match origin {
            Origin::Seal { place, claim } => {
                let outcome = match answer {
                    SealedCopy::Promised {
                        position,
                        complete: true,
                        ..
                    } => SealOutcome::Sealed { last: position },
                    SealedCopy::Promised { .. } | SealedCopy::NotHandedOver => SealOutcome::NoCopy,
                    SealedCopy::Higher { epoch } => SealOutcome::PromisedHigher { epoch },
                };
                self.answer_seal(place, claim, outcome, turn);
            }
            Origin::HandOver { place, hand_over } => {
                let outcome = match answer {
                    SealedCopy::Promised { position, .. } => {
                        HandOverOutcome::Promised { last: position }
                    }
                    _ => HandOverOutcome::Failed,
                };
                let hand_overs = vec![(hand_over, outcome)];
                let answer = HandOverAnswer {
                    from: self.id,
                    hand_overs,
                };
                turn.send(place, Parcel::HandOverAnswer(answer));
            }
            Origin::Client { .. } => {}
        }
    }

    // ---- one step of one replica

    /// False: there is no copy of the shard.
    fn step(&mut self, shard: ShardId, input: Input, turn: &mut Turn) -> bool {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return false;
        };
        let leases = Leases(&self.control);
        let context = Context {
            now: turn.now(),
            wall_ms: wall_ms(turn.env.now_us),
            stored: &turn.disk.store,
            lease: &leases,
        };
        let mut effects = Vec::new();
        let before = replica.report().serving;
        replica.step(&context, input, &mut effects);
        let serving = replica.report().serving.or(before);
        let holds = serving.is_some_and(|epoch| self.control.holds(shard, epoch, context.now));
        self.act = (serving, holds);
        self.note_state(shard, turn);
        for effect in effects {
            self.carry_out(shard, effect, turn);
        }
        true
    }

    /// What heartbeats tell and claim follows the replica.
    fn note_state(&mut self, shard: ShardId, turn: &mut Turn) {
        let replica = &self.replicas[&shard];
        let report = replica.report();
        let row = self.rows.get(&shard);
        let acts = row.is_some_and(|row| {
            row.primary == Some(self.id) && row.epoch == report.promise && row.epoch > Epoch::ZERO
        });
        let epoch = row.map(|row| row.epoch).filter(|_| acts);
        if self.claims.get(&shard).copied() != epoch {
            match epoch {
                Some(epoch) => {
                    self.claims.insert(shard, epoch);
                    self.control.claim(shard, epoch);
                }
                None => {
                    self.claims.remove(&shard);
                    self.control.give_up(shard);
                }
            }
        }
        if let Some(epoch) = report.serving {
            let checked = turn.env.invariants.on_serving(self.id, shard, epoch);
            turn.env.check(checked);
        }
        self.control.report(CopyReport {
            shard,
            present: true,
            last: report.durable,
            promised: report.promise,
            followed: report.followed,
            orphans: report.orphans,
        });
    }

    fn carry_out(&mut self, shard: ShardId, effect: Effect, turn: &mut Turn) {
        match effect {
            Effect::Persist(batch) => self.write(batch, turn),
            Effect::Send { to, message } => {
                if let Some(place) = turn.env.place(to) {
                    turn.send(place, Parcel::Shard { shard, message });
                }
            }
            Effect::Reply { caller, answer } => self.reply(caller, answer, turn),
            Effect::Sealed { caller, answer } => self.on_sealed(caller, answer, turn),
            Effect::Ask(ask) => self.ask(shard, ask),
            Effect::Broken(error) => {
                turn.env
                    .note(format_args!("{} s{shard} BROKEN {error}", self.id));
                turn.env.broken += 1;
                self.failed = true;
            }
        }
    }

    fn write(&mut self, batch: Batch, turn: &mut Turn) {
        let checked = turn.env.invariants.on_formed(self.id.copy(), &batch);
        turn.env.check(checked);
        if let Err(reason) = turn.disk.write(batch) {
            turn.env
                .note(format_args!("{} the disk refuses: {reason}", self.id));
            self.failed = true;
        }
    }

    fn reply(&mut self, caller: Caller, answer: Result<Answer, Failure>, turn: &mut Turn) {
        let Some(Origin::Client {
            place,
            call,
            shard,
            request,
        }) = self.callers.remove(&caller)
        else {
            return;
        };
        if let Ok(answer) = &answer {
            let (serving, holds) = self.act;
            let checked = turn
                .env
                .invariants
                .on_served(self.id, shard, serving, holds);
            turn.env.check(checked);
            let checked = turn
                .env
                .invariants
                .on_answer(self.id, shard, &request, answer);
            turn.env.check(checked);
        }
        turn.send(
            place,
            Parcel::Answered {
                call,
                answer: answer.map(Done::Written),
            },
        );
    }

    fn ask(&mut self, shard: ShardId, ask: effect::Ask) {
        let ask = match ask {
            effect::Ask::NewEpoch { epoch } => {
                let promise = self.replicas[&shard].meta().promise;
                Ask::NewEpoch {
                    shard,
                    epoch,
                    at_least: promise.max(epoch.next()),
                }
            }
            effect::Ask::Complete { epoch, copy } => Ask::Complete { shard, epoch, copy },
            effect::Ask::TooFarBehind { epoch, copy } => Ask::MarkJoining { shard, epoch, copy },
        };
        self.asks.entry(shard).or_default().insert(ask);
        self.control.ask(ask);
    }
}

/// Small, so that logs are trimmed and full copies happen.
const LOG_BYTES: u64 = 4_000;
