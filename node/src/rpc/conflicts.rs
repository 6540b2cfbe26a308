//! `RequestLog.ListConflicts` and `GetConflict`: what a failover cut off and a person has to decide.
//!
//! A conflict is an object of its shard under a key that no client can name, so both read at the shards' primaries, under
//! their leases. A list asks every node for the shards that it serves and puts the parts in order; a shard that nobody
//! serves is named.

use super::log_wire::log_record;
use super::objects::forwarded;
use super::request_log::{OTHERS_LIMIT, RequestLogServer, storage};
use super::wire;
use crate::shard::{ReadResponder, Wanted};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeSet;
use std::ops::Range;
use tokio::sync::oneshot;
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::limits::{
    CONFLICT_VALUES_BYTES_MAX, CONFLICTS_PAGE_MAX, SHARDS_PER_NAMESPACE_MAX,
};
use understudy_proto::v1::get_conflict_response::Here;
use understudy_proto::v1::list_conflicts_response::Conflict as Listed;
use understudy_proto::{NodeId, Pair, ShardId, v1};
use understudy_protocol::conflict::{
    CONFLICT_PREFIX, Conflict, conflict_key, is_conflict_key, is_reserved, parse_conflict_key,
};
use understudy_protocol::object::Object;
use understudy_protocol::shard::{ReadAnswer, ReadLevel};
use understudy_protocol::store::{Page, StoreError, Stored};
use understudy_protocol::tables::Namespace;

/// Conflicts of a page when the caller does not say.
const DEFAULT_LIMIT: usize = 100;
/// Bytes of conflicts that are read from the disk at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Bytes of keys that a listed conflict shows; the first is shown whatever its length.
const KEYS_BYTES: usize = 1024;
/// How often a conflict that changes while it is read is read again.
const ROUNDS: usize = 5;

/// Where a conflict stands in a list: the shard's index, then its key.
type Place = (u32, Bytes);

/// A part of a list: its conflicts in order, and whether there are more after them.
struct Part {
    conflicts: Vec<(Place, Listed)>,
    more: bool,
    unserved: BTreeSet<u32>,
}

pub(super) async fn list(
    server: &RequestLogServer,
    asked: v1::ListConflictsRequest,
) -> Result<v1::ListConflictsResponse, Failure> {
    let namespace = server.node.namespace(&asked.namespace)?;
    let limit = match asked.limit as usize {
        0 => DEFAULT_LIMIT,
        limit => limit.min(CONFLICTS_PAGE_MAX),
    };
    let after = place_of(&asked.page_token)?;
    let indexes = indexes(&namespace, asked.shard, after.as_ref())?;
    let here = at_this_node(server, &namespace, indexes, after.as_ref(), limit).await?;
    if asked.local_only {
        return Ok(page(vec![here], limit));
    }
    let others = server.others();
    let asking = others
        .iter()
        .map(|node| there(server, *node, &asked, limit));
    let mut parts: Vec<Part> = futures::future::join_all(asking).await;
    parts.push(here);
    Ok(page(parts, limit))
}

/// The shards that may still have something to list.
fn indexes(
    namespace: &Namespace,
    asked: Option<u32>,
    after: Option<&Place>,
) -> Result<Range<u32>, Failure> {
    let first = after.map_or(0, |(index, _)| *index);
    match asked {
        None => Ok(first.min(namespace.shards)..namespace.shards),
        Some(index) if index < namespace.shards => Ok(index.max(first)..index + 1),
        Some(_) => {
            let message = format!("the namespace has {} shards", namespace.shards);
            Err(Failure::field("shard", message))
        }
    }
}

async fn at_this_node(
    server: &RequestLogServer,
    namespace: &Namespace,
    indexes: Range<u32>,
    after: Option<&Place>,
    limit: usize,
) -> Result<Part, Failure> {
    let shard = |index: u32| {
        namespace
            .shard(index)
            .expect("the index is below the count")
    };
    let mut part = Part {
        conflicts: Vec::new(),
        more: false,
        unserved: BTreeSet::new(),
    };
    let host = &server.node.host;
    let looks = indexes.clone().map(|index| {
        let shard = shard(index);
        async move { host.view(shard, ReadLevel::Primary).await.is_ok() }
    });
    let served = futures::future::join_all(looks).await;
    for (index, served) in indexes.zip(served) {
        let left = limit - part.conflicts.len();
        if !served {
            part.unserved.insert(index);
            continue;
        }
        if left == 0 {
            part.more = true;
            continue;
        }
        let from = after.filter(|(at, _)| *at == index).map(|(_, key)| key);
        match of_shard(server, index, shard(index), from.cloned(), left).await? {
            None => drop(part.unserved.insert(index)),
            Some((conflicts, more)) => {
                part.conflicts.extend(conflicts);
                part.more |= more;
            }
        }
    }
    Ok(part)
}

