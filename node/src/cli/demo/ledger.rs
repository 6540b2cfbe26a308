//! What the clients were told: one entry for each request, with everything that came back for it.
//!
//! Pure data, filled by the agents and judged by the audit. An entry is never changed by what the cluster says later, only
//! by further answers to the same request id.

use std::time::Duration;
use understudy_client::{Error, Outcome, Written};
use understudy_proto::RequestId;
use understudy_proto::failure::Applied;

/// What a client wants of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Reserve that seat.
    Seat(u32),
    /// Write that page of the passengers' notes.
    Note(u32),
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Came {
    /// The seat was free and is sold; the note is written.
    Done,
    /// The seat was taken.
    Refused,
    /// Something that a reservation or a note never comes to.
    Odd,
}

impl Came {
    pub fn of(written: &Written) -> Came {
        match written.outcome {
            Outcome::Applied(_) => Came::Done,
            Outcome::ConditionFailed { .. } => Came::Refused,
            Outcome::Failed { .. } => Came::Odd,
        }
    }

    pub fn word(self, wish: Wish) -> &'static str {
        match (self, wish) {
            (Came::Done, Wish::Seat(_)) => "sold",
            (Came::Done, Wish::Note(_)) => "written",
            (Came::Refused, _) => "seat taken",
            (Came::Odd, _) => "failed",
        }
    }
}

/// One acknowledgement.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Since the start of the load.
    pub at: Duration,
    pub came: Came,
    pub duplicate: bool,
}

/// One request id and its life.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: RequestId,
    pub client: u32,
    /// Index among the flights.
    pub flight: usize,
    pub wish: Wish,
    pub answers: Vec<Answer>,
    /// The last call ended without an answer, and the request may have run.
    pub unknown: bool,
    /// A call was told that the request certainly did not run, and none was acknowledged since.
    pub not_run: bool,
    /// The last error.
    pub error: Option<String>,
}

impl Request {
    pub fn new(id: RequestId, client: u32, flight: usize, wish: Wish) -> Request {
        Request {
            id,
            client,
            flight,
            wish,
            answers: Vec::with_capacity(1),
            unknown: false,
            not_run: false,
            error: None,
        }
    }

    pub fn note(&mut self, at: Duration, answer: &Result<Written, Error>) {
        match answer {
            Ok(written) => {
                self.unknown = false;
                self.not_run = false;
                self.answers.push(Answer {
                    at,
                    came: Came::of(written),
                    duplicate: written.duplicate,
                });
            }
            Err(error) => {
                self.unknown = error.applied() == Applied::Unknown;
                self.not_run = !self.unknown && self.answers.is_empty();
                self.error = Some(error.to_string());
            }
        }
    }

    pub fn acknowledged(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The seat, if it is a reservation, and when the client was first told that it is sold to it.
    pub fn told_sold(&self) -> Option<(u32, &Answer)> {
        let Wish::Seat(seat) = self.wish else {
            return None;
        };
        let told = self.answers.iter().find(|answer| answer.came == Came::Done);
        told.map(|answer| (seat, answer))
    }

    pub fn is_note(&self) -> bool {
        matches!(self.wish, Wish::Note(_))
    }
}

/// All requests of all clients.
#[derive(Debug, Default)]
pub struct Ledger {
    pub requests: Vec<Request>,
}

impl Ledger {
    pub fn acknowledged(&self) -> impl Iterator<Item = &Request> {
        self.requests
            .iter()
            .filter(|request| request.acknowledged())
    }

    pub fn duplicates(&self) -> u64 {
        let answers = self.requests.iter().flat_map(|request| &request.answers);
        answers.filter(|answer| answer.duplicate).count() as u64
    }

    pub fn unknown(&self) -> u64 {
        self.requests
            .iter()
            .filter(|request| request.unknown)
            .count() as u64
    }

    pub fn not_run(&self) -> u64 {
        self.requests
            .iter()
            .filter(|request| request.not_run)
            .count() as u64
    }
}
