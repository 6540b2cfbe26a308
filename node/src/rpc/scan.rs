//! `Scan`: one page of a range of keys over all shards of a namespace, in key order.
//!
//! Each shard gives its first objects of the range, from its own copy here or from its primary; the smallest keys of all
//! make the page. A page is consistent inside a shard only. The page token is the last key that was given.

use super::objects::{ObjectsServer, bounded, forwarded};
use super::wire;
use crate::clock;
use crate::shard::{ReadResponder, Wanted};
use crate::storage::ObjectRange;
use bytes::Bytes;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::limits::{SCAN_PAGE_BYTES_MAX, SCAN_PAGE_OBJECTS_MAX, SESSION_TOKENS_MAX};
use understudy_proto::{Pair, ShardId, v1};
use understudy_protocol::conflict::RESERVED_PREFIX;
use understudy_protocol::shard::{Freshness, ReadLevel, branch};
use understudy_protocol::tables::Namespace;
use understudy_protocol::time::Duration as Length;

/// Objects of a page when the caller does not say.
const DEFAULT_LIMIT: usize = 1_000;
/// So much of the time a copy here may wait until it is fresh enough, before the primary is asked.
const OWN_PART: u32 = 4;

/// What one shard gave: objects in key order, whether there are more, and the state that they are of.
struct Part {
    index: u32,
    objects: Vec<v1::Object>,
    done: bool,
    token: Option<v1::Pair>,
}

/// How fresh each part has to be.
enum Level {
    Now(ReadLevel),
    Session,
    Bounded(Freshness),
}

impl Level {
    fn of(asked: &v1::ScanRequest, shards: u32) -> Result<Level, Failure> {
        let level = match asked.level() {
            v1::ReadLevel::Unspecified | v1::ReadLevel::Primary => Level::Now(ReadLevel::Primary),
            v1::ReadLevel::Any => Level::Now(ReadLevel::Any),
            v1::ReadLevel::Bounded => Level::Bounded(bounded(asked.staleness_ms)?),
            v1::ReadLevel::Session => Level::Session,
        };
        let session = matches!(level, Level::Session);
        for (index, tokens) in &asked.tokens {
            if !session || *index >= shards {
                let what = "of a session, by the index of a shard of the namespace";
                return Err(Failure::field("tokens", what));
            }
            if tokens.pairs.len() > SESSION_TOKENS_MAX {
                let count = tokens.pairs.len();
                return Err(Failure::too_large("tokens", count, SESSION_TOKENS_MAX));
            }
        }
        Ok(level)
    }

    fn of_shard(&self, asked: &v1::ScanRequest, index: u32, wait: Duration) -> Wanted {
        let freshness = match self {
            Level::Now(level) => return Wanted::Now(*level),
            Level::Bounded(freshness) => freshness.clone(),
            Level::Session => {
                let saw = asked.tokens.get(&index);
                let saw = saw.into_iter().flat_map(|tokens| &tokens.pairs);
                Freshness::Session(saw.map(|pair| wire::to_pair(Some(*pair))).collect())
            }
        };
        let wait = Length::from_millis(wait.as_millis() as u64);
        Wanted::Fresh(freshness, clock::now() + wait)
    }
}

pub(super) async fn run(
    server: &ObjectsServer,
    asked: v1::ScanRequest,
) -> Result<v1::ScanResponse, Failure> {
    let namespace = server.namespace(&asked.namespace)?;
    let level = Level::of(&asked, namespace.shards)?;
    let limit = match asked.limit as usize {
        0 => DEFAULT_LIMIT,
        limit => limit.min(SCAN_PAGE_OBJECTS_MAX),
    };
    let shards = shards(&namespace, asked.shard)?;
    let parts = shards
        .into_iter()
        .map(|(index, shard)| part(server, &asked, index, shard, &level, limit));
    let parts = futures::future::join_all(parts)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    Ok(merge(parts, limit, asked.keys_only))
}

