//! What a copy has, as lines: what is on its disk, where its replica stands, and how copies differ.

use super::machine::{Machine, SHARD};
use super::trace::{dedup, list, object, outcome, pairs, progress, record, request_id};
use understudy_proto::{Pair, Version};
use understudy_protocol::store::{Saved, Stored};
use understudy_protocol::time::Instant;

const ALL: usize = usize::MAX;

/// `what` is one of log, objects, dedup, orphans, position.
pub fn show(machine: &Machine, what: &str) -> Result<Vec<String>, String> {
    let saved = saved(machine)?;
    let generation = saved.meta.live.generation;
    let (store, node) = (&machine.store, machine.node);
    let lines: Result<Vec<String>, _> = match what {
        "log" => store
            .records(SHARD, generation, Version::ZERO, ALL)
            .map(|records| records.iter().map(record).collect()),
        "objects" => store
            .objects_after(SHARD, generation, None, ALL)
            .map(|page| {
                let line = |(key, o)| {
                    let found: &understudy_protocol::object::Object = &o;
                    let last = found.last;
                    format!(
                        "{}, last {} {}",
                        object(&key, Some(found)),
                        last.pair,
                        request_id(last.request)
                    )
                };
                page.items.into_iter().map(line).collect()
            }),
        "dedup" => store.dedup_after(SHARD, generation, None, ALL).map(|page| {
            let line = |(id, entry): &(
                understudy_proto::RequestId,
                understudy_protocol::request::DedupEntry,
            )| {
                match id.sequence.0 {
                    0 => dedup(*id, entry),
                    _ => format!("{}: {}", dedup(*id, entry), outcome(&entry.outcome)),
                }
            };
            page.items.iter().map(line).collect()
        }),
        "orphans" => store.orphans(SHARD, None, ALL).map(|page| {
            let line = |orphan: &understudy_protocol::store::Orphan| {
                format!(
                    "{}, epochs {}",
                    record(&orphan.record),
                    pairs(&orphan.epoch_starts)
                )
            };
            page.items.iter().map(line).collect()
        }),
        "position" => return Ok(vec![position(machine, &saved)]),
        _ => {
            return Err(format!(
                "'{what}' cannot be shown; log, objects, dedup, orphans, position can"
            ));
        }
    };
    let lines = lines.map_err(|error| error.to_string())?;
    let head = match lines.is_empty() {
        true => format!("n{node} {what}: empty"),
        false => format!("n{node} {what}:"),
    };
    Ok(std::iter::once(head)
        .chain(lines.into_iter().map(|line| format!("  {line}")))
        .collect())
}

/// How old the copy is, by its own clock.
pub fn age(machine: &Machine, now: Instant) -> Result<String, String> {
    let node = machine.node;
    Ok(match machine.age(now) {
        Some(age) => format!("n{node} is {} ms old at most", age.as_millis()),
        None => format!("n{node} does not know how old it is"),
    })
}

/// What is on the disk. A clone, because opening a shard begins its numbering of batches anew.
fn saved(machine: &Machine) -> Result<Saved, String> {
    machine
        .store
        .clone()
        .open_shard(SHARD)
        .map_err(|error| error.to_string())
}

fn position(machine: &Machine, saved: &Saved) -> String {
    let node = machine.node;
    let meta = &saved.meta;
    let durable = end(saved);
    let mut text = match &machine.replica {
        None => format!("n{node} is down, on disk {durable}"),
        Some(replica) => {
            let report = replica.report();
            let role = match (report.serving, replica.claim()) {
                (Some(epoch), _) => format!("serves epoch {epoch}"),
                (None, Some(epoch)) => format!("takes over epoch {epoch}"),
                (None, None) => format!("followed in epoch {}", report.followed),
            };
            format!("n{node} at {}, on disk {durable}, {role}", report.position)
        }
    };
    text += &format!(
        ", promise {}, epochs {}",
        meta.promise,
        pairs(&meta.live.epoch_starts)
    );
    if meta.live.base != Pair::ZERO {
        text += &format!(", log after {}", meta.live.base);
    }
    if let Some(staging) = &meta.staging {
        let what = staging
            .delta_since
            .map_or("a full copy".to_string(), |since| {
                format!("a delta since {since}")
            });
        text += &format!(
            ", {what} beside it: {} to come",
            progress(&staging.progress)
        );
    }
    match saved.orphans {
        0 => text,
        orphans => format!("{text}, orphans {orphans}"),
    }
}

fn end(saved: &Saved) -> Pair {
    saved
        .last
        .as_ref()
        .map_or(saved.meta.live.base, |last| last.pair)
}

/// One line: the copies hold the same, or what of the first one's the others do not.
pub fn compare(machines: &[&Machine]) -> Result<String, String> {
    let [first, others @ ..] = machines else {
        return Err("two copies or more can be compared".to_string());
    };
    let wanted = contents(first)?;
    let mut differ = Vec::new();
    for other in others {
        let found = contents(other)?;
        let parts = [
            ("end of log", found.end != wanted.end),
            ("checksum", found.checksum != wanted.checksum),
            ("objects", found.objects != wanted.objects),
            ("dedup", found.dedup != wanted.dedup),
        ];
        let parts = list(parts.iter().filter(|part| part.1), ", ", |part| {
            part.0.to_string()
        });
        if !parts.is_empty() {
            differ.push(format!(
                "n{} differs from n{}: {parts}",
                other.node, first.node
            ));
        }
    }
    match differ.is_empty() {
        true => Ok(format!(
            "alike at {}: checksum, objects ({}), dedup ({})",
            wanted.end, wanted.counts.0, wanted.counts.1
        )),
        false => Ok(differ.join("; ")),
    }
}

#[derive(PartialEq)]
struct Contents {
    end: Pair,
    checksum: u64,
    objects: String,
    dedup: String,
    counts: (usize, usize),
}

fn contents(machine: &Machine) -> Result<Contents, String> {
    let saved = saved(machine)?;
    let generation = saved.meta.live.generation;
    let said = |error: understudy_protocol::store::StoreError| error.to_string();
    let objects = machine
        .store
        .objects_after(SHARD, generation, None, ALL)
        .map_err(said)?
        .items;
    let dedup = machine
        .store
        .dedup_after(SHARD, generation, None, ALL)
        .map_err(said)?
        .items;
    Ok(Contents {
        end: end(&saved),
        checksum: saved
            .last
            .as_ref()
            .map_or(saved.meta.live.base_checksum, |last| last.checksum),
        counts: (objects.len(), dedup.len()),
        objects: format!("{objects:?}"),
        dedup: format!("{dedup:?}"),
    })
}
