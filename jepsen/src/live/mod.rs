//! Runs of real processes: a cluster of the given binary is broken while clients work, and their history is judged.
//!
//! `machines` (processes, places, network) breaks anything; `system` says what a system has to offer to be tested. Nothing of
//! the simulator is used.

pub mod machines;
pub mod network;
pub mod place;
pub mod process;
mod sys;
pub mod system;
