//! The client of Understudy: it fails over by itself, and every update runs once.
//!
//! ```no_run
//! # #[cfg(feature = "grpc")]
//! # async fn page() -> Result<(), understudy_client::Error> {
//! use understudy_client::{Class, Client, Expected, ReadLevel};
//!
//! // The public addresses of some nodes or managers. Nothing needs to be up yet.
//! let client = Client::connect(["http://127.0.0.1:7420"]).await?;
//! let shop = client.namespace("shop");
//!
//! // A write bears a request id of the session, and is sent again under it until its deadline: at the primary, at the
//! // next cached copies in their order, then wherever the managers say. It runs once.
//! let written = shop.put("apple", "3 baskets").await?;
//! println!("{} at {} (again: {})", written.request_id, written.pair, written.duplicate);
//!
//! // Reads choose how fresh they are.
//! let apple = shop.get("apple").level(ReadLevel::Session).await?;
//!
//! // All or nothing inside a shard; a tag in braces keeps keys in one shard. A condition that does not hold is an
//! // outcome, no error.
//! let moved = shop
//!     .transaction()
//!     .if_present("{7}cart")
//!     .add("{7}cart", "items", 1)
//!     .append("{7}history", "", "apple;")
//!     .await?;
//! if !moved.applied() {
//!     println!("there is no cart: {:?}", moved.outcome);
//! }
//! if let Some(apple) = apple {
//!     shop.compare_and_set("apple", Expected::Pair(apple.pair), "2 baskets").await?;
//! }
//!
//! // Three things can go wrong, and they stay apart: the request, the servers, the stores. The fourth is not to know.
//! let write = shop.put("pear", "1");
//! match write.await {
//!     Ok(written) => println!("durable: {:?}, {} more copies", written.level, written.copies_durable),
//!     Err(error) => match error.class() {
//!         Class::Invalid | Class::NotFound | Class::Refused => println!("will never work: {error}"),
//!         Class::Unavailable | Class::Storage => println!("did not run: {error}"),
//!         Class::Unknown => {
//!             // The same content under the same id settles it.
//!             if let Some(id) = error.request_id() {
//!                 shop.put("pear", "1").request_id(id).await?;
//!             }
//!         }
//!         _ => return Err(error),
//!     },
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `retry`, `route`, `request_ids` and `tokens` are pure and also built without the feature `grpc`: the simulator runs the same
//! decisions. The rest sends: `drive` carries out what `retry` decides, `pipe` batches what waits into one message of a
//! stream, `anywhere` asks server after server for everything else.

pub mod check;
pub mod error;
pub mod object;
pub mod request_ids;
pub mod retry;
pub mod route;
pub mod settings;
pub mod tokens;

pub use error::{Class, Error, Trouble};
pub use object::{Component, FailedOp, Found, Level, Object, OpResult, Outcome, Value, Written};
pub use settings::{Settings, Transport};
pub use tokens::ShardTokens;
pub use understudy_proto as proto;
pub use understudy_proto::{ClientId, Pair, RequestId, Sequence, v1};

#[cfg(feature = "grpc")]
mod anywhere;
#[cfg(feature = "grpc")]
mod client;
#[cfg(feature = "grpc")]
mod cluster;
#[cfg(feature = "grpc")]
mod conflicts;
#[cfg(feature = "grpc")]
mod drive;
#[cfg(feature = "grpc")]
mod namespace;
#[cfg(feature = "grpc")]
mod naming;
#[cfg(feature = "grpc")]
mod pipe;
#[cfg(feature = "grpc")]
mod read;
#[cfg(feature = "grpc")]
mod request_log;
#[cfg(feature = "grpc")]
mod route_cache;
#[cfg(feature = "grpc")]
mod scan;
#[cfg(feature = "grpc")]
mod server;
#[cfg(feature = "grpc")]
mod session;
#[cfg(feature = "grpc")]
mod slots;
#[cfg(feature = "grpc")]
mod verify;
#[cfg(feature = "grpc")]
mod watch;
#[cfg(feature = "grpc")]
mod write;

#[cfg(feature = "grpc")]
pub use {
    client::Client,
    cluster::Cluster,
    conflicts::{Conflict, ConflictId, ConflictSummary, Conflicts, ConflictsPage, Standing},
    namespace::{Expected, Namespace},
    naming::{BindWhen, Naming, NamingEvent, NamingWatch},
    read::{Get, Read, ReadLevel},
    request_log::{Follow, LogEvent, LookUp, Orphans, Trace, Traces},
    scan::{Page, Scan},
    session::Session,
    verify::{Verified, VerifiedCopy},
    watch::{Change, Event, Watch},
    write::Write,
};
