//! Understudy's servers: what stands around the protocol's state machines on a machine with disk and network.

pub mod storage;