fn shards(namespace: &Namespace, asked: Option<u32>) -> Result<Vec<(u32, ShardId)>, Failure> {
    let of = |index: u32| namespace.shard(index).map(|shard| (index, shard));
    match asked {
        None => Ok((0..namespace.shards).filter_map(of).collect()),
        Some(index) => of(index).map(|one| vec![one]).ok_or_else(|| {
            Failure::field(
                "shard",
                format!("the namespace has {} shards", namespace.shards),
            )
        }),
    }
}

async fn part(
    server: &ObjectsServer,
    asked: &v1::ScanRequest,
    index: u32,
    shard: ShardId,
    level: &Level,
    limit: usize,
) -> Result<Part, Failure> {
    let began = Instant::now();
    let wait = Duration::from_millis(wire::deadline_ms(asked.deadline_ms));
    let elsewhere = asked.shard.is_none() && server.node.other_primary(shard).is_some();
    let own = if elsewhere { wait / OWN_PART } else { wait };
    let wanted = level.of_shard(asked, index, own);
    match here(server, asked, index, shard, wanted, limit, began + own).await {
        Err(failure)
            if matches!(
                failure.reason,
                Reason::NotPrimary | Reason::Starting | Reason::CopyBehind
            ) && asked.shard.is_none() =>
        {
            let Some(primary) = server.node.other_primary(shard) else {
                return Err(server.node.with_primary(shard, failure));
            };
            let wait = wait.saturating_sub(began.elapsed());
            let saw = asked.tokens.get(&index);
            let request = v1::ScanRequest {
                namespace: asked.namespace.clone(),
                prefix: asked.prefix.clone(),
                start: asked.start.clone(),
                end: asked.end.clone(),
                limit: limit as u32,
                page_token: asked.page_token.clone(),
                level: asked.level,
                deadline_ms: (wait.as_millis() as u32).max(1),
                keys_only: asked.keys_only,
                shard: Some(index),
                staleness_ms: asked.staleness_ms,
                tokens: saw.map(|saw| (index, saw.clone())).into_iter().collect(),
            };
            let mut client = server.node.objects_client(primary)?;
            let page = forwarded(wait, client.scan(request)).await;
            let page = page.map_err(|failure| Failure {
                applied: Applied::No,
                ..failure
            })?;
            Ok(Part {
                index,
                done: page.page_token.is_empty(),
                objects: page.objects,
                token: page.tokens.get(&index).copied(),
            })
        }
        Err(failure) => Err(server.node.with_primary(shard, failure)),
        Ok(part) => Ok(part),
    }
}

async fn here(
    server: &ObjectsServer,
    asked: &v1::ScanRequest,
    index: u32,
    shard: ShardId,
    level: Wanted,
    limit: usize,
    until: Instant,
) -> Result<Part, Failure> {
    // A bounded or session scan waits as a read of no keys does; from then on the copy only has to keep what it had.
    let (level, reached) = match level {
        Wanted::Now(level) => (level, None),
        fresh => (ReadLevel::Any, Some(freshened(server, shard, fresh).await?)),
    };
    // What is committed, and so was acknowledged, may be on its way to the objects of this disk; a scan reads the disk.
    let view = server.node.host.view(shard, level).await?;
    let wanted = match level {
        ReadLevel::Primary => Some(view.report.committed),
        ReadLevel::Any => reached,
    };
    if wanted.is_some_and(|wanted| view.log.durable < wanted) {
        until_there(server, shard, wanted.unwrap_or(Pair::ZERO), until).await?;
    }
    let range = ObjectRange {
        prefix: asked.prefix.clone(),
        start: asked.start.clone(),
        // What the protocol keeps for itself stands at the end of the keys.
        end: Some(match asked.end.is_empty() {
            true => Bytes::from_static(RESERVED_PREFIX),
            false => asked.end.clone().min(Bytes::from_static(RESERVED_PREFIX)),
        }),
    };
    let after = (!asked.page_token.is_empty()).then(|| asked.page_token.clone());
    let database = server.node.database.clone();
    let reading = tokio::task::spawn_blocking(move || {
        database.scan(shard, &range, after.as_deref(), limit, SCAN_PAGE_BYTES_MAX)
    });
    let scanned = reading
        .await
        .map_err(|_| Failure::no(Reason::Stopping, "this node is stopping"))?;
    let scanned = scanned.map_err(|error| Failure::no(Reason::StorageFailed, error.to_string()))?;
    if level == ReadLevel::Primary {
        // What a scan shows, a later read of a key shows too.
        until_there(server, shard, scanned.position, until).await?;
    }
    // Under the lease, also after the values were read; and from the generation that is still the live one. What is on the disk may
    // not be known to the replica yet.
    let log = server.node.host.view(shard, level).await?.log;
    let end = log.durable.max(scanned.position);
    let kept = |pair| branch::holds(&log.epoch_starts, end, pair);
    let has = reached.unwrap_or(Pair::ZERO);
    let whole = has <= scanned.position && kept(has) && kept(scanned.position);
    if log.generation != scanned.generation || !whole {
        return Err(Failure::no(
            Reason::Starting,
            "the copy was rebuilt meanwhile, or gave back a tail; ask again",
        ));
    }
    let items = scanned.page.items.into_iter();
    Ok(Part {
        index,
        objects: items
            .map(|(key, object)| wire::object(&key, object))
            .collect(),
        done: scanned.page.done,
        token: Some(wire::pair(scanned.position)),
    })
}

