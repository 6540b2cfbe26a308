//! Carries out one request over the copies of its shard: does what `retry::Walk` says, in real time.
//!
//! The walk decides, this waits and sends. A request keeps its id over all attempts, and no longer lives than its
//! deadline.

use crate::client::Shared;
use crate::error::{Error, Trouble};
use crate::retry::{Step, Walk};
use crate::route::{Redirect, Route, ShardRoute};
use crate::route_cache::RouteCache;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use understudy_proto::NodeId;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::{stream_answer, stream_item};

/// What is to be asked, and how its answer is read.
pub(crate) trait Errand {
    type Answer;

    /// The question for one attempt. `left`: how long the server may take.
    fn question(&self, index: u32, forward: bool, left: Duration) -> stream_item::Kind;

    /// Of its keys and values.
    fn bytes(&self) -> usize;

    /// How long one attempt may take.
    fn attempt_timeout(&self) -> Duration;

    fn read(&self, answer: stream_answer::Kind) -> Result<Self::Answer, Trouble>;

    /// The client id was refused and the request ran nowhere.
    fn rename(&mut self, table_time_ms: Option<u64>, walk: &mut Walk);
}

/// Where the request goes, and until when.
pub(crate) struct Way<'a> {
    pub shared: &'a Arc<Shared>,
    pub cache: &'a Arc<RouteCache>,
    pub index: u32,
    pub deadline: Instant,
}

impl Way<'_> {
    pub async fn run<E: Errand>(&self, errand: &mut E, mut walk: Walk) -> Result<E::Answer, Error> {
        let mut step = self.start(&mut walk)?;
        loop {
            step = match step {
                Step::Ask { node, forward } => match self.ask(errand, node, forward).await {
                    Ok(answer) => return Ok(answer),
                    Err(trouble) => self.on_trouble(&mut walk, node, trouble)?,
                },
                Step::AskManagers => {
                    let answer = self.cache.refresh(self.shared, self.deadline).await;
                    let route = self.route()?;
                    let shard = self.shard(&route)?;
                    walk.on_managers(answer, shard, self.left(), rand::random())
                }
                Step::Wait(pause) => {
                    self.wait(pause).await;
                    if self.left().is_zero() {
                        return Err(walk.give_up());
                    }
                    self.start(&mut walk)?
                }
                Step::NewClientId { table_time_ms } => {
                    errand.rename(table_time_ms, &mut walk);
                    self.start(&mut walk)?
                }
                Step::Stop(error) => return Err(error),
            };
        }
    }

    fn start(&self, walk: &mut Walk) -> Result<Step, Error> {
        let route = self.route()?;
        Ok(walk.start(self.shard(&route)?))
    }

    async fn ask<E: Errand>(
        &self,
        errand: &E,
        node: NodeId,
        forward: bool,
    ) -> Result<E::Answer, Trouble> {
        let route = self.cache.current();
        let address = route.as_deref().and_then(|route| route.address(node));
        let Some(address) = address else {
            return Err(Trouble::NotSent(format!("node {node} has no address")));
        };
        let server = self.shared.servers.at(address)?;
        // Waiting for room is no attempt yet: it is the caller that is slowed down, not the server that is slow.
        let _room = server.enter(errand.bytes(), self.deadline).await?;
        let until = self.deadline.min(Instant::now() + errand.attempt_timeout());
        // The server gets a little less than is left, so that its own word arrives in time.
        let left = self.left();
        let margin = (left / 20).min(Duration::from_millis(100));
        let question = errand.question(self.index, forward, left - margin);
        let answer = server.ask(question, errand.bytes(), until).await?;
        errand.read(answer)
    }

    fn on_trouble(&self, walk: &mut Walk, from: NodeId, trouble: Trouble) -> Result<Step, Error> {
        if let Some(redirect) = trouble.failure().and_then(Redirect::of) {
            self.cache.redirect(self.index, &redirect);
        }
        let route = self.route()?;
        let shard = self.shard(&route)?;
        Ok(walk.on_trouble(from, trouble, shard, self.left(), rand::random()))
    }

    /// So long, or until the route of this shard changes.
    async fn wait(&self, pause: Duration) {
        let mut changes = self.cache.changes();
        let before = self.epoch(changes.borrow_and_update().as_deref());
        let changed = async {
            while changes.changed().await.is_ok() {
                if self.epoch(changes.borrow_and_update().as_deref()) != before {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let _ = timeout_at(self.deadline.min(Instant::now() + pause), changed).await;
    }

    fn epoch(&self, route: Option<&Route>) -> Option<u64> {
        let shard = route?.shards.get(self.index as usize)?;
        Some(shard.epoch.0)
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn route(&self) -> Result<Arc<Route>, Error> {
        self.cache.current().ok_or_else(|| {
            let why = "the route is not loaded".to_string();
            Error::Unavailable(Trouble::NotSent(why))
        })
    }

    /// The shard by its index. It can only be missing when the namespace was made again with fewer shards meanwhile.
    fn shard<'r>(&self, route: &'r Route) -> Result<&'r ShardRoute, Error> {
        route.shards.get(self.index as usize).ok_or_else(|| {
            let message = "the namespace was made again with fewer shards; try again";
            Error::Refused(Failure::no(Reason::NotAllowed, message))
        })
    }
}
