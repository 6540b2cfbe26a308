//! Effects, messages and values as one line each, in the words of the commands. Nothing here decides anything.

use bytes::Bytes;
use understudy_proto::failure::Failure;
use understudy_proto::{NodeId, Pair, RequestId};
use understudy_protocol::conflict::{Conflict, is_reserved, parse_conflict_key};
use understudy_protocol::effect::{Answer, Ask, Difference, SealedCopy};
use understudy_protocol::expiry::shard_state_id;
use understudy_protocol::forwarded::Forwarded;
use understudy_protocol::object::{Object, Value};
use understudy_protocol::record::{Body, EncodedRecord, Record};
use understudy_protocol::request::{DedupEntry, FailedOp, Op, OpResult, Outcome, Precondition};
use understudy_protocol::shard::message::{Beacon, BranchMode, FateKind, Message, NO_STREAM};
use understudy_protocol::shard::{ScrubbedCopy, ScrubbedPage};
use understudy_protocol::store::{Batch, CopyProgress, Meta, Staged, StoreChange};

pub fn list<T>(
    items: impl IntoIterator<Item = T>,
    separator: &str,
    one: impl Fn(T) -> String,
) -> String {
    items
        .into_iter()
        .map(one)
        .collect::<Vec<_>>()
        .join(separator)
}

pub fn nodes(nodes: impl IntoIterator<Item = NodeId>) -> String {
    list(nodes, " ", |node| format!("n{node}"))
}

pub fn pairs<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> String {
    let text = list(pairs, " ", |pair| pair.to_string());
    if text.is_empty() {
        "none".to_string()
    } else {
        text
    }
}

// ---- effects

/// Longer batches stand on several lines, one for each change.
const LINE_MAX: usize = 120;

pub fn batch(batch: &Batch) -> Vec<String> {
    let head = format!("writes batch {}:", batch.number);
    let changes: Vec<String> = batch.changes.iter().map(change).collect();
    let line = format!("{head} {}", changes.join(", "));
    match line.len() {
        ..LINE_MAX => vec![line],
        _ => std::iter::once(head)
            .chain(changes.into_iter().map(|c| format!("  {c}")))
            .collect(),
    }
}

fn change(change: &StoreChange) -> String {
    match change {
        StoreChange::AppendRecord {
            generation,
            record: r,
        } => staged(*generation, format!("record {}", record(r))),
        StoreChange::PutObject {
            generation,
            key,
            object: o,
        } => staged(*generation, object(key, o.as_ref())),
        StoreChange::PutDedup {
            generation,
            id,
            entry: Some(entry),
        } => staged(*generation, format!("dedup {}", dedup(*id, entry))),
        StoreChange::PutDedup {
            generation,
            id,
            entry: None,
        } => match id.sequence.0 {
            0 => staged(*generation, format!("no {}", state_of(*id))),
            _ => staged(*generation, format!("no dedup {}", request_id(*id))),
        },
        StoreChange::PutMeta(found) => meta(found),
        StoreChange::MoveToOrphans { record, .. } => format!("{} to the orphan log", record.pair),
        StoreChange::RemoveRecord { version, .. } => format!("version {version} out of the log"),
        StoreChange::DropOrphan { pair } => format!("{pair} out of the orphan log"),
        StoreChange::TrimLog { upto, .. } => format!("the log up to version {upto} goes"),
        StoreChange::DropGeneration { generation } => format!("generation {generation} goes"),
        StoreChange::DropCopy => "the copy goes".to_string(),
        StoreChange::PutStaged { generation, item } => staged(*generation, staged_item(item)),
    }
}

/// What a delta says.
fn staged_item(item: &Staged) -> String {
    match item {
        Staged::Object { key, object: o } => object(key, o.as_ref()),
        Staged::Dedup {
            id,
            entry: Some(entry),
        } => format!("dedup {}", dedup(*id, entry)),
        Staged::Dedup { id, entry: None } => format!("no dedup {}", request_id(*id)),
    }
}

/// Which generation of the copy, but for the first.
fn staged(generation: u32, text: String) -> String {
    match generation {
        0 => text,
        _ => format!("{text} (generation {generation})"),
    }
}

fn meta(meta: &Meta) -> String {
    let mut text = format!(
        "promise {}, epochs {}",
        meta.promise,
        pairs(&meta.live.epoch_starts)
    );
    if let Some(applied) = meta.live.applied {
        text += &format!(", committed {applied}");
    }
    if meta.live.base != Pair::ZERO {
        text += &format!(", log after {}", meta.live.base);
    }
    if meta.live.generation > 0 {
        text += &format!(", generation {}", meta.live.generation);
    }
    if let Some(staging) = &meta.staging {
        text += &format!(
            ", generation {} beside it: {}{}",
            staging.contents.generation,
            progress(&staging.progress),
            delta(staging.delta_since)
        );
    }
    text
}

