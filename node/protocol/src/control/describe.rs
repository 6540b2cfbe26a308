//! What a person is shown before a forced promotion: where every copy of the shard ends, and what the chosen one lacks.
//!
//! The managers ask each copy; nothing is changed by it. What a copy answers is of the moment. So the person's word names a
//! token of all that was shown, and is refused when any of it is different by then.

use super::message::encode;
use crate::record::Record;
use crate::shard::branch;
use crate::store::{StoreError, Stored};
use crate::tables::ShardEntry;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use understudy_proto::ids::{CopyId, Epoch, Pair, ProcessId, RequestId, Revision, ShardId};

/// Requests in one answer, at most.
pub const LACKING_MAX: usize = 1_000;
/// Bytes of records that a copy reads for one answer; more only when there is no request in them.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Where a log ends, and which epochs it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    pub last: Pair,
    pub epoch_starts: Vec<Pair>,
}

/// Asks a process what its copy of a shard is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeRequest {
    pub to: ProcessId,
    pub shard: ShardId,
    /// Tell what lies beyond that log, after this pair and at most so many requests.
    pub beside: Option<LogEnd>,
    pub after: Option<Pair>,
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeAnswer {
    pub from: ProcessId,
    /// `None`: it has no copy of the shard, or one that cannot be read.
    pub copy: Option<DescribedCopy>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedCopy {
    pub log: LogEnd,
    /// Promised to a failover.
    pub promise: Epoch,
    /// Not broken, and not rebuilt at the moment.
    pub complete: bool,
    /// Records in its orphan log.
    pub orphans: u64,
    pub beyond: Option<Beyond>,
}

/// What a copy has beyond another log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beyond {
    /// The last record that both have.
    pub cut: Pair,
    /// Records after it, those included that nobody asked for.
    pub records: u64,
    /// The requests, in the log's order.
    pub requests: Vec<(Pair, RequestId)>,
    /// There may be more after the last of these.
    pub more: bool,
    /// The log was trimmed beyond the cut: requests before that are not told.
    pub trimmed: bool,
}

/// At a node: what this log has beyond another.
pub fn beyond(
    stored: &dyn Stored,
    shard: ShardId,
    generation: u32,
    base: Pair,
    mine: &LogEnd,
    request: &DescribeRequest,
) -> Result<Option<Beyond>, StoreError> {
    let Some(other) = &request.beside else {
        return Ok(None);
    };
    let cut = branch::cut(
        &mine.epoch_starts,
        mine.last,
        &other.epoch_starts,
        other.last,
    );
    let limit = (request.limit as usize).min(LACKING_MAX);
    // A position to go on after may lie on the branch of another copy: only the order of pairs tells what comes after it.
    let after = request.after.unwrap_or(cut);
    let before = branch::end_before(&mine.epoch_starts, mine.last, after).min(after);
    let mut next = cut.max(base).max(before).version;
    let (mut requests, mut read) = (Vec::new(), 0);
    // Who wants none listed does not wait for the reading.
    while limit > 0 && next < mine.last.version && requests.len() <= limit {
        let enough = read >= READ_BYTES && !requests.is_empty();
        if enough {
            break;
        }
        let records = stored.records(shard, generation, next.next(), READ_BYTES)?;
        let Some(last) = records.last() else { break };
        next = last.pair.version;
        read += records.iter().map(|r| r.bytes.len()).sum::<usize>();
        for encoded in records.iter().filter(|record| record.pair <= mine.last) {
            let decoded = Record::decode(&encoded.bytes);
            let (record, _) = decoded.map_err(|malformed| {
                StoreError::Corrupt(format!(
                    "shard {shard}: record {}: {malformed}",
                    encoded.pair
                ))
            })?;
            let id = record.request_id().filter(|_| record.pair > after);
            requests.extend(id.map(|id| (record.pair, id)));
        }
    }
    let more = requests.len() > limit || next < mine.last.version;
    requests.truncate(limit);
    Ok(Some(Beyond {
        cut,
        records: mine.last.version.0.saturating_sub(cut.version.0),
        requests,
        more,
        trimmed: base > cut,
    }))
}

