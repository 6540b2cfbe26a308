//! Understudy's servers: what stands around the protocol's state machines on a machine with disk and network.

pub mod clock;
pub mod manager;
pub mod peers;
pub mod rpc;
pub mod shard;
pub mod storage;
