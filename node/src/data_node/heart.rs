//! The node's heartbeats: sends each when it is due, to the manager that is asked next, and takes the answers.
//!
//! A node beats only while it makes progress: its disk accepted a synced write and its shard threads turned within a
//! second. So a hung disk costs the leases, like a dead node. That its store takes no writes any more it tells all the same.

use super::Node;
use crate::clock;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use understudy_proto::NodeId;
use understudy_protocol::control::message::HeartbeatAnswer;
use understudy_protocol::time::{Duration as Length, Instant};

/// Between two looks whether a heartbeat is due.
const LOOK: Duration = Duration::from_millis(5);
/// How long a call may take; the answer to a later one counts more.
const LIMIT: Duration = Duration::from_secs(2);
/// Calls under way at once.
const CALLS_MAX: usize = 16;
/// Within which time disk and threads must have moved. Not the heartbeat interval, of which 50 ms are allowed: a disk whose
/// cache is being flushed takes longer than that for a synced write, and must not cost the node its leases.
const PROGRESS: Duration = Duration::from_millis(1_000);

/// Beats until the process must end; tells why.
pub(super) async fn run(node: Arc<Node>) -> String {
    let (answers, mut inbox) = mpsc::channel::<(NodeId, HeartbeatAnswer)>(CALLS_MAX * 2);
    let calls = Arc::new(tokio::sync::Semaphore::new(CALLS_MAX));
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut probed = Instant::ZERO;
    loop {
        tokio::select! {
            _ = look.tick() => beat(&node, &calls, &answers, &mut probed),
            Some((from, answer)) = inbox.recv() => {
                if let Some(why) = take(&node, from, answer) {
                    return why;
                }
            }
        }
    }
}

fn beat(
    node: &Arc<Node>,
    calls: &Arc<tokio::sync::Semaphore>,
    answers: &mpsc::Sender<(NodeId, HeartbeatAnswer)>,
    probed: &mut Instant,
) {
    let now = clock::now();
    let mut control = node.control.lock().unwrap_or_else(PoisonError::into_inner);
    // Whether a manager answers or not: beacons need the progress as well.
    if now >= *probed + control.interval() {
        node.writer.probe();
        *probed = now;
    }
    if let Some(moved) = moved(node) {
        control.progresses_until(moved + Length(PROGRESS.as_micros() as u64));
    }
    if now < control.due() {
        return;
    }
    let Ok(permit) = calls.clone().try_acquire_owned() else {
        return;
    };
    let Some((to, request)) = control.next_heartbeat(now, clock::unix_ms(), progresses(node, now))
    else {
        return;
    };
    drop(control);
    let (node, answers) = (node.clone(), answers.clone());
    tokio::spawn(async move {
        let _permit = permit;
        match node.managers.beat(to, &request, LIMIT).await {
            Ok(answer) => drop(answers.send((to, answer)).await),
            Err(failure) => tracing::trace!(%to, %failure, "a heartbeat was not answered"),
        }
    });
}

/// Whether disk and threads moved lately.
fn progresses(node: &Node, now: Instant) -> bool {
    moved(node).is_some_and(|at| now.since(at).0 <= PROGRESS.as_micros() as u64)
}

/// When disk and threads had both moved. Before the first synced write the node is only starting.
fn moved(node: &Node) -> Option<Instant> {
    let synced = node.writer.progress().last_synced()?;
    Some(synced.min(node.host.last_turn()))
}

/// Takes an answer; `Some`: why the process has to end.
fn take(node: &Node, from: NodeId, answer: HeartbeatAnswer) -> Option<String> {
    let mut control = node.control.lock().unwrap_or_else(PoisonError::into_inner);
    let answered = control.on_answer(clock::now(), from, answer);
    drop(control);
    for (shard, revision) in answered.deletable {
        node.host.delete(shard, revision);
    }
    if answered.superseded {
        return Some("a later process, or another store, is registered for this node".to_string());
    }
    if answered.register {
        return Some("the managers do not know this node any more; it was removed".to_string());
    }
    None
}
