//! A shard's deduplicated request log, the outcome of one request, and what failovers cut off.
//!
//! `Follow` gives each record once and goes on after a break at its cursor. A start that is no longer kept is told as a
//! `Gap`, a cursor on a branch that was cut off as `Error::Forked` ([`Follow::cut_of`] says where to go on); neither is
//! skipped in silence. A filter leaves records out at the server; `Progress` then says how far it looked.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::object::{Outcome, pair, wire_pair, wire_request_id};
use crate::retry::{Ledger, Wanted};
use crate::server::trouble_of;
use bytes::Bytes;
use futures::{Stream, stream};
use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use tonic::transport::Channel;
use understudy_proto::failure::Failure;
use understudy_proto::limits::PUBLIC_MESSAGE_BYTES_MAX;
use understudy_proto::v1::{self, request_log_client::RequestLogClient};
use understudy_proto::{ClientId, Pair, RequestId};

/// One thing that the log tells.
#[derive(Clone, Debug, PartialEq)]
pub enum LogEvent {
    Record(Box<v1::LogRecord>),
    /// Records before this version are no longer kept; the next record is the first that is.
    Gap {
        first_version: u64,
    },
    /// The log was looked through up to here, and what was not asked for was left out: a position to go on after.
    Progress {
        through: Pair,
    },
}

/// A reader of one shard's log; see [`Follow::next`].
#[derive(Debug)]
#[must_use = "nothing is read until the next record is asked for"]
pub struct Follow {
    namespace: Namespace,
    request: v1::FollowRequest,
    cursor: Option<Pair>,
    /// How many records are still wanted; `None`: no bound.
    remaining: Option<u64>,
    end: Pair,
    first_version: u64,
    open: Option<tonic::Streaming<v1::FollowResponse>>,
    ready: VecDeque<LogEvent>,
    failures: u32,
    done: bool,
}

impl Follow {
    pub(crate) fn new(namespace: Namespace, shard: u32) -> Follow {
        let request = v1::FollowRequest {
            namespace: namespace.name().to_string(),
            shard,
            ..Default::default()
        };
        Follow {
            namespace,
            request,
            cursor: None,
            remaining: None,
            end: Pair::ZERO,
            first_version: 0,
            open: None,
            ready: VecDeque::new(),
            failures: 0,
            done: false,
        }
    }

    /// Begin with this version; by default with the first that is kept.
    pub fn from_version(mut self, version: u64) -> Follow {
        self.request.from_version = version;
        self
    }

    /// Begin after this record.
    pub fn after(mut self, cursor: Pair) -> Follow {
        self.cursor = Some(cursor);
        self
    }

    /// Go on as records come, instead of ending at the end of the log.
    pub fn follow(mut self) -> Follow {
        self.request.follow = true;
        self
    }

    /// End after so many records.
    pub fn limit(mut self, records: u64) -> Follow {
        self.remaining = Some(records);
        self
    }

    /// Only records whose request named, tested or changed an object with such a key.
    pub fn key_prefix(mut self, prefix: impl Into<Bytes>) -> Follow {
        self.request.key_prefix = prefix.into();
        self
    }

    /// Only this client's requests, and what is forgotten of them.
    pub fn client(mut self, client: ClientId) -> Follow {
        self.request.client_id = client.to_bytes().to_vec().into();
        self
    }

    /// One side of the records: what was asked for, or what was done.
    pub fn view(mut self, view: v1::follow_request::View) -> Follow {
        self.request.view = view.into();
        self
    }

    /// The last record that was given out, or how far the log was looked through after it: what to give to
    /// [`Follow::after`] to go on later.
    pub fn cursor(&self) -> Option<Pair> {
        self.cursor
    }

    /// How far the primary's log reached when it was last heard.
    pub fn end(&self) -> Pair {
        self.end
    }

    /// The first version that is kept, as last heard.
    pub fn first_version(&self) -> u64 {
        self.first_version
    }

