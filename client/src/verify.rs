//! Comparing the objects of all copies of a shard with its primary's, while writes go on.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::server::objects;
use bytes::Bytes;
use std::collections::BTreeMap;
use understudy_proto::limits::SCRUB_KEYS_TOLD_MAX;
use understudy_proto::{NodeId, StoreId, v1};

/// What comparing a shard came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The primary's objects, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Pages in which they were compared.
    pub pages: u64,
    /// The node that compared last.
    pub primary: NodeId,
    /// The other copies.
    pub copies: Vec<VerifiedCopy>,
    /// Keys of which more copies have the same than have what the primary has, it included; the first of them. It hands over.
    pub primary_differs: Vec<Bytes>,
}

/// A copy beside the primary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCopy {
    pub node: NodeId,
    pub store: StoreId,
    /// In the others it was not complete, or did not answer in time.
    pub pages_compared: u64,
    /// Objects that it has otherwise than the primary. It is rebuilt, unless a copy that was not heard could make it right.
    pub differing: u64,
    /// The first of their keys.
    pub keys: Vec<Bytes>,
}

impl Verified {
    /// Whether all copies are the same, and all of them were compared from the first key to the last.
    pub fn is_whole(&self) -> bool {
        self.copies
            .iter()
            .all(|copy| copy.pages_compared == self.pages)
            && !self.differs()
    }

    /// Whether anything differs.
    pub fn differs(&self) -> bool {
        self.copies.iter().any(|copy| copy.differing > 0) || !self.primary_differs.is_empty()
    }

    fn add(&mut self, copies: &mut BTreeMap<(u64, Bytes), VerifiedCopy>, part: v1::VerifyResponse) {
        self.objects += part.objects;
        self.bytes += part.bytes;
        self.pages += u64::from(part.pages);
        self.primary = NodeId(part.primary);
        self.primary_differs.extend(part.primary_differs);
        self.primary_differs.truncate(SCRUB_KEYS_TOLD_MAX);
        for told in part.copies {
            let store = StoreId::from_slice(&told.store_id).unwrap_or(StoreId(0));
            let copy = copies
                .entry((told.node, told.store_id))
                .or_insert(VerifiedCopy {
                    node: NodeId(told.node),
                    store,
                    pages_compared: 0,
                    differing: 0,
                    keys: Vec::new(),
                });
            copy.pages_compared += u64::from(told.pages_compared);
            copy.differing += told.differing;
            copy.keys.extend(told.keys);
            copy.keys.truncate(SCRUB_KEYS_TOLD_MAX);
        }
    }
}

/// All pages of a shard. Each call has the whole deadline of the setting.
pub(crate) async fn verify(namespace: &Namespace, shard: u32) -> Result<Verified, Error> {
    check::name("namespace", namespace.name()).map_err(Error::Invalid)?;
    let shared = namespace.shared();
    let (mut verified, mut copies) = (Verified::default(), BTreeMap::new());
    let mut after = None;
    loop {
        let deadline = shared.deadline(None);
        let route = namespace.cache().get(shared, deadline).await?;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let request = v1::VerifyRequest {
            namespace: namespace.name().to_string(),
            shard,
            after: after.take(),
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
            refuse_forwarding: false,
        };
        let call = Call::new(shared.any_server(Some(&route)), deadline, Idempotent::Read);
        let part = anywhere::call(shared, call.patient(), move |channel| {
            let request = request.clone();
            async move { objects(channel).verify(request).await }
        });
        let part = part.await?;
        after.clone_from(&part.next);
        verified.add(&mut copies, part);
        if after.is_none() {
            verified.copies = copies.into_values().collect();
            return Ok(verified);
        }
    }
}
