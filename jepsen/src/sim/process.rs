//! A simulated process of a data node: it gives the copies their stimuli and carries out what they emit, as the shard
//! threads of a real node do, and has the node's side of heartbeats and leases.
//!
//! What is decided is decided in `protocol`; here are only the joints to the simulated world.

use super::disk::Disk;
use super::env::{Clock, Env, wall_ms};
use super::event::{Done, Parcel};
use super::network::Place;
use super::scrub::{PAGE_BYTES, Scrubs};
use super::sites::Sites;
use super::start_check::finds_nothing;
use crate::dice::Dice;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::{
    ClientId, Epoch, Pair, ProcessId, RequestId, Revision, Sequence, ShardId, StoreId,
};
use understudy_protocol::control::message::{
    Claim, ExitReport, HandOver, HandOverAnswer, HandOverOutcome, HandOverRequest, HeartbeatAnswer,
    SealAnswer, SealOutcome, SealRequest,
};
use understudy_protocol::control::{Answered, NodeControl};
use understudy_protocol::copies::{Copies, Notice, Out};
use understudy_protocol::effect::{self, Answer, Caller, Context, Effect, Input, SealedCopy};
use understudy_protocol::invariants::{Commit, Holder, Violation};
use understudy_protocol::pace::CopyPace;
use understudy_protocol::request::Request;
use understudy_protocol::shard::message::Message;
use understudy_protocol::shard::{Freshness, ReadAnswer, ReadLevel, Replica, Settings};
use understudy_protocol::store::Batch;
use understudy_protocol::tables::{
    Answer as Told, BootId, Command, LaunchId, Refusal, Registration, ShardEntry,
};
use understudy_protocol::testing::KnownClients;
use understudy_protocol::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);
const ASK_AGAIN_US: u64 = 100_000;

