//! I2: a node acknowledges or serves as primary only inside its lease; no two processes hold a lease for a shard at once.
//!
//! The driver tells who holds a lease, each judged by its own clock at one moment of the world.

use super::{Checked, Violation};
use understudy_proto::{Epoch, ProcessId, ShardId};

/// A process that holds a lease now.
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
