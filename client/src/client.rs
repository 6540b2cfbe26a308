//! The entry: where a client learns of the cluster, and what its handles share.
//!
//! A `Client` is cheap to clone and lives as long as its last handle. It holds no connection before it needs one, and
//! keeps one to each server that it met.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::naming::Naming;
use crate::route::Route;
use crate::route_cache::RouteCache;
use crate::server::Servers;
use crate::session::Session;
use crate::settings::Settings;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use understudy_proto::failure::Failure;
use understudy_proto::{ClientId, limits};

/// A connection to a cluster. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    session: Session,
}

/// What all handles of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub settings: Settings,
    pub servers: Servers,
    /// The addresses that the caller gave, in the caller's order.
    seeds: Vec<String>,
    managers: Mutex<Vec<String>>,
    routes: Mutex<HashMap<String, Arc<RouteCache>>>,
    spread: AtomicU32,
}

impl Client {
    /// Takes the public addresses of some nodes or managers (`http://host:port` or `host:port`), in the order in which
    /// they are to be asked. Nothing needs to be up yet: connections are made when they are needed.
    pub async fn connect<I>(endpoints: I) -> Result<Client, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        Client::connect_with(endpoints, Settings::default()).await
    }

    pub async fn connect_with<I>(endpoints: I, settings: Settings) -> Result<Client, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let seeds: Result<Vec<String>, Failure> = endpoints
            .into_iter()
            .map(|endpoint| address(endpoint.as_ref()))
            .collect();
        let seeds = seeds.map_err(Error::Invalid)?;
        if seeds.is_empty() {
            let failure = Failure::field("endpoints", "at least one address is needed");
            return Err(Error::Invalid(failure));
        }
        let settings = settings.bounded();
        let shared = Arc::new(Shared {
            servers: Servers::new(settings.clone()),
            settings,
            seeds,
            managers: Mutex::default(),
            routes: Mutex::default(),
            spread: AtomicU32::new(rand::random()),
        });
        let session = Session::new(shared.clone());
        Ok(Client { shared, session })
    }

    /// A namespace, written to in the client's own session. No server is asked; a name that does not exist is told by
    /// the first call.
    pub fn namespace(&self, name: &str) -> Namespace {
        self.session.namespace(name)
    }

    /// The session that [`Client::namespace`] uses.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A further session with a client id of its own.
    pub fn new_session(&self) -> Session {
        Session::new(self.shared.clone())
    }

    /// A session that goes on with a client id that was used before. Numbers from `next_sequence` on must be unused.
    pub fn resume_session(&self, client_id: ClientId, next_sequence: u64) -> Session {
        Session::resume(self.shared.clone(), client_id, next_sequence)
    }

    /// The naming table: routes, and the bindings of applications.
    pub fn naming(&self) -> Naming {
        Naming::new(self.shared.clone(), self.session.clone())
    }

    /// Running the cluster.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.shared.clone(), self.session.clone())
    }

    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }
}

impl Shared {
    /// When a call that may take so long ends.
    pub fn deadline(&self, asked: Option<Duration>) -> Instant {
        let longest = Duration::from_millis(limits::DEADLINE_MS_MAX);
        Instant::now() + asked.unwrap_or(self.settings.deadline).min(longest)
    }

    pub fn route_cache(&self, namespace: &str) -> Arc<RouteCache> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = routes.get(namespace) {
            return cache.clone();
        }
        let cache = Arc::new(RouteCache::new(namespace, &self.settings.site));
        routes.insert(namespace.to_string(), cache.clone());
        cache
    }

    /// The next number for spreading reads over copies.
    pub fn spread(&self) -> u32 {
        self.spread.fetch_add(1, Ordering::Relaxed)
    }

    pub fn learn_managers(&self, managers: &[String]) {
        if managers.is_empty() {
            return;
        }
        let mut known = self.managers.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != managers {
            *known = managers.to_vec();
        }
    }

    fn managers(&self) -> Vec<String> {
        let known = self.managers.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    pub fn seeds(&self) -> Vec<String> {
        self.seeds.clone()
    }

    /// Who answers for the tables: the managers, then whoever the caller named.
    pub fn managers_then_seeds(&self) -> Vec<String> {
        each_once(self.managers().into_iter().chain(self.seeds()))
    }

    /// The same, and a first look for the managers where only nodes were named.
    pub async fn find_managers(self: &Arc<Self>, deadline: Instant) -> Vec<String> {
        if self.managers().is_empty() {
            crate::naming::learn_managers(self, deadline).await;
        }
        self.managers_then_seeds()
    }

    /// Everyone, the route's nodes first and in turn: they are many, and answer from what they follow.
    pub fn any_server(&self, route: Option<&Route>) -> Vec<String> {
        let nodes = route.into_iter().flat_map(|route| route.nodes.values());
        let mut nodes: Vec<String> = nodes.map(|node| node.address.clone()).collect();
        let turn = self.spread() as usize % nodes.len().max(1);
        nodes.rotate_left(turn);
        each_once(nodes.into_iter().chain(self.seeds()).chain(self.managers()))
    }
}

fn each_once(addresses: impl Iterator<Item = String>) -> Vec<String> {
    let mut once = Vec::new();
    for address in addresses {
        if !address.is_empty() && !once.contains(&address) {
            once.push(address);
        }
    }
    once
}

/// host:port of an endpoint.
fn address(endpoint: &str) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::field("endpoints", format!("'{endpoint}': {why}"));
    if endpoint.starts_with("https://") {
        return Err(wrong("this build speaks plain text only; use http://"));
    }
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let address = address.strip_suffix('/').unwrap_or(address);
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(address.to_string()),
        _ => Err(wrong("an endpoint is http://host:port")),
    }
}
