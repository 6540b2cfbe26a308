//! What the clients were told: one entry for each request, with everything that came back for it.
//!
//! Pure data, filled by the agents and judged by the audit. An entry is never changed by what the cluster says later, only
//! by further answers to the same request id.

use std::time::Duration;
use understudy_client::{Error, Outcome, Written};
use understudy_proto::RequestId;
use understudy_proto::failure::Applied;

/// What a reservation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Came {
    /// The seat was free and is sold.
    Sold,
    /// The seat was taken.
    Refused,
    /// Something that a reservation never comes to.
    Odd,
}

impl Came {
    pub fn of(written: &Written) -> Came {
        match written.outcome {
            Outcome::Applied(_) => Came::Sold,
            Outcome::ConditionFailed { .. } => Came::Refused,
            Outcome::Failed { .. } => Came::Odd,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Came::Sold => "sold",
            Came::Refused => "seat taken",
            Came::Odd => "failed",
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
    pub seat: u32,
    pub answers: Vec<Answer>,
    /// The last call ended without an answer, and the request may have run.
    pub unknown: bool,
    /// A call was told that the request certainly did not run, and none was acknowledged since.
    pub not_run: bool,
    /// The last error.
    pub error: Option<String>,
}

impl Request {
    pub fn new(id: RequestId, client: u32, flight: usize, seat: u32) -> Request {
        Request {
            id,
            client,
            flight,
            seat,
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

    /// When a client was first told that the seat is sold to it.
    pub fn told_sold(&self) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.came == Came::Sold)
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