/// The conflicts of a shard whose primary is here; `None`: it is not any more.
async fn of_shard(
    server: &RequestLogServer,
    index: u32,
    shard: ShardId,
    mut after: Option<Bytes>,
    limit: usize,
) -> Result<Option<(Vec<(Place, Listed)>, bool)>, Failure> {
    let Ok(view) = server.node.host.view(shard, ReadLevel::Primary).await else {
        return Ok(None);
    };
    let generation = view.log.generation;
    let mut found = Vec::new();
    let mut done = false;
    while !done && found.len() < limit {
        let database = server.node.database.clone();
        let from = after.unwrap_or(Bytes::from_static(CONFLICT_PREFIX));
        let reading = tokio::task::spawn_blocking(move || {
            listed(
                index,
                database.objects_after(shard, generation, Some(&from[..]), READ_BYTES)?,
            )
        });
        let page = reading.await.map_err(|_| stopping())?;
        let page = page.map_err(|error| storage(&error))?;
        done = page.done;
        after = page.items.last().map(|((_, key), _)| key.clone());
        found.extend(page.items);
    }
    done &= found.len() <= limit;
    found.truncate(limit);
    // Under the lease, also after they were read.
    let again = server.node.host.view(shard, ReadLevel::Primary).await;
    let still = again.is_ok_and(|view| view.log.generation == generation);
    Ok(still.then_some((found, !done)))
}

fn listed(index: u32, page: Page<(Bytes, Object)>) -> Result<Page<(Place, Listed)>, StoreError> {
    let mut items = Vec::with_capacity(page.items.len());
    let mut done = page.done;
    for (key, object) in page.items {
        if !is_conflict_key(&key) {
            done = true;
            break;
        }
        let conflict = decode(&key, &object)?;
        let keys = keys_of(&conflict);
        let mut bytes = 0;
        let fits = keys.iter().take_while(|key| {
            bytes += key.len();
            bytes <= KEYS_BYTES || bytes == key.len()
        });
        let listed = Listed {
            shard: index,
            id: parse_conflict_key(&key).map(wire::conflict_id),
            pair: Some(wire::pair(object.last.pair)),
            reason: conflict.reason.as_str().to_string(),
            keys: fits.cloned().collect(),
            key_count: keys.len() as u32,
            primary_time_ms: conflict.cut_off.time_ms,
        };
        items.push(((index, key), listed));
    }
    Ok(Page { items, done })
}

/// The objects that a client can name.
fn keys_of(conflict: &Conflict) -> Vec<Bytes> {
    let changes = conflict.cut_off.changes().iter();
    changes
        .map(|change| change.key.clone())
        .filter(|key| !is_reserved(key))
        .collect()
}

fn decode(key: &Bytes, object: &Object) -> Result<Conflict, StoreError> {
    Conflict::of_object(object).map_err(|malformed| {
        let key = key.escape_ascii();
        StoreError::Corrupt(format!("the conflict under {key}: {malformed}"))
    })
}

/// What another node serves. One that does not answer serves nothing.
async fn there(
    server: &RequestLogServer,
    node: NodeId,
    asked: &v1::ListConflictsRequest,
    limit: usize,
) -> Part {
    let request = v1::ListConflictsRequest {
        local_only: true,
        limit: limit as u32,
        ..asked.clone()
    };
    let answer = async {
        let mut client = server.client(node)?;
        forwarded(OTHERS_LIMIT, client.list_conflicts(request)).await
    };
    match answer.await {
        Ok(answer) => Part {
            more: !answer.page_token.is_empty(),
            unserved: answer.unserved_shards.into_iter().collect(),
            conflicts: (answer.conflicts.into_iter())
                .filter_map(|listed| Some((place(&listed)?, listed)))
                .collect(),
        },
        Err(_) => Part {
            conflicts: Vec::new(),
            more: false,
            unserved: (0..SHARDS_PER_NAMESPACE_MAX).collect(),
        },
    }
}

