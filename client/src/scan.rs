//! Objects of a range of keys, page by page or one by one, in key order over all shards.
//!
//! A page is consistent inside a shard only. The page token holds the position, so any server can give the next page.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::object::Object;
use crate::read::ReadLevel;
use crate::server::objects;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::time::Duration;
use understudy_proto::v1;

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

    /// `Primary`, `Any` or `Bounded`, for each shard's part of a page by itself.
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
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        request.deadline_ms = (left.as_millis() as u32).max(1);
        let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
        let answer = anywhere::call(shared, call, move |channel| {
            let request = request.clone();
            async move { objects(channel).scan(request).await }
        })
        .await?;
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
