//! The gRPC services: each decodes, checks bounds, calls what can do it, and encodes the answer.

pub mod cluster;
mod conflicts;
pub mod control;
mod follow;
mod forwarded_wire;
mod log_wire;
pub mod naming;
pub mod objects;
pub mod peer_wire;
mod promote;
pub mod replica;
pub mod request_log;
pub mod routes;
mod scan;
mod stream;
mod tables;
mod verify;
mod watch;
pub mod wire;
