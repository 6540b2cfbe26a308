//! Runs of real processes: a cluster of the given binary is broken while clients work, and their history is judged.
//!
//! `machines` (processes, places, network) breaks anything; `system` says what a system has to offer to be tested, and
//! `understudy` is one; `workload` and `nemesis` say what clients do and what goes wrong; `run` puts them together, and `harness`
//! does what else a program needs. Nothing of the simulator is used, and what is judged is what stands in the history's file.

pub mod cli;
pub mod harness;
pub mod machines;
pub mod nemesis;
pub mod network;
pub mod place;
pub mod process;
pub mod recorder;
pub mod report;
pub mod run;
mod sys;
pub mod system;
pub mod understudy;
mod worker;
pub mod workload;

pub use worker::Load;

#[cfg(test)]
mod tests;
