//! The simulated cluster: real replicas, tables and controllers under virtual time, on modelled disks and a modelled network.
//!
//! `world` runs it; `host` and `process` are the twin of a node, `managers` of the managers' group, `client` of a client;
//! `network`, `disk` and `faults` make it hard; `checks` and `tables_watch` look.

mod agent;
mod checks;
mod client;
mod disk;
mod env;
mod event;
mod faults;
mod host;
mod managers;
mod network;
mod outcome;
mod person;
mod process;
mod quiet;
mod scrub;
mod sites;
mod start_check;
mod tables_watch;
mod trace;
mod world;

pub use outcome::{Outcome, Statistics, Verdict};
pub use trace::Keep;
pub use world::World;
