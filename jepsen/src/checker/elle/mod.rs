//! Whether transactions that append to lists and read them are serializable, and in an order that keeps real time.
//!
//! The function is `txn`, its steps are `[:append k v]` and `[:r k list]`; what is appended to a key is unique. In what was
//! answered, a list of nil is an empty one. Since a list only grows, a read tells every version before the one it saw, and
//! from that, who must have been before whom. Where transactions must be before each other there is no order, and the kind
//! of the circle has a name. A transaction of unknown outcome counts as committed when somebody read what it appended.
//!
//! What is found here is a fault of the system for certain. Nothing found is no proof: reads may have seen too little.
//!
//! Sources: Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations" (VLDB 2020), and
//! github.com/jepsen-io/elle; the names of anomalies are those of Adya, "Weak Consistency" (1999), and of Elle.

mod anomalies;
mod cycles;
mod dependencies;
mod transactions;
mod versions;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use super::Checked;
use super::report::Report;
use crate::history::{Operations, Unusable};
use dependencies::Dependencies;
use transactions::Transactions;
use versions::Versions;

/// What the system promises.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Consistency {
    /// Some order explains what the transactions saw.
    Serializable,
    /// And what ended before another began is before it in that order.
    #[default]
    StrictSerializable,
}

/// The gravest first: what cannot be trusted at all, what no order of writes explains, what only reads show, and what is
/// wrong only when real time counts.
const FINDINGS: &[&str] = &[
    anomalies::UNWRITTEN,
    versions::DUPLICATE_ELEMENTS,
    versions::INCOMPATIBLE_ORDER,
    anomalies::INTERNAL,
    "G0",
    anomalies::G1A,
    anomalies::DIRTY_UPDATE,
    anomalies::G1B,
    "G1c",
    anomalies::LOST_UPDATE,
    "G-single",
    "G2-item",
    "G0-process",
    "G1c-process",
    "G-single-process",
    "G2-item-process",
    "G0-realtime",
    "G1c-realtime",
    "G-single-realtime",
    "G2-item-realtime",
];

pub fn list_append(operations: &Operations, consistency: Consistency) -> Result<Checked, Unusable> {
    let mut report = Report::new(FINDINGS);
    let transactions = Transactions::of(operations)?;
    let versions = Versions::of(&transactions, &mut report);
    for (operation, committed) in operations.all.iter().zip(&versions.committed) {
        if *committed {
            report.judged(operation);
        }
    }
    anomalies::find(&transactions, &versions, &mut report);
    let dependencies = Dependencies::of(&transactions, &versions, consistency);
    cycles::find(&transactions, &dependencies, &mut report);
    report.figure("keys", transactions.keys.len() as u64);
    report.figure("reads", versions.reads.len() as u64);
    report.figure("dependencies", dependencies.graph.edges().len() as u64);
    Ok(report.checked())
}
