//! The Sessions table: which client ids are registered or ended, under the table's own clock and registration floor.
//!
//! An id that ended can never be registered again: it stays as a tombstone until the floor, which never falls, has
//! passed the time written in the id. One that was silent for the horizon is ended by the leader, which knows who was active
//! since; the table looks at the times once more.

use super::command::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use understudy_proto::ids::{ClientId, Revision};
use understudy_proto::limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionState {
    Open,
    /// A tombstone: the id is refused.
    Closed,
}

/// A client's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub state: SessionState,
    pub revision: Revision,
    /// On the table's clock.
    pub registered_ms: u64,
    /// On the table's clock; raised by the activity that nodes report.
    pub active_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sessions {
    pub(super) revision: Revision,
    /// The table's clock, milliseconds since 1970; zero until a leader stepped it.
    pub(super) clock_ms: u64,
    /// The highest (clock - horizon) ever. Never falls.
    pub(super) floor_ms: u64,
    pub(super) horizon_ms: u64,
    pub(super) rows: BTreeMap<ClientId, Session>,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            revision: Revision::ZERO,
            clock_ms: 0,
            floor_ms: 0,
            horizon_ms: limits::SESSION_HORIZON_MS,
            rows: BTreeMap::new(),
        }
    }
}

impl Sessions {
    /// The row after registering; false when it was there already.
    pub(super) fn register(&mut self, client: ClientId) -> Result<(Session, bool), Refusal> {
        match self.rows.get(&client) {
            Some(row) if row.state == SessionState::Open => return Ok((*row, false)),
            Some(_) => return Err(self.refused(false, "the session was closed")),
            None => {}
        }
        if !client.is_uuid_v7() {
            return Err(self.refused(false, "it is no UUIDv7"));
        }
        if client.unix_ms() > self.clock_ms + limits::CLIENT_ID_FUTURE_MS {
            return Err(self.refused(true, "it is dated in the future"));
        }
        if client.unix_ms() <= self.floor_ms {
            return Err(self.refused(false, "it is dated before the registration floor"));
        }
        let row = Session {
            state: SessionState::Open,
            revision: Revision::ZERO,
            registered_ms: self.clock_ms,
            active_ms: self.clock_ms,
        };
        self.rows.insert(client, row);
        Ok((row, true))
    }

    fn refused(&self, future: bool, why: &str) -> Refusal {
        Refusal::ClientIdRefused {
            table_time_ms: self.clock_ms,
            future,
            why: why.to_string(),
        }
    }

    /// Batched activity; ids that are not open are passed over.
    pub(super) fn renew(&mut self, clients: &[ClientId]) -> u64 {
        let mut renewed = 0;
        for client in clients {
            if let Some(row) = self.rows.get_mut(client)
                && row.state == SessionState::Open
            {
                row.active_ms = self.clock_ms;
                renewed += 1;
            }
        }
        renewed
    }

    /// Makes the id a tombstone, also one that no node met yet.
    pub(super) fn close(&mut self, client: ClientId) -> Result<(Session, bool), Refusal> {
        let (row, _) = match self.rows.get(&client) {
            Some(row) if row.state == SessionState::Closed => return Ok((*row, false)),
            Some(row) => (*row, false),
            None => self.register(client)?,
        };
        let closed = Session {
            state: SessionState::Closed,
            ..row
        };
        self.rows.insert(client, closed);
        Ok((closed, true))
    }

    /// Whether nothing was heard of the client for the horizon.
    pub(super) fn is_silent(&self, row: &Session) -> bool {
        row.state == SessionState::Open
            && self.clock_ms.saturating_sub(row.active_ms) > self.horizon_ms
    }

    /// Ends the sessions of these clients that are silent; gives their rows.
    pub(super) fn expire(
        &mut self,
        clients: &[ClientId],
        revision: Revision,
    ) -> Vec<(ClientId, Session)> {
        let mut ended = Vec::new();
        for client in clients {
            let Some(row) = self.rows.get(client).copied() else {
                continue;
            };
            if self.is_silent(&row) {
                let state = SessionState::Closed;
                let row = Session {
                    state,
                    revision,
                    ..row
                };
                self.rows.insert(*client, row);
                ended.push((*client, row));
            }
        }
        ended
    }

    /// The clock is about to be stepped by so much: nobody could renew meanwhile, so every session has its whole time again.
    pub(super) fn forgive(&mut self, by_ms: u64) {
        let open = self
            .rows
            .values_mut()
            .filter(|row| row.state == SessionState::Open);
        open.for_each(|row| row.active_ms += by_ms);
    }

    /// Raises the clock and with it the floor, and forgets tombstones that the floor covers.
    pub(super) fn raise_clock(&mut self, to_ms: u64) {
        assert!(to_ms > self.clock_ms, "the table's clock never falls");
        self.clock_ms = to_ms;
        let floor = to_ms.saturating_sub(self.horizon_ms);
        self.floor_ms = self.floor_ms.max(floor);
        let floor = self.floor_ms;
        self.rows
            .retain(|id, row| row.state == SessionState::Open || id.unix_ms() > floor);
    }
}
