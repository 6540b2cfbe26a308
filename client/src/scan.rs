//! Objects of a range of keys, page by page or one by one, in key order over all shards.
//!
//! A page is consistent inside a shard only. The page token holds the position, so any server can give the next page.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::object::{Object, pair, wire_pair};
use crate::read::ReadLevel;
use crate::server::objects;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::collections::BTreeMap;
use std::time::Duration;
use understudy_proto::{Pair, v1};

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Object>,
    /// Where the next page begins; empty: this was the last one.
    pub token: Bytes,
}

/// A scan that is being put together.
#[derive(Clone, Debug)]
#[must_use = "a scan does nothing until a page is asked for"]
pub struct Scan {
    namespace: Namespace,
    request: v1::ScanRequest,
    deadline: Option<Duration>,
    done: bool,
}

impl Scan {
    pub(crate) fn new(namespace: Namespace) -> Scan {
        let request = v1::ScanRequest {
            namespace: namespace.name().to_string(),
            level: ReadLevel::Primary.wire().into(),
            ..Default::default()
        };
        Scan {
            namespace,
            request,
            deadline: None,
            done: false,
        }
    }

    /// Only keys that start so.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Scan {
        self.request.prefix = prefix.into();
        self
    }

    /// Only keys from this one on.
    pub fn start(mut self, start: impl Into<Bytes>) -> Scan {
        self.request.start = start.into();
        self
    }

    /// Only keys before this one.
    pub fn end(mut self, end: impl Into<Bytes>) -> Scan {
        self.request.end = end.into();
        self
    }

    /// Objects of one page: at most 10,000; 0: 1,000.
    pub fn page_size(mut self, objects: u32) -> Scan {
        self.request.limit = objects;
        self
    }

    /// Go on after an earlier page.
    pub fn page_token(mut self, token: impl Into<Bytes>) -> Scan {
        self.request.page_token = token.into();
        self
    }

    /// How fresh each shard's part of a page has to be, by itself. `Session`: what this session saw of the shard, and what the scan
    /// itself saw in its earlier pages; or `Forked`.
    pub fn level(mut self, level: ReadLevel) -> Scan {
        self.request.level = level.wire().into();
        self.request.staleness_ms = level.staleness_ms();
        self
    }

    /// Only keys, no components.
    pub fn keys_only(mut self) -> Scan {
        self.request.keys_only = true;
        self
    }

    /// Only this shard of the namespace.
    pub fn shard(mut self, index: u32) -> Scan {
        self.request.shard = Some(index);
        self
    }

    /// How long one page may take; by default the setting.
    pub fn deadline(mut self, deadline: Duration) -> Scan {
        self.deadline = Some(deadline);
        self
    }

    /// The next page; `None` after the last one. After an error the same page is asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        if self.done {
            return Ok(None);
        }
        let shared = self.namespace.shared();
        let deadline = shared.deadline(self.deadline);
        check::name("namespace", self.namespace.name()).map_err(Error::Invalid)?;
        let route = self.namespace.cache().get(shared, deadline).await?;
        let mut request = self.request.clone();
        let attempt = shared.settings.attempt_timeout;
        let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
        let session = request.level() == v1::ReadLevel::Session;
        let tokens = self.namespace.tokens();
        let shards = match request.shard {
            Some(index) => index..index.saturating_add(1),
            None => 0..route.shard_count(),
        };
        let saw = shards.map(|index| (index, tokens.pairs(index)));
        let saw = saw.filter(|(_, pairs)| session && !pairs.is_empty());
        let saw: BTreeMap<u32, Vec<Pair>> = saw.collect();
        let wire = |pairs: &[Pair]| v1::SessionTokens {
            pairs: pairs.iter().copied().map(wire_pair).collect(),
        };
        request.tokens = saw.iter().map(|(i, pairs)| (*i, wire(pairs))).collect();
        let answer = anywhere::call(shared, call, move |channel| {
            let mut request = request.clone();
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            request.deadline_ms = (left.min(attempt).as_millis() as u32).max(1);
            async move { objects(channel).scan(request).await }
        })
        .await?;
        for (index, reached) in &answer.tokens {
            let asked = saw.get(index).map_or(&[][..], Vec::as_slice);
            tokens.settle(*index, asked, pair(Some(*reached)));
        }
        self.done = answer.page_token.is_empty();
        self.request.page_token = answer.page_token.clone();
        Ok(Some(Page {
            objects: answer.objects.into_iter().map(Object::from).collect(),
            token: answer.page_token,
        }))
    }

    /// All pages. Ends at the first error.
    pub fn pages(self) -> impl Stream<Item = Result<Page, Error>> + Send {
        stream::unfold(Some(self), |scan| async move {
            let mut scan = scan?;
            match scan.next_page().await {
                Ok(Some(page)) => Some((Ok(page), Some(scan))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// All objects. Ends at the first error.
    pub fn objects(self) -> impl Stream<Item = Result<Object, Error>> + Send {
        self.pages().flat_map(|page| match page {
            Ok(page) => stream::iter(page.objects.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        })
    }
}
