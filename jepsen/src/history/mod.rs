//! What clients saw: operations that were invoked, and what came of them, of our own runs and of other systems.
//!
//! [`lines`] is what a run of ours writes down. [`read`] takes histories in the formats of others (and our own) and gives
//! [`Event`]s one after the other; [`Operations`] pairs them. Nothing here judges.

pub mod edn;
pub mod event;
pub mod jepsen_log;
pub mod json_lines;
pub mod lines;
pub mod operation;
pub mod read;
pub mod text;
pub mod value;
pub mod write;

pub use event::{Event, Unusable};
pub use lines::{History, Kind, Line};
pub use operation::{NEVER, Operation, Operations, Outcome};
pub use read::{Format, read};
pub use value::Value;
