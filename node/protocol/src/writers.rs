//! Where the updates of a shard come from, as its primary counts them: the share of each site, later periods weighing more.
//!
//! A period counts by its shares and not by its number of updates, so that a burst weighs no more than the time it takes.
//! What is counted is soft: another primary begins anew.

use crate::time::{Duration, Instant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use understudy_proto::ids::{Epoch, ShardId};
use understudy_proto::limits::WRITER_SITES_MAX;

/// All updates, as the shares count.
pub const WHOLE: u32 = 1_000;
/// A period ends after so long, if it saw enough updates to tell shares.
pub const PERIOD: Duration = Duration::from_millis(1_000);
const UPDATES_MIN: u64 = 4;
/// After so long it ends in any case. One without any update ends what is known: nobody writes.
pub const PERIOD_MAX: Duration = Duration::from_millis(10_000);

/// The shares of the sites from which a shard's updates come, as its primary tells them. Sent again and again; whoever hears it
/// no more forgets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterShares {
    pub shard: ShardId,
    /// In which its process counted them.
    pub epoch: Epoch,
    /// Of [`WHOLE`], by site; at most [`WRITER_SITES_MAX`]. They may sum up to less. Empty: nobody writes.
    pub sites: BTreeMap<String, u32>,
}

/// The counts of all shards that a driver drives.
#[derive(Debug, Default)]
pub struct Writers {
    shards: BTreeMap<ShardId, Counts>,
}

#[derive(Debug)]
struct Counts {
    began: Instant,
    /// Of this period, also of sites for which there was no room.
    updates: u64,
    fresh: BTreeMap<String, u64>,
    /// Of the periods before.
    shares: BTreeMap<String, u32>,
}

impl Writers {
    /// One more update from that site.
    pub fn count(&mut self, shard: ShardId, site: &str, now: Instant) {
        let counts = self.shards.entry(shard).or_insert_with(|| Counts {
            began: now,
            updates: 0,
            fresh: BTreeMap::new(),
            shares: BTreeMap::new(),
        });
        counts.updates += 1;
        if let Some(count) = counts.fresh.get_mut(site) {
            *count += 1;
        } else if counts.fresh.len() < WRITER_SITES_MAX {
            counts.fresh.insert(site.to_string(), 1);
        }
    }

    pub fn forget(&mut self, shard: ShardId) {
        self.shards.remove(&shard);
    }

    /// The new shares of every shard whose period is over.
    pub fn take_due(&mut self, now: Instant) -> Vec<(ShardId, BTreeMap<String, u32>)> {
        let mut due = Vec::new();
        self.shards.retain(|shard, counts| {
            if counts.is_over(now) {
                counts.close(now);
                due.push((*shard, counts.shares.clone()));
            }
            !counts.shares.is_empty() || counts.updates > 0
        });
        due
    }
}

impl Counts {
    fn is_over(&self, now: Instant) -> bool {
        let length = now.since(self.began);
        length >= PERIOD_MAX || (length >= PERIOD && self.updates >= UPDATES_MIN)
    }

    fn close(&mut self, now: Instant) {
        let updates = std::mem::take(&mut self.updates);
        let fresh = std::mem::take(&mut self.fresh);
        let mut old = std::mem::take(&mut self.shares);
        self.began = now;
        if updates == 0 {
            return;
        }
        let share = |count: u64| (count * u64::from(WHOLE) / updates) as u32;
        let mut shares: Vec<(String, u32)> = Vec::new();
        for (site, count) in fresh {
            let before = old.remove(&site).unwrap_or(0);
            shares.push((site, faded(before) + share(count) / 4));
        }
        shares.extend(old.into_iter().map(|(site, before)| (site, faded(before))));
        shares.retain(|(_, share)| *share > 0);
        shares.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
        shares.truncate(WRITER_SITES_MAX);
        self.shares = shares.into_iter().collect();
    }
}

/// What a share still counts when another period is over.
fn faded(share: u32) -> u32 {
    share * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(1);

    struct Told {
        writers: Writers,
        now: Instant,
        shares: BTreeMap<String, u32>,
    }

    impl Told {
        fn new() -> Told {
            Told {
                writers: Writers::default(),
                now: Instant(5_000_000),
                shares: BTreeMap::new(),
            }
        }

        /// Seconds in each of which the sites write so often.
        fn pass(&mut self, seconds: u64, each: &[(&str, u64)]) {
            for _ in 0..seconds {
                for (site, count) in each {
                    (0..*count).for_each(|_| self.writers.count(S, site, self.now));
                }
                self.now = self.now + PERIOD;
                for (_, shares) in self.writers.take_due(self.now) {
                    self.shares = shares;
                }
            }
        }

        fn share(&self, site: &str) -> u32 {
            self.shares.get(site).copied().unwrap_or(0)
        }
    }

    #[test]
    fn shares_follow_those_who_write() {
        let mut told = Told::new();
        told.pass(20, &[("a", 90), ("b", 10)]);
        assert!((870..=900).contains(&told.share("a")), "{:?}", told.shares);
        assert!((80..=100).contains(&told.share("b")), "{:?}", told.shares);
        told.pass(20, &[("b", 50)]);
        assert!(told.share("b") > 900, "{:?}", told.shares);
        assert!(told.share("a") < 20, "{:?}", told.shares);
    }

    #[test]
    fn a_burst_weighs_no_more_than_its_time() {
        let mut told = Told::new();
        told.pass(20, &[("a", 10)]);
        told.pass(1, &[("a", 10), ("b", 100_000)]);
        assert!(told.share("b") < 260, "{:?}", told.shares);
        told.pass(10, &[("a", 10)]);
        assert!(told.share("a") > 900, "{:?}", told.shares);
    }

    #[test]
    fn few_updates_are_told_later_and_none_end_what_is_known() {
        let mut told = Told::new();
        told.pass(9, &[]);
        told.writers.count(S, "a", told.now);
        told.pass(9, &[]);
        assert!(told.shares.is_empty());
        told.pass(1, &[]);
        assert_eq!(told.share("a"), 250);
        told.pass(10, &[]);
        assert!(told.shares.is_empty(), "{:?}", told.shares);
        assert!(told.writers.shards.is_empty());
    }

    #[test]
    fn only_so_many_sites_are_named_and_the_others_count_in_the_whole() {
        let mut told = Told::new();
        for second in 0..20 {
            for site in 0..4 * WRITER_SITES_MAX {
                let site = format!("s{}", (site + second) % (4 * WRITER_SITES_MAX));
                told.writers.count(S, &site, told.now);
            }
            told.pass(1, &[]);
            assert!(told.shares.len() <= WRITER_SITES_MAX);
            assert!(told.shares.values().all(|share| *share < 100));
        }
    }
}
