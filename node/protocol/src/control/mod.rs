//! The controllers of the manager's leader, and their counterpart in every node.

pub mod message;
