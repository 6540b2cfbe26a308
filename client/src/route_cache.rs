//! The cached route of one namespace, and how it stays fresh.
//!
//! Loaded once, from any server that was given; from then on changed by redirects, by the watch of the naming table
//! (one background task for each namespace in use), and by the managers when a request has exhausted the cached copies.
//! Many requests that are exhausted at once ask the managers once.

use crate::anywhere::{self, Call, Idempotent};
use crate::client::Shared;
use crate::error::{Error, Trouble};
use crate::route::{Redirect, Route};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use understudy_proto::failure::Failure;
use understudy_proto::v1::{self, naming_client::NamingClient};

#[derive(Debug)]
pub(crate) struct RouteCache {
    name: String,
    site: String,
    route: watch::Sender<Option<Arc<Route>>>,
    /// Held while the managers are asked; what the last question came to, with its number.
    asking: tokio::sync::Mutex<(u64, Result<(), Trouble>)>,
    asked: std::sync::atomic::AtomicU64,
    watcher: Mutex<Option<Watcher>>,
}

/// Ends the background task with the cache.
#[derive(Debug)]
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RouteCache {
    pub fn new(name: &str, site: &str) -> RouteCache {
        RouteCache {
            name: name.to_string(),
            site: site.to_string(),
            route: watch::Sender::new(None),
            asking: tokio::sync::Mutex::new((0, Ok(()))),
            asked: 0.into(),
            watcher: Mutex::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn current(&self) -> Option<Arc<Route>> {
        self.route.borrow().clone()
    }

    /// To wait for a change of the route.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Route>>> {
        self.route.subscribe()
    }

    /// The cached route; loads it at the first use.
    pub async fn get(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        deadline: Instant,
    ) -> Result<Arc<Route>, Error> {
        if let Some(route) = self.current() {
            return Ok(route);
        }
        // The lock makes one of many first requests load it.
        let _asking = tokio::time::timeout_at(deadline, self.asking.lock())
            .await
            .map_err(|_| {
                let why = "the route could not be loaded in time".to_string();
                Error::Unavailable(Trouble::NotSent(why))
            })?;
        if let Some(route) = self.current() {
            return Ok(route);
        }
        self.ask(shared, shared.any_server(None), deadline).await?;
        self.watch(shared);
        self.current().ok_or_else(|| {
            let why = "the answer held no route".to_string();
            Error::Unavailable(Trouble::Lost(why))
        })
    }

    /// Asks the managers for a fresh list (A09); those who ask meanwhile share the answer.
    pub async fn refresh(&self, shared: &Arc<Shared>, deadline: Instant) -> Result<(), Trouble> {
        use std::sync::atomic::Ordering::SeqCst;
        let before = self.asked.load(SeqCst);
        let Ok(mut asking) = tokio::time::timeout_at(deadline, self.asking.lock()).await else {
            let why = "the managers did not answer in time".to_string();
            return Err(Trouble::NotSent(why));
        };
        if asking.0 > before {
            return asking.1.clone();
        }
        let patience = Instant::now() + shared.settings.attempt_timeout;
        let managers = shared.managers_then_seeds();
        let answer = self.ask(shared, managers, deadline.min(patience)).await;
        asking.0 = self.asked.fetch_add(1, SeqCst) + 1;
        asking.1 = answer.map_err(|error| match error {
            Error::Unavailable(trouble) => trouble,
            other => match other.failure() {
                Some(failure) => Trouble::Failure(failure.clone()),
                None => Trouble::Lost(other.to_string()),
            },
        });
        asking.1.clone()
    }

    /// Follows a server's hint where the primary is.
    pub fn redirect(&self, index: u32, redirect: &Redirect) -> bool {
        // Many requests are redirected at once; only the first one's hint is worth a new copy of the route.
        let news = |route: &Arc<Route>| route.is_news(index, redirect);
        if !self.route.borrow().as_ref().is_some_and(news) {
            return false;
        }
        self.route.send_if_modified(|slot| {
            slot.as_mut()
                .is_some_and(|route| Arc::make_mut(route).redirect(index, redirect))
        })
    }

    /// Takes over an answer of the naming table. True when it changed something.
    pub fn apply(&self, wire: &v1::RouteResponse) -> Result<bool, Failure> {
        let mut failed = None;
        let changed = self.route.send_if_modified(|slot| match slot.as_mut() {
            Some(route) => Arc::make_mut(route).apply(wire),
            None => match Route::from_wire(wire, &self.site) {
                Ok(route) => {
                    *slot = Some(Arc::new(route));
                    true
                }
                Err(failure) => {
                    failed = Some(failure);
                    false
                }
            },
        });
        failed.map_or(Ok(changed), Err)
    }

    async fn ask(
        &self,
        shared: &Arc<Shared>,
        servers: Vec<String>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let request = v1::RouteRequest {
            namespace: self.name.clone(),
            site: self.site.clone(),
            revision: 0,
        };
        let call = Call::new(servers, deadline, Idempotent::Read);
        let wire = anywhere::call(shared, call, move |channel| {
            let request = request.clone();
            async move { NamingClient::new(channel).route(request).await }
        })
        .await?;
        shared.learn_managers(&wire.managers);
        self.apply(&wire).map_err(Error::certain)?;
        Ok(())
    }

    fn watch(self: &Arc<Self>, shared: &Arc<Shared>) {
        if !shared.settings.watch_routes {
            return;
        }
        let task = tokio::spawn(follow(Arc::downgrade(self), Arc::downgrade(shared)));
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        *watcher = Some(Watcher(task));
    }
}

/// Follows the naming table until the cache is gone; after a break at the next server, in turn.
async fn follow(cache: Weak<RouteCache>, shared: Weak<Shared>) {
    let mut turn = 0;
    let mut failures = 0;
    loop {
        let Some(pause) = follow_once(&cache, &shared, turn, failures).await else {
            return;
        };
        turn += 1;
        failures = if pause.is_zero() { 0 } else { failures + 1 };
        tokio::time::sleep(pause).await;
    }
}

/// One stream at one server: how long to wait before the next. `None`: nobody needs it any more.
async fn follow_once(
    cache: &Weak<RouteCache>,
    shared: &Weak<Shared>,
    turn: usize,
    failures: u32,
) -> Option<Duration> {
    let (mut stub, request, pause) = {
        let (cache, shared) = (cache.upgrade()?, shared.upgrade()?);
        let pause = shared.settings.backoff.after(failures + 2, rand::random());
        let route = cache.current();
        let servers = shared.any_server(route.as_deref());
        let address = servers.get(turn % servers.len().max(1))?;
        let Ok(server) = shared.servers.at(address) else {
            return Some(pause);
        };
        let request = v1::RouteRequest {
            namespace: cache.name.clone(),
            site: cache.site.clone(),
            revision: route.map_or(0, |route| route.revision.0),
        };
        (NamingClient::new(server.channel()), request, pause)
    };
    let Ok(stream) = stub.watch_routes(request).await else {
        return Some(pause);
    };
    let mut stream = stream.into_inner();
    let mut heard = false;
    while let Ok(Some(wire)) = stream.message().await {
        heard = true;
        shared.upgrade()?.learn_managers(&wire.managers);
        // An answer that is no route changes nothing; the next one may.
        let _ = cache.upgrade()?.apply(&wire);
    }
    Some(if heard { Duration::ZERO } else { pause })
}
