//! Reads everything back and holds it against what the clients were told.
//!
//! Read at the primaries: the request log of every shard, all objects, and the orphan logs of all nodes. `judge` is pure.
//! Reservations are `in_sync`: each acknowledged one has to stand in its primary's log with the outcome that was told. Of the
//! notes, which are lazy, [`notes`] tells more.

pub mod notes;

use super::agents::Shards;
use super::airports::Airport;
use super::flights::{Flight, SOLD, Ticket};
use super::ledger::{Came, Ledger, Request, Wish};
use super::{AIRPORTS, FLIGHTS, NOTES};
use crate::cli::read_back::{Recorded, is_conflict, request_of};
use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use notes::{HeldNotes, NotesAudit};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::time::{Duration, Instant};
use understudy_client::{Client, Namespace, Object};
use understudy_proto::RequestId;
use understudy_proto::v1::outcome::Status;
use understudy_proto::v1::{LogRecord, Outcome};

/// A node that came back may still be on the way to moving what a failover cut off into its orphan log.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the cluster holds at the end.
#[derive(Debug, Default)]
pub struct Held {
    /// What each request came to, each time that it stands in a primary's log.
    pub log: HashMap<RequestId, Vec<Came>>,
    /// Seats for which the logs hold more than one sale.
    pub sales: HashMap<(String, u32), u32>,
    pub seats: HashMap<(String, u32), Ticket>,
    /// The counters of the flights.
    pub counters: HashMap<String, i64>,
}

/// An acknowledged request that the primary's log does not hold as it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    pub request_id: String,
    pub client: u32,
    pub flight: String,
    /// `seat 7` or `page 7`.
    pub what: String,
    pub told: &'static str,
}

/// A seat that two clients were told is theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TwoOwners {
    pub flight: String,
    pub seat: u32,
    /// In the order in which they were told.
    pub clients: Vec<u32>,
    pub request_ids: Vec<String>,
    pub now_held_by: Option<String>,
}

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    pub airports_read_back: u64,
    pub airports_wrong: u64,
    pub seats_sold: u64,
    /// Reservations and notes that are nowhere as they were told.
    pub missing: Vec<Missing>,
    pub seats_sold_twice: Vec<String>,
    /// Requests that stand in the logs more than once, or flights whose counter is not the number of their sold seats.
    pub ran_twice: Vec<String>,
    /// Requests that stand in a log though the client was told that they certainly did not run.
    pub ran_though_told_not: Vec<String>,
    pub seats_of_two_clients: Vec<TwoOwners>,
    pub notes: NotesAudit,
}

