//! What simulations and tests stand on: twins of the shells that keep their contracts, without clock, I/O or threads.
//!
//! Plain code, always compiled, used by no server.

mod clients;
mod history;
mod store;
mod tables;

pub use clients::KnownClients;
pub use history::History;
pub use store::{MemoryStore, Part, Reads};
