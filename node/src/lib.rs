//! Understudy's servers as a library: what the one binary and the tests are made of.

pub mod clock;
pub mod manager;
pub mod rpc;