    /// The next record, gap or progress; `None`: the log ended (or the limit was reached). An error is final for now; calling
    /// again goes on at the cursor.
    pub async fn next(&mut self) -> Result<Option<LogEvent>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(self.give_out(event));
            }
            if self.done || self.remaining == Some(0) {
                return Ok(None);
            }
            let Some(open) = self.open.as_mut() else {
                self.begin().await?;
                continue;
            };
            match open.message().await {
                Ok(Some(message)) => self.hear(message),
                Ok(None) => {
                    self.open = None;
                    self.done = !self.request.follow;
                }
                Err(status) => {
                    self.open = None;
                    let mut ledger = Ledger::new(None, false);
                    if let Some(error) = ledger.note(trouble_of(&status)) {
                        self.compacted(error)?;
                    }
                }
            }
        }
    }

    /// The same as a stream, which ends at the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<LogEvent, Error>> + Send {
        stream::unfold(Some(self), |follow| async move {
            let mut follow = follow?;
            match follow.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(follow))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The most that a forked cursor's branch and the log can share: what was given out after it is not in the log any more.
    /// They may share less, for a position does not tell where its epoch began. So go on after the last record that you hold
    /// and that is not after this one; if that is not in the log either, the next error names an earlier cut. What is recorded
    /// again names in `earlier` where it stood.
    pub fn cut_of(error: &Error) -> Option<Pair> {
        match error {
            Error::Forked(failure) => failure.metadata.get("cut")?.parse().ok(),
            _ => None,
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let shared = self.namespace.shared().clone();
        check::name("namespace", self.namespace.name()).map_err(Error::Invalid)?;
        if self.failures > 0 {
            let pause = shared.settings.backoff.after(self.failures, rand::random());
            tokio::time::sleep(pause).await;
        }
        self.failures += 1;
        let deadline = shared.deadline(None);
        let route = self.namespace.cache().get(&shared, deadline).await?;
        let Some(shard) = route.shards.get(self.request.shard as usize) else {
            let message = format!("the namespace has {} shards", route.shard_count());
            return Err(Error::Invalid(Failure::field("shard", message)));
        };
        let copies = shard.order(Wanted::Primary);
        let servers = copies
            .filter_map(|node| route.address(node))
            .map(str::to_string)
            .collect();
        let request = v1::FollowRequest {
            after: self.cursor.map(wire_pair),
            limit: self.remaining.unwrap_or(0),
            ..self.request.clone()
        };
        let call = Call::new(servers, deadline, Idempotent::Read);
        let opened = anywhere::call(&shared, call, move |channel| {
            let request = request.clone();
            async move { stub(channel).follow(request).await }
        })
        .await;
        match opened {
            Ok(stream) => self.open = Some(stream),
            Err(error) => self.compacted(error)?,
        }
        Ok(())
    }

    fn hear(&mut self, message: v1::FollowResponse) {
        self.failures = 0;
        self.end = pair(message.end);
        self.first_version = message.first_version;
        // After a resumption a server may repeat what was heard; nothing is given out twice.
        let heard = self.ready.iter().rev().find_map(|event| match event {
            LogEvent::Record(record) => Some(pair(record.pair)),
            LogEvent::Progress { through } => Some(*through),
            LogEvent::Gap { .. } => None,
        });
        let mut last = heard.or(self.cursor).unwrap_or(Pair::ZERO);
        for record in message.records {
            let position = pair(record.pair);
            if position > last {
                last = position;
                self.ready.push_back(LogEvent::Record(Box::new(record)));
            }
        }
        let through = pair(message.through);
        if through > last {
            self.ready.push_back(LogEvent::Progress { through });
        }
    }

    fn give_out(&mut self, event: LogEvent) -> Option<LogEvent> {
        match &event {
            LogEvent::Record(record) => {
                if let Some(remaining) = self.remaining.as_mut() {
                    *remaining = remaining.checked_sub(1)?;
                }
                self.cursor = Some(pair(record.pair));
            }
            LogEvent::Progress { through } => self.cursor = Some(*through),
            LogEvent::Gap { .. } => {}
        }
        Some(event)
    }

    /// A start that is no longer kept becomes a gap, and reading goes on with the first record that is.
    fn compacted(&mut self, error: Error) -> Result<(), Error> {
        let Error::Compacted(failure) = &error else {
            return Err(error);
        };
        let Some(first) = failure.metadata.get("first").and_then(|text| version(text)) else {
            return Err(error);
        };
        self.cursor = None;
        self.request.from_version = first;
        self.ready.push_back(LogEvent::Gap {
            first_version: first,
        });
        Ok(())
    }
}

/// A version, alone or as the second half of a pair.
fn version(text: &str) -> Option<u64> {
    let version = text.rsplit_once('.').map_or(text, |(_, version)| version);
    version.parse().ok()
}

fn stub(channel: Channel) -> RequestLogClient<Channel> {
    RequestLogClient::new(channel).max_decoding_message_size(4 * PUBLIC_MESSAGE_BYTES_MAX)
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Everywhere it was found.
    pub found: Vec<Trace>,
    /// Nodes that could not be asked; what they hold is unknown.
    pub unreachable_nodes: Vec<u64>,
    /// Shards whose log nobody could look at as primary; what it holds is unknown.
    pub unserved_shards: Vec<u32>,
}

impl Traces {
    /// Whether everybody was asked who may have it: then what was not found is nowhere.
    pub fn is_complete(&self) -> bool {
        self.unreachable_nodes.is_empty() && self.unserved_shards.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub shard: u32,
    pub pair: Pair,
    /// `None` when the request expired.
    pub outcome: Option<Outcome>,
    pub place: v1::get_outcome_response::found::Where,
    pub node: u64,
}

/// A question for the outcome of one request.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until it is awaited"]
pub struct LookUp {
    namespace: Namespace,
    request: v1::GetOutcomeRequest,
}

impl LookUp {
    pub(crate) fn new(namespace: Namespace, id: RequestId) -> LookUp {
        let request = v1::GetOutcomeRequest {
            namespace: namespace.name().to_string(),
            request_id: Some(wire_request_id(id)),
            ..Default::default()
        };
        LookUp { namespace, request }
    }

    /// Only this shard, instead of every one of the namespace.
    pub fn shard(mut self, index: u32) -> LookUp {
        self.request.shard = Some(index);
        self
    }

    pub async fn send(self) -> Result<Traces, Error> {
        let LookUp { namespace, request } = self;
        let shared = namespace.shared();
        let deadline = shared.deadline(None);
        let route = namespace.cache().get(shared, deadline).await?;
        let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
        let answer = anywhere::call(shared, call, move |channel| {
            let request = request.clone();
            async move { stub(channel).get_outcome(request).await }
        })
        .await?;
        let trace = |found: v1::get_outcome_response::Found| Trace {
            shard: found.shard,
            pair: pair(found.pair),
            place: found.r#where(),
            outcome: found.outcome.and_then(|outcome| outcome.try_into().ok()),
            node: found.node,
        };
        Ok(Traces {
            found: answer.found.into_iter().map(trace).collect(),
            unreachable_nodes: answer.unreachable_nodes,
            unserved_shards: answer.unserved_shards,
        })
    }
}

impl IntoFuture for LookUp {
    type Output = Result<Traces, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A question for what failovers cut off.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until it is awaited"]
pub struct Orphans {
    namespace: Namespace,
    limit: u32,
}

impl Orphans {
    pub(crate) fn new(namespace: Namespace) -> Orphans {
        Orphans {
            namespace,
            limit: 0,
        }
    }

    /// At most 10,000; 0: 1,000.
    pub fn limit(mut self, limit: u32) -> Orphans {
        self.limit = limit;
        self
    }

    pub async fn send(self) -> Result<v1::ListOrphansResponse, Error> {
        let shared = self.namespace.shared();
        let deadline = shared.deadline(None);
        let route = self.namespace.cache().get(shared, deadline).await?;
        let request = v1::ListOrphansRequest {
            namespace: self.namespace.name().to_string(),
            limit: self.limit,
            ..Default::default()
        };
        let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
        anywhere::call(shared, call, move |channel| {
            let request = request.clone();
            async move { stub(channel).list_orphans(request).await }
        })
        .await
    }
}

impl IntoFuture for Orphans {
    type Output = Result<v1::ListOrphansResponse, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
