//! The controllers of the manager's leader, and their counterpart in every node.
//!
//! [`Controller`] looks at the tables, is told of elections, heartbeats, answers and ticks, and proposes commands; what
//! it knows beyond the tables is soft and gone with its leadership. [`NodeControl`] builds a node's heartbeats and keeps
//! its leases. Neither sends anything nor has a clock: whoever drives them does both.

mod agents;
mod balance;
mod clock;
mod controller;
pub mod describe;
mod failover;
mod grant;
mod hand_over;
mod leader;
mod lease;
pub mod message;
mod node;
mod placement;
mod plan;
mod view;

#[cfg(test)]
pub(crate) mod tests;

pub use controller::{Action, ControlSettings, Controller, Input, Warning};
pub use lease::LeaseHolder;
pub use message::{Awaited, FailoverProgress};
pub use node::{Answered, NodeControl};
