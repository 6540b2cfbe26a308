//! What a person types.

pub mod bench;
pub mod bulk;
pub mod demo;
pub mod faults;
pub mod local;
pub mod pulse;
