//! Checks of histories: what clients saw, against a model, against each other and against what is there in the end.
//!
//! They know nothing of the world in which the history was made.

pub mod bank;
mod convergence;
mod counter_bounds;
pub mod elle;
mod exactly_once;
mod explained;
mod graph;
#[cfg(test)]
mod honest;
pub mod linearizable;
pub mod models;
mod report;
mod sessions;
mod set_full;
mod unique_ids;

pub use bank::bank;
pub use convergence::convergence;
pub use counter_bounds::counter_bounds;
pub use elle::list_append;
pub use exactly_once::exactly_once;
pub use explained::values_are_explained;
pub use sessions::sessions;
pub use set_full::set_full;
pub use unique_ids::unique_ids;

/// What a check came to.
#[derive(Clone, Debug)]
pub struct Checked {
    pub verdict: Verdict,
    /// Operations that were judged.
    pub operations: usize,
    /// Of these, those whose outcome is unknown.
    pub unknown: usize,
    /// What else there is to tell: (name, figure).
    pub figures: Vec<(&'static str, u64)>,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    Holds,
    /// At least one, the gravest first.
    Violated(Vec<Finding>),
    /// Why it cannot be told.
    Unknown(String),
}

/// One thing that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Its name in the field: `lost`, `G1c`, …
    pub name: &'static str,
    /// A sentence about this case.
    pub text: String,
    /// The operations that show it, by their numbers in the history.
    pub operations: Vec<u32>,
}
