//! The writer: order, one report to each submitter of a round, full and failed disks, probes, and the bound of its queue.

use crate::world::{Disk, SHARD, Store, batch, puts, submitter};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use understudy_node::storage::{Hook, Report, Stage, State, WriteFailure};
use understudy_proto::ShardId;
use understudy_proto::failure::Reason;
use understudy_protocol::store::{Batch, StoreChange, Stored};
use understudy_protocol::testing::History;

/// Holds the writer at the beginning of each round until it is let go, and makes writes fail.
#[derive(Default)]
struct Gate {
    inner: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    /// Rounds that came to the gate.
    arrived: u64,
    failure: Option<(Stage, WriteFailure)>,
}

impl Gate {
    fn set(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.inner.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until so many rounds came.
    fn wait_arrived(&self, count: u64) {
        let state = self.inner.lock().unwrap();
        let not_yet = |state: &mut GateState| state.arrived < count;
        let waited = self
            .changed
            .wait_timeout_while(state, Duration::from_secs(30), not_yet);
        assert!(!waited.unwrap().1.timed_out(), "the writer takes a round");
    }

    fn pass(&self, stage: Stage) -> Result<(), WriteFailure> {
        let mut state = self.inner.lock().unwrap();
        if stage == Stage::Taken {
            state.arrived += 1;
            self.changed.notify_all();
            state = self.changed.wait_while(state, |s| s.closed).unwrap();
        }
        match &state.failure {
            Some((at, failure)) if *at == stage => Err(failure.clone()),
            _ => Ok(()),
        }
    }
}

fn gated() -> (Arc<Gate>, Disk) {
    let gate = Arc::new(Gate::default());
    let of_hook = gate.clone();
    let hook: Hook = Arc::new(move |stage| of_hook.pass(stage));
    let disk = Disk::with_hook(tempfile::tempdir().unwrap(), hook);
    (gate, disk)
}

fn failure(reason: Reason) -> WriteFailure {
    WriteFailure {
        reason,
        message: "as asked".into(),
    }
}

#[test]
fn what_waits_shares_a_round_and_each_submitter_gets_one_report() {
    let (gate, disk) = gated();
    let (other, other_reports) = submitter(&disk.node.writer);
    gate.set(|g| g.closed = true);
    let probe = batch(ShardId(99), 1, vec![]);
    disk.submit(probe);
    gate.wait_arrived(1);
    for shard in 1..=3 {
        let by = if shard == 3 {
            &other
        } else {
            &disk.node.submitter
        };
        by.submit(puts(ShardId(shard), 4).1).unwrap();
    }
    gate.set(|g| g.closed = false);
    assert_eq!(
        disk.node.report(),
        Report::Persisted(vec![(ShardId(99), 1)])
    );
    let both = vec![(ShardId(1), 5), (ShardId(2), 5)];
    assert_eq!(disk.node.report(), Report::Persisted(both));
    let third = other_reports.recv_timeout(Duration::from_secs(30));
    assert_eq!(third, Ok(Report::Persisted(vec![(ShardId(3), 5)])));
    let progress = disk.node.writer.progress();
    assert_eq!(progress.rounds.load(Relaxed), 2);
    assert_eq!(progress.batches.load(Relaxed), 16);
    assert_eq!(progress.records.load(Relaxed), 15);
    assert!(progress.last_synced().is_some());
}

#[test]
fn what_is_reported_is_readable_and_in_order() {
    let disk = Disk::new();
    let (history, batches) = puts(SHARD, 200);
    for batch in batches {
        disk.submit(batch);
    }
    let mut seen = 0;
    while seen < 201 {
        let Report::Persisted(list) = disk.node.report() else {
            panic!("only writes are reported");
        };
        let (_, number) = list[0];
        assert!(number > seen);
        seen = number;
        let record = disk.database.record(SHARD, 0, seen.into()).unwrap();
        assert_eq!(record.as_ref(), history.records.get(seen as usize - 1));
    }
}

#[test]
fn a_round_is_bounded_and_a_submitter_hears_of_room() {
    let (gate, disk) = gated();
    let mut history = History::new(SHARD);
    let mut number = 1;
    let mut next = |changes: Vec<StoreChange>| {
        number += 1;
        batch(SHARD, number - 1, changes)
    };
    gate.set(|g| g.closed = true);
    disk.submit(next(history.start_epoch()));
    gate.wait_arrived(1);
    assert!(disk.node.submitter.has_room());
    while disk.node.submitter.has_room() {
        let value = vec![7; 1 << 20];
        disk.submit(next(history.put("large", value)));
    }
    gate.set(|g| g.closed = false);
    let mut room = 0;
    let mut rounds = 0;
    loop {
        match disk.node.report() {
            Report::Room => room += 1,
            Report::Persisted(list) => {
                rounds += 1;
                if list[0].1 == number - 1 {
                    break;
                }
            }
            Report::State(_) => {}
        }
    }
    assert!(rounds >= 3, "64 MiB of large values in rounds of 32 MiB");
    assert!(room == 1 && disk.node.submitter.has_room());
}

#[test]
fn a_full_disk_is_tried_again_in_the_same_order() {
    let (gate, mut disk) = gated();
    let (history, batches) = puts(SHARD, 3);
    gate.set(|g| g.failure = Some((Stage::Taken, failure(Reason::StorageFull))));
    for batch in batches {
        disk.submit(batch);
    }
    disk.node.wait_for(&State::Full);
    assert_eq!(disk.database.open_shard(SHARD).unwrap().last, None);
    // Its progress is told by probes all the same.
    let before = disk.node.writer.progress().syncs.load(Relaxed);
    disk.node.writer.probe();
    let synced = || disk.node.writer.progress().syncs.load(Relaxed) > before;
    assert!(eventually(synced), "a probe is written while a round waits");
    gate.set(|g| g.failure = None);
    disk.node.wait_for(&State::Writing);
    disk.node.wait_persisted(SHARD, 4);
    let saved = disk.open_shard(SHARD).unwrap();
    assert_eq!(saved.last, history.records.last().cloned());
}

// capability B06
#[test]
fn after_a_failed_write_nothing_is_reported_any_more_and_reads_go_on() {
    for (stage, landed) in [(Stage::Writing, false), (Stage::Written, true)] {
        for reason in [Reason::StorageFailed, Reason::StorageCorrupt] {
            let (gate, disk) = gated();
            let (_, mut batches) = puts(SHARD, 3);
            disk.submit(batches.remove(0));
            disk.node.wait_persisted(SHARD, 1);
            gate.set(|g| {
                g.closed = true;
                g.failure = Some((stage, failure(reason)));
            });
            disk.submit(batches.remove(0));
            gate.wait_arrived(2);
            disk.submit(batches.remove(0));
            gate.set(|g| g.closed = false);
            let failed = State::Failed(failure(reason));
            assert_eq!(disk.node.report(), Report::State(failed.clone()));
            gate.set(|g| g.failure = None);
            let refused = disk.node.submitter.submit(batches);
            assert_eq!(refused, Err(failure(reason)));
            assert_eq!(disk.node.writer.state(), failed);
            let (_later, reports) = submitter(&disk.node.writer);
            assert_eq!(reports.try_recv(), Ok(Report::State(failed)));
            assert_eq!(disk.database.object(SHARD, 0, b"k2"), Ok(None));
            // The failed write itself may have landed: what was not acknowledged may be found.
            let found = disk.database.object(SHARD, 0, b"k1").unwrap().is_some();
            assert_eq!(found, landed);
        }
    }
}

#[test]
fn a_probe_is_a_synced_write_of_its_own_when_nothing_waits() {
    let disk = Disk::new();
    assert_eq!(disk.node.writer.progress().last_synced(), None);
    disk.node.writer.probe();
    let progress = disk.node.writer.progress();
    assert!(eventually(|| progress.last_synced().is_some()));
    assert_eq!(progress.rounds.load(Relaxed), 0);
    assert_eq!(disk.database.shards(), Ok(vec![]));
}

#[test]
fn what_waits_is_written_before_the_writer_ends_and_nothing_is_taken_after() {
    let (gate, disk) = gated();
    gate.set(|g| g.closed = true);
    let (history, batches) = puts(SHARD, 50);
    disk.node.submitter.submit(batches).unwrap();
    let submitter = disk.node.submitter.clone();
    gate.set(|g| g.closed = false);
    let Disk { node, database, .. } = disk;
    drop(node.writer);
    let last = database.open_shard(SHARD).unwrap().last;
    assert_eq!(last, history.records.last().cloned());
    let late: Vec<Batch> = vec![batch(SHARD, 99, vec![])];
    assert!(submitter.submit(late).is_err());
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
