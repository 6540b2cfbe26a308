//! The gRPC services: each decodes, checks bounds, calls what can do it, and encodes the answer.

pub mod cluster;
pub mod control;
pub mod naming;
mod tables;