fn delta(since: Option<Pair>) -> String {
    since.map_or(String::new(), |since| format!(" of a delta since {since}"))
}

pub fn progress(progress: &CopyProgress) -> String {
    match progress {
        CopyProgress::Objects { after: None } => "objects".to_string(),
        CopyProgress::Objects { after: Some(key) } => format!("objects after {}", text(key)),
        CopyProgress::Dedup { after: None } => "dedup".to_string(),
        CopyProgress::Dedup { after: Some(id) } => format!("dedup after {}", request_id(*id)),
        CopyProgress::Records => "records".to_string(),
    }
}

pub fn message(message: &Message) -> String {
    let epoch = message.epoch();
    match message {
        Message::Subscribe(m) => {
            let copying = m
                .copying
                .as_ref()
                .map(|p| format!(", copying {}{}", progress(p), delta(m.delta_since)));
            let whole = if m.whole { ", whole records" } else { "" };
            format!(
                "subscribe from {}, epochs {}{}{whole} (epoch {epoch}, stream {})",
                m.position,
                pairs(&m.epoch_starts),
                copying.unwrap_or_default(),
                stream(m.stream)
            )
        }
        Message::Branch(m) => {
            let mode = match m.mode {
                BranchMode::Records => "records follow",
                BranchMode::Undo => "undo what is after it",
                BranchMode::Rebuild => "a full copy is needed",
            };
            format!(
                "branch: shared up to {}, {mode} (epoch {epoch}, stream {})",
                m.cut,
                stream(m.stream)
            )
        }
        Message::Records(m) => {
            let sent = list(&m.records, " ", forwarded);
            format!(
                "records {sent}{} (epoch {epoch}, stream {})",
                commit(m.commit),
                stream(m.stream)
            )
        }
        Message::Ack(m) => {
            let answers = m
                .beacon
                .map(|it| format!("beacon of {} ms", it.sent.0 / 1_000));
            match (m.stream, answers) {
                (NO_STREAM, answers) => {
                    format!(
                        "answer to the {} (epoch {epoch})",
                        answers.unwrap_or_default()
                    )
                }
                (number, answers) => format!(
                    "ack {}{} (epoch {epoch}, stream {})",
                    m.position,
                    answers.map_or(String::new(), |it| format!(", answer to the {it}")),
                    stream(number)
                ),
            }
        }
        Message::CopyChunk(m) => {
            let objects = list(&m.objects, ", ", |(key, o)| object(key, Some(o)));
            let dedup = list(&m.dedup, " ", |(id, _)| request_id(*id));
            let pieces = [objects, dedup]
                .into_iter()
                .filter(|piece| !piece.is_empty());
            format!(
                "chunk of {}: {} (then {}; read at {}, epoch {epoch}, stream {})",
                progress(&m.continues),
                list(pieces, ", ", |piece| piece),
                progress(&m.then),
                m.at,
                stream(m.stream)
            )
        }
        Message::Delta(m) => {
            let objects = list(&m.objects, ", ", |(key, o)| object(key, o.as_ref()));
            let dedup = list(&m.dedup, " ", |(id, entry)| match entry {
                Some(_) => request_id(*id),
                None => format!("no {}", request_id(*id)),
            });
            let pieces = [objects, dedup]
                .into_iter()
                .filter(|piece| !piece.is_empty());
            format!(
                "delta after {} upto {}, {}: {} (then {}; read at {}, epoch {epoch}, stream {})",
                m.since,
                m.upto,
                progress(&m.continues),
                list(pieces, ", ", |piece| piece),
                progress(&m.then),
                m.at,
                stream(m.stream)
            )
        }
        Message::Pulse(m) => format!(
            "pulse: at {}, log after {}{}{}{} (epoch {epoch})",
            m.position,
            m.base,
            commit(m.commit),
            if m.stream == 0 { ", no stream" } else { "" },
            m.beacon.as_ref().map_or(String::new(), beacon)
        ),
        Message::Reject(_) => format!("reject (epoch {epoch})"),
        Message::Submit(m) => {
            let sent = list(&m.orphans, " ", |orphan| orphan.record.pair.to_string());
            match sent.is_empty() {
                true => format!("submit nothing more (epoch {epoch})"),
                false => format!("submit {sent} (epoch {epoch})"),
            }
        }
        Message::Submitted(m) => {
            let fates = list(&m.fates, "", |fate| {
                let how = match fate.kind {
                    FateKind::Stands => "stands at".to_string(),
                    FateKind::Applied => "applied at".to_string(),
                    FateKind::OutcomeOnly => "its outcome at".to_string(),
                    FateKind::Conflict(reason) => format!("conflict ({}) at", reason.as_str()),
                    FateKind::Discarded => "discarded at".to_string(),
                };
                format!("{} {how} {}, ", fate.pair, fate.stands)
            });
            format!("{fates}everywhere up to {} (epoch {epoch})", m.everywhere)
        }
        Message::Scrub(m) => {
            let end = |key: &Option<Bytes>| key.as_ref().map_or("the end".to_string(), text);
            let after = m.after.as_ref().map(|key| format!(" after {}", text(key)));
            format!(
                "compare objects{} to {}, at {} (epoch {epoch}, stream {})",
                after.unwrap_or_default(),
                end(&m.last),
                m.at,
                stream(m.stream)
            )
        }
        Message::Scrubbed(m) => match m.same {
            true => format!("all the same (epoch {epoch})"),
            false => {
                let entries = list(&m.entries, ", ", |e| {
                    format!("{} of {}", text(&e.key), e.pair)
                });
                let more = if m.more { ", and more" } else { "" };
                format!("not the same at {}: {entries}{more} (epoch {epoch})", m.at)
            }
        },
    }
}

