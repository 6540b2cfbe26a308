//! Clean hand-over: a primary holds new requests, waits until the target has everything, promises, and is followed.
//!
//! Until it promised nothing is recorded: if it fails the primary just goes on. From its promise on it is a failover with
//! a preferred target, whose old primary is sealed already; if the target is lost then, the old one is promoted again.

use super::leader::{Leader, Turn};
use super::message::{Claim, HandOver, HandOverAnswer, HandOverOutcome};
use crate::tables::{NodeState, Tables};
use crate::time::Instant;
use std::cmp::Reverse;
use understudy_proto::ids::{CopyId, Epoch, NodeId, ProcessId, ShardId};

/// A hand-over that was asked for and not answered yet.
#[derive(Debug)]
pub(super) struct HandingOver {
    primary: ProcessId,
    pub(super) epoch: Epoch,
    pub(super) target: CopyId,
    since: Instant,
    asked: Instant,
}

impl Leader {
    pub(super) fn start_hand_over(&mut self, turn: &mut Turn, shard: ShardId, target: CopyId) {
        let Some(entry) = turn.tables.shard(shard) else {
            return;
        };
        let Some(primary) = entry.primary else {
            return;
        };
        let under_way = self.failovers.contains_key(&shard) || self.hand_overs.contains_key(&shard);
        let candidate = entry.candidates().any(|c| c == target);
        let may_take = entry.is_secondary(target) && candidate && self.is_usable(turn, target.node);
        if under_way || !may_take || turn.tables.process_of(target).is_none() {
            return;
        }
        let handing = HandingOver {
            primary,
            epoch: entry.epoch,
            target,
            since: turn.now,
            asked: turn.now,
        };
        self.hand_overs.insert(shard, handing);
        self.ask_to_hand_over(turn, shard);
    }

    fn ask_to_hand_over(&mut self, turn: &mut Turn, shard: ShardId) {
        let Some(handing) = self.hand_overs.get_mut(&shard) else {
            return;
        };
        handing.asked = turn.now;
        let hand_over = HandOver {
            shard,
            epoch: handing.epoch,
            new_epoch: handing.epoch.next(),
            target: handing.target,
        };
        turn.hand_over(handing.primary, hand_over);
    }

    pub(super) fn drive_hand_overs(&mut self, turn: &mut Turn) {
        let limit = turn.settings.hand_over_limit.scale(2, 1);
        let (mut ask, mut over) = (Vec::new(), Vec::new());
        for (shard, handing) in &self.hand_overs {
            if turn.now.since(handing.since) >= limit {
                over.push(*shard);
            } else if turn.now.since(handing.asked) >= turn.settings.ask_again {
                ask.push(*shard);
            }
        }
        ask.iter().for_each(|s| self.ask_to_hand_over(turn, *s));
        over.iter().for_each(|s| self.give_up(turn, *s));
        self.hand_over_not_before.retain(|_, at| *at > turn.now);
    }

    fn give_up(&mut self, turn: &Turn, shard: ShardId) {
        self.hand_overs.remove(&shard);
        self.near_writers.failed(shard, turn.now);
        let not_before = turn.now + turn.settings.hand_over_limit;
        self.hand_over_not_before.insert(shard, not_before);
    }

    pub(super) fn on_hand_over_answer(&mut self, turn: &mut Turn, answer: HandOverAnswer) {
        for (hand_over, outcome) in answer.hand_overs {
            let shard = hand_over.shard;
            let asked = self.hand_overs.get(&shard).is_some_and(|h| {
                h.primary == answer.from
                    && h.epoch == hand_over.epoch
                    && h.target == hand_over.target
            });
            if !asked {
                continue;
            }
            match outcome {
                HandOverOutcome::Failed => self.give_up(turn, shard),
                HandOverOutcome::Promised { last } => {
                    let epoch = hand_over.new_epoch;
                    self.begin(turn, shard, epoch, Some(hand_over.target));
                    self.hand_overs.remove(&shard);
                    self.note_seal(turn, Claim { shard, epoch }, answer.from, last);
                    self.drive_failover(turn, shard);
                }
            }
        }
    }

    /// Moves the primary away from a node that stops, drains, or may not hold the namespace.
    pub(super) fn plan_hand_over(&mut self, turn: &mut Turn, shard: ShardId) {
        let Some(target) = self.hand_over_target(turn, shard) else {
            return;
        };
        self.start_hand_over(turn, shard, target);
    }

    fn hand_over_target(&self, turn: &Turn, shard: ShardId) -> Option<CopyId> {
        let entry = turn.tables.shard(shard)?;
        let primary = entry.primary?;
        let settings = &turn.tables.namespace(entry.namespace)?.settings;
        let site = |node: NodeId| turn.tables.node(node).map_or("", |n| n.site.as_str());
        let unwanted = self.is_emptying(turn.tables, primary.node)
            || !settings.allows_site(site(primary.node));
        let later = self.hand_over_not_before.get(&shard);
        if !unwanted || later.is_some_and(|at| turn.now < *at) {
            return None;
        }
        let busy = self.hand_overs.values().filter(|h| h.primary == primary);
        if busy.count() >= turn.settings.hand_overs_max {
            return None;
        }
        let position = |c: CopyId| self.report(shard, c).map(|r| r.last);
        let near = |c: &CopyId| self.near_writers.wanted(shard) == Some(site(c.node));
        entry
            .secondaries
            .iter()
            .copied()
            .filter(|c| entry.candidates().any(|candidate| candidate == *c))
            .filter(|c| self.is_usable(turn, c.node) && turn.tables.process_of(*c).is_some())
            .min_by_key(|c| {
                let load = self.load(turn.tables, c.node, 0) + self.handing_to(c.node);
                (
                    Reverse(near(c)),
                    settings.site_rank(site(c.node)),
                    load,
                    Reverse(position(*c)),
                )
            })
    }

    pub(super) fn handing_to(&self, node: NodeId) -> usize {
        let to = self.hand_overs.values().filter(|h| h.target.node == node);
        to.count()
    }

    /// Whether primaries, and at a person's wish copies, are to move away from that node.
    pub(super) fn is_emptying(&self, tables: &Tables, node: NodeId) -> bool {
        let says = self.heard.get(&node).map(|h| h.condition);
        let drains = tables
            .node(node)
            .is_some_and(|n| n.drain || n.state == NodeState::Removed);
        drains || says.is_some_and(|c| c != super::message::Condition::Serving)
    }
}