/// A request that the chosen copy lacks, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    pub pair: Pair,
    pub request: RequestId,
    pub at: BTreeSet<CopyId>,
}

/// All that copies told, in the order of the pairs: the first so many, and whether there are more.
pub fn lacking(told: &BTreeMap<CopyId, Beyond>, limit: usize) -> (Vec<Lacking>, bool) {
    let mut all: BTreeMap<(Pair, RequestId), BTreeSet<CopyId>> = BTreeMap::new();
    // Beyond the end of a page that goes on nobody knows what that copy has.
    let ends = told.values().filter(|beyond| beyond.more);
    let end = ends
        .filter_map(|b| b.requests.last().map(|(pair, _)| *pair))
        .min();
    let mut more = end.is_some();
    for (copy, beyond) in told {
        for request in &beyond.requests {
            all.entry(*request).or_default().insert(*copy);
        }
    }
    let within = |pair: &Pair| end.is_none_or(|end| *pair <= end);
    let mut list = Vec::new();
    for ((pair, request), at) in all {
        if list.len() == limit || !within(&pair) {
            more = true;
            break;
        }
        list.push(Lacking { pair, request, at });
    }
    (list, more)
}

/// Stands for what was shown: the row, the choice, and where each copy that answered ended. As text `revision-pair-digest`.
///
/// The command is made of this and the person's word alone, so that the same call again makes the same command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Of the row.
    pub revision: Revision,
    /// The end of the chosen copy's log.
    pub least: Pair,
    digest: u64,
}

