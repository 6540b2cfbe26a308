//! What a process claims, asks and reports for its copies, and who is meant by a hand-over (`copies`).

use understudy_proto::{
    ClientId, CopyId, Epoch, Incarnation, NamespaceId, NodeId, Pair, ProcessId, RequestId,
    Revision, Sequence, ShardId, StoreId,
};
use understudy_protocol::control::message::{self, Ask};
use understudy_protocol::copies::{Copies, Notice, Out};
use understudy_protocol::effect::{Assignment, Caller, Context, Effect, Input, Lease, Unbounded};
use understudy_protocol::forwarded::Forwarded;
use understudy_protocol::request::{Op, Request};
use understudy_protocol::shard::Settings;
use understudy_protocol::shard::message::{Message, Subscribe};
use understudy_protocol::store::{StoreError, Stored};
use understudy_protocol::tables::Forward;
use understudy_protocol::testing::{KnownClients, MemoryStore};
use understudy_protocol::time::{Duration, Instant};

const SHARD: ShardId = ShardId(7);

struct Always;

impl Lease for Always {
    fn holds(&self, _: ShardId, _: Epoch, _: Instant) -> bool {
        true
    }
}

/// A process with its disk, on which all is durable at once.
struct Process {
    copies: Copies,
    store: MemoryStore,
    now: Instant,
    batches: usize,
    clients: KnownClients,
    /// Records that were sent, of any form.
    sent: Vec<Forwarded>,
}

fn process(node: u64, incarnation: u64) -> ProcessId {
    ProcessId {
        node: NodeId(node),
        store: StoreId(u128::from(node)),
        incarnation: Incarnation(incarnation),
    }
}

fn row(revision: u64, epoch: u64, primary: ProcessId, secondaries: &[CopyId]) -> Assignment {
    Assignment {
        revision: Revision(revision),
        epoch: Epoch(epoch),
        primary: Some(primary),
        secondaries: secondaries.to_vec(),
        joining: Vec::new(),
        oldest_open_cut: None,
        open_cut_lists_me: false,
        in_sync: None,
        witnesses: Default::default(),
        forced: None,
    }
}

impl Process {
    fn new(id: ProcessId) -> Process {
        let settings = Settings {
            interval: Duration::from_millis(100),
            log_bytes: 1 << 20,
            delta_records_min: 2,
            delta_walks_max: 1,
            log_age: Duration::from_millis(1_000),
        };
        Process {
            copies: Copies::new(id, settings),
            store: MemoryStore::new(),
            now: Instant(1_000_000),
            batches: 0,
            clients: KnownClients::default(),
            sent: Vec::new(),
        }
    }

    fn assign(&mut self, row: Assignment) -> Vec<Notice> {
        self.assign_of(SHARD, row)
    }

    fn assign_of(&mut self, shard: ShardId, row: Assignment) -> Vec<Notice> {
        if self.copies.lacks(shard, &row) {
            let saved = self.store.open_shard(shard).unwrap();
            self.copies.open(shard, saved, self.now);
        }
        self.step_of(shard, Input::Assignment(row))
    }

    fn step(&mut self, input: Input) -> Vec<Notice> {
        self.step_of(SHARD, input)
    }

    fn step_of(&mut self, shard: ShardId, input: Input) -> Vec<Notice> {
        let context = Context {
            now: self.now,
            wall_ms: 0,
            stored: &self.store,
            lease: &Always,
            clients: &self.clients,
            pace: &Unbounded,
        };
        let mut out = Out::default();
        self.copies.step(&context, shard, input, &mut out);
        let mut notices = out.notices;
        for effect in out.effects {
            if let Effect::Send {
                message: Message::Records(records),
                ..
            } = effect
            {
                self.sent.extend(records.records);
            } else if let Effect::Persist(batch) = effect {
                let number = batch.number;
                self.batches += 1;
                self.store.write(batch).unwrap();
                self.store.sync();
                notices.extend(self.step_of(shard, Input::Persisted { number }));
            }
        }
        notices
    }

    fn reported(&mut self) -> Vec<bool> {
        let mut notices = Vec::new();
        self.copies.reports(&mut notices);
        let present = |notice: &Notice| match notice {
            Notice::Report(report) => Some(report.present),
            _ => None,
        };
        notices.iter().filter_map(present).collect()
    }
}

