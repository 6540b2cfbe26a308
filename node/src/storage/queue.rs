//! What waits for the writer: batches in the order in which they were submitted, and the state that everybody sees.

use super::writer::{Report, Sink, State, WriteFailure};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;
use understudy_proto::failure::Reason;
use understudy_proto::limits::{COMMIT_ROUND_BYTES_MAX, WRITER_QUEUE_BYTES_MAX};
use understudy_protocol::store::Batch;

/// One submitter: where its reports go.
pub(super) struct Lane {
    pub sink: Box<dyn Sink>,
    /// It found the queue full and is told when it is not.
    pub wants_room: AtomicBool,
}

pub(super) struct Waiting {
    pub lane: Arc<Lane>,
    pub batch: Batch,
    pub bytes: usize,
}

/// What one round writes. Without batches it is a probe.
#[derive(Default)]
pub(super) struct Round {
    pub batches: Vec<Waiting>,
    pub bytes: usize,
}

/// What the writer's thread is to do next.
pub(super) enum Next {
    Write(Round),
    /// Nothing waits; look at the disk again.
    Look,
    Stop,
}

#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    probe: bool,
    stop: bool,
    state: State,
    lanes: Vec<Weak<Lane>>,
}

impl Queue {
    /// A store that is not writing tells it to a submitter that comes later.
    pub fn add_lane(&self, sink: Box<dyn Sink>) -> Arc<Lane> {
        let lane = Arc::new(Lane {
            sink,
            wants_room: AtomicBool::new(false),
        });
        let mut inner = self.lock();
        inner.lanes.retain(|lane| lane.strong_count() > 0);
        inner.lanes.push(Arc::downgrade(&lane));
        if inner.state != State::Writing {
            // Under the lock, so that no newer state can be told before it.
            lane.sink.report(Report::State(inner.state.clone()));
        }
        lane
    }

    pub fn push(&self, batches: Vec<Waiting>) -> Result<usize, WriteFailure> {
        let mut inner = self.lock();
        if let State::Failed(failure) = &inner.state {
            return Err(failure.clone());
        }
        if inner.stop {
            return Err(WriteFailure {
                reason: Reason::StorageFailed,
                message: "the writer was stopped".into(),
            });
        }
        inner.bytes += batches.iter().map(|waiting| waiting.bytes).sum::<usize>();
        inner.waiting.extend(batches);
        self.changed.notify_all();
        Ok(inner.bytes)
    }

    pub fn has_room(&self, lane: &Lane) -> bool {
        let room = self.lock().bytes < WRITER_QUEUE_BYTES_MAX;
        if !room {
            lane.wants_room.store(true, Relaxed);
        }
        room
    }

    pub fn ask_probe(&self) {
        self.lock().probe = true;
        self.changed.notify_all();
    }

    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Waits for something to do, at most so long. What was submitted before a stop is still written.
    pub fn next(&self, patience: Duration) -> Next {
        let inner = self.lock();
        let idle = |inner: &mut Inner| inner.waiting.is_empty() && !inner.probe && !inner.stop;
        let (mut inner, _) = self
            .changed
            .wait_timeout_while(inner, patience, idle)
            .expect(UNPOISONED);
        if inner.waiting.is_empty() && !inner.probe {
            return if inner.stop { Next::Stop } else { Next::Look };
        }
        inner.probe = false;
        Next::Write(inner.take_round())
    }

    /// Waits for the time to try again; `true`: the writer is to stop instead. `probe`: a probe is asked for.
    pub fn pause(&self, length: Duration) -> Pause {
        let inner = self.lock();
        let (mut inner, _) = self
            .changed
            .wait_timeout_while(inner, length, |inner| !inner.stop)
            .expect(UNPOISONED);
        Pause {
            stop: inner.stop,
            probe: std::mem::take(&mut inner.probe),
        }
    }

    /// Tells every submitter, when it is a change.
    pub fn set_state(&self, state: State) {
        let mut inner = self.lock();
        if inner.state == state {
            return;
        }
        inner.state = state.clone();
        if let State::Failed(_) = state {
            // Never written, never reported: whoever waits for them learns it by the state.
            inner.waiting.clear();
            inner.bytes = 0;
        }
        let lanes: Vec<_> = inner.lanes.iter().filter_map(Weak::upgrade).collect();
        drop(inner);
        for lane in lanes {
            lane.sink.report(Report::State(state.clone()));
        }
    }

    /// Tells those who found the queue full that it is not.
    pub fn tell_room(&self) {
        let inner = self.lock();
        if inner.bytes >= WRITER_QUEUE_BYTES_MAX {
            return;
        }
        let lanes: Vec<_> = inner.lanes.iter().filter_map(Weak::upgrade).collect();
        drop(inner);
        for lane in lanes {
            if lane.wants_room.swap(false, Relaxed) {
                lane.sink.report(Report::Room);
            }
        }
    }

    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect(UNPOISONED)
    }
}

/// Between two tries on a full disk.
pub(super) struct Pause {
    pub stop: bool,
    pub probe: bool,
}

/// Nothing can fail while the queue is locked; a sink only hands its report on.
const UNPOISONED: &str = "no thread panics while it holds the queue";

impl Inner {
    /// The oldest batches, as many as fit a round and at least one.
    fn take_round(&mut self) -> Round {
        let mut round = Round::default();
        while let Some(next) = self.waiting.front() {
            let fits = round.bytes + next.bytes <= COMMIT_ROUND_BYTES_MAX;
            if !round.batches.is_empty() && !fits {
                break;
            }
            let next = self.waiting.pop_front().expect("front was there");
            round.bytes += next.bytes;
            round.batches.push(next);
        }
        self.bytes -= round.bytes;
        round
    }
}
