//! The clients of the demo: each reserves one seat after the other, or writes one note after the other, with a request id for
//! each, and writes down what it was told.
//!
//! A client sells the flights of one shard (or of a few), so a fault holds up the clients of the shards that it hits and
//! no others, as with independent clients. Some send a request again that was answered, as an impatient person does. No
//! client repeats anything after its call ended in *unknown*: `settle` does so at the end, under the same id.

use super::args::Args;
use super::flights::{Flight, PAGES};
use super::ledger::{Ledger, Request, Wish};
use super::{FLIGHTS, NOTES};
use crate::cli::pulse::Pulse;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use understudy_client::{Client, Namespace};

/// Clients that share one connection to each node.
const CLIENTS_PER_CONNECTION: u32 = 16;
/// One request in so many is sent a second time after its answer.
const SENT_AGAIN: u32 = 20;
/// One client in so many writes notes; the others reserve seats.
const WRITES_NOTES: u32 = 4;
/// How long all open requests together are asked for at the end.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// The clients while they run.
#[derive(Debug)]
pub struct Agents {
    stop: Arc<AtomicBool>,
    running: JoinSet<Vec<Request>>,
    namespaces: Vec<Namespace>,
}

/// How many each namespace has. In the pulse those of the notes follow those of the seats.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    pub seats: u32,
    pub notes: u32,
}

struct Agent {
    number: u32,
    namespace: Namespace,
    all: Arc<Vec<Flight>>,
    /// Those that it sells.
    flights: Vec<usize>,
    shards: Shards,
    writes_notes: bool,
    rng: ChaCha8Rng,
    interval: Duration,
    pulse: Arc<Pulse>,
    stop: Arc<AtomicBool>,
    requests: Vec<Request>,
}

impl Agents {
    pub async fn start(
        args: &Args,
        endpoints: &[String],
        flights: &Arc<Vec<Flight>>,
        shards: Shards,
        pulse: &Arc<Pulse>,
    ) -> anyhow::Result<Agents> {
        let writers = args.clients / WRITES_NOTES;
        let of_seats = groups(flights, shards.seats, args.clients - writers);
        let of_notes = groups(flights, shards.notes, writers);
        let stop = Arc::new(AtomicBool::new(false));
        let mut agents = Agents {
            stop: stop.clone(),
            running: JoinSet::new(),
            namespaces: Vec::new(),
        };
        let mut client = Client::connect(endpoints).await?;
        for number in 0..args.clients {
            if number % CLIENTS_PER_CONNECTION == 0 {
                client = Client::connect(endpoints).await?;
            }
            let writes_notes = number % WRITES_NOTES == WRITES_NOTES - 1;
            let (name, groups, before) = match writes_notes {
                true => (NOTES, &of_notes, number / WRITES_NOTES),
                false => (FLIGHTS, &of_seats, number - number / WRITES_NOTES),
            };
            let namespace = client.new_session().namespace(name);
            agents.namespaces.push(namespace.clone());
            let seed = args.seed.unwrap_or_default();
            let agent = Agent {
                number,
                namespace,
                all: flights.clone(),
                flights: groups[before as usize % groups.len()].clone(),
                shards,
                writes_notes,
                // A stream of its own for each client, all from the one seed.
                rng: ChaCha8Rng::seed_from_u64(seed.wrapping_add(1 + u64::from(number))),
                interval: Duration::from_secs(1) * args.clients / args.rate,
                pulse: pulse.clone(),
                stop: stop.clone(),
                requests: Vec::new(),
            };
            agents.running.spawn(agent.run());
        }
        Ok(agents)
    }

    /// Lets every client finish what it waits for. Gives their sessions, by number, and what they were told.
    pub async fn stop(mut self) -> (Vec<Namespace>, Ledger) {
        self.stop.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        while let Some(ended) = self.running.join_next().await {
            // A client that panicked is a bug of the demo; its panic is already on the terminal.
            let requests = ended.expect("a client of the demo does not panic");
            ledger.requests.extend(requests);
        }
        ledger.requests.sort_by_key(|request| request.id);
        (self.namespaces, ledger)
    }
}

/// The flights by shard, at most as many groups as clients: each shard has a client.
fn groups(flights: &[Flight], shards: u32, clients: u32) -> Vec<Vec<usize>> {
    let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); shards as usize];
    for (at, flight) in flights.iter().enumerate() {
        by_shard[flight.shard(shards) as usize].push(at);
    }
    by_shard.retain(|flights| !flights.is_empty());
    let count = by_shard.len().min(clients as usize).max(1);
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (at, flights) in by_shard.into_iter().enumerate() {
        groups[at % count].extend(flights);
    }
    groups
}

impl Agent {
    async fn run(mut self) -> Vec<Request> {
        // Spread over the interval, so that not all begin at once.
        let mut next = Instant::now() + self.interval.mul_f64(self.rng.random_range(0.0..1.0));
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep_until(next).await;
            next = Instant::now().max(next) + self.interval;
            self.act().await;
        }
        self.requests
    }

    async fn act(&mut self) {
        let flight = self.flights[self.rng.random_range(0..self.flights.len())];
        let wish = match self.writes_notes {
            true => Wish::Note(self.rng.random_range(1..=PAGES)),
            false => Wish::Seat(self.rng.random_range(1..=self.all[flight].seats)),
        };
        let again = self.rng.random_range(0..SENT_AGAIN) == 0;
        let id = self.namespace.session().next_request_id();
        let mut request = Request::new(id, self.number, flight, wish);
        let answered = self.send(&mut request).await;
        if answered && again {
            self.send(&mut request).await;
        }
        self.requests.push(request);
    }

    /// Whether there was an answer.
    async fn send(&self, request: &mut Request) -> bool {
        let flight = &self.all[request.flight];
        let write = flight.write(&self.namespace, request.wish, request.id, self.number);
        let answer = write.await;
        request.note(self.pulse.now(), &answer);
        match answer {
            Ok(written) => {
                let shard = match self.writes_notes {
                    true => self.shards.seats + flight.shard(self.shards.notes),
                    false => flight.shard(self.shards.seats),
                };
                self.pulse.acknowledged(shard, written.primary);
                true
            }
            Err(_) => {
                self.pulse.went_wrong();
                false
            }
        }
    }
}

/// Asks again, under the same id, for every request whose outcome nobody knows.
pub async fn settle(
    namespaces: &[Namespace],
    ledger: &mut Ledger,
    flights: &[Flight],
    pulse: &Pulse,
) {
    let end = Instant::now() + SETTLE_LIMIT;
    let open = ledger.requests.iter_mut().filter(|request| request.unknown);
    for request in open {
        let namespace = &namespaces[request.client as usize];
        let flight = &flights[request.flight];
        let write = flight.write(namespace, request.wish, request.id, request.client);
        // What stays open is told in the report.
        let Ok(answer) = timeout_at(end, write.send()).await else {
            return;
        };
        request.note(pulse.now(), &answer);
    }
}