/// Its pair; what is not sent as it is logged, with what is sent of it.
fn forwarded(forwarded: &Forwarded) -> String {
    let pair = forwarded.pair();
    match forwarded {
        Forwarded::Record(_) => pair.to_string(),
        Forwarded::Operation(operation) => {
            let operation = operation.decode().expect("the operation can be read");
            let request = operation.request;
            format!(
                "{pair} as {}",
                content(&request.preconditions, &request.ops)
            )
        }
        Forwarded::WithObjects(_, objects) => {
            let objects = list(objects, ", ", |(key, o)| object(key, o.as_ref()));
            format!("{pair} with {{{objects}}}")
        }
    }
}

/// The conditions and operations of a request.
fn content(preconditions: &[Precondition], ops: &[Op]) -> String {
    let conditions = list(preconditions, "", |p| format!("if {}; ", precondition(p)));
    format!("[{conditions}{}]", list(ops, "; ", op))
}

/// What a copy tells of a difference from what was forwarded.
pub fn difference(pair: Pair, what: &Difference) -> String {
    match what {
        Difference::NotTaken => format!("does not take {pair}: it comes to another record here"),
        Difference::Mended(key) => format!("takes the primary's {} at {pair}", text(key)),
    }
}

/// Only in_sync shards have a commit point.
fn commit(pair: Pair) -> String {
    match pair {
        Pair::ZERO => String::new(),
        pair => format!(", committed {pair}"),
    }
}

/// Process start and number: a copy draws its streams from both.
fn stream(stream: u64) -> String {
    format!("{}/{}", stream >> 32, stream & 0xffff_ffff)
}

pub fn answer(answer: &Result<Answer, Failure>) -> String {
    match answer {
        Ok(a) => {
            let duplicate = if a.duplicate { ", a duplicate" } else { "" };
            let copies = match a.copies_durable {
                0 => String::new(),
                1 => ", also at 1 secondary".to_string(),
                copies => format!(", also at {copies} secondaries"),
            };
            let conflict = if a.conflict { ", a conflict" } else { "" };
            format!(
                "{} at {}{duplicate}{conflict}{copies}",
                outcome(&a.outcome),
                a.pair
            )
        }
        Err(failure) => failed(failure),
    }
}

pub fn failed(failure: &Failure) -> String {
    let facts = list(&failure.metadata, "", |(name, fact)| {
        format!(", {name} {fact}")
    });
    format!(
        "{}, applied: {}{facts}",
        failure.reason,
        failure.applied.as_str()
    )
}

fn beacon(beacon: &Beacon) -> String {
    let (sent, lease) = (beacon.sent.0 / 1_000, beacon.lease.as_millis());
    let has = if beacon.leased { "a lease" } else { "no lease" };
    format!(", beacon of {sent} ms for {lease} ms, it has {has}")
}

