//! Understudy's servers and command line: what stands around the protocol's state machines on a machine with disk and
//! network, and what a person types.

pub mod admin;
pub mod cli;
pub mod config;
pub mod data_folder;
pub mod process;
pub mod reflection;
pub mod roles;
pub mod telemetry;
