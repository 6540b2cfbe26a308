//! `Verify`: compares the objects of a shard's copies, some pages a call. Any node takes it; the shard's primary answers.

use super::objects::{ObjectsServer, forwarded};
use super::wire;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::SCRUB_KEYS_TOLD_MAX;
use understudy_proto::{CopyId, v1};
use understudy_protocol::shard::{ScrubbedCopy, ScrubbedPage};
use v1::verify_response::Copy;

/// A call ends after the page with which this time passed; the next one goes on.
const CALL_SPAN: Duration = Duration::from_millis(500);

pub(super) async fn run(
    server: &ObjectsServer,
    asked: v1::VerifyRequest,
) -> Result<v1::VerifyResponse, Failure> {
    let namespace = server.namespace(&asked.namespace)?;
    let shard = namespace.shard(asked.shard).ok_or_else(|| {
        let why = format!(
            "the namespace has {} shards, numbered from 0",
            namespace.shards
        );
        Failure::field("shard", why)
    })?;
    let end = Instant::now() + CALL_SPAN;
    let mut after = asked.after.clone();
    let mut sum = v1::VerifyResponse::default();
    let mut copies: BTreeMap<CopyId, Copy> = BTreeMap::new();
    loop {
        let page = match server.node.compare(shard, after.clone()).await {
            Ok(page) => page,
            // What was found is told; the caller goes on after it.
            Err(_) if sum.pages > 0 => break,
            Err(failure) if failure.reason == Reason::NotPrimary && !asked.refuse_forwarding => {
                let Some(primary) = server.node.other_primary(shard) else {
                    return Err(server.node.with_primary(shard, failure));
                };
                let wait = Duration::from_millis(wire::deadline_ms(asked.deadline_ms));
                let mut client = server.node.objects_client(primary)?;
                let asked = v1::VerifyRequest {
                    refuse_forwarding: true,
                    ..asked
                };
                return forwarded(wait, client.verify(asked)).await;
            }
            Err(failure) => return Err(server.node.with_primary(shard, failure)),
        };
        after.clone_from(&page.next);
        add(&mut sum, &mut copies, page);
        if after.is_none() || Instant::now() >= end {
            break;
        }
    }
    sum.next = after;
    sum.primary = server.node.me.node.0;
    sum.copies = copies.into_values().collect();
    Ok(sum)
}

fn add(sum: &mut v1::VerifyResponse, copies: &mut BTreeMap<CopyId, Copy>, page: ScrubbedPage) {
    sum.pages += 1;
    sum.objects += page.objects;
    sum.bytes += page.bytes;
    sum.primary_differs.extend(page.primary_differs);
    sum.primary_differs.truncate(SCRUB_KEYS_TOLD_MAX);
    for (id, found) in page.copies {
        let copy = copies.entry(id).or_insert_with(|| Copy {
            node: id.node.0,
            store_id: id.store.to_bytes().to_vec().into(),
            ..Copy::default()
        });
        match found {
            ScrubbedCopy::Same => copy.pages_compared += 1,
            ScrubbedCopy::NotCompared => {}
            ScrubbedCopy::Differs { objects, keys } => {
                copy.pages_compared += 1;
                copy.differing += objects;
                copy.keys.extend(keys);
                copy.keys.truncate(SCRUB_KEYS_TOLD_MAX);
            }
        }
    }
}