#[test]
fn a_row_opens_a_copy_only_where_it_names_one() {
    let mut process1 = Process::new(process(1, 1));
    let elsewhere = row(1, 1, process(2, 1), &[process(3, 1).copy()]);
    assert!(!process1.copies.lacks(SHARD, &elsewhere));
    process1.assign(elsewhere);
    assert!(process1.copies.get(SHARD).is_none());
    let here = row(2, 1, process(2, 1), &[process(1, 1).copy()]);
    assert!(process1.copies.lacks(SHARD, &here));
    process1.assign(here.clone());
    assert!(!process1.copies.lacks(SHARD, &here));
}

#[test]
fn it_claims_what_it_acts_as_and_gives_up_what_it_was_sealed_for() {
    let me = process(1, 1);
    let mut primary = Process::new(me);
    let notices = primary.assign(row(1, 4, me, &[]));
    assert_eq!(notices[0], Notice::Claim(SHARD, Epoch(4)));
    assert_eq!(primary.copies.claim(SHARD), Some(Epoch(4)));
    let sealed = primary.step(Input::Seal {
        caller: Caller(1),
        epoch: Epoch(5),
        hand_over: None,
        grace: None,
    });
    assert_eq!(sealed, vec![Notice::GiveUp(SHARD)]);
    assert_eq!(primary.copies.claim(SHARD), None);
}

#[test]
fn a_wish_is_told_once_and_withdrawn_by_the_next_row() {
    let (before, now) = (process(1, 1), process(1, 2));
    let mut restarted = Process::new(now);
    restarted.assign(row(1, 4, before, &[]));
    let ask = Ask::NewEpoch {
        shard: SHARD,
        epoch: Epoch(4),
        at_least: Epoch(5),
    };
    let mut asked = restarted.step(Input::Tick);
    restarted.now = restarted.now + Duration::from_millis(300);
    asked.extend(restarted.step(Input::Tick));
    assert_eq!(asked, vec![Notice::Ask(ask)]);
    // An old row answers nothing.
    assert_eq!(restarted.assign(row(1, 4, before, &[])), vec![]);
    let notices = restarted.assign(row(2, 5, now, &[]));
    assert_eq!(
        notices,
        vec![Notice::Withdraw(ask), Notice::Claim(SHARD, Epoch(5))]
    );
}

#[test]
fn a_copy_that_was_deleted_is_reported_as_gone_and_deleted_once() {
    let (me, other) = (process(1, 1), process(2, 1));
    let mut deleted = Process::new(me);
    deleted.assign(row(1, 4, me, &[]));
    assert_eq!(deleted.reported(), vec![true]);
    assert!(deleted.copies.get(SHARD).unwrap().report().durable > Pair::ZERO);
    deleted.assign(row(2, 5, other, &[]));
    assert_eq!(deleted.reported(), vec![true]);
    let revision = Revision(2);
    deleted.step(Input::Delete { revision });
    assert_eq!(deleted.reported(), vec![false]);
    // The managers' answer was on its way twice.
    let batches = deleted.batches;
    deleted.step(Input::Delete { revision });
    assert_eq!(deleted.batches, batches);
    // What it promised outlives the copy.
    assert_eq!(
        deleted.copies.get(SHARD).unwrap().report().promise,
        Epoch(5)
    );
    // And it may be placed here again.
    deleted.assign(row(3, 6, me, &[]));
    assert_eq!(deleted.reported(), vec![true]);
    assert_eq!(deleted.copies.claim(SHARD), Some(Epoch(6)));
}

#[test]
fn a_copy_that_an_open_cut_lists_is_reported_though_it_holds_nothing() {
    let mut empty = Process::new(process(1, 1));
    let named = row(1, 4, process(2, 1), &[process(1, 1).copy()]);
    empty.assign(named);
    let listed = Assignment {
        open_cut_lists_me: true,
        oldest_open_cut: Some(Pair::ZERO),
        ..row(2, 5, process(2, 1), &[])
    };
    empty.assign(listed.clone());
    assert_eq!(empty.reported(), vec![true]);
    // So is one that is not even open: the cut waits for what it has to tell.
    let mut restarted = Process::new(process(1, 2));
    restarted.assign(listed);
    assert_eq!(restarted.reported(), vec![true]);
    empty.assign(row(3, 5, process(2, 1), &[]));
    assert_eq!(empty.reported(), vec![false]);
}

