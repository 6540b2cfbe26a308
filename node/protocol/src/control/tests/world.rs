//! A modelled cluster in virtual time: managers with a modelled log between them, nodes with modelled copies, and a
//! network that delays, loses and repeats. It checks after every step what must never be.

use crate::control::message::*;
use crate::control::{Action, ControlSettings, Controller, Input, NodeControl};
use crate::tables::invariants::faults;
use crate::tables::*;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::ids::*;

pub const WALL_MS: u64 = 1_800_000_000_000;
pub const STEP_MS: u64 = 10;

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    pub last: Pair,
    pub promised: Epoch,
    pub followed: Epoch,
    pub orphans: u64,
}

pub struct Node {
    pub name: String,
    pub store: StoreId,
    pub process: ProcessId,
    pub control: NodeControl,
    pub copies: BTreeMap<ShardId, Copy>,
    pub up: bool,
    /// Reaches no manager and no node.
    pub cut: bool,
    /// Hears answers to its heartbeats, but no seal, no hand-over and no news of the tables.
    pub deaf: bool,
    /// Its clock runs at so many parts of 1,000.
    pub rate: u64,
    /// The epoch in which it acts, with the process's own start as reason never to go on in an old one.
    pub acting: BTreeMap<ShardId, Epoch>,
    pub started_with: BTreeMap<ShardId, Epoch>,
}

pub struct Manager {
    pub controller: Controller,
    pub tables: Tables,
    pub reached: usize,
    pub cut: bool,
}

#[derive(Clone, Debug)]
enum Message {
    Heartbeat(usize, HeartbeatRequest),
    Answer(usize, NodeId, HeartbeatAnswer),
    Seal(usize, SealRequest),
    SealAnswer(usize, SealAnswer),
    HandOver(usize, HandOverRequest),
    HandOverAnswer(usize, HandOverAnswer),
}

pub struct World {
    pub now: Instant,
    pub rng: Rng,
    pub log: Vec<Envelope>,
    pub managers: Vec<Manager>,
    pub leader: Option<usize>,
    pub elect_at: Instant,
    pub term: u64,
    /// When the leader has applied its own term's first entry; it knows only older tables before.
    own_term_at: Option<Instant>,
    pub nodes: BTreeMap<NodeId, Node>,
    wires: Vec<(Instant, u64, Message)>,
    pub loss: u64,
    pub delay_ms: u64,
    sequence: u64,
    primaries: BTreeMap<(ShardId, Epoch), ProcessId>,
    pub promotions: usize,
    pub exits: Vec<(Instant, ExitReport)>,
}

impl World {
    pub fn new(seed: u64, managers: usize) -> World {
        super::choose_mutant();
        let manager = || Manager {
            controller: Controller::new(ControlSettings::default()),
            tables: Tables::default(),
            reached: 0,
            cut: false,
        };
        World {
            now: Instant::ZERO,
            rng: Rng(seed),
            log: Vec::new(),
            managers: (0..managers).map(|_| manager()).collect(),
            leader: None,
            elect_at: Instant::ZERO,
            term: 0,
            own_term_at: None,
            nodes: BTreeMap::new(),
            wires: Vec::new(),
            loss: 0,
            delay_ms: 0,
            sequence: 0,
            primaries: BTreeMap::new(),
            promotions: 0,
            exits: Vec::new(),
        }
    }

    /// The tables with everything that is in the log.
    pub fn tables(&mut self) -> &Tables {
        self.deliver_log(0);
        &self.managers[0].tables
    }

    pub fn command(&mut self, command: Command) -> Result<Answer, Refusal> {
        self.sequence += 1;
        let id = RequestId {
            client: ClientId::from_parts(1, 1),
            sequence: Sequence(self.sequence),
        };
        self.log.push(Envelope { id, command });
        let index = self.log.len() as u64;
        self.deliver_log_before(0, self.log.len() - 1);
        let tables = &mut self.managers[0].tables;
        let applied = tables.apply(index, self.log.last().unwrap());
        self.managers[0].reached = self.log.len();
        self.check_applied(&applied.changes);
        applied.answer
    }

    fn deliver_log(&mut self, manager: usize) {
        self.deliver_log_before(manager, self.log.len());
    }