/// The first conflicts of all parts. A part that has more bounds the page: what lies after its last is not known yet.
fn page(parts: Vec<Part>, limit: usize) -> v1::ListConflictsResponse {
    let unserved = parts
        .iter()
        .map(|part| part.unserved.clone())
        .reduce(|all, one| all.intersection(&one).copied().collect())
        .unwrap_or_default();
    let bound = parts
        .iter()
        .filter(|part| part.more)
        .filter_map(|part| part.conflicts.last())
        .map(|(place, _)| place.clone())
        .min();
    let mut all: Vec<(Place, Listed)> = parts.into_iter().flat_map(|part| part.conflicts).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    // Two nodes may both have served a shard while the list was made.
    all.dedup_by(|(a, _), (b, _)| a == b);
    let total = all.len();
    if let Some(bound) = &bound {
        all.retain(|(place, _)| place <= bound);
    }
    all.truncate(limit);
    let last = all.last().map(|(place, _)| place.clone());
    let last = last.filter(|_| bound.is_some() || all.len() < total);
    let upto = last.as_ref().map_or(u32::MAX, |(index, _)| *index);
    v1::ListConflictsResponse {
        conflicts: all.into_iter().map(|(_, listed)| listed).collect(),
        page_token: last.map_or(Bytes::new(), |place| token(&place)),
        unserved_shards: unserved.into_iter().filter(|index| *index < upto).collect(),
    }
}

fn place(listed: &Listed) -> Option<Place> {
    let (request, cut_off) = wire::to_conflict_id("id", listed.id.clone()).ok()?;
    Some((listed.shard, conflict_key(request, cut_off)))
}

fn token((index, key): &Place) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + key.len());
    out.put_u32(*index);
    out.put_slice(key);
    out.freeze()
}

fn place_of(token: &Bytes) -> Result<Option<Place>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || Failure::field("page_token", "it is not one that a list gave");
    let (index, key) = token.split_first_chunk::<4>().ok_or_else(wrong)?;
    parse_conflict_key(key).ok_or_else(wrong)?;
    Ok(Some((u32::from_be_bytes(*index), token.slice(4..))))
}

pub(super) async fn get(
    server: &RequestLogServer,
    asked: v1::GetConflictRequest,
) -> Result<v1::GetConflictResponse, Failure> {
    let namespace = server.node.namespace(&asked.namespace)?;
    let shard = namespace.shard(asked.shard).ok_or_else(|| {
        let message = format!("the namespace has {} shards", namespace.shards);
        Failure::field("shard", message)
    })?;
    let (request, cut_off) = wire::to_conflict_id("id", asked.id.clone())?;
    match get_here(server, shard, conflict_key(request, cut_off)).await {
        Err(failure) if failure.reason == Reason::NotPrimary && !asked.refuse_forwarding => {
            let Some(primary) = server.node.other_primary(shard) else {
                return Err(server.node.with_primary(shard, failure));
            };
            let mut client = server.client(primary)?;
            let request = v1::GetConflictRequest {
                refuse_forwarding: true,
                ..asked
            };
            let call = client.get_conflict(request);
            forwarded(OTHERS_LIMIT, call)
                .await
                .map_err(|failure| Failure {
                    applied: Applied::No,
                    ..failure
                })
        }
        answer => answer.map_err(|failure| server.node.with_primary(shard, failure)),
    }
}

async fn get_here(
    server: &RequestLogServer,
    shard: ShardId,
    key: Bytes,
) -> Result<v1::GetConflictResponse, Failure> {
    let mut keys = vec![key.clone()];
    let mut known = None;
    for _ in 0..ROUNDS {
        let answer = read(server, shard, keys.clone()).await?;
        let mut objects = answer.objects.into_iter();
        let Some(object) = objects.next().flatten() else {
            let what = "there is no such conflict; it may be resolved";
            return Err(Failure::no(Reason::NotFound, what));
        };
        let conflict = decode(&key, &object).map_err(|error| storage(&error))?;
        if known == Some(object.last) {
            return shown(&conflict, object.last.pair, objects.collect());
        }
        // Which objects it is about is known now: they are read together with it.
        known = Some(object.last);
        keys.truncate(1);
        keys.extend(keys_of(&conflict));
    }
    let what = "the conflict changes while it is read; ask again";
    Err(Failure::no(Reason::Overloaded, what))
}

