//! Where a namespace wants it, the primary goes to the site where most updates come from.
//!
//! What the primaries tell of their writers is soft: forgotten when they tell it no more, and with the leadership. A move is the
//! hand-over that a person's transfer is. It waits until a site led for long and the last change of primary is long past, and
//! comes after everything else: failovers, drains, what a person wants.

use super::leader::{Leader, Turn};
use super::message::WRITERS_PER_HEARTBEAT_MAX;
use crate::mutant::Mutant;
use crate::tables::ShardEntry;
use crate::time::{Duration, Instant};
use crate::writers::{WHOLE, WriterShares};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use understudy_proto::ids::{CopyId, Epoch, NodeId, ProcessId, ShardId};

/// What was told is forgotten after so long, or after so many heartbeat intervals for each heartbeat's worth of shards.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(15_000);
const FORGOTTEN_INTERVALS: u64 = 4;
/// Shards that are handed over at a time, whatever for, while one more may begin for its writers' sake.
const AT_A_TIME: usize = 16;

#[derive(Debug, Default)]
pub(super) struct NearWriters {
    told: BTreeMap<ShardId, Told>,
    /// The site that had enough of the updates when it was last told, and when that was: kept over a pause of the writers.
    wanted: BTreeMap<ShardId, (String, Instant)>,
    /// The epoch of each row, and when this leader saw it change.
    moved: BTreeMap<ShardId, (Epoch, Option<Instant>)>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    shares: WriterShares,
    /// The site with enough of the updates where the primary is not and has less by the margin, and since when that was told
    /// without a break.
    leads: Option<(String, Instant)>,
}

impl NearWriters {
    pub(super) fn row_changed(&mut self, shard: ShardId, entry: Option<&ShardEntry>, now: Instant) {
        let Some(entry) = entry else {
            self.told.remove(&shard);
            self.wanted.remove(&shard);
            self.moved.remove(&shard);
            return;
        };
        let known = self.moved.get(&shard).copied();
        match known {
            Some((epoch, _)) if epoch == entry.epoch => {}
            // The first placement is nobody's choice.
            None | Some((Epoch::ZERO, _)) => {
                self.moved.insert(shard, (entry.epoch, None));
            }
            Some(_) => {
                self.told.remove(&shard);
                self.moved.insert(shard, (entry.epoch, Some(now)));
            }
        }
    }

    /// The site where enough of the shard's updates come from, as far as is known, whether the primary is there or not. Writers who
    /// pause are expected back for a while.
    pub(super) fn wanted(&self, shard: ShardId) -> Option<&str> {
        let (site, _) = self.wanted.get(&shard)?;
        Some(site)
    }

    /// It holds writes while it is tried: the wait begins anew.
    pub(super) fn failed(&mut self, shard: ShardId, now: Instant) {
        let leads = self
            .told
            .get_mut(&shard)
            .and_then(|told| told.leads.as_mut());
        if let Some((_, since)) = leads {
            *since = now;
        }
    }

    pub(super) fn shares(&self, shard: ShardId) -> Option<&WriterShares> {
        self.told.get(&shard).map(|told| &told.shares)
    }
}

impl Leader {
    pub(super) fn on_writers(&mut self, turn: &Turn, process: ProcessId, shares: WriterShares) {
        let shard = shares.shard;
        let Some(entry) = turn.tables.shard(shard) else {
            return;
        };
        if entry.primary != Some(process) || entry.epoch != shares.epoch {
            return;
        }
        let before = self.near_writers.told.remove(&shard);
        let follows = turn.tables.namespace(entry.namespace);
        if shares.sites.is_empty() || !follows.is_some_and(|n| n.settings.primary_near_writers) {
            return;
        }
        let here = site(turn, process.node).to_string();
        let wanted = most(&shares, turn.settings.near_writers_share);
        let of = |site: &str| shares.sites.get(site).copied().unwrap_or(0);
        let margin = per_cent(turn.settings.near_writers_margin);
        let leads = wanted.as_ref().filter(|site| **site != here);
        let leads = leads.filter(|site| of(site) >= of(&here) + margin);
        let since = before.and_then(|told| told.leads);
        let since = since.filter(|(site, _)| Some(site) == leads);
        let leads = leads.map(|site| (site.clone(), since.map_or(turn.now, |(_, at)| at)));
        match wanted {
            Some(site) => self.near_writers.wanted.insert(shard, (site, turn.now)),
            None => self.near_writers.wanted.remove(&shard),
        };
        let told = Told {
            at: turn.now,
            shares,
            leads,
        };
        self.near_writers.told.insert(shard, told);
    }

