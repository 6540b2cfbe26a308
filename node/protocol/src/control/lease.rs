//! The holder's side of the manager's lease: for which (shard, epoch) it holds, and until when.
//!
//! An answer counts from when the answered heartbeat was SENT, less the drift allowance. One length serves all claims
//! that the answer covers, so that a heartbeat costs the same with ten shards as with ten thousand.

use super::message::{Claim, ClaimDigest, Grants};
use crate::mutant::Mutant;
use crate::tables::ClusterSettings;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use understudy_proto::ids::{Epoch, ShardId};

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: Epoch,
    /// The first heartbeat that bears this claim; answers to earlier ones do not cover it.
    first: u64,
}

/// The lease of all claims that are not in `apart`.
#[derive(Clone, Copy, Debug)]
struct General {
    /// The answered heartbeat.
    sequence: u64,
    until: Instant,
}

/// The claims of one process and their leases.
#[derive(Clone, Debug, Default)]
pub struct LeaseHolder {
    claims: BTreeMap<ShardId, Held>,
    digest: ClaimDigest,
    general: Option<General>,
    /// Claims that the general lease does not cover, with the end of what was granted before, if anything was.
    apart: BTreeMap<ShardId, Option<Instant>>,
}

impl LeaseHolder {
    pub fn new() -> LeaseHolder {
        LeaseHolder::default()
    }

    /// Claims the shard in that epoch, from the heartbeat `next` on. An older epoch's claim and lease are gone.
    pub fn claim(&mut self, claim: Claim, next: u64) {
        let old = self.claims.get(&claim.shard).map(|h| h.epoch);
        if old == Some(claim.epoch) {
            return;
        }
        assert!(old < Some(claim.epoch), "{claim:?} goes back from {old:?}");
        self.give_up(claim.shard);
        let held = Held {
            epoch: claim.epoch,
            first: next,
        };
        self.claims.insert(claim.shard, held);
        self.digest.add(claim);
    }

    /// Not primary any more: nothing is claimed, and no lease is left.
    pub fn give_up(&mut self, shard: ShardId) {
        if let Some(held) = self.claims.remove(&shard) {
            let epoch = held.epoch;
            self.digest.take(Claim { shard, epoch });
        }
        self.apart.remove(&shard);
    }

    pub fn digest(&self) -> ClaimDigest {
        self.digest
    }

    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        self.claims.iter().map(|(shard, held)| Claim {
            shard: *shard,
            epoch: held.epoch,
        })
    }

    /// Whether the manager's lease for that shard and epoch holds now.
    pub fn holds(&self, shard: ShardId, epoch: Epoch, now: Instant) -> bool {
        self.until(shard, epoch).is_some_and(|until| now < until)
    }

    /// When the lease ends or ended; `None` when there was none for that epoch.
    pub fn until(&self, shard: ShardId, epoch: Epoch) -> Option<Instant> {
        let held = self.claims.get(&shard).filter(|h| h.epoch == epoch)?;
        match self.apart.get(&shard) {
            Some(apart) => *apart,
            None => self.general_until(held),
        }
    }

    fn general_until(&self, held: &Held) -> Option<Instant> {
        let general = self.general?;
        (general.sequence >= held.first).then_some(general.until)
    }

    /// Takes the answer to heartbeat `sequence`, sent at `sent`. Answers come here in rising order only.
    pub(super) fn grant(
        &mut self,
        sequence: u64,
        sent: Instant,
        lease: Duration,
        grants: &Grants,
        now: Instant,
    ) {
        let counted = if Mutant::CountLeaseFromAnswer.on() {
            now
        } else {
            sent
        };
        let until = counted + lease.saturating_sub(ClusterSettings::drift_allowance(lease));
        let left_out: Vec<ShardId> = match grants {
            Grants::Nothing => return,
            Grants::AllClaimed { except } => except.iter().map(|c| c.shard).collect(),
            Grants::Pairs(granted) => self.claims_without(granted),
        };
        // What is left out keeps what it was granted before: the leader waits that out.
        let kept: Vec<(ShardId, Option<Instant>)> = left_out
            .iter()
            .filter_map(|shard| {
                let held = self.claims.get(shard)?;
                Some((*shard, self.until(*shard, held.epoch)))
            })
            .collect();
        let claims = &self.claims;
        self.apart
            .retain(|shard, _| claims.get(shard).is_some_and(|h| h.first > sequence));
        self.apart.extend(kept);
        self.general = Some(General { sequence, until });
    }

    fn claims_without(&self, granted: &[Claim]) -> Vec<ShardId> {
        let granted: std::collections::BTreeSet<Claim> = granted.iter().copied().collect();
        let without = self.claims().filter(|c| !granted.contains(c));
        without.map(|c| c.shard).collect()
    }
}
