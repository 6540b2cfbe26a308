//! The shards of a node: threads that drive the pure replicas, and the way in for everybody else.
//!
//! `host` is the way in, `driver` the loop of one thread (its twin is the simulator's host), `mailbox` what waits for it,
//! `responder` who waits for an answer, `judged`, `served` and `differing` what is counted of
//! reconciliation, of reads, and of what was forwarded.

mod differing;
pub mod driver;
pub mod host;
mod judged;
mod mailbox;
mod pace;
pub mod responder;
mod served;

pub use differing::Differing;
pub use driver::Known;
pub use host::{ShardHost, ShardView, Wanted};
pub use judged::Judged;
pub use pace::NodePace;
pub use responder::{ReadResponder, Responder, StreamReply, StreamSink};
pub use served::Served;