pub fn ask(ask: &Ask) -> String {
    match ask {
        Ask::NewEpoch { epoch } => format!("for an epoch after {epoch}"),
        Ask::Complete { epoch, copy } => {
            format!("to let n{} be a secondary (epoch {epoch})", copy.node)
        }
        Ask::TooFarBehind { epoch, copy } => {
            format!("to mark n{} as joining (epoch {epoch})", copy.node)
        }
        Ask::AddInSync { epoch, copy, .. } => {
            format!(
                "to take n{} into the in-sync set (epoch {epoch})",
                copy.node
            )
        }
        Ask::DropInSync { epoch, copy, .. } => {
            format!(
                "to drop n{} from the in-sync set (epoch {epoch})",
                copy.node
            )
        }
        Ask::AddWitness { epoch, copy, .. } => {
            format!("to take n{} as a witness (epoch {epoch})", copy.node)
        }
        Ask::DropWitness { epoch, copy, .. } => {
            format!("to drop n{} as a witness (epoch {epoch})", copy.node)
        }
        Ask::HandOver { epoch, to } => format!("to hand over to n{} (epoch {epoch})", to.node),
    }
}

pub fn scrubbed(page: &ScrubbedPage) -> String {
    let keys = |keys: &[Bytes]| list(keys, " ", text);
    let copies = list(&page.copies, ", ", |(copy, found)| match found {
        ScrubbedCopy::Same => format!("n{} the same", copy.node),
        ScrubbedCopy::Differs { keys: told, .. } => {
            format!("n{} differs in {}", copy.node, keys(told))
        }
        ScrubbedCopy::NotCompared => format!("n{} not compared", copy.node),
    });
    let own = match page.primary_differs.is_empty() {
        true => String::new(),
        false => format!(", outvoted in {}", keys(&page.primary_differs)),
    };
    let next = page
        .next
        .as_ref()
        .map(|key| format!(", on after {}", text(key)));
    format!(
        "{} objects, {copies}{own}{}",
        page.objects,
        next.unwrap_or_default()
    )
}

pub fn sealed(answer: &SealedCopy) -> String {
    match answer {
        SealedCopy::Promised {
            epoch,
            position,
            complete,
        } => {
            let whole = if *complete {
                "complete"
            } else {
                "not complete"
            };
            format!("promised epoch {epoch}, at {position}, {whole}")
        }
        SealedCopy::Higher { epoch } => format!("promised epoch {epoch} before"),
        SealedCopy::NotHandedOver => "nothing was handed over".to_string(),
        SealedCopy::GraceNotOver => "its grace is not over, it promised nothing".to_string(),
    }
}

// ---- contents

/// A record: its pair, the request, and what it came to.
pub fn record(record: &EncodedRecord) -> String {
    let (decoded, _) = Record::decode(&record.bytes).expect("a stored record can be read");
    match decoded.body {
        Body::EpochStart => format!("{} epoch start", record.pair),
        Body::Expiry(body) => {
            let clients = list(&body.clients, "; ", |gone| {
                let numbers = list(&gone.removed, " ", |(number, _)| number.to_string());
                let stays = match gone.floor {
                    Some(floor) => format!("floor {floor}"),
                    None => "ended".to_string(),
                };
                format!("c{} {stays}, without {numbers}", gone.client.0)
            });
            format!("{} expiry: {clients}", record.pair)
        }
        Body::Request(body) => {
            let asked = content(&body.preconditions, &body.ops);
            let id = request_id(body.id);
            let again = match &body.earlier[..] {
                [] => String::new(),
                earlier => format!(" again (before {})", pairs(earlier)),
            };
            format!(
                "{} {id}{again} {asked} {}",
                record.pair,
                outcome(&body.outcome)
            )
        }
        Body::Conflict(body) => {
            let request = body.conflict.request();
            let keys = request.changes.iter().map(|change| name(&change.key));
            let stands = keys
                .zip(&body.conflict.stands)
                .map(|(key, last)| match last {
                    None => format!("{key} absent"),
                    Some(last) => format!("{key} by {} {}", last.pair, request_id(last.request)),
                });
            format!(
                "{} {} {} ({}): {} was cut off; {}",
                record.pair,
                request_id(body.id),
                match body.change {
                    Some(_) => "CONFLICT",
                    None => "DISCARDED",
                },
                body.conflict.reason.as_str(),
                body.conflict.cut_off.pair,
                list(stands, ", ", |one| one)
            )
        }
    }
}

pub fn request_id(id: RequestId) -> String {
    format!("c{}:{}", id.client.0, id.sequence)
}