    pub(super) fn follow_writers(&mut self, turn: &mut Turn) {
        let interval = turn.tables.settings().heartbeat_interval;
        let now = turn.now;
        let (told, wanted) = (&mut self.near_writers.told, &mut self.near_writers.wanted);
        let heartbeats = 1 + (told.len() / WRITERS_PER_HEARTBEAT_MAX) as u64;
        let lasts = FORGOTTEN_AFTER.max(interval.scale(FORGOTTEN_INTERVALS * heartbeats, 1));
        told.retain(|_, told| now.since(told.at) < lasts);
        let known = wanted.len();
        wanted.retain(|_, (_, at)| now.since(*at) < turn.settings.near_writers_calm);
        if wanted.len() < known {
            // What was kept where it is may be moved.
            self.balance.row_changed();
        }
        let told = &self.near_writers.told;
        let after = match Mutant::FollowABurst.on() {
            true => Duration::ZERO,
            false => turn.settings.near_writers_after,
        };
        let led = |told: &Told| {
            let leads = told.leads.as_ref();
            leads.is_some_and(|(_, since)| now.since(*since) >= after)
        };
        let led = told.iter().filter(|(_, told)| led(told));
        let led: Vec<ShardId> = led.map(|(shard, _)| *shard).collect();
        for shard in led {
            if self.hand_overs.len() >= AT_A_TIME {
                return;
            }
            if let Some(target) = self.near_the_writers(turn, shard) {
                self.start_hand_over(turn, shard, target);
            }
        }
    }

    /// The copy that takes the primary's place; `None`: nothing is to be moved now.
    fn near_the_writers(&self, turn: &Turn, shard: ShardId) -> Option<CopyId> {
        let entry = turn.tables.shard(shard)?;
        let primary = entry.primary?;
        let settings = &turn.tables.namespace(entry.namespace)?.settings;
        let (wanted, _) = self.near_writers.told.get(&shard)?.leads.as_ref()?;
        let under_way = entry.begun.is_some()
            || self.failovers.contains_key(&shard)
            || self.hand_overs.contains_key(&shard)
            || self.is_pending(turn, shard, entry);
        // Whoever empties a node chooses where its primaries go; and what just failed would fail again.
        let later = self.is_emptying(turn.tables, primary.node)
            || self.hand_over_not_before.contains_key(&shard)
            || !self.is_calm_since_its_last_move(turn, shard);
        let allowed = settings.primary_near_writers && settings.allows_site(wanted);
        if under_way || later || !allowed {
            return None;
        }
        let follows = |copy: &CopyId| {
            let report = self.report(shard, *copy);
            report.is_some_and(|r| r.followed == entry.epoch && r.orphans == 0)
        };
        let there = entry.secondaries.iter().copied();
        let there = there.filter(|copy| site(turn, copy.node) == wanted);
        there
            .filter(|copy| entry.candidates().any(|candidate| candidate == *copy))
            .filter(|copy| self.is_usable(turn, copy.node) && follows(copy))
            .min_by_key(|copy| {
                let load = self.load(turn.tables, copy.node, 0) + self.handing_to(copy.node);
                let has = self.report(shard, *copy).map(|report| report.last);
                (load, Reverse(has), copy.node)
            })
    }

    /// A leader that did not see the last one waits as if it was just before its election.
    fn is_calm_since_its_last_move(&self, turn: &Turn, shard: ShardId) -> bool {
        let moved = self.near_writers.moved.get(&shard);
        let moved = moved.and_then(|(_, at)| *at).unwrap_or(self.elected_at);
        turn.now.since(moved) >= turn.settings.near_writers_calm || Mutant::FollowABurst.on()
    }
}

fn site<'t>(turn: &Turn<'t>, node: NodeId) -> &'t str {
    turn.tables.node(node).map_or("", |n| n.site.as_str())
}

fn per_cent(of: u32) -> u32 {
    of.saturating_mul(WHOLE) / 100
}

/// The site with the most, if that is enough.
fn most(shares: &WriterShares, share: u32) -> Option<String> {
    let enough = shares.sites.iter();
    let enough = enough.filter(|(_, of)| **of >= per_cent(share).max(1));
    let most = enough.max_by_key(|(site, of)| (**of, Reverse(*site)));
    most.map(|(site, _)| site.clone())
}