impl State {
    /// `None`: the chosen copy told nothing.
    pub fn of(
        shard: ShardId,
        entry: &ShardEntry,
        chosen: CopyId,
        ends: &BTreeMap<CopyId, Option<Pair>>,
    ) -> Option<State> {
        let shown = (shard, entry.revision, entry.primary, chosen, ends);
        Some(State {
            revision: entry.revision,
            least: ends.get(&chosen).copied().flatten()?,
            digest: xxhash_rust::xxh3::xxh3_64(&encode(&shown)),
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:016x}", self.revision, self.least, self.digest)
    }
}

impl FromStr for State {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<State, &'static str> {
        let wrong = "a state is what the command showed, as 217-1.57-9f3c0a55b1e2d4c8";
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().ok_or(wrong);
        let revision = part()?.parse().map_err(|_| wrong)?;
        let (epoch, version) = part()?.split_once('.').ok_or(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong);
        let least = Pair::new(number(epoch)?, number(version)?);
        let digest = part()?;
        let digest = match digest.len() {
            16 => u64::from_str_radix(digest, 16).map_err(|_| wrong)?,
            _ => return Err(wrong),
        };
        Ok(State {
            revision: Revision(revision),
            least,
            digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Body, RequestBody};
    use crate::request::Outcome;
    use crate::store::{Batch, StoreChange};
    use crate::testing::MemoryStore;
    use understudy_proto::ids::{ClientId, NodeId, Sequence, StoreId};

    fn copy(n: u64) -> CopyId {
        CopyId {
            node: NodeId(n),
            store: StoreId(n.into()),
        }
    }

    fn request(n: u64) -> (Pair, RequestId) {
        let client = ClientId::from_parts(1, 0);
        let sequence = Sequence(n);
        (Pair::new(1, n), RequestId { client, sequence })
    }

    fn beyond(numbers: std::ops::RangeInclusive<u64>, more: bool) -> Beyond {
        Beyond {
            cut: Pair::new(1, 2),
            records: 9,
            requests: numbers.map(request).collect(),
            more,
            trimmed: false,
        }
    }

    #[test]
    fn a_state_is_read_back_and_differs_with_all_that_was_shown() {
        let mut entry = ShardEntry::new(understudy_proto::ids::NamespaceId(1), None);
        entry.revision = Revision(217);
        let ends = BTreeMap::from([(copy(1), Some(Pair::new(1, 57))), (copy(2), None)]);
        let of = |entry: &ShardEntry, chosen, ends: &BTreeMap<_, _>| {
            State::of(ShardId(3), entry, chosen, ends)
        };
        let state = of(&entry, copy(1), &ends).unwrap();
        let text = state.to_string();
        assert!(text.starts_with("217-1.57-"), "{text}");
        assert_eq!(text.parse(), Ok(state));
        assert_eq!(of(&entry, copy(2), &ends), None);
        let mut came_back = ends.clone();
        came_back.insert(copy(2), Some(Pair::new(1, 90)));
        assert_ne!(of(&entry, copy(1), &came_back), Some(state));
        entry.revision = Revision(218);
        assert_ne!(of(&entry, copy(1), &ends), Some(state));
        for wrong in [
            "",
            "217",
            "217-1.57",
            "217-157-9f3c0a55b1e2d4c8",
            "217-1.57-9f",
            "x-1.57-9f3c0a55b1e2d4c8",
        ] {
            assert!(wrong.parse::<State>().is_err(), "{wrong}");
        }
    }

    /// A log of 100 requests, of which as many as asked for are listed, after a pair.
    fn listed(after: Option<Pair>, limit: u32) -> (Vec<u64>, bool) {
        let shard = ShardId(1);
        let mut store = MemoryStore::new();
        let mut changes = Vec::new();
        for n in 1..=100 {
            let (pair, id) = request(n);
            let body = RequestBody {
                id,
                fingerprint: 0,
                ops: Vec::new(),
                preconditions: Vec::new(),
                outcome: Outcome::Applied(Vec::new()),
                changes: Vec::new(),
                earlier: Vec::new(),
            };
            let record = Record {
                shard,
                pair,
                previous: Pair::ZERO,
                previous_epoch_start: Pair::ZERO,
                previous_checksum: 0,
                time_ms: 0,
                body: Body::Request(Box::new(body)),
            };
            changes.push(StoreChange::AppendRecord {
                generation: 0,
                record: record.encode(),
            });
        }
        let number = 1;
        let batch = Batch {
            shard,
            number,
            changes,
        };
        store.write(batch).unwrap();
        store.sync();
        let log = |last| LogEnd {
            last,
            epoch_starts: vec![Pair::new(1, 1)],
        };
        let asked = DescribeRequest {
            to: ProcessId {
                node: NodeId(1),
                store: StoreId(1),
                incarnation: understudy_proto::ids::Incarnation(1),
            },
            shard,
            beside: Some(log(Pair::new(1, 10))),
            after,
            limit,
        };
        let mine = log(Pair::new(1, 100));
        let told = super::beyond(&store, shard, 0, Pair::ZERO, &mine, &asked);
        let told = told.unwrap().unwrap();
        assert_eq!((told.cut, told.records), (Pair::new(1, 10), 90));
        let versions = told.requests.iter().map(|(pair, _)| pair.version.0);
        (versions.collect(), told.more)
    }

    #[test]
    fn what_lies_beyond_is_listed_from_where_the_last_page_ended() {
        assert_eq!(listed(None, 3), (vec![11, 12, 13], true));
        assert_eq!(listed(Some(Pair::new(1, 13)), 2), (vec![14, 15], true));
        assert_eq!(listed(Some(Pair::new(1, 98)), 3), (vec![99, 100], false));
        // A page that ended on the longer branch of another copy: only what comes after it in the order of pairs.
        assert_eq!(listed(Some(Pair::new(1, 300)), 3), (vec![], false));
        // Who wants none listed is told only how much there is.
        assert_eq!(listed(None, 0), (vec![], true));
    }

    #[test]
    fn what_copies_told_is_one_list_without_holes() {
        let told = BTreeMap::from([
            (copy(1), beyond(3..=6, true)),
            (copy(2), beyond(3..=8, false)),
        ]);
        let (list, more) = lacking(&told, 100);
        let pairs: Vec<u64> = list.iter().map(|l| l.pair.version.0).collect();
        // Whether the first copy has 1.7 is not known before its next page.
        assert_eq!((pairs, more), (vec![3, 4, 5, 6], true));
        assert!(list.iter().all(|l| l.at.len() == 2));
        let (list, more) = lacking(&told, 2);
        assert_eq!((list.len(), more), (2, true));
        let told = BTreeMap::from([(copy(2), beyond(3..=8, false))]);
        let (list, more) = lacking(&told, 100);
        assert_eq!((list.len(), more), (6, false));
    }
}