#[test]
fn the_copies_of_a_deleted_shard_are_let_go() {
    let me = process(1, 1);
    let mut primary = Process::new(me);
    primary.assign(row(1, 4, me, &[]));
    let notices = primary.assign(Assignment::of_nobody(Revision(2)));
    assert_eq!(notices, vec![Notice::GiveUp(SHARD)]);
    assert_eq!(primary.reported(), vec![true]);
    // The managers' revision may be older than what this process has seen.
    primary.step(Input::Delete {
        revision: Revision(1),
    });
    assert_eq!(primary.reported(), vec![false]);
}

#[test]
fn a_broken_primary_asks_that_another_copy_takes_over() {
    let (me, other) = (process(1, 1), process(2, 1));
    let mut broken = Process::new(me);
    broken.assign(row(1, 4, me, &[other.copy()]));
    broken
        .store
        .fail_reads(Some(StoreError::Corrupt("object k".to_string())));
    let id = RequestId {
        client: ClientId(9),
        sequence: Sequence(1),
    };
    let put = Op::Put {
        key: "k".into(),
        value: "v".into(),
    };
    let request = Request::new(id, NamespaceId(1), vec![put], vec![], Sequence(0));
    let notices = broken.step(Input::Write {
        caller: Caller(1),
        request,
        copies: 0,
        deadline: Instant(9_000_000),
    });
    assert_eq!(notices, vec![Notice::GiveUp(SHARD)]);
    broken.now = broken.now + Duration::from_millis(300);
    let ask = Ask::NewEpoch {
        shard: SHARD,
        epoch: Epoch(4),
        at_least: Epoch(5),
    };
    assert_eq!(broken.step(Input::Tick), vec![Notice::Ask(ask)]);
    // Sealed for the failover, it tells that it has no complete copy.
    let sealed = broken.step(Input::Seal {
        caller: Caller(2),
        epoch: Epoch(5),
        hand_over: None,
        grace: None,
    });
    assert_eq!(sealed, vec![]);
    assert_eq!(broken.copies.get(SHARD).unwrap().report().promise, Epoch(5));
    assert!(!broken.copies.get(SHARD).unwrap().report().complete);
    broken.assign(row(2, 5, other, &[me.copy()]));
    broken.now = broken.now + Duration::from_millis(300);
    assert_eq!(broken.step(Input::Tick), vec![]);
}

#[test]
fn only_the_primary_of_that_epoch_is_meant_by_a_hand_over() {
    let (me, other) = (process(1, 1), process(2, 1));
    let wanted = message::HandOver {
        shard: SHARD,
        epoch: Epoch(4),
        new_epoch: Epoch(5),
        target: other.copy(),
    };
    let meant = |process: &Process| {
        let input = process.copies.hand_over(&wanted, Caller(1), Instant(9));
        input.map(|input| match input {
            Input::Seal { hand_over, .. } => hand_over.is_some(),
            other => panic!("not a seal: {other:?}"),
        })
    };
    let mut secondary = Process::new(me);
    assert_eq!(meant(&secondary), None);
    secondary.assign(row(1, 4, other, &[me.copy()]));
    assert_eq!(meant(&secondary), None);
    let mut primary = Process::new(me);
    primary.assign(row(1, 4, me, &[other.copy()]));
    assert_eq!(meant(&primary), Some(true));
    // Asked again after its promise, it only tells it again.
    primary.step(Input::Seal {
        caller: Caller(1),
        epoch: Epoch(5),
        hand_over: None,
        grace: None,
    });
    assert_eq!(meant(&primary), Some(false));
}

