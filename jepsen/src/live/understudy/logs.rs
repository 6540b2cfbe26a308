//! Clients of the request log of one shard: requests that are in it under their numbers, and followers that read it as it grows.
//!
//! A follower belongs to the cluster and not to a client, so that the last reader can ask each what it has.

use crate::history::Value;
use crate::live::system::{Done, Op};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use understudy_client::v1::{LogRecord, log_record};
use understudy_client::{ClientId, Error, Follow, LogEvent, Namespace, Pair, RequestId, Sequence};

/// All work is in this shard, the only one.
const SHARD: u32 = 0;
/// How long a follower may take to get to where the log was.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);

/// The numbers of requests, and the followers.
#[derive(Default)]
pub struct Logs {
    numbers: Mutex<HashMap<RequestId, i64>>,
    followers: Mutex<HashMap<i64, Arc<tokio::sync::Mutex<Follower>>>>,
}

/// What a follower has of the log: each request with its place, and where each epoch's records end.
#[derive(Default)]
struct Follower {
    follow: Option<Follow>,
    taken: Vec<(Pair, i64)>,
    ends: Vec<Pair>,
    /// How far it is.
    at: Pair,
    /// Records that it lost sight of.
    gaps: u64,
}

impl Logs {
    /// Before the request is sent: a follower may see it before its client hears of it.
    pub fn note(&self, id: RequestId, number: i64) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.insert(id, number);
    }

    /// The number of the request that a record is about; `None`: it is about none. What nobody sent is -1.
    fn number(&self, record: &LogRecord) -> Option<i64> {
        use log_record::Kind;
        if !matches!(
            record.kind(),
            Kind::Request | Kind::RecordedAgain | Kind::Conflict
        ) {
            return None;
        }
        let id = record.request_id.as_ref()?;
        let id = RequestId {
            client: ClientId::from_slice(&id.client_id)?,
            sequence: Sequence(id.sequence),
        };
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        Some(numbers.get(&id).copied().unwrap_or(-1))
    }

    fn follower(&self, number: i64) -> Arc<tokio::sync::Mutex<Follower>> {
        let mut followers = self
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        followers.entry(number).or_default().clone()
    }

    /// `read` of a follower, by its number: lets it take what has come, and tells all that it has. Of -1: the log as it is.
    pub async fn read(&self, op: &Op, namespace: &Namespace) -> Done {
        let number = op.key.as_ref().and_then(Value::as_int).unwrap_or(-1);
        let result = match number {
            -1 => self.whole(namespace).await,
            number => {
                let follower = self.follower(number);
                let mut follower = follower.lock().await;
                follower.catch_up(self, namespace).await
            }
        };
        match result {
            Ok(ids) => Done::ok(Value::List(ids.into_iter().map(Value::Int).collect())),
            Err(why) => Done::fail(op, why),
        }
    }

    async fn whole(&self, namespace: &Namespace) -> Result<Vec<i64>, String> {
        let mut log = namespace.request_log(SHARD);
        let mut ids = Vec::new();
        loop {
            match log.next().await.map_err(|error| error.to_string())? {
                Some(LogEvent::Record(record)) => ids.extend(self.number(&record)),
                Some(LogEvent::Gap { first_version }) => {
                    return Err(format!("the log begins only at version {first_version}"));
                }
                Some(LogEvent::Progress { .. }) => {}
                None => return Ok(ids),
            }
        }
    }
}

/// Where its primary has it now.
async fn end_of_log(namespace: &Namespace) -> Result<Pair, String> {
    let mut log = namespace.request_log(SHARD).limit(1);
    log.next().await.map_err(|error| error.to_string())?;
    Ok(log.end())
}

impl Follower {
    async fn catch_up(&mut self, logs: &Logs, namespace: &Namespace) -> Result<Vec<i64>, String> {
        let until = Instant::now() + CATCH_UP_LIMIT;
        let target = end_of_log(namespace).await?;
        while self.at < target {
            let follow = self
                .follow
                .get_or_insert_with(|| namespace.request_log(SHARD).follow());
            // Nothing is lost when this is given up: what was read stays with the follower.
            let Ok(next) = timeout_at(until, follow.next()).await else {
                return Err(format!("it is at {} and the log at {target}", self.at));
            };
            match next {
                Ok(Some(LogEvent::Record(record))) => self.take(logs, &record),
                Ok(Some(LogEvent::Gap { .. })) => self.gaps += 1,
                Ok(Some(LogEvent::Progress { through })) => self.at = through,
                Ok(None) => return Err("a log that is followed ended".to_string()),
                Err(error) => self.on_error(&error)?,
            }
        }
        match self.gaps {
            0 => Ok(self.taken.iter().map(|(_, number)| *number).collect()),
            gaps => Err(format!("{gaps} gaps")),
        }
    }

    fn take(&mut self, logs: &Logs, record: &LogRecord) {
        let pair = record.pair.as_ref();
        let pair = pair.map_or(Pair::ZERO, |pair| Pair::new(pair.epoch, pair.version));
        self.at = pair;
        match self.ends.last_mut() {
            Some(end) if end.epoch == pair.epoch => *end = pair,
            _ => self.ends.push(pair),
        }
        self.taken
            .extend(logs.number(record).map(|number| (pair, number)));
    }

    /// After a failover that cut off what it has it takes that back, as the client's documents say.
    fn on_error(&mut self, error: &Error) -> Result<(), String> {
        let Some(cut) = Follow::cut_of(error) else {
            return Err(error.to_string());
        };
        self.ends.retain(|end| end.epoch <= cut.epoch);
        let shared = self.ends.iter().map(|end| (*end).min(cut)).max();
        let shared = shared.unwrap_or(Pair::ZERO);
        self.ends
            .iter_mut()
            .for_each(|end| *end = (*end).min(shared));
        self.taken.retain(|(pair, _)| *pair <= shared);
        self.at = shared;
        self.follow = self.follow.take().map(|follow| follow.after(shared));
        Ok(())
    }
}