#[derive(Debug)]
pub struct Process {
    pub run: u64,
    node: usize,
    store: StoreId,
    launch: LaunchId,
    /// Where its machine's agent is; empty: there is none.
    agent: String,
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
    copies: Copies,
    rows: BTreeMap<ShardId, ShardEntry>,
    known: Revision,
    clients: KnownClients,
    pace: RefCell<CopyPace>,
    wanted: Revision,
    callers: BTreeMap<Caller, Origin>,
    last_caller: u64,
    /// In which epoch it served, and whether under a lease, at the last step of a replica.
    act: (Option<Epoch>, bool),
    failed: bool,
    began_us: u64,
    scrubs: Scrubs,
    /// In which epoch it serves each shard, and since when.
    serving: BTreeMap<ShardId, (Epoch, u64)>,
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
    Read {
        place: Place,
        call: u64,
        shard: ShardId,
        keys: Vec<bytes::Bytes>,
        freshness: Freshness,
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

    fn beacon(&self, now: Instant) -> Option<Duration> {
        self.0.beacon(now)
    }

    fn retired(&self) -> bool {
        self.0.is_retired()
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
        agent: String,
        dice: &mut Dice,
    ) -> Process {
        let client = ClientId::from_parts(wall_ms(0), dice.wide() >> 54);
        Process {
            run,
            node,
            store,
            launch: LaunchId(format!("n{}-{run}", node + 1)),
            agent,
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

    /// What an agent knows of it: how it was launched, and how it registered, if it did.
    pub fn exit_report(&self) -> ExitReport {
        let launch = self.launch.clone();
        let process = self.id().map(|id| (id.node, id.incarnation));
        ExitReport { launch, process }
    }

    pub fn launch(&self) -> &LaunchId {
        &self.launch
    }

    pub fn replica(&self, shard: ShardId) -> Option<&Replica> {
        self.running()?.copies.get(shard)
    }

    /// The lease that this process believes to hold for the shard.
    pub fn holder(&self, shard: ShardId, now: Instant) -> Option<Holder> {
        let running = self.running()?;
        let epoch = running.copies.claim(shard)?;
        let process = running.id;
        running
            .holds(shard, epoch, now)
            .then_some(Holder { process, epoch })
    }

    /// Since when it runs as a registered one, and serves the shard as primary.
    pub fn runs_since(&self) -> Option<u64> {
        Some(self.running()?.began_us)
    }

    pub fn serves_since(&self, shard: ShardId) -> Option<(Epoch, u64)> {
        self.running()?.serving.get(&shard).copied()
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

    pub fn fail_store(&mut self) {
        if let State::Running(running) = &mut self.state {
            running.control.fail_store();
        }
    }

    /// Registers, or fetches rows that are known to have changed.
    fn ask_managers(&mut self, turn: &mut Turn) {
        if turn.env.now_us < self.next_ask_us {
            return;
        }
        let parcel = match &self.state {
            State::Registering => {
                let command = Command::RegisterNode(self.registration(turn.env.sites));
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

    fn registration(&self, sites: Option<Sites>) -> Registration {
        Registration {
            name: format!("n{}", self.node + 1),
            store: self.store,
            launch: self.launch.clone(),
            boot: BootId("boot".to_string()),
            agent: self.agent.clone(),
            capacity: 1,
            site: sites.map_or_else(String::new, |sites| sites.of_node(self.node)),
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
            copies: Copies::new(id, settings()),
            rows: BTreeMap::new(),
            known: Revision::ZERO,
            clients: KnownClients {
                keep: turn.env.keep,
                conflicts_of: turn.env.policies.clone(),
                forward_of: turn.env.forward.clone(),
                ..KnownClients::default()
            },
            pace: RefCell::new(copy_pace(turn.env.seed, turn.now())),
            wanted: Revision::ZERO,
            callers: BTreeMap::new(),
            last_caller: 0,
            act: (None, false),
            failed: false,
            began_us: turn.env.now_us,
            scrubs: Scrubs::new(turn.env.seed),
            serving: BTreeMap::new(),
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
    /// A lease from the managers or from the witnesses.
    fn holds(&self, shard: ShardId, epoch: Epoch, now: Instant) -> bool {
        let copy = self.copies.get(shard);
        let witnessed = copy.is_some_and(|it| it.claim() == Some(epoch) && it.has_witnesses(now));
        let leased = witnessed || self.control.holds(shard, epoch, now);
        leased && !self.control.is_retired()
    }

    fn open(&mut self, shard: ShardId, turn: &mut Turn) {
        match turn.disk.store.open_shard(shard) {
            Err(error) => {
                turn.env
                    .note(format_args!("{} cannot open s{shard}: {error}", self.id));
                self.failed = true;
            }
            Ok(saved) => {
                let sound = finds_nothing(self.id.copy(), shard, &saved, &turn.disk.store);
                turn.env.check(sound);
                self.copies.open(shard, saved, turn.now());
                let durable = self.copies.get(shard).map(|copy| copy.report().durable);
                let checked = turn.env.invariants.on_opened(
                    self.id.copy(),
                    shard,
                    durable.unwrap_or_default(),
                );
                turn.env.check(checked);
            }
        }
    }

    fn on_tick(&mut self, turn: &mut Turn) {
        self.copies.set_interval(self.control.interval());
        let shards: Vec<ShardId> = self.copies.iter().map(|(shard, _)| shard).collect();
        for shard in shards {
            self.step(shard, Input::Tick, turn);
        }
        let claimed: Vec<ShardId> = self.copies.iter().map(|(shard, _)| shard).collect();
        let claimed = claimed
            .into_iter()
            .filter(|s| self.copies.claim(*s).is_some());
        if let Some((shard, after)) = self.scrubs.next(&claimed.collect::<Vec<_>>()) {
            self.last_caller += 1;
            let caller = Caller(self.last_caller);
            self.scrubs.begun(caller, shard);
            let deadline = turn.now() + INTERVAL.scale(10, 1);
            let bytes_max = PAGE_BYTES;
            let input = Input::Scrub {
                caller,
                after,
                bytes_max,
                deadline,
            };
            self.step(shard, input, turn);
        }
        let mut notices = Vec::new();
        self.copies.reports(&mut notices);
        self.give(notices);
        for shares in self.copies.writers(turn.now()) {
            self.control.writers(shares);
        }
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
            self.step(shard, Input::Delete { revision }, turn);
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
                ended,
            } if after <= self.known => self.on_rows(revision, rows, ended, turn),
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
                freshness: None,
            } => {
                let answer = self.read(shard, &keys, level, turn);
                turn.send(from, Parcel::Answered { call, answer });
            }
            Parcel::Read {
                call,
                shard,
                keys,
                freshness: Some((freshness, patience_us)),
                ..
            } => {
                let caller = self.caller(Origin::Read {
                    place: from,
                    call,
                    shard,
                    keys: keys.clone(),
                    freshness: freshness.clone(),
                });
                let deadline = turn.now() + Duration(patience_us);
                let input = Input::Read {
                    caller,
                    keys,
                    freshness,
                    deadline,
                };
                if !self.step(shard, input, turn) {
                    self.callers.remove(&caller);
                    let answer = Err(self.not_here(shard));
                    turn.send(from, Parcel::Answered { call, answer });
                }
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
        let Some(replica) = self.copies.get(shard) else {
            return Err(self.not_here(shard));
        };
        let leases = Leases(&self.control);
        let context = Context {
            now: turn.now(),
            wall_ms: wall_ms(turn.env.now_us),
            stored: &turn.disk.store,
            lease: &leases,
            clients: &self.clients,
            pace: &self.pace,
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
                .is_some_and(|epoch| self.holds(shard, epoch, now));
            let checked = turn
                .env
                .invariants
                .on_served(id, shard, report.serving, holds);
            turn.env.check(checked);
        }
        self.check_read(
            shard,
            keys,
            &answer,
            level == ReadLevel::Primary,
            None,
            turn,
        );
        let found = answer.objects.iter().map(Option::is_some).collect();
        Ok(Done::Read {
            token: answer.token,
            found,
        })
    }

    // ---- rows

    fn on_rows(
        &mut self,
        revision: Revision,
        rows: Vec<(ShardId, ShardEntry)>,
        ended: BTreeSet<ClientId>,
        turn: &mut Turn,
    ) {
        if revision <= self.known {
            return;
        }
        self.known = revision;
        self.clients.ended = ended;
        self.clients.revision = revision;
        for (shard, row) in rows {
            let assignment = row.assignment(self.id.copy());
            if self.copies.lacks(shard, &assignment) {
                self.open(shard, turn);
            }
            self.rows.insert(shard, row);
            self.step(shard, Input::Assignment(assignment), turn);
        }
    }

    // ---- seals

    fn on_seal(&mut self, from: Place, request: SealRequest, turn: &mut Turn) {
        for seal in request.seals {
            let (claim, grace) = (seal.claim(), seal.grace(request.longest));
            let (shard, epoch) = (claim.shard, claim.epoch);
            let caller = self.caller(Origin::Seal { place: from, claim });
            let input = Input::Seal {
                caller,
                epoch,
                hand_over: None,
                grace,
            };
            if !self.step(shard, input, turn) {
                self.callers.remove(&caller);
                self.answer_seal(from, claim, SealOutcome::of(None), turn);
            }
        }
    }

    fn on_hand_over(&mut self, from: Place, request: HandOverRequest, turn: &mut Turn) {
        let give_up_at = turn.now() + request.limit;
        for hand_over in request.hand_overs {
            let caller = self.caller(Origin::HandOver {
                place: from,
                hand_over,
            });
            match self.copies.hand_over(&hand_over, caller, give_up_at) {
                Some(input) => drop(self.step(hand_over.shard, input, turn)),
                None => drop(self.callers.remove(&caller)),
            }
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
                Origin::Client { shard, .. } | Origin::Read { shard, .. } => *shard,
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
                self.answer_seal(place, claim, SealOutcome::of(Some(answer)), turn);
            }
            Origin::HandOver { place, hand_over } => {
                let hand_overs = vec![(hand_over, HandOverOutcome::of(answer))];
                let answer = HandOverAnswer {
                    from: self.id,
                    hand_overs,
                };
                turn.send(place, Parcel::HandOverAnswer(answer));
            }
            Origin::Client { .. } | Origin::Read { .. } => {}
        }
    }

    // ---- one step of one replica

    /// False: there is no copy of the shard.
    fn step(&mut self, shard: ShardId, input: Input, turn: &mut Turn) -> bool {
        let state = |copies: &Copies| {
            let copy = copies.get(shard)?;
            Some((copy.report().serving, copy.claim(), copy.committed()))
        };
        let Some((before, acted_as, committed)) = state(&self.copies) else {
            return false;
        };
        let now = turn.now();
        if turn.disk.makes_progress(turn.env.now_us, INTERVAL.0 * 2) {
            self.control.progresses_until(now);
        }
        let held = acted_as.filter(|epoch| self.holds(shard, *epoch, now));
        let leases = Leases(&self.control);
        let context = Context {
            now,
            wall_ms: wall_ms(turn.env.now_us),
            stored: &turn.disk.store,
            lease: &leases,
            clients: &self.clients,
            pace: &self.pace,
        };
        let mut out = Out::default();
        self.copies.step(&context, shard, input, &mut out);
        let after = self
            .copies
            .get(shard)
            .and_then(|copy| copy.report().serving);
        let claims = state(&self.copies).and_then(|(_, claim, _)| claim);
        self.check_commit(shard, acted_as.or(claims), committed, turn);
        let acted = after.or(before);
        // Before the step or after it: the step itself may end the role.
        let holds = acted.is_some_and(|epoch| held == Some(epoch) || self.holds(shard, epoch, now));
        self.act = (acted, holds);
        self.give(out.notices);
        if after != self.serving.get(&shard).map(|(epoch, _)| *epoch) {
            self.serving.remove(&shard);
            let since = |epoch| (epoch, turn.env.now_us);
            self.serving
                .extend(after.map(|epoch| (shard, since(epoch))));
        }
        if let Some(epoch) = after {
            let checked = turn.env.invariants.on_serving(self.id, shard, epoch);
            turn.env.check(checked);
        }
        for effect in out.effects {
            self.carry_out(shard, effect, turn);
        }
        true
    }

    /// Whether the primary of an in_sync shard moved its commit point, and rightly.
    fn check_commit(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        before: Option<Pair>,
        turn: &mut Turn,
    ) {
        let Some(copy) = self.copies.get(shard) else {
            return;
        };
        let set = copy.assignment().and_then(|row| row.in_sync.clone());
        if let (Some(epoch), Some(set), Some(before), Some(pair)) =
            (epoch, set, before, copy.committed())
            && pair != before
        {
            let commit = Commit {
                copy: self.id.copy(),
                epoch,
                pair,
                set,
            };
            let checked = turn.env.invariants.on_committed(shard, &commit);
            turn.env.check(checked);
        }
    }

    fn give(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            notice.give(&mut self.control);
        }
    }

    fn carry_out(&mut self, shard: ShardId, effect: Effect, turn: &mut Turn) {
        match effect {
            Effect::Persist(batch) => self.write(batch, turn),
            Effect::Send { to, message } => {
                if let Message::Submit(submit) = &message {
                    let pairs: Vec<_> = submit.orphans.iter().map(|o| o.record.pair).collect();
                    let (copy, epoch) = (self.id.copy(), submit.epoch);
                    let checked = turn.env.invariants.on_submit(copy, shard, epoch, &pairs);
                    turn.env.check(checked);
                }
                if let Message::Records(records) = &message {
                    turn.env.forwards(records);
                }
                if let Some(place) = turn.env.place(to) {
                    turn.send(place, Parcel::Shard { shard, message });
                }
            }
            Effect::Reply { caller, answer } => self.reply(caller, answer, turn),
            Effect::Sealed { caller, answer } => self.on_sealed(caller, answer, turn),
            Effect::Ask(_) | Effect::Unask(_) => unreachable!("it became a notice"),
            Effect::Read {
                caller,
                answer,
                as_primary,
            } => self.read_answered(caller, answer, as_primary, turn),
            Effect::Dropped { pair, request } => turn.env.note(format_args!(
                "{} s{shard} drops {pair} ({request})",
                self.id
            )),
            Effect::Judged(_) => {}
            // No disk of these worlds alters an object: what is run again on the same state comes to the same.
            Effect::Differs { pair, what } => turn.env.check(Err(Violation {
                invariant: "FORWARD",
                what: format!("shard {shard}: {} at {pair}: {what:?}", self.id),
            })),
            Effect::Scrubbed { caller, answer } => {
                let (checked, same) = self.scrubs.told(caller, answer);
                turn.env.compared += same;
                turn.env.check(checked);
            }
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
        turn.env.show(&batch);
        if let Err(reason) = turn.disk.write(batch) {
            turn.env
                .note(format_args!("{} the disk refuses: {reason}", self.id));
            self.failed = true;
        }
    }

    fn read_answered(
        &mut self,
        caller: Caller,
        answer: Result<ReadAnswer, Failure>,
        as_primary: bool,
        turn: &mut Turn,
    ) {
        let Some(Origin::Read {
            place,
            call,
            shard,
            keys,
            freshness,
        }) = self.callers.remove(&caller)
        else {
            return;
        };
        if let Ok(answer) = &answer {
            if as_primary {
                let (serving, holds) = self.act;
                let checked = turn
                    .env
                    .invariants
                    .on_served(self.id, shard, serving, holds);
                turn.env.check(checked);
            }
            let upto_us = match &freshness {
                Freshness::Session(_) => None,
                Freshness::Bounded(staleness) => Some(may_miss_after(turn.env.now_us, *staleness)),
            };
            self.check_read(shard, &keys, answer, as_primary, upto_us, turn);
        }
        let answer = answer.map(|answer| Done::Read {
            token: answer.token,
            found: answer.objects.iter().map(Option::is_some).collect(),
        });
        turn.send(place, Parcel::Answered { call, answer });
    }

    /// What any read that this process answered has to be true of.
    fn check_read(
        &self,
        shard: ShardId,
        keys: &[bytes::Bytes],
        answer: &ReadAnswer,
        as_primary: bool,
        upto_us: Option<u64>,
        turn: &mut Turn,
    ) {
        let invariants = &turn.env.invariants;
        let fresh = invariants.on_fresh_read(self.id, shard, keys, answer, upto_us);
        let row = self.copies.get(shard).and_then(Replica::assignment);
        let committed = match row.is_some_and(|row| row.in_sync.is_some()) {
            true => {
                let objects: Vec<_> = keys.iter().cloned().zip(answer.objects.clone()).collect();
                invariants.on_committed_read(self.id, shard, as_primary, answer.token, &objects)
            }
            false => Ok(()),
        };
        turn.env.check(fresh);
        turn.env.check(committed);
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
        if let Err(failure) = &answer
            && failure.reason == Reason::NoLease
            && failure.applied == Applied::No
        {
            turn.env.refused.push((turn.node, shard));
        }
        if let (Ok(answer), Some(sites), Place::Client(client)) = (&answer, turn.env.sites, place)
            && !answer.duplicate
        {
            let site = sites.of_client(client, turn.env.now_us);
            self.copies.wrote(shard, &site, turn.now());
        }
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
            let now_us = turn.env.now_us;
            turn.env
                .invariants
                .on_acknowledged(shard, answer.pair, now_us);
        }
        turn.send(
            place,
            Parcel::Answered {
                call,
                answer: answer.map(Done::Written),
            },
        );
    }
}

/// In every fifth world full copies go slowly.
fn copy_pace(seed: u64, now: Instant) -> CopyPace {
    let bytes_per_second = if seed % 5 == 2 { 20_000 } else { 0 };
    CopyPace::new(bytes_per_second, now)
}

/// A copy counts on its own clock, which may be slower than the world's by the drift.
fn may_miss_after(now_us: u64, staleness: Duration) -> u64 {
    let longest = staleness.scale(1_010, 1_000);
    now_us.saturating_sub(longest.0)
}

fn settings() -> Settings {
    Settings {
        interval: INTERVAL,
        log_bytes: LOG_BYTES,
        log_age: Duration::from_millis(1_000),
        delta_records_min: DELTA_RECORDS_MIN,
        delta_walks_max: DELTA_WALKS_MAX,
    }
}

/// Small, so that logs are trimmed and full copies happen.
const LOG_BYTES: u64 = 4_000;

/// So few that a copy that was away for a moment takes a delta when few objects were written.
const DELTA_RECORDS_MIN: u64 = 6;

/// So few that some wait for others.
const DELTA_WALKS_MAX: usize = 2;
