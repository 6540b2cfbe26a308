//! The flights of the demo and how they are stored: drawn by the seed, between airports with an IATA code. And what passengers
//! write about them.
//!
//! A flight and its seats share a tag, hence a shard, so that a reservation is one transaction: the seat must be absent,
//! is put, and the flight's counter of sold seats goes up by one. That counter is what tells a request that ran twice. A page
//! of notes counts how often it was written, for the same reason.

use super::airports::Airport;
use super::ledger::Wish;
use crate::cli::bulk;
use anyhow::ensure;
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use understudy_client::{Namespace, Write};
use understudy_proto::RequestId;
use understudy_proto::shard_of_key::shard_index;

/// The component of a flight that counts its sold seats.
pub const SOLD: &str = "sold";
/// The components of a page of notes: what was written last, and how often it was written.
const TEXT: &str = "text";
pub const EDITS: &str = "edits";
/// Pages of notes of each flight. So few that passengers meet on them.
pub const PAGES: u32 = 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flight {
    /// US0001
    pub code: String,
    pub from: String,
    pub to: String,
    pub seats: u32,
}

/// What a sold seat holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub request: String,
    pub client: u32,
}

impl Flight {
    pub fn key(&self) -> Bytes {
        format!("{{{}}}", self.code).into()
    }

    /// Seats count from 1.
    pub fn seat_key(&self, seat: u32) -> Bytes {
        format!("{{{}}}seat/{seat:03}", self.code).into()
    }

    pub fn shard(&self, shards: u32) -> u32 {
        shard_index(&self.key(), shards)
    }

    /// The seat of such a key: the flight's code, and the number.
    pub fn parse_seat_key(key: &[u8]) -> Option<(&str, u32)> {
        let key = std::str::from_utf8(key).ok()?;
        let (code, seat) = key.strip_prefix('{')?.split_once("}seat/")?;
        Some((code, seat.parse().ok()?))
    }

    /// Pages count from 1.
    pub fn page_key(&self, page: u32) -> Bytes {
        format!("{{{}}}note/{page:02}", self.code).into()
    }

    /// The page of such a key: the flight's code, and the number.
    pub fn parse_page_key(key: &[u8]) -> Option<(&str, u32)> {
        let key = std::str::from_utf8(key).ok()?;
        let (code, page) = key.strip_prefix('{')?.split_once("}note/")?;
        Some((code, page.parse().ok()?))
    }

    /// What the client wants, as the one request that it is. `namespace`: of seats or of notes.
    pub fn write(&self, namespace: &Namespace, wish: Wish, id: RequestId, client: u32) -> Write {
        let by = Ticket {
            request: id.to_string(),
            client,
        };
        let by = serde_json::to_vec(&by).unwrap_or_default(); // two plain fields: it cannot fail
        let write = namespace.transaction();
        let write = match wish {
            // Applied when the seat was free, else its condition fails.
            Wish::Seat(seat) => {
                let key = self.seat_key(seat);
                let write = write.if_absent(key.clone()).put(key, by);
                write.add(self.key(), SOLD, 1)
            }
            // The last one holds.
            Wish::Note(page) => {
                let key = self.page_key(page);
                let write = write.set_component(key.clone(), TEXT, by);
                write.add(key, EDITS, 1)
            }
        };
        write.request_id(id).deadline(DEADLINE)
    }
}

/// Longer than any failover here, so that a client keeps its request over it.
const DEADLINE: Duration = Duration::from_secs(15);

/// Draws flights between two different airports each.
pub fn draw(
    seed: u64,
    airports: &[Airport],
    flights: u32,
    seats: u32,
) -> anyhow::Result<Vec<Flight>> {
    let with_iata: Vec<&Airport> = airports
        .iter()
        .filter(|airport| !airport.iata.is_empty())
        .collect();
    ensure!(
        with_iata.len() >= 2,
        "there are no two airports with an IATA code"
    );
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let flight = |number: u32| {
        let from = rng.random_range(0..with_iata.len());
        let further = rng.random_range(1..with_iata.len());
        let to = (from + further) % with_iata.len();
        Flight {
            code: format!("US{number:04}"),
            from: with_iata[from].iata.clone(),
            to: with_iata[to].iata.clone(),
            seats,
        }
    };
    Ok((1..=flights).map(flight).collect())
}

/// Opens the flights for booking.
pub async fn import(namespace: &Namespace, flights: &[Flight]) -> anyhow::Result<u64> {
    let rows: Result<Vec<(Bytes, Bytes)>, serde_json::Error> = flights
        .iter()
        .map(|flight| Ok((flight.key(), serde_json::to_vec(flight)?.into())))
        .collect();
    bulk::load(namespace, rows?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_flights_again() {
        let airports = super::super::airports::read(None).expect("the built-in table is valid");
        let once = draw(7, &airports, 50, 180).expect("there are airports");
        assert_eq!(
            once,
            draw(7, &airports, 50, 180).expect("there are airports")
        );
        assert!(once.iter().all(|flight| flight.from != flight.to));
        let seat = once[3].seat_key(12);
        assert_eq!(Flight::parse_seat_key(&seat), Some(("US0004", 12)));
        assert_eq!(Flight::parse_seat_key(&once[3].key()), None);
        let page = once[3].page_key(7);
        assert_eq!(Flight::parse_page_key(&page), Some(("US0004", 7)));
        assert_eq!(Flight::parse_page_key(&seat), None);
        assert_eq!(shard_index(&seat, 16), once[3].shard(16));
    }
}