fn op(op: &Op) -> String {
    match op {
        Op::Put { key, value } => format!("put {} {}", text(key), text(value)),
        Op::Delete { key } if is_reserved(key) => name(key).replace("conflict", "resolve"),
        Op::Delete { key } => format!("delete {}", text(key)),
        Op::SetComponent { key, name, value } => {
            format!("set {} {} {}", text(key), text(name), text(value))
        }
        Op::RemoveComponent { key, name } => format!("remove {} {}", text(key), text(name)),
        Op::Add { key, delta, .. } => format!("add {} {delta}", text(key)),
        Op::Append { key, data, .. } => format!("append {} {}", text(key), text(data)),
        Op::Get { key } => format!("get {}", text(key)),
    }
}

fn precondition(precondition: &Precondition) -> String {
    let key = name(precondition.key());
    match precondition {
        Precondition::LastPair { pair, .. } => format!("{key} at {pair}"),
        Precondition::ComponentValue { value: v, .. } => format!("{key} is {}", value(v)),
        Precondition::Absent { absent: true, .. } => format!("{key} absent"),
        Precondition::Absent { absent: false, .. } => format!("{key} present"),
    }
}

/// What a command calls a key.
fn name(key: &Bytes) -> String {
    match parse_conflict_key(key) {
        Some((id, cut_off)) => format!("conflict {}@{cut_off}", request_id(id)),
        None => text(key),
    }
}

/// An entry: where the request ran; of what stays of a client, or of all that ended, up to where something was removed.
pub fn dedup(id: RequestId, entry: &DedupEntry) -> String {
    match (id.sequence.0, id == shard_state_id()) {
        (0, true) => format!(
            "{}: sessions as of {}, removed up to {}",
            state_of(id),
            entry.fingerprint,
            entry.pair
        ),
        (0, false) => format!(
            "{}: floor {}, removed up to {}",
            state_of(id),
            entry.fingerprint,
            entry.pair
        ),
        _ => format!("{} at {}", request_id(id), entry.pair),
    }
}

fn state_of(id: RequestId) -> String {
    match id == shard_state_id() {
        true => "state of the shard".to_string(),
        false => format!("state of c{}", id.client.0),
    }
}

pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Applied(results) => format!("applied ({})", list(results, ", ", result)),
        Outcome::ConditionFailed(index) => format!("condition {} failed", index + 1),
        Outcome::Failed(index, why) => {
            let why = match why {
                FailedOp::WrongKind => "wrong kind of value",
                FailedOp::Overflow => "overflow",
                FailedOp::TooLarge => "too large",
            };
            format!("operation {} failed: {why}", index + 1)
        }
    }
}

fn result(result: &OpResult) -> String {
    match result {
        OpResult::Existed(true) => "was there".to_string(),
        OpResult::Existed(false) => "was absent".to_string(),
        OpResult::Counter(counter) => format!("counter {counter}"),
        OpResult::Length(length) => format!("length {length}"),
        OpResult::Object(None) => "absent".to_string(),
        OpResult::Object(Some(object)) => list(&object.components, " ", |c| value(&c.value)),
    }
}

/// `x=a`, with names where an object has more than its plain value.
pub fn object(key: &Bytes, object: Option<&Object>) -> String {
    if is_reserved(key) {
        return match object.map(Conflict::of_object) {
            Some(Ok(conflict)) => {
                let id = request_id(conflict.request().id);
                format!("conflict {id} {}", conflict.cut_off.pair)
            }
            Some(Err(malformed)) => malformed.to_string(),
            None => "the conflict absent".to_string(),
        };
    }
    let key = text(key);
    match object {
        None => format!("{key} absent"),
        Some(object) => list(&object.components, " ", |component| {
            let dot = if component.name.is_empty() { "" } else { "." };
            format!(
                "{key}{dot}{}={}",
                text(&component.name),
                value(&component.value)
            )
        }),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Data(data) => text(data),
        Value::Counter(counter) => counter.to_string(),
    }
}

/// Text as it is; what is long and of one letter as the commands write it.
pub fn text(bytes: &Bytes) -> String {
    match bytes.first() {
        Some(first) if bytes.len() > 20 && bytes.iter().all(|byte| byte == first) => {
            format!("{}*{}", first.escape_ascii(), bytes.len())
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

pub fn numbers(numbers: impl IntoIterator<Item = u64>) -> String {
    match numbers.into_iter().collect::<Vec<_>>()[..] {
        [] => "nothing".to_string(),
        [one] => format!("batch {one}"),
        [first, .., last] => format!("batches {first} to {last}"),
    }
}
