//! The controllers of the manager leader.