impl Audit {
    pub async fn run(
        client: &Client,
        airports: &[Airport],
        flights: &[Flight],
        ledger: &Ledger,
        shards: Shards,
    ) -> anyhow::Result<Audit> {
        let wrong = compare_airports(&client.namespace(AIRPORTS), airports).await?;
        let names = node_names(client).await?;
        let began = Instant::now();
        loop {
            let held = read_back(&client.namespace(FLIGHTS), shards.seats).await?;
            let of_notes = HeldNotes::read(&client.namespace(NOTES), shards.notes).await?;
            let mut audit = judge(flights, ledger, &held, &of_notes, &names);
            (audit.airports_read_back, audit.airports_wrong) = wrong;
            let settled = audit.missing.is_empty() && audit.notes.waiting.is_empty();
            if settled || began.elapsed() > PATIENCE {
                return Ok(audit);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub fn passed(&self) -> bool {
        self.airports_wrong == 0
            && self.missing.is_empty()
            && self.seats_sold_twice.is_empty()
            && self.ran_twice.is_empty()
            && self.ran_though_told_not.is_empty()
            && self.seats_of_two_clients.is_empty()
    }
}

/// How many airports there are, and how many are not as they were loaded (absent ones and strange ones included).
async fn compare_airports(
    namespace: &Namespace,
    airports: &[Airport],
) -> anyhow::Result<(u64, u64)> {
    let rows: anyhow::Result<HashMap<Bytes, Bytes>> = airports.iter().map(Airport::row).collect();
    let mut rows = rows?;
    let mut count = 0;
    let mut wrong = 0;
    let mut objects = pin!(namespace.scan().page_size(10_000).objects());
    while let Some(object) = objects.next().await {
        let object = object.context("reading the airports back")?;
        count += 1;
        if rows.remove(&object.key).as_ref() != object.value() {
            wrong += 1;
        }
    }
    Ok((count, wrong + rows.len() as u64))
}

async fn node_names(client: &Client) -> anyhow::Result<BTreeMap<u64, String>> {
    let nodes = client.cluster().nodes().await?.nodes;
    Ok(nodes
        .into_iter()
        .map(|node| (node.node, node.name))
        .collect())
}

async fn read_back(namespace: &Namespace, shards: u32) -> anyhow::Result<Held> {
    let mut held = Held::default();
    let recorded = Recorded::read(namespace, shards).await?;
    for record in &recorded.log {
        held.take_record(record);
    }
    let mut objects = pin!(namespace.scan().page_size(10_000).objects());
    while let Some(object) = objects.next().await {
        held.take_object(&object.context("reading the seats back")?);
    }
    Ok(held)
}

impl Held {
    fn take_record(&mut self, record: &LogRecord) {
        let Some((id, came)) = of_request(record) else {
            return;
        };
        if is_conflict(record) {
            return;
        }
        self.log.entry(id).or_default().push(came);
        if came != Came::Done {
            return;
        }
        let keys = record.changes.iter().map(|change| &change.key);
        for (flight, seat) in keys.filter_map(|key| Flight::parse_seat_key(key)) {
            *self.sales.entry((flight.to_string(), seat)).or_default() += 1;
        }
    }

    fn take_object(&mut self, object: &Object) {
        if let Some((flight, seat)) = Flight::parse_seat_key(&object.key) {
            let ticket = object.value().map(|value| serde_json::from_slice(value));
            if let Some(Ok(ticket)) = ticket {
                self.seats.insert((flight.to_string(), seat), ticket);
            }
        } else if let Ok(key) = std::str::from_utf8(&object.key) {
            let code = key.trim_start_matches('{').trim_end_matches('}');
            let sold = object.counter(SOLD).unwrap_or(0);
            self.counters.insert(code.to_string(), sold);
        }
    }
}

/// The id and outcome of a record that a client's request made.
fn of_request(record: &LogRecord) -> Option<(RequestId, Came)> {
    let id = request_of(record)?;
    let came = match record.outcome.as_ref().map(Outcome::status) {
        Some(Status::Applied) => Came::Done,
        Some(Status::ConditionFailed) => Came::Refused,
        _ => Came::Odd,
    };
    Some((id, came))
}

/// Holds what the clients were told against what the cluster has.
pub fn judge(
    flights: &[Flight],
    ledger: &Ledger,
    held: &Held,
    of_notes: &HeldNotes,
    names: &BTreeMap<u64, String>,
) -> Audit {
    let is_there = |request: &Request, came: &Came| {
        let logged = held.log.get(&request.id);
        match request.wish {
            Wish::Seat(_) => logged.is_some_and(|logged| logged.contains(came)),
            Wish::Note(_) => of_notes.accounts_for(request.id, *came),
        }
    };
    let mut ran_twice = ran_twice(flights, held);
    ran_twice.extend(of_notes.ran_twice());
    Audit {
        seats_sold: held.seats.len() as u64,
        missing: missing(flights, ledger, is_there),
        seats_sold_twice: sold_twice(held),
        ran_twice,
        ran_though_told_not: ran_though_told_not(ledger, held, of_notes),
        seats_of_two_clients: two_owners(flights, ledger, held),
        notes: of_notes.judge(ledger, names),
        ..Default::default()
    }
}

/// Each different thing that a client was told of a request and that is not there.
fn missing(
    flights: &[Flight],
    ledger: &Ledger,
    is_there: impl Fn(&Request, &Came) -> bool,
) -> Vec<Missing> {
    let of_request = |request: &Request| {
        let told: BTreeSet<Came> = request.answers.iter().map(|answer| answer.came).collect();
        let gone = told.into_iter().filter(|came| !is_there(request, came));
        let missing = gone.map(|came| Missing {
            request_id: request.id.to_string(),
            client: request.client,
            flight: flights[request.flight].code.clone(),
            what: match request.wish {
                Wish::Seat(seat) => format!("seat {seat}"),
                Wish::Note(page) => format!("page {page}"),
            },
            told: came.word(request.wish),
        });
        missing.collect::<Vec<_>>()
    };
    ledger.acknowledged().flat_map(of_request).collect()
}

fn sold_twice(held: &Held) -> Vec<String> {
    let twice = held.sales.iter().filter(|(_, sales)| **sales > 1);
    let mut seats: Vec<String> = twice
        .map(|((flight, seat), sales)| format!("{flight} seat {seat}: {sales} sales"))
        .collect();
    seats.sort();
    seats
}

fn ran_twice(flights: &[Flight], held: &Held) -> Vec<String> {
    let mut found: Vec<String> = held
        .log
        .iter()
        .filter(|(_, times)| times.len() > 1)
        .map(|(id, times)| format!("{id}: {} records", times.len()))
        .collect();
    let mut seats: HashMap<&str, i64> = HashMap::new();
    for (flight, _) in held.seats.keys() {
        *seats.entry(flight).or_default() += 1;
    }
    for flight in flights {
        let seats = seats.get(flight.code.as_str()).copied().unwrap_or(0);
        let counter = held.counters.get(&flight.code).copied().unwrap_or(0);
        if seats != counter {
            found.push(format!(
                "{}: its counter says {counter} and {seats} seats are sold",
                flight.code
            ));
        }
    }
    found.sort();
    found
}

fn ran_though_told_not(ledger: &Ledger, held: &Held, of_notes: &HeldNotes) -> Vec<String> {
    let told_not = ledger.requests.iter().filter(|request| request.not_run);
    let ran = |id: &RequestId| held.log.contains_key(id) || of_notes.log.contains_key(id);
    told_not
        .filter(|request| ran(&request.id))
        .map(|request| request.id.to_string())
        .collect()
}

fn two_owners(flights: &[Flight], ledger: &Ledger, held: &Held) -> Vec<TwoOwners> {
    let mut owners: BTreeMap<(usize, u32), Vec<(&Request, Duration)>> = BTreeMap::new();
    for request in &ledger.requests {
        if let Some((seat, told)) = request.told_sold() {
            let seat = (request.flight, seat);
            owners.entry(seat).or_default().push((request, told.at));
        }
    }
    let several = owners.into_iter().filter(|(_, owners)| owners.len() > 1);
    several
        .map(|((flight, seat), mut owners)| {
            owners.sort_by_key(|(_, at)| *at);
            let code = flights[flight].code.clone();
            let now = held.seats.get(&(code.clone(), seat));
            TwoOwners {
                seat,
                clients: owners.iter().map(|(request, _)| request.client).collect(),
                request_ids: owners
                    .iter()
                    .map(|(request, _)| request.id.to_string())
                    .collect(),
                now_held_by: now.map(|ticket| ticket.request.clone()),
                flight: code,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
