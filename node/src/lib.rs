//! Understudy's servers and command line: what stands around the protocol's state machines on a machine with disk and
//! network, and what a person types.

pub mod admin;
pub mod agent;
pub mod channels;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_folder;
pub mod data_node;
pub mod listening;
pub mod manager;
pub mod manager_role;
pub mod peers;
pub mod process;
pub mod reflection;
pub mod rpc;
pub mod shard;
pub mod storage;
pub mod telemetry;
mod version;