// capability P30
#[test]
fn updates_are_counted_by_site_only_where_and_while_it_acts_as_primary() {
    let me = process(1, 1);
    let mut primary = Process::new(me);
    let write = |process: &mut Process, site: &str| {
        (0..20).for_each(|_| process.copies.wrote(SHARD, site, process.now));
        process.now = process.now + Duration::from_millis(1_000);
        process.copies.writers(process.now)
    };
    assert!(write(&mut primary, "eu").is_empty(), "no copy");
    primary.assign(row(1, 4, me, &[process(2, 1).copy()]));
    let told = write(&mut primary, "eu");
    assert_eq!((told[0].shard, told[0].epoch), (SHARD, Epoch(4)));
    assert_eq!(told[0].sites, [("eu".to_string(), 250)].into());
    let told = write(&mut primary, "us");
    let both = [("eu".to_string(), 187), ("us".to_string(), 250)];
    assert_eq!(told[0].sites, both.into());
    // Another epoch begins anew, and a secondary counts nothing.
    primary.assign(row(2, 5, me, &[process(2, 1).copy()]));
    let told = write(&mut primary, "us");
    assert_eq!(told[0].epoch, Epoch(5));
    assert_eq!(told[0].sites, [("us".to_string(), 250)].into());
    primary.assign(row(3, 6, process(2, 1), &[me.copy()]));
    assert!(write(&mut primary, "us").is_empty());
}

impl Process {
    /// A request of the same client each time.
    fn write(&mut self, shard: ShardId, sequence: u64, ops: Vec<Op>) {
        let id = RequestId {
            client: ClientId(9),
            sequence: Sequence(sequence),
        };
        let request = Request::new(id, NamespaceId(1), ops, vec![], Sequence(0));
        self.step_of(
            shard,
            Input::Write {
                caller: Caller(sequence),
                request,
                copies: 0,
                deadline: Instant(9_000_000),
            },
        );
    }

    /// A copy whose log ends with the epoch's start subscribes.
    fn subscribe(&mut self, shard: ShardId, copy: CopyId, stream: u64, delta: bool) {
        let start = Pair::new(4, 1);
        let generation = self.copies.get(shard).unwrap().log_view().generation;
        let record = self.store.record(shard, generation, start.version);
        let message = Message::Subscribe(Subscribe {
            epoch: Epoch(4),
            stream,
            copy,
            position: start,
            checksum: record.unwrap().unwrap().checksum,
            epoch_starts: vec![start],
            credit: 500_000,
            copying: None,
            base: Pair::ZERO,
            delta_since: delta.then_some(start),
            whole: false,
        });
        let from = copy.node;
        self.step_of(shard, Input::Message { from, message });
    }
}

fn put(value: usize) -> Op {
    Op::Put {
        key: "k".into(),
        value: vec![b'v'; value].into(),
    }
}

/// What is sent may be small; what the copy holds until its disk has it are records.
#[test]
fn the_credit_bounds_records_whatever_is_sent_of_them() {
    let (me, copy) = (process(1, 1), process(2, 1).copy());
    let mut primary = Process::new(me);
    primary.clients.forward = Forward::Operation;
    primary.assign(row(1, 4, me, &[copy]));
    primary.write(SHARD, 1, vec![put(200_000)]);
    for sequence in 2..=30 {
        let get = Op::Get { key: "k".into() };
        primary.write(SHARD, sequence, vec![get]);
    }
    primary.subscribe(SHARD, copy, 1, false);
    let short = |sent: &&Forwarded| matches!(sent, Forwarded::Operation(_));
    let shorts = primary.sent.iter().filter(short).count();
    assert!(shorts > 1, "{shorts} operations");
    assert!(primary.sent.len() < 10, "{} records", primary.sent.len());
}

/// Bounded for all copies that one driver steps: what a walk remembers is memory, and its steps are their time.
#[test]
fn deltas_of_other_shards_count_too() {
    let (me, joins) = (process(1, 1), process(2, 1).copy());
    let mut primary = Process::new(me);
    let with = |revision, joining: &[CopyId]| Assignment {
        joining: joining.to_vec(),
        ..row(revision, 4, me, &[process(3, 1).copy()])
    };
    let shards = [ShardId(7), ShardId(8)];
    for shard in shards {
        primary.assign_of(shard, with(1, &[joins]));
        for sequence in 1..=4 {
            primary.write(shard, sequence, vec![put(500)]);
        }
    }
    let walks = |primary: &Process| shards.map(|shard| primary.copies.get(shard).unwrap().walks());
    primary.subscribe(shards[0], joins, 1, true);
    primary.subscribe(shards[1], joins, 1, true);
    assert_eq!(walks(&primary), [1, 0], "the other one is to ask again");
    // The copy is named no more, so there is room.
    primary.assign_of(shards[0], with(2, &[]));
    primary.subscribe(shards[1], joins, 2, true);
    assert_eq!(walks(&primary), [0, 1]);
}
