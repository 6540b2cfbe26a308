//! The scrub in simulated worlds: no disk of theirs alters an object, so copies that are compared are the same, whatever
//! happens meanwhile. Every difference that a primary finds is one that is not there.

use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::ShardId;
use understudy_proto::failure::Failure;
use understudy_protocol::effect::Caller;
use understudy_protocol::invariants::{Checked, Violation};
use understudy_protocol::shard::{ScrubbedCopy, ScrubbedPage};

/// Small, so that few objects make several pages.
pub const PAGE_BYTES: usize = 256;
/// A process begins a page every so many ticks.
const EVERY: u64 = 8;

/// What a process compares.
#[derive(Debug)]
pub struct Scrubs {
    on: bool,
    ticks: u64,
    /// Where the next page of a shard begins; absent: at the first key.
    after: BTreeMap<ShardId, Bytes>,
    under_way: BTreeMap<Caller, ShardId>,
}

impl Scrubs {
    /// In one of three worlds.
    pub fn new(seed: u64) -> Scrubs {
        Scrubs {
            on: seed % 3 == 1,
            ticks: 0,
            after: BTreeMap::new(),
            under_way: BTreeMap::new(),
        }
    }

    /// The shard of the next page, of those whose primary the process is, and the key that it begins after.
    pub fn next(&mut self, claimed: &[ShardId]) -> Option<(ShardId, Option<Bytes>)> {
        self.ticks += 1;
        if !self.on || claimed.is_empty() || !self.ticks.is_multiple_of(EVERY) {
            return None;
        }
        let turn = (self.ticks / EVERY) as usize % claimed.len();
        let shard = claimed[turn];
        Some((shard, self.after.get(&shard).cloned()))
    }

    pub fn begun(&mut self, caller: Caller, shard: ShardId) {
        self.under_way.insert(caller, shard);
    }

    /// How many copies were found the same.
    pub fn told(
        &mut self,
        caller: Caller,
        answer: Result<ScrubbedPage, Failure>,
    ) -> (Checked, u64) {
        let (Some(shard), Ok(page)) = (self.under_way.remove(&caller), answer) else {
            return (Ok(()), 0);
        };
        match &page.next {
            Some(key) => self.after.insert(shard, key.clone()),
            None => self.after.remove(&shard),
        };
        let differs = |found: &ScrubbedCopy| matches!(found, ScrubbedCopy::Differs { .. });
        if page.copies.values().any(differs) {
            let what = format!(
                "shard {shard}: a scrub found what is not there: {:?}",
                page.copies
            );
            let invariant = "SCRUB";
            return (Err(Violation { invariant, what }), 0);
        }
        let same = page
            .copies
            .values()
            .filter(|found| **found == ScrubbedCopy::Same);
        (Ok(()), same.count() as u64)
    }
}
