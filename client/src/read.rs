//! One read: objects of one shard at one level.
//!
//! A read changes nothing, so it never ends as *outcome unknown*: it is answered, or unavailable.

use crate::check;
use crate::drive::{Errand, Way};
use crate::error::{Error, Trouble};
use crate::namespace::Namespace;
use crate::object::{Found, Object, wire_pair};
use crate::retry::{Ledger, Walk, Wanted};
use bytes::Bytes;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;
use understudy_proto::Pair;
use understudy_proto::v1::{self, stream_answer, stream_item};

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReadLevel {
    /// Linearizable, at the primary under its lease. The default.
    #[default]
    Primary,
    /// Any copy as it is, near ones first.
    Any,
    /// Any copy that has reached what this session saw: it reads its own writes and never goes back, or says
    /// [`Error::Forked`] when a failover cut some of it off. A copy that is behind waits a little, then another is asked.
    Session,
    /// Any copy that is at most so old, in whole milliseconds and at least one: what was acknowledged so long before the
    /// read is in the answer. Secondaries are one to two heartbeat intervals (100 ms) old.
    Bounded(Duration),
}

impl ReadLevel {
    pub(crate) fn wire(self) -> v1::ReadLevel {
        match self {
            ReadLevel::Primary => v1::ReadLevel::Primary,
            ReadLevel::Any => v1::ReadLevel::Any,
            ReadLevel::Session => v1::ReadLevel::Session,
            ReadLevel::Bounded(_) => v1::ReadLevel::Bounded,
        }
    }

    /// Of level `Bounded`, else 0.
    pub(crate) fn staleness_ms(self) -> u32 {
        match self {
            ReadLevel::Bounded(age) => u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }
}

/// A read that is being put together. All its keys are in one shard.
#[derive(Clone, Debug)]
#[must_use = "a read does nothing until it is awaited"]
pub struct Read {
    namespace: Namespace,
    keys: Vec<Bytes>,
    level: ReadLevel,
    token: Option<Pair>,
    deadline: Option<Duration>,
}

impl Read {
    pub(crate) fn new(namespace: Namespace, keys: Vec<Bytes>) -> Read {
        Read {
            namespace,
            keys,
            level: ReadLevel::Primary,
            token: None,
            deadline: None,
        }
    }

    pub fn level(mut self, level: ReadLevel) -> Read {
        self.level = level;
        self
    }

    /// Level `Session`, with this token instead of the session's own.
    pub fn token(mut self, token: Pair) -> Read {
        self.level = ReadLevel::Session;
        self.token = Some(token);
        self
    }

    /// How long all attempts together may take; by default the setting.
    pub fn deadline(mut self, deadline: Duration) -> Read {
        self.deadline = Some(deadline);
        self
    }

    pub async fn send(self) -> Result<Found, Error> {
        let namespace = self.namespace.clone();
        let shared = namespace.shared();
        let deadline = shared.deadline(self.deadline);
        check::name("namespace", namespace.name()).map_err(Error::Invalid)?;
        let bytes = check::keys(&self.keys).map_err(Error::Invalid)?;
        let index = {
            let route = namespace.cache().get(shared, deadline).await?;
            let shard = route.shard_of(self.keys.iter()).map_err(Error::Invalid)?;
            shard.index
        };
        let wanted = match self.level {
            ReadLevel::Primary => Wanted::Primary,
            _ => Wanted::Any(shared.spread()),
        };
        let walk = Walk::new(
            Ledger::new(None, false),
            wanted,
            shared.settings.backoff,
            false,
        );
        let way = Way {
            shared,
            cache: namespace.cache(),
            index,
            deadline,
        };
        let asked = match (self.level, self.token) {
            (ReadLevel::Session, Some(token)) => vec![token],
            (ReadLevel::Session, None) => namespace.tokens().pairs(index),
            _ => Vec::new(),
        };
        let own = self.level == ReadLevel::Session && self.token.is_none();
        let mut errand = ReadErrand {
            read: self,
            bytes,
            asked,
        };
        let found = way.run(&mut errand, walk).await?;
        if own {
            namespace.tokens().settle(index, &errand.asked, found.token);
        } else {
            namespace.tokens().raise(index, found.token);
        }
        Ok(found)
    }
}

impl IntoFuture for Read {
    type Output = Result<Found, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A read of one object.
#[derive(Clone, Debug)]
#[must_use = "a read does nothing until it is awaited"]
pub struct Get(pub(crate) Read);

impl Get {
    pub fn level(self, level: ReadLevel) -> Get {
        Get(self.0.level(level))
    }

    /// Level `Session`, with this token instead of the session's own.
    pub fn token(self, token: Pair) -> Get {
        Get(self.0.token(token))
    }

    pub fn deadline(self, deadline: Duration) -> Get {
        Get(self.0.deadline(deadline))
    }

    /// `None`: the object is absent.
    pub async fn send(self) -> Result<Option<Object>, Error> {
        let found = self.0.send().await?;
        Ok(found.objects.into_iter().next().flatten())
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Object>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

struct ReadErrand {
    read: Read,
    bytes: usize,
    /// At level `Session`: what the answer must have reached, oldest first.
    asked: Vec<Pair>,
}

/// So much of an attempt's time a copy may wait until it is fresh enough, before another is asked.
const WAIT_PART: u32 = 4;

impl Errand for ReadErrand {
    type Answer = Found;

    fn question(&self, index: u32, forward: bool, left: Duration) -> stream_item::Kind {
        let read = &self.read;
        let (token, earlier) = match self.asked.split_last() {
            Some((newest, earlier)) => (Some(wire_pair(*newest)), earlier),
            None => (None, [].as_slice()),
        };
        let left = match read.level {
            ReadLevel::Session | ReadLevel::Bounded(_) => {
                left.min(self.attempt_timeout() / WAIT_PART)
            }
            _ => left,
        };
        stream_item::Kind::Read(v1::ReadRequest {
            namespace: read.namespace.name().to_string(),
            keys: read.keys.clone(),
            level: read.level.wire().into(),
            shard: Some(index),
            token,
            staleness_ms: read.level.staleness_ms(),
            deadline_ms: (left.as_millis() as u32).max(1),
            refuse_forwarding: !forward,
            earlier_tokens: earlier.iter().copied().map(wire_pair).collect(),
        })
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn attempt_timeout(&self) -> Duration {
        self.read.namespace.shared().settings.attempt_timeout
    }

    fn read(&self, answer: stream_answer::Kind) -> Result<Found, Trouble> {
        match answer {
            stream_answer::Kind::Read(wire) if wire.objects.len() == self.read.keys.len() => {
                Ok(Found::from_wire(wire))
            }
            _ => Err(Trouble::Lost(
                "the answer does not fit the question".to_string(),
            )),
        }
    }

    fn rename(&mut self, _table_time_ms: Option<u64>, _walk: &mut Walk) {}
}
