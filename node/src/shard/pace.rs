//! The pace of full copies, shared by all shard threads of a node.

use crate::clock;
use parking_lot::Mutex;
use understudy_protocol::effect::Pace;
use understudy_protocol::pace::CopyPace;
use understudy_protocol::time::Instant;

/// What the node may still send, over all its shards.
#[derive(Debug)]
pub struct NodePace(Mutex<CopyPace>);

impl NodePace {
    /// Zero: without a bound.
    pub fn new(bytes_per_second: u64) -> NodePace {
        NodePace(Mutex::new(CopyPace::new(bytes_per_second, clock::now())))
    }
}

impl Pace for NodePace {
    fn may_copy(&self, now: Instant) -> bool {
        self.0.lock().may_copy(now)
    }

    fn copied(&self, bytes: u64, now: Instant) {
        self.0.lock().copied(bytes, now);
    }
}
