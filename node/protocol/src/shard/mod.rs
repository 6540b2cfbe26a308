//! One copy of one shard: as primary it numbers, logs and streams records, as secondary it follows.

pub mod message;
pub mod replica;
