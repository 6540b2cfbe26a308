//! The manager's tables.
