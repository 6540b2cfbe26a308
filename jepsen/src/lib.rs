//! Understudy's test harness: seeded workloads and faults, a simulated cluster, checks of what came of it.
//!
//! `workload`, `nemesis`, `history` and `checker` know nothing of the world in which they are used; `sim` is one such world.

pub mod check;
pub mod checker;
pub mod dice;
pub mod history;
#[cfg(feature = "live")]
pub mod live;
pub mod nemesis;
pub mod run;
pub mod sim;
pub mod workload;
