//! A namespace in a session: where writes, reads, scans, watches and logs begin.
//!
//! A handle is cheap to clone. Its writes bear the session's client id; its reads of level `Session` see what the
//! session wrote and read before.

use crate::client::Shared;
use crate::conflicts::{Conflict, ConflictId, Conflicts};
use crate::error::{Error, Trouble};
use crate::object::Written;
use crate::read::{Get, Read};
use crate::request_log::{Follow, LookUp, Orphans};
use crate::route::Route;
use crate::route_cache::RouteCache;
use crate::scan::Scan;
use crate::session::{Session, Tokens};
use crate::verify::{Verified, verify};
use crate::watch::Watch;
use crate::write::Write;
use bytes::Bytes;
use std::sync::Arc;
use tokio::time::{Instant, sleep};
use understudy_proto::{Pair, RequestId};

/// What a compare-and-set expects of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is absent.
    Absent,
    /// Its plain value is this.
    Value(Bytes),
    /// Its last writer is this record: also a change there and back is noticed.
    Pair(Pair),
}

/// A namespace, used in one session. Clones share everything.
#[derive(Clone, Debug)]
pub struct Namespace {
    shared: Arc<Shared>,
    session: Session,
    cache: Arc<RouteCache>,
    tokens: Arc<Tokens>,
}

impl Namespace {
    pub(crate) fn new(
        shared: Arc<Shared>,
        session: Session,
        name: &str,
        tokens: Arc<Tokens>,
    ) -> Namespace {
        let cache = shared.route_cache(name);
        Namespace {
            shared,
            session,
            cache,
            tokens,
        }
    }

    pub fn name(&self) -> &str {
        self.cache.name()
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Replaces an object by one plain value.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Write {
        self.transaction().put(key, value)
    }

    /// Removes an object.
    pub fn delete(&self, key: impl Into<Bytes>) -> Write {
        self.transaction().delete(key)
    }

    /// Sets one component of an object.
    pub fn set_component(
        &self,
        key: impl Into<Bytes>,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Write {
        self.transaction().set_component(key, name, value)
    }

    /// Removes one component of an object.
    pub fn remove_component(&self, key: impl Into<Bytes>, name: impl Into<Bytes>) -> Write {
        self.transaction().remove_component(key, name)
    }

    /// Adds to a counter.
    pub fn add(&self, key: impl Into<Bytes>, name: impl Into<Bytes>, delta: i64) -> Write {
        self.transaction().add(key, name, delta)
    }

    /// Appends to the bytes of a component.
    pub fn append(
        &self,
        key: impl Into<Bytes>,
        name: impl Into<Bytes>,
        data: impl Into<Bytes>,
    ) -> Write {
        self.transaction().append(key, name, data)
    }

    /// Replaces an object when it is as expected. `Written::applied` tells whether it was.
    pub fn compare_and_set(
        &self,
        key: impl Into<Bytes>,
        expected: Expected,
        value: impl Into<Bytes>,
    ) -> Write {
        let key = key.into();
        let write = self.transaction().put(key.clone(), value);
        match expected {
            Expected::Absent => write.if_absent(key),
            Expected::Value(value) => write.if_value(key, value),
            Expected::Pair(pair) => write.if_pair(key, pair),
        }
    }

    /// Reads an object, computes its next plain value (`None`: nothing to do) and writes it when nobody else did
    /// meanwhile, else begins again, until the deadline of the settings. Ends with the write that was applied, or `None`.
    pub async fn update(
        &self,
        key: impl Into<Bytes>,
        mut next: impl FnMut(Option<&Bytes>) -> Option<Bytes>,
    ) -> Result<Option<Written>, Error> {
        let key = key.into();
        let deadline = self.shared.deadline(None);
        for round in 0.. {
            let found = self.get(key.clone()).send().await?;
            let Some(value) = next(found.as_ref().and_then(|object| object.value())) else {
                return Ok(None);
            };
            let expected = found.map_or(Expected::Absent, |object| Expected::Pair(object.pair));
            let write = self.compare_and_set(key.clone(), expected, value);
            let written = write.send().await?;
            if written.applied() {
                return Ok(Some(written));
            }
            let pause = self.shared.settings.backoff.after(round, rand::random());
            if Instant::now() + pause >= deadline {
                break;
            }
            sleep(pause).await;
        }
        let why = "others kept changing the object".to_string();
        Err(Error::Unavailable(Trouble::NotSent(why)))
    }

    /// Several operations and preconditions in one shard: all or nothing.
    pub fn transaction(&self) -> Write {
        Write::new(self.clone())
    }

    /// Reads one object, by default at the primary.
    pub fn get(&self, key: impl Into<Bytes>) -> Get {
        Get(self.read([key]))
    }

    /// Reads objects of one shard together.
    pub fn read<K: Into<Bytes>>(&self, keys: impl IntoIterator<Item = K>) -> Read {
        Read::new(self.clone(), keys.into_iter().map(Into::into).collect())
    }

    /// Objects in key order.
    pub fn scan(&self) -> Scan {
        Scan::new(self.clone())
    }

    /// Compares the objects of all copies of a shard (index inside the namespace) with its primary's, while writes go on. Copies
    /// that differ are rebuilt.
    pub async fn verify(&self, shard: u32) -> Result<Verified, Error> {
        verify(self, shard).await
    }

    /// The changes of keys with a prefix.
    pub fn watch(&self, prefix: impl Into<Bytes>) -> Watch {
        Watch::new(self.clone(), prefix.into())
    }

    /// The deduplicated request log of one shard (index inside the namespace).
    pub fn request_log(&self, shard: u32) -> Follow {
        Follow::new(self.clone(), shard)
    }

    /// What became of a request.
    pub fn outcome(&self, request_id: RequestId) -> LookUp {
        LookUp::new(self.clone(), request_id)
    }

    /// What failovers cut off in this namespace.
    pub fn orphans(&self) -> Orphans {
        Orphans::new(self.clone())
    }

    /// What failovers cut off in this namespace and a person has to decide.
    pub fn conflicts(&self) -> Conflicts {
        Conflicts::new(self.clone())
    }

    /// Both sides of a conflict. [`Write::resolve`] decides it.
    pub async fn conflict(&self, id: ConflictId) -> Result<Conflict, Error> {
        Conflict::get(self, id).await
    }

    /// The cached route; loads it when it is not there yet.
    pub async fn route(&self) -> Result<Arc<Route>, Error> {
        let deadline = self.shared.deadline(None);
        self.cache.get(&self.shared, deadline).await
    }

    /// How far this session has seen a shard: the newest pair that an answer named.
    pub fn token(&self, shard: u32) -> Pair {
        self.tokens.get(shard)
    }

    /// After [`Error::Forked`]: reads of level `Session` begin anew, in all shards of the namespace. They no longer see what
    /// was cut off, and are as strict as before from then on.
    pub fn forget_tokens(&self) {
        self.tokens.forget();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn cache(&self) -> &Arc<RouteCache> {
        &self.cache
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }
}
