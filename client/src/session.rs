//! A session: one client id, its request ids, and how far its reads have seen each shard.
//!
//! The client id is made here, a UUIDv7; nobody is asked for it. When the cluster ends it, the session goes on under a
//! new one, after the caller was told of every request whose outcome that leaves unknown.

use crate::client::Shared;
use crate::namespace::Namespace;
use crate::request_ids::RequestIds;
use crate::tokens::ShardTokens;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use understudy_proto::{ClientId, Pair, RequestId};

/// One client id and its requests. Clones share them.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    ids: Mutex<RequestIds>,
    tokens: Mutex<HashMap<String, Arc<Tokens>>>,
}

/// How far a session has seen each shard of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<u32, ShardTokens>>);

impl Tokens {
    pub fn get(&self, shard: u32) -> Pair {
        let tokens = lock(&self.0);
        tokens.get(&shard).map_or(Pair::ZERO, ShardTokens::newest)
    }

    /// What a session read asks for, oldest first.
    pub fn pairs(&self, shard: u32) -> Vec<Pair> {
        let tokens = lock(&self.0);
        tokens.get(&shard).map_or_else(Vec::new, ShardTokens::pairs)
    }

    pub fn raise(&self, shard: u32, token: Pair) {
        lock(&self.0).entry(shard).or_default().raise(token);
    }

    /// A session read that asked for these was answered with this one.
    pub fn settle(&self, shard: u32, asked: &[Pair], answer: Pair) {
        let mut tokens = lock(&self.0);
        tokens.entry(shard).or_default().settle(asked, answer);
    }

    pub fn forget(&self) {
        lock(&self.0).clear();
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Session {
        Session::from_ids(shared, RequestIds::new(make_client_id(None)))
    }

    pub(crate) fn resume(shared: Arc<Shared>, client: ClientId, next: u64) -> Session {
        Session::from_ids(shared, RequestIds::resume(client, next))
    }

    fn from_ids(shared: Arc<Shared>, ids: RequestIds) -> Session {
        let state = State {
            ids: Mutex::new(ids),
            tokens: Mutex::default(),
        };
        Session {
            shared,
            state: Arc::new(state),
        }
    }

    /// A namespace, written to in this session.
    pub fn namespace(&self, name: &str) -> Namespace {
        let mut tokens = lock(&self.state.tokens);
        let tokens = tokens.entry(name.to_string()).or_default().clone();
        Namespace::new(self.shared.clone(), self.clone(), name, tokens)
    }

    /// The client id in use now.
    pub fn client_id(&self) -> ClientId {
        self.ids().client()
    }

    /// The number that the next request gets: with the client id, what to keep to resume the session later.
    pub fn next_sequence(&self) -> u64 {
        self.ids().upcoming()
    }

    /// A request id to send a write under, and again after *outcome unknown*. It stays open, and the servers keep its
    /// outcome, until a write under it is answered or [`Session::forget`] is called.
    pub fn next_request_id(&self) -> RequestId {
        self.ids().take()
    }

    /// The caller will never ask for this request again: the servers may forget its outcome.
    pub fn forget(&self, id: RequestId) {
        self.ids().answer(id);
    }

    /// Everything numbered up to this is answered; the servers are told with each request.
    pub fn answered_upto(&self) -> u64 {
        self.ids().answered_upto()
    }

    /// A number that the caller chose.
    pub(crate) fn note_used(&self, id: RequestId) {
        let mut ids = self.ids();
        if ids.client() == id.client {
            ids.note_used(id.sequence);
        }
    }

    /// What to tell the servers with a request of this id: nothing about other clients' requests.
    pub(crate) fn answered_before(&self, id: RequestId) -> u64 {
        let ids = self.ids();
        if ids.client() != id.client {
            return 0;
        }
        ids.answered_upto().min(id.sequence.0.saturating_sub(1))
    }

    /// Whether a request that ran nowhere may be given another client id.
    pub(crate) fn replaceable(&self) -> bool {
        !self.ids().resumed()
    }

    /// An id under another client id than this one: of the session's present one when that was replaced already.
    pub(crate) fn rename(&self, refused: ClientId, table_time_ms: Option<u64>) -> RequestId {
        let mut ids = self.ids();
        if ids.client() == refused {
            *ids = RequestIds::new(make_client_id(table_time_ms));
        }
        ids.take()
    }

    /// The cluster ended this client id: later requests go under a new one.
    pub(crate) fn expire(&self, ended: ClientId) {
        let mut ids = self.ids();
        if ids.client() == ended {
            *ids = RequestIds::new(make_client_id(None));
        }
    }

    fn ids(&self) -> MutexGuard<'_, RequestIds> {
        lock(&self.state.ids)
    }
}

/// From the table's time when it is known, else from this machine's clock.
fn make_client_id(table_time_ms: Option<u64>) -> ClientId {
    let here = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    };
    ClientId::from_parts(table_time_ms.unwrap_or_else(here), rand::random())
}

/// Each guarded value is whole between any two calls, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