/// What the copy had when it was fresh enough.
async fn freshened(
    server: &ObjectsServer,
    shard: ShardId,
    wanted: Wanted,
) -> Result<Pair, Failure> {
    let (reply, answer) = oneshot::channel();
    let responder = ReadResponder::Call(reply);
    server.node.host.read(shard, Vec::new(), wanted, responder);
    let answer = answer
        .await
        .map_err(|_| Failure::no(Reason::Stopping, "this node is stopping"))??;
    Ok(answer.token)
}

/// Until the copy knows that its disk has that.
async fn until_there(
    server: &ObjectsServer,
    shard: ShardId,
    pair: Pair,
    until: Instant,
) -> Result<(), Failure> {
    let mut log = server.node.host.follow(shard).await?;
    let there = log.wait_for(|log| log.durable >= pair);
    match tokio::time::timeout_at(until.into(), there).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Failure::no(Reason::Stopping, "this node is stopping")),
        Err(_) => Err(Failure::no(
            Reason::DeadlinePassed,
            "the deadline passed before the objects were on this disk",
        )),
    }
}

/// The smallest keys of all parts. A part that has more bounds the page: what lies after its last key is not known yet.
fn merge(parts: Vec<Part>, limit: usize, keys_only: bool) -> v1::ScanResponse {
    let bound: Option<Bytes> = parts
        .iter()
        .filter(|part| !part.done)
        .filter_map(|part| part.objects.last())
        .map(|o| o.key.clone())
        .min();
    let tokens = parts.iter();
    let tokens = tokens.filter_map(|part| Some((part.index, part.token?)));
    let tokens = tokens.collect();
    let mut all: Vec<v1::Object> = parts.into_iter().flat_map(|part| part.objects).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    let total = all.len();
    if let Some(bound) = &bound {
        all.retain(|object| object.key <= *bound);
    }
    let mut bytes = 0;
    let size = |o: &v1::Object| {
        o.key.len()
            + o.components
                .iter()
                .map(prost::Message::encoded_len)
                .sum::<usize>()
            + 32
    };
    let fits = all.iter().take(limit).take_while(|object| {
        bytes += size(object);
        bytes <= SCAN_PAGE_BYTES_MAX || bytes == size(object)
    });
    let count = fits.count();
    let more = bound.is_some() || count < total;
    all.truncate(count);
    let page_token = match all.last() {
        Some(last) if more => last.key.clone(),
        _ => Bytes::new(),
    };
    if keys_only {
        all.iter_mut().for_each(|object| object.components.clear());
    }
    v1::ScanResponse {
        objects: all,
        page_token,
        tokens,
    }
}
