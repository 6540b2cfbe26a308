//! The words of Understudy: ids, limits, failure classes, and the messages of package `understudy.v1`.
//!
//! Everything here is data. `ids` has a newtype for every id and count that could be swapped with another, `limits`
//! every bound with what happens at it, `failure` the reasons a caller can act on. `v1` is generated from the `.proto`
//! files, with tonic stubs when the feature `grpc` is on.

pub mod failure;
pub mod ids;
pub mod limits;
pub mod shard_of_key;

pub use ids::*;

/// The messages (and with feature `grpc` the stubs) generated from `proto/understudy/v1/*.proto`.
#[allow(missing_debug_implementations, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/understudy.v1.rs"));
}

/// The encoded file descriptor set, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/understudy.v1.bin"));
