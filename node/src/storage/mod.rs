//! What a node keeps on its disk: RocksDB behind the contract of `understudy_protocol::store`.
//!
//! [`Database`] is one open store and answers reads; [`Writer`] is the one thread that writes, many batches to a sync. Only
//! the repairs at start are written without it, before it is there.
//! Nothing here decides anything about replication. Docs: `docs/storage.md`.

pub mod keys;
pub mod open;
pub mod reader;
pub mod room;
pub mod writer;

mod commit;
mod progress;
mod queue;
mod reached;

pub use open::{Database, OpenError, Options};
pub use progress::Progress;
pub use reader::{ObjectRange, Scanned, Sizes};
pub use writer::{Clock, Hook, Report, Sink, Stage, State, Submitter, WriteFailure, Writer};
