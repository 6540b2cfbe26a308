//! The passengers' notes, in a lazy namespace: what a failover cut off, and what became of it.
//!
//! An acknowledged note is accounted for when its request stands in the primary's log, first hand or given back after a failover
//! cut it off; when it is a conflict there, because somebody wrote the same page meanwhile; or when it still waits in the orphan
//! log of a node that runs.

use super::of_request;
use crate::cli::demo::flights::{EDITS, Flight};
use crate::cli::demo::ledger::{Came, Ledger};
use crate::cli::read_back::{Recorded, is_conflict};
use anyhow::Context;
use futures::StreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use understudy_client::object::pair;
use understudy_client::{Namespace, Object};
use understudy_proto::RequestId;
use understudy_proto::v1::LogRecord;
use understudy_proto::v1::log_record::Kind;

/// A page: the flight's code, and the number.
type Page = (String, u32);

/// What the cluster holds of the notes.
#[derive(Debug, Default)]
pub struct HeldNotes {
    /// What each request came to, each time that it stands in a primary's log.
    pub log: HashMap<RequestId, Vec<Came>>,
    pub conflicts: HashMap<RequestId, Vec<Came>>,
    pub orphans: HashMap<RequestId, Vec<(Came, u64)>>,
    /// What was given back and what could not be, in the order of the logs.
    pub cut_off: Vec<CutOff>,
    /// How often the logs say that a page was written.
    pub written: HashMap<Page, i64>,
    /// How often the pages themselves say so.
    pub edits: HashMap<Page, i64>,
}

/// A note that a failover cut off and that came back into the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CutOff {
    pub request_id: String,
    pub flight: String,
    pub page: u32,
    /// Where it stood on the branch that was cut off.
    pub stood_at: String,
    pub stands_at: String,
    /// Why it was not applied.
    pub conflict: Option<String>,
}

/// A note that still waits in an orphan log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub request_id: String,
    pub orphan_log_of: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotesAudit {
    pub requests: u64,
    pub acknowledged: u64,
    pub brought_back: Vec<CutOff>,
    /// For a person.
    pub conflicts: Vec<CutOff>,
    pub waiting: Vec<Waiting>,
}

impl NotesAudit {
    pub fn cut_off(&self) -> usize {
        self.brought_back.len() + self.conflicts.len() + self.waiting.len()
    }
}

impl HeldNotes {
    pub async fn read(namespace: &Namespace, shards: u32) -> anyhow::Result<HeldNotes> {
        let mut held = HeldNotes::default();
        let recorded = Recorded::read(namespace, shards).await?;
        for orphan in recorded.orphans {
            let record = orphan.record.as_ref();
            if let Some((id, came)) = record.and_then(of_request) {
                held.orphans
                    .entry(id)
                    .or_default()
                    .push((came, orphan.node));
            }
        }
        for record in &recorded.log {
            held.take_record(record);
        }
        let mut objects = pin!(namespace.scan().page_size(10_000).objects());
        while let Some(object) = objects.next().await {
            held.take_object(&object.context("reading the notes back")?);
        }
        Ok(held)
    }

    fn take_record(&mut self, record: &LogRecord) {
        let Some((id, came)) = of_request(record) else {
            return;
        };
        let pages = record.changes.iter();
        let mut pages = pages.filter_map(|change| Flight::parse_page_key(&change.key));
        let page = pages
            .next()
            .map(|(flight, page)| (flight.to_string(), page));
        let conflict = is_conflict(record);
        if conflict || record.kind() == Kind::RecordedAgain {
            let (flight, page) = page.clone().unwrap_or_default();
            let first = record.earlier.first().copied();
            self.cut_off.push(CutOff {
                request_id: id.to_string(),
                flight,
                page,
                stood_at: pair(first).to_string(),
                stands_at: pair(record.pair).to_string(),
                conflict: conflict.then(|| record.conflict_reason.clone()),
            });
        }
        if conflict {
            self.conflicts.entry(id).or_default().push(came);
            return;
        }
        self.log.entry(id).or_default().push(came);
        if let Some(page) = page.filter(|_| came == Came::Done) {
            *self.written.entry(page).or_default() += 1;
        }
    }

    fn take_object(&mut self, object: &Object) {
        if let Some((flight, page)) = Flight::parse_page_key(&object.key) {
            let edits = object.counter(EDITS).unwrap_or(0);
            self.edits.insert((flight.to_string(), page), edits);
        }
    }

    /// Whether what a client was told of the request is there, or waits.
    pub fn accounts_for(&self, id: RequestId, came: Came) -> bool {
        let among = |all: &HashMap<RequestId, Vec<Came>>| {
            all.get(&id).is_some_and(|all| all.contains(&came))
        };
        let mut waits = self.orphans.get(&id).into_iter().flatten();
        among(&self.log) || among(&self.conflicts) || waits.any(|(it, _)| *it == came)
    }

    /// Requests with more than one record, and pages that were written more or less often than the logs say.
    pub fn ran_twice(&self) -> Vec<String> {
        let twice = self.log.iter().filter(|(_, times)| times.len() > 1);
        let twice = twice.map(|(id, times)| format!("{id}: {} records", times.len()));
        let mut found: Vec<String> = twice.collect();
        for page in self.written.keys().chain(self.edits.keys()) {
            let count = |of: &HashMap<Page, i64>| of.get(page).copied().unwrap_or(0);
            let (written, edits) = (count(&self.written), count(&self.edits));
            if written != edits {
                let (flight, number) = page;
                found.push(format!(
                    "{flight} page {number}: it says {edits} edits, and the log has {written}"
                ));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    pub fn judge(&self, ledger: &Ledger, names: &BTreeMap<u64, String>) -> NotesAudit {
        let notes = || ledger.requests.iter().filter(|request| request.is_note());
        let (conflicts, brought_back) = self
            .cut_off
            .iter()
            .cloned()
            .partition(|it| it.conflict.is_some());
        // What came back while this was read may have been seen in both places.
        let settled = |id: &RequestId| self.log.contains_key(id) || self.conflicts.contains_key(id);
        let waiting = self.orphans.iter().filter(|(id, _)| !settled(id));
        let waiting = waiting.map(|(id, places)| {
            let node = places.first().map_or(0, |(_, node)| *node);
            let name = names.get(&node).cloned();
            Waiting {
                request_id: id.to_string(),
                orphan_log_of: name.unwrap_or_else(|| node.to_string()),
            }
        });
        let mut waiting: Vec<Waiting> = waiting.collect();
        waiting.sort_by(|one, other| one.request_id.cmp(&other.request_id));
        NotesAudit {
            requests: notes().count() as u64,
            acknowledged: notes().filter(|request| request.acknowledged()).count() as u64,
            brought_back,
            conflicts,
            waiting,
        }
    }
}
