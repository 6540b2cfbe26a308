//! The changes of keys with a prefix, over all shards of a namespace, also across breaks and failovers.
//!
//! The watch remembers how far each shard was looked through. After a break it goes on from there at another server;
//! where it does not know (nothing was heard of a shard yet) or the log no longer reaches back, it says `Gap`. There is
//! no silent hole.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::error::{Error, Trouble};
use crate::namespace::Namespace;
use crate::object::{pair, wire_pair};
use crate::retry::Ledger;
use crate::server::{objects, trouble_of};
use bytes::Bytes;
use futures::{Stream, stream};
use std::collections::{BTreeMap, VecDeque};
use understudy_proto::{ClientId, Pair, RequestId, Sequence, v1};

/// One thing that a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// One record's changes to keys that match.
    Change(Change),
    /// Changes of this shard may be missing here: read its keys again. What comes next is after `first`.
    Gap { shard: u32, first: Option<Pair> },
    /// How far each shard was looked through, while nothing changes.
    Progress(BTreeMap<u32, Pair>),
}

/// One record's changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub shard: u32,
    pub pair: Pair,
    pub request_id: Option<RequestId>,
    pub changes: Vec<v1::ObjectChange>,
    /// On the primary's clock; for people only.
    pub primary_time_ms: u64,
}

/// A watch; see [`Watch::next`].
#[derive(Debug)]
#[must_use = "a watch does nothing until its next event is asked for"]
pub struct Watch {
    namespace: Namespace,
    prefix: Bytes,
    /// How far each shard was looked through.
    positions: BTreeMap<u32, Pair>,
    open: Option<tonic::Streaming<v1::WatchResponse>>,
    /// Whether a stream was open before: what comes next is a resumption.
    resuming: bool,
    ready: VecDeque<Event>,
    failures: u32,
}

impl Watch {
    pub(crate) fn new(namespace: Namespace, prefix: Bytes) -> Watch {
        Watch {
            namespace,
            prefix,
            positions: BTreeMap::new(),
            open: None,
            resuming: false,
            ready: VecDeque::new(),
            failures: 0,
        }
    }

    /// Begin after this record of a shard; a shard that is not named begins with what comes next.
    pub fn after(mut self, shard: u32, position: Pair) -> Watch {
        self.positions.insert(shard, position);
        self
    }

    /// How far each shard was looked through: what to give to [`Watch::after`] to go on later.
    pub fn positions(&self) -> &BTreeMap<u32, Pair> {
        &self.positions
    }

    /// The next event. Waits as long as nothing happens; goes on by itself after a break. An error is final for now
    /// (forked, no such namespace, nobody there for a whole deadline); calling again tries again.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(open) = self.open.as_mut() else {
                self.begin().await?;
                continue;
            };
            match open.message().await {
                Ok(Some(message)) => self.hear(message),
                Ok(None) => self.open = None,
                Err(status) => {
                    self.open = None;
                    // A refusal that trying elsewhere cannot better is told; anything else is a break.
                    let mut ledger = Ledger::new(None, false);
                    let broke: Trouble = trouble_of(&status);
                    if let Some(error) = ledger.note(broke) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The same as a stream, which ends at the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, Error>> + Send {
        stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let shared = self.namespace.shared().clone();
        check::name("namespace", self.namespace.name()).map_err(Error::Invalid)?;
        if self.failures > 0 {
            let pause = shared.settings.backoff.after(self.failures, rand::random());
            tokio::time::sleep(pause).await;
        }
        // Counted before the attempt, so that streams that end at once do not spin.
        self.failures += 1;
        let deadline = shared.deadline(None);
        let route = self.namespace.cache().get(&shared, deadline).await?;
        let after = self.positions.iter();
        let request = v1::WatchRequest {
            namespace: self.namespace.name().to_string(),
            prefix: self.prefix.clone(),
            after: after
                .map(|(shard, pair)| (*shard, wire_pair(*pair)))
                .collect(),
        };
        let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
        let stream = anywhere::call(&shared, call, move |channel| {
            let request = request.clone();
            async move { objects(channel).watch(request).await }
        })
        .await?;
        self.open = Some(stream);
        if self.resuming {
            self.tell_unknown_shards(route.shard_count());
        }
        self.resuming = true;
        Ok(())
    }

    /// After a break, what happened meanwhile in a shard of which nothing was heard is not known.
    fn tell_unknown_shards(&mut self, shards: u32) {
        let unknown = (0..shards).filter(|shard| !self.positions.contains_key(shard));
        let gaps = unknown.map(|shard| Event::Gap { shard, first: None });
        self.ready.extend(gaps);
    }

    fn hear(&mut self, message: v1::WatchResponse) {
        use v1::watch_response::Kind;
        self.failures = 0;
        match message.kind {
            Some(Kind::Change(change)) => self.hear_change(change),
            Some(Kind::Gap(gap)) => {
                // Until something is heard of it again the shard has no position to resume at.
                self.positions.remove(&gap.shard);
                let first = gap.first.map(|first| pair(Some(first)));
                let shard = gap.shard;
                self.ready.push_back(Event::Gap { shard, first });
            }
            Some(Kind::Progress(progress)) => {
                for (shard, position) in progress.positions {
                    self.advance(shard, pair(Some(position)));
                }
                let progress = Event::Progress(self.positions.clone());
                self.ready.push_back(progress);
            }
            None => {}
        }
    }

    fn hear_change(&mut self, change: v1::watch_response::Change) {
        let position = pair(change.pair);
        // A server that repeats itself after a resumption is not repeated.
        if !self.advance(change.shard, position) {
            return;
        }
        self.ready.push_back(Event::Change(Change {
            shard: change.shard,
            pair: position,
            request_id: change.request_id.and_then(request_id),
            changes: change.changes,
            primary_time_ms: change.primary_time_ms,
        }));
    }

    /// True when the position is beyond what was looked through.
    fn advance(&mut self, shard: u32, to: Pair) -> bool {
        let known = self.positions.get(&shard).copied();
        let beyond = known.is_none_or(|known| to > known);
        if beyond {
            self.positions.insert(shard, to);
        }
        beyond
    }
}

/// `None` when it is none.
pub(crate) fn request_id(wire: v1::RequestId) -> Option<RequestId> {
    Some(RequestId {
        client: ClientId::from_slice(&wire.client_id)?,
        sequence: Sequence(wire.sequence),
    })
}
