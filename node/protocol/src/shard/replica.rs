//! One copy of one shard: its state, `step`, and the changes of role.

use crate::effect::{Context, Effect, Input, Report};
use crate::object::Object;
use crate::store::Saved;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use understudy_proto::failure::Failure;
use understudy_proto::{Pair, ProcessId, ShardId};

/// What a replica is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two pulses of a primary, and between two tries of anything that is asked again.
    pub interval: Duration,
    /// How much of the log is kept beyond what the copies need.
    pub log_bytes: u64,
    pub log_age: Duration,
}

/// Which read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadLevel {
    /// At the primary, under its lease.
    Primary,
    /// This copy as it is.
    Any,
}

/// What a read gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadAnswer {
    pub objects: Vec<Option<Object>>,
    /// What the copy had reached.
    pub token: Pair,
}

/// One copy of one shard.
#[derive(Debug)]
pub struct Replica {}

impl Replica {
    /// A replica as its disk has it; it follows nobody until it gets an assignment.
    pub fn open(
        _shard: ShardId,
        _me: ProcessId,
        _saved: Saved,
        _settings: Settings,
        _now: Instant,
    ) -> Replica {
        Replica {}
    }

    pub fn step(&mut self, _context: &Context<'_>, _input: Input, _out: &mut Vec<Effect>) {}

    /// Reads what is durable here. The caller checks the lease again before it answers a `Primary` read.
    pub fn read(
        &self,
        _context: &Context<'_>,
        _keys: &[Bytes],
        _level: ReadLevel,
    ) -> Result<ReadAnswer, Failure> {
        Err(Failure::no(
            understudy_proto::failure::Reason::Unimplemented,
            "not yet",
        ))
    }

    pub fn report(&self) -> Report {
        Report {
            promise: Default::default(),
            position: Pair::ZERO,
            durable: Pair::ZERO,
            checksum: 0,
            orphans: 0,
            complete: false,
            serving: None,
        }
    }
}