async fn read(
    server: &RequestLogServer,
    shard: ShardId,
    keys: Vec<Bytes>,
) -> Result<ReadAnswer, Failure> {
    let (reply, answer) = oneshot::channel();
    let wanted = Wanted::Now(ReadLevel::Primary);
    let responder = ReadResponder::Call(reply);
    server.node.host.read(shard, keys, wanted, responder);
    answer.await.map_err(|_| stopping())?
}

fn shown(
    conflict: &Conflict,
    pair: Pair,
    objects: Vec<Option<Object>>,
) -> Result<v1::GetConflictResponse, Failure> {
    let bytes: usize = objects.iter().flatten().map(size).sum();
    let left_out = bytes > CONFLICT_VALUES_BYTES_MAX;
    let changes = conflict.cut_off.changes().iter().zip(&conflict.stands);
    let named = changes.filter(|(change, _)| !is_reserved(&change.key));
    let here = named.zip(objects).map(|((change, stood), object)| Here {
        key: change.key.clone(),
        stood: stood.map(|last| wire::pair(last.pair)),
        left_out: left_out && object.is_some(),
        object: object.map(|mut object| {
            if left_out {
                object.components.clear();
            }
            wire::object(&change.key, object)
        }),
    });
    let record = log_record(&conflict.cut_off.encode()).map_err(|error| storage(&error))?;
    Ok(v1::GetConflictResponse {
        pair: Some(wire::pair(pair)),
        reason: conflict.reason.as_str().to_string(),
        cut_off: Some(record),
        here: here.collect(),
    })
}

fn size(object: &Object) -> usize {
    let components = object.components.iter();
    components.map(|c| c.name.len() + c.value.size()).sum()
}

fn stopping() -> Failure {
    Failure::no(Reason::Stopping, "this node is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::{ClientId, RequestId, Sequence};

    fn conflict(shard: u32, sequence: u64) -> (Place, Listed) {
        let id = RequestId {
            client: ClientId(7),
            sequence: Sequence(sequence),
        };
        let cut_off = Pair::new(1, 3);
        let listed = Listed {
            shard,
            id: Some(wire::conflict_id((id, cut_off))),
            ..Listed::default()
        };
        ((shard, conflict_key(id, cut_off)), listed)
    }

    fn part(conflicts: &[(u32, u64)], more: bool, unserved: &[u32]) -> Part {
        Part {
            conflicts: conflicts.iter().map(|(s, n)| conflict(*s, *n)).collect(),
            more,
            unserved: unserved.iter().copied().collect(),
        }
    }

    fn found(response: &v1::ListConflictsResponse) -> Vec<(u32, u64)> {
        let one = |listed: &Listed| {
            let id = listed.id.clone().unwrap_or_default();
            (listed.shard, id.request_id.unwrap_or_default().sequence)
        };
        response.conflicts.iter().map(one).collect()
    }

    #[test]
    fn a_page_ends_where_a_part_has_more() {
        let parts = vec![
            part(&[(0, 1), (2, 1)], true, &[1, 3, 4]),
            part(&[(1, 5), (3, 9)], false, &[0, 2, 4]),
        ];
        let first = page(parts, 10);
        assert_eq!(found(&first), [(0, 1), (1, 5), (2, 1)]);
        assert_eq!(place_of(&first.page_token), Ok(Some(conflict(2, 1).0)));
        // The shard that nobody serves stands on a later page.
        assert!(first.unserved_shards.is_empty());
        let parts = vec![
            part(&[(2, 2)], false, &[1, 3, 4]),
            part(&[(3, 9)], false, &[0, 2, 4]),
        ];
        let last = page(parts, 10);
        assert_eq!(found(&last), [(2, 2), (3, 9)]);
        assert!(last.page_token.is_empty());
        assert_eq!(last.unserved_shards, [4]);
    }

    #[test]
    fn a_page_ends_at_its_limit_and_names_nothing_twice() {
        let parts = vec![
            part(&[(0, 1), (0, 2), (0, 3)], false, &[]),
            part(&[(0, 2)], false, &[0]),
        ];
        let first = page(parts, 2);
        assert_eq!(found(&first), [(0, 1), (0, 2)]);
        assert_eq!(place_of(&first.page_token), Ok(Some(conflict(0, 2).0)));
        assert!(place_of(&Bytes::from_static(b"abcdefgh")).is_err());
    }
}