    fn deliver_log_before(&mut self, manager: usize, end: usize) {
        while self.managers[manager].reached < end {
            let m = &mut self.managers[manager];
            let envelope = self.log[m.reached].clone();
            m.reached += 1;
            let applied = m.tables.apply(m.reached as u64, &envelope);
            self.check_promotions(&envelope, &applied);
            self.check_applied(&applied.changes);
        }
    }

    /// I1: at most one primary per (shard, epoch).
    fn check_applied(&mut self, changes: &[Change]) {
        for change in changes {
            if let Changed::Shard(shard, entry) = &change.what
                && let Some(primary) = entry.primary
            {
                let key = (*shard, entry.epoch);
                let known = *self.primaries.entry(key).or_insert(primary);
                assert_eq!(known, primary, "I1: two primaries for {key:?}");
            }
        }
    }

    /// I14: the promoted copy has the highest pair of those sealed. Sealed copies stand still, so they can be looked at.
    fn check_promotions(&mut self, envelope: &Envelope, applied: &Applied) {
        let Command::ChangeEntries(list) = &envelope.command else {
            return;
        };
        for change in list {
            let EntryOp::Promote {
                promoted,
                last,
                sealed,
                epoch,
            } = &change.op
            else {
                continue;
            };
            let done = applied.changes.iter().any(|c| {
                matches!(&c.what, Changed::Shard(s, e) if *s == change.shard && e.epoch == *epoch)
            });
            if !done {
                continue;
            }
            self.promotions += 1;
            for copy in sealed {
                let node = &self.nodes[&copy.node];
                let Some(other) = node.copies.get(&change.shard) else {
                    continue;
                };
                if node.store == copy.store && other.promised == *epoch && other.last.epoch < *epoch
                {
                    assert!(
                        other.last <= *last,
                        "I14: {promoted} at {last}, {copy} at {other:?}"
                    );
                }
            }
        }
    }

    pub fn add_node(&mut self, name: &str, site: &str, rate: u64) -> NodeId {
        let store = StoreId(u128::from(self.rng.next()) + 1);
        let process = self.register(name, site, store).expect("a new name");
        let node = self.start(name, store, process, BTreeMap::new(), rate);
        self.nodes.insert(process.node, node);
        process.node
    }

    fn register(&mut self, name: &str, site: &str, store: StoreId) -> Result<ProcessId, Refusal> {
        let launch = LaunchId(format!("{:x}", self.rng.next()));
        let answer = self.command(Command::RegisterNode(Registration {
            name: name.to_string(),
            store,
            site: site.to_string(),
            launch,
            ..Registration::default()
        }))?;
        match answer {
            Answer::Registered { process } => Ok(process),
            other => panic!("{other:?}"),
        }
    }

    fn start(
        &self,
        name: &str,
        store: StoreId,
        process: ProcessId,
        copies: BTreeMap<ShardId, Copy>,
        rate: u64,
    ) -> Node {
        let managers = (0..self.managers.len() as u64).map(NodeId).collect();
        let mut control = NodeControl::new(process, managers, Duration::from_millis(100));
        for (shard, copy) in &copies {
            control.report(report(*shard, copy));
        }
        let started_with = copies.iter().map(|(s, c)| (*s, c.promised)).collect();
        Node {
            name: name.to_string(),
            store,
            process,
            control,
            copies,
            up: true,
            cut: false,
            deaf: false,
            rate,
            acting: BTreeMap::new(),
            started_with,
        }
    }

