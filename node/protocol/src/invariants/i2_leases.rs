//! I2: a node acknowledges or serves as primary only inside its lease; no two processes hold a lease for a shard at once.
//!
//! The driver tells who holds a lease, each judged by its own clock at one moment of the world.

use super::{Checked, Violation};
use std::collections::BTreeSet;
use understudy_proto::{CopyId, Epoch, ProcessId, ShardId};

/// A process that holds a lease now, from the managers or from its witnesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    pub process: ProcessId,
    pub epoch: Epoch,
}

pub(super) fn one_holder(shard: ShardId, holders: &[Holder]) -> Checked {
    match holders {
        [one, rest @ ..] if rest.iter().any(|other| other.process != one.process) => {
            let each = holders
                .iter()
                .map(|h| format!("{} in epoch {}", h.process, h.epoch));
            let list = each.collect::<Vec<_>>().join(", ");
            Err(Violation::new(
                "I2",
                format!("shard {shard}: leases are held by {list}"),
            ))
        }
        _ => Ok(()),
    }
}

/// Whoever holds a lease is the primary of the newest row: another is promoted only when both leases are over.
pub(super) fn holder_is_named(
    shard: ShardId,
    holders: &[Holder],
    named: Option<(ProcessId, Epoch)>,
) -> Checked {
    for holder in holders {
        if let Some((process, epoch)) = named
            && process != holder.process
        {
            let what = format!(
                "shard {shard}: {} holds a lease of epoch {}, but {process} is the primary of epoch {epoch}",
                holder.process, holder.epoch
            );
            return Err(Violation::new("I2", what));
        }
    }
    Ok(())
}

/// A process that holds the lease from its witnesses needs the answers of every copy whose promise would end it.
pub(super) fn needs_every_witness(
    shard: ShardId,
    process: ProcessId,
    set: &BTreeSet<CopyId>,
    demanded: &BTreeSet<CopyId>,
) -> Checked {
    if !set.is_empty() && set.is_subset(demanded) {
        return Ok(());
    }
    let what = format!(
        "shard {shard}: {process} has a lease from {demanded:?}, but the witness set is {set:?}"
    );
    Err(Violation::new("I2", what))
}

pub(super) fn served_inside_its_lease(
    process: ProcessId,
    shard: ShardId,
    serving: Option<Epoch>,
    holds: bool,
) -> Checked {
    match serving {
        Some(_) if holds => Ok(()),
        Some(epoch) => {
            let what = format!("shard {shard}: {process} serves in epoch {epoch} without a lease");
            Err(Violation::new("I2", what))
        }
        None => {
            let what = format!("shard {shard}: {process} answers as primary and is none");
            Err(Violation::new("I2", what))
        }
    }
}