    pub fn crash(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).unwrap().up = false;
    }

    /// The crash seen by the machine's agent.
    pub fn crash_with_report(&mut self, node: NodeId) {
        self.crash(node);
        let entry = self.tables().node(node).unwrap().clone();
        let report = ExitReport {
            process: Some((node, entry.incarnation)),
            launch: entry.launch,
        };
        self.exits.push((self.now, report));
    }

    pub fn restart(&mut self, node: NodeId) {
        self.crash(node);
        let (name, store) = (self.nodes[&node].name.clone(), self.nodes[&node].store);
        let process = self.register(&name, "", store).expect("its own store");
        let old = self.nodes.remove(&node).unwrap();
        let new = self.start(&old.name, old.store, process, old.copies, old.rate);
        self.nodes.insert(node, new);
    }

    /// The leader is cut off; a later one comes after a while, or when asked.
    pub fn lose_leader(&mut self, election_ms: u64) {
        if let Some(leader) = self.leader.take() {
            self.managers[leader].cut = true;
        }
        self.elect_at = self.now + Duration::from_millis(election_ms);
    }

    pub fn elect(&mut self, manager: usize) {
        self.term += 1;
        self.leader = Some(manager);
        self.managers[manager].cut = false;
        let term = self.term;
        self.input(manager, Input::Elected { term });
        let gap = Duration::from_millis(self.rng.below(3 * self.delay_ms + 1));
        self.own_term_at = Some(self.now + gap);
    }

    pub fn input(&mut self, manager: usize, input: Input) -> Vec<Action> {
        let m = &mut self.managers[manager];
        let mut out = Vec::new();
        m.controller.step(self.now, &m.tables, input, &mut out);
        for action in out.clone() {
            self.act(manager, action);
        }
        out
    }

    fn act(&mut self, manager: usize, action: Action) {
        match action {
            // A leader that lost its followers appends nothing.
            Action::Propose(command) if self.leader == Some(manager) => {
                self.sequence += 1;
                let client = ClientId::from_parts(1, 2 + manager as u128);
                let sequence = Sequence(self.sequence);
                let id = RequestId { client, sequence };
                self.log.push(Envelope { id, command });
            }
            Action::Propose(_) | Action::Warn(_) | Action::Restart(_) => {}
            Action::AnswerHeartbeat(answer) => {
                let to = answer.process.node;
                self.send(Message::Answer(manager, to, answer));
            }
            Action::Seal(request) => self.send(Message::Seal(manager, request)),
            Action::HandOver(request) => self.send(Message::HandOver(manager, request)),
        }
    }

    fn send(&mut self, message: Message) {
        let times = if self.rng.percent(self.loss) {
            self.rng.below(3)
        } else {
            1
        };
        for _ in 0..times {
            let delay = Duration::from_millis(self.rng.below(self.delay_ms + 1));
            let tie = self.rng.next();
            self.wires.push((self.now + delay, tie, message.clone()));
        }
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.now = self.now + Duration::from_millis(STEP_MS);
        if self.leader.is_none() && self.now >= self.elect_at {
            let next = self.rng.below(self.managers.len() as u64) as usize;
            self.elect(next);
        }
        self.managers_turn();
        let due: Vec<NodeId> = self.nodes.keys().copied().collect();
        due.iter().for_each(|n| self.node_turn(*n));
        self.replicate();
        self.deliver();
        self.check_leases();
    }

    fn managers_turn(&mut self) {
        let wall_ms = WALL_MS + self.now.0 / 1_000;
        for manager in 0..self.managers.len() {
            if self.leader == Some(manager) {
                self.apply_own_term(manager);
                let sent = self.now - Duration::from_millis(self.rng.below(20));
                self.input(manager, Input::QuorumAcked { sent });
                self.input(manager, Input::TablesChanged);
            }
            // A deposed leader learns of it late.
            let deposed = self.leader.is_some() && self.leader != Some(manager);
            if deposed && self.rng.percent(1) {
                self.managers[manager].cut = false;
                let leader = self.leader.map(|l| NodeId(l as u64));
                self.input(manager, Input::SteppedDown { leader });
            }
            self.input(manager, Input::Tick { wall_ms });
        }
        if let Some(leader) = self.leader {
            for (_, report) in std::mem::take(&mut self.exits) {
                self.input(leader, Input::ExitReport(report));
            }
            let tables = &self.managers[leader].tables;
            let found = faults(tables);
            assert!(found.is_empty(), "{found:?}");
        }
    }

    fn apply_own_term(&mut self, manager: usize) {
        let waits = self.own_term_at.is_some_and(|at| self.now < at);
        if waits {
            return;
        }
        self.deliver_log(manager);
        if self.own_term_at.take().is_some() {
            let term = self.term;
            self.input(manager, Input::OwnTermApplied { term });
        }
    }

    pub fn local(&self, node: &Node) -> Instant {
        Instant(self.now.0 * node.rate / 1_000)
    }

    fn node_turn(&mut self, id: NodeId) {
        let Some(mut node) = self.nodes.remove(&id) else {
            return;
        };
        if node.up {
            if !node.cut && !node.deaf {
                self.read_tables(&mut node);
            }
            let now = self.local(&node);
            let wall = WALL_MS + self.now.0 / 1_000;
            if let Some((manager, request)) = node.control.next_heartbeat(now, wall, true)
                && !node.cut
            {
                self.send(Message::Heartbeat(manager.0 as usize, request));
            }
        }
        self.nodes.insert(id, node);
    }

    /// What a node does with the rows that it watches.
    fn read_tables(&mut self, node: &mut Node) {
        let me = node.process;
        let tables = match self.leader {
            Some(leader) => &self.managers[leader].tables,
            None => return,
        };
        for (shard, entry) in tables.shards() {
            if entry.names(me.copy()) {
                node.copies.entry(*shard).or_insert(Copy {
                    last: Pair::ZERO,
                    promised: Epoch::ZERO,
                    followed: Epoch::ZERO,
                    orphans: 0,
                });
            }
            let Some(copy) = node.copies.get_mut(shard) else {
                continue;
            };
            let fresh = node
                .started_with
                .get(shard)
                .is_none_or(|p| entry.epoch >= *p);
            if entry.primary == Some(me) && entry.epoch >= copy.promised && fresh {
                if node.acting.insert(*shard, entry.epoch) != Some(entry.epoch) {
                    copy.promised = entry.epoch;
                    copy.followed = entry.epoch;
                    copy.orphans = 0;
                    copy.last = Pair {
                        epoch: entry.epoch,
                        version: copy.last.version.next(),
                    };
                    node.control.claim(*shard, entry.epoch);
                    node.control.report(report(*shard, copy));
                }
            } else if entry.primary != Some(me) && node.acting.remove(shard).is_some() {
                node.control.give_up(*shard);
            }
        }
    }

    /// Copies follow their primary, where both are reached.
    fn replicate(&mut self) {
        let acting: Vec<(NodeId, ShardId, Epoch)> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.up && !n.cut)
            .flat_map(|(id, n)| n.acting.iter().map(|(s, e)| (*id, *s, *e)))
            .collect();
        for (id, shard, epoch) in acting {
            let node = &self.nodes[&id];
            let now = self.local(node);
            if !node.control.holds(shard, epoch, now) {
                continue;
            }
            let grow = self.rng.percent(30);
            let node = self.nodes.get_mut(&id).unwrap();
            let copy = node.copies.get_mut(&shard).unwrap();
            if grow && copy.promised == epoch {
                copy.last.version = copy.last.version.next();
                let report = report(shard, copy);
                node.control.report(report);
            }
            let source = *copy;
            self.follow(id, shard, epoch, source);
        }
    }

    fn follow(&mut self, primary: NodeId, shard: ShardId, epoch: Epoch, source: Copy) {
        let Some(leader) = self.leader else { return };
        let Some(entry) = self.managers[leader].tables.shard(shard).cloned() else {
            return;
        };
        let mut complete = Vec::new();
        for copy_id in entry.copies().filter(|c| c.node != primary) {
            let slow = self.rng.percent(50);
            let Some(node) = self.nodes.get_mut(&copy_id.node) else {
                continue;
            };
            if !node.up || node.cut || slow || node.store != copy_id.store {
                continue;
            }
            let Some(copy) = node.copies.get_mut(&shard) else {
                continue;
            };
            if copy.promised > epoch || entry.epoch != epoch {
                continue;
            }
            if copy.followed < epoch {
                copy.orphans = u64::from(copy.last.epoch < epoch && copy.followed > Epoch::ZERO);
            } else {
                copy.orphans = 0;
            }
            *copy = Copy {
                last: source.last,
                promised: epoch,
                followed: epoch,
                orphans: copy.orphans,
            };
            node.control.report(report(shard, copy));
            if entry.joining.contains(&copy_id) && !entry.leaving.contains(&copy_id) {
                complete.push(copy_id);
            }
        }
        let node = self.nodes.get_mut(&primary).unwrap();
        for copy in complete {
            node.control.ask(Ask::Complete { shard, epoch, copy });
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let mut due: Vec<_> = Vec::new();
        self.wires.retain(|(at, tie, message)| {
            let ready = *at <= now;
            if ready {
                due.push((*at, *tie, message.clone()));
            }
            !ready
        });
        due.sort_by_key(|(at, tie, _)| (*at, *tie));
        for (_, _, message) in due {
            self.receive(message);
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Heartbeat(manager, request) => {
                self.input(manager, Input::Heartbeat(request));
            }
            Message::SealAnswer(manager, answer) => {
                self.input(manager, Input::SealAnswer(answer));
            }
            Message::HandOverAnswer(manager, answer) => {
                self.input(manager, Input::HandOverAnswer(answer));
            }
            Message::Answer(manager, to, answer) => {
                let Some(mut node) = self.nodes.remove(&to) else {
                    return;
                };
                if node.up && !node.cut {
                    let now = self.local(&node);
                    let answered = node.control.on_answer(now, NodeId(manager as u64), answer);
                    self.delete(&mut node, answered.deletable);
                }
                self.nodes.insert(to, node);
            }
            Message::Seal(manager, request) => self.on_seal(manager, request),
            Message::HandOver(manager, request) => self.on_hand_over(manager, request),
        }
    }

    fn delete(&mut self, node: &mut Node, deletable: Vec<(ShardId, Revision)>) {
        let Some(leader) = self.leader else { return };
        for (shard, revision) in deletable {
            let entry = self.managers[leader].tables.shard(shard);
            let newer =
                entry.is_some_and(|e| e.revision > revision || e.names(node.process.copy()));
            if newer || node.copies.remove(&shard).is_none() {
                continue;
            }
            node.control.report(CopyReport {
                shard,
                present: false,
                last: Pair::ZERO,
                promised: Epoch::ZERO,
                followed: Epoch::ZERO,
                orphans: 0,
            });
        }
    }

    fn reached(&mut self, process: ProcessId) -> Option<&mut Node> {
        let node = self.nodes.get_mut(&process.node)?;
        (node.up && !node.cut && !node.deaf && node.process == process).then_some(node)
    }

    fn on_seal(&mut self, manager: usize, request: SealRequest) {
        let Some(node) = self.reached(request.to) else {
            return;
        };
        let mut seals = Vec::new();
        for seal in request.seals {
            let outcome = match node.copies.get_mut(&seal.shard) {
                None => SealOutcome::NoCopy,
                Some(copy) if copy.promised > seal.epoch => SealOutcome::PromisedHigher {
                    epoch: copy.promised,
                },
                Some(copy) if copy.last.epoch >= seal.epoch => continue,
                Some(copy) => {
                    copy.promised = seal.epoch;
                    let report = report(seal.shard, copy);
                    let last = copy.last;
                    node.acting.remove(&seal.shard);
                    node.control.give_up(seal.shard);
                    node.control.report(report);
                    SealOutcome::Sealed { last }
                }
            };
            seals.push((seal.claim(), outcome));
        }
        let from = request.to;
        self.send(Message::SealAnswer(manager, SealAnswer { from, seals }));
    }

    fn on_hand_over(&mut self, manager: usize, request: HandOverRequest) {
        let mut hand_overs = Vec::new();
        for h in request.hand_overs {
            let target = self.nodes.get(&h.target.node);
            let can = target.filter(|t| t.up && !t.cut).is_some();
            let Some(node) = self.reached(request.to) else {
                return;
            };
            let acting = node.acting.get(&h.shard) == Some(&h.epoch);
            let Some(copy) = node.copies.get_mut(&h.shard) else {
                continue;
            };
            let again = copy.promised == h.new_epoch && copy.last.epoch == h.epoch;
            let ready = can && acting;
            if !(again || ready) {
                hand_overs.push((h, HandOverOutcome::Failed));
                continue;
            }
            copy.promised = h.new_epoch;
            let (last, followed) = (copy.last, copy.followed);
            node.acting.remove(&h.shard);
            node.control.give_up(h.shard);
            node.control.report(report(h.shard, &node.copies[&h.shard]));
            if !again
                && let Some(other) = self.nodes.get_mut(&h.target.node)
                && let Some(other) = other.copies.get_mut(&h.shard)
                && other.promised <= h.epoch
            {
                (other.last, other.followed, other.promised) = (last, followed, h.epoch);
            }
            hand_overs.push((h, HandOverOutcome::Promised { last }));
        }
        let from = request.to;
        let answer = HandOverAnswer { from, hand_overs };
        self.send(Message::HandOverAnswer(manager, answer));
    }

    /// I2: no two processes hold a lease for a shard at once. A process that promised more acts no longer.
    fn check_leases(&self) {
        let mut holders: BTreeMap<ShardId, Vec<(ProcessId, Epoch)>> = BTreeMap::new();
        for node in self.nodes.values().filter(|n| n.up) {
            let now = self.local(node);
            for (shard, epoch) in &node.acting {
                if node.control.holds(*shard, *epoch, now) {
                    let of = holders.entry(*shard).or_default();
                    of.push((node.process, *epoch));
                }
            }
        }
        for (shard, of) in holders {
            assert!(
                of.len() <= 1,
                "I2 at {:?}: shard {shard} has {of:?}",
                self.now
            );
        }
    }

    pub fn holder(&self, shard: ShardId) -> Option<NodeId> {
        let holds = |n: &&Node| {
            let now = self.local(n);
            let epoch = n.acting.get(&shard);
            n.up && epoch.is_some_and(|e| n.control.holds(shard, *e, now))
        };
        self.nodes.values().find(holds).map(|n| n.process.node)
    }

    /// What is not as it should be long after the faults stopped (I13).
    pub fn unfinished(&mut self) -> Vec<String> {
        let shards: Vec<(ShardId, ShardEntry)> = {
            let tables = self.tables();
            tables
                .shards()
                .iter()
                .map(|(s, e)| (*s, e.clone()))
                .collect()
        };
        let mut list = Vec::new();
        for (shard, entry) in shards {
            let tables = &self.managers[0].tables;
            let wanted = tables.namespace(entry.namespace).unwrap().settings.copies as usize;
            let mut say = |wrong: bool, what: &str| {
                if wrong {
                    list.push(format!("shard {shard}: {what}: {entry:?}"));
                }
            };
            say(self.holder(shard).is_none(), "no primary with a lease");
            say(entry.begun.is_some(), "a failover is not finished");
            say(!entry.open_cuts.is_empty(), "a cut is open");
            say(!entry.joining.is_empty(), "a copy joins for ever");
            say(
                entry.secondaries.len() + 1 != wanted,
                "the number of copies",
            );
        }
        let mut named: BTreeSet<(ShardId, NodeId)> = BTreeSet::new();
        for (shard, entry) in self.managers[0].tables.shards() {
            named.extend(entry.copies().map(|c| (*shard, c.node)));
        }
        for (id, node) in &self.nodes {
            let strays = node.copies.keys().filter(|s| !named.contains(&(**s, *id)));
            list.extend(strays.map(|s| format!("node {id} keeps a stray copy of {s}")));
        }
        list
    }

    /// A cluster of that many nodes with one namespace, served.
    pub fn served(seed: u64, managers: usize, nodes: u64, shards: u32) -> World {
        let mut world = World::new(seed, managers);
        world
            .command(Command::Found {
                cluster: ClusterId(7),
            })
            .unwrap();
        for n in 0..nodes {
            let rate = 997 + world.rng.below(7);
            world.add_node(&format!("n{n}"), "", rate);
        }
        let settings = NamespaceSettings::default();
        let name = "main".to_string();
        world
            .command(Command::CreateNamespace {
                name,
                shards,
                settings,
            })
            .unwrap();
        world.run(3_000);
        assert_eq!(world.unfinished(), Vec::<String>::new());
        world
    }
}

fn report(shard: ShardId, copy: &Copy) -> CopyReport {
    CopyReport {
        shard,
        present: true,
        last: copy.last,
        promised: copy.promised,
        followed: copy.followed,
        orphans: copy.orphans,
    }
}
