//! The answers that are kept so that a repeated command gets the first answer and runs not again.
//!
//! Bounded in answers and in clients. What is forgotten leaves a floor: a repetition from below it is refused as
//! expired, never run.

use super::command::{Answer, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use understudy_proto::ids::{ClientId, RequestId, Sequence};

/// Answers kept over all clients; beyond it the oldest goes.
pub const ANSWERS_KEPT: usize = 4_096;
/// Clients remembered; beyond it the one that was longest silent goes.
pub const CLIENTS_KEPT: usize = 4_096;

pub(super) type Outcome = Result<Answer, Refusal>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    index: u64,
    /// Of the command, so that an id used twice is told apart from a repetition.
    fingerprint: u64,
    outcome: Outcome,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfClient {
    /// At or below it what is not kept is expired.
    floor: Sequence,
    last_index: u64,
    kept: BTreeMap<Sequence, Kept>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    clients: BTreeMap<ClientId, OfClient>,
    /// By the index at which they were given; an index has one command.
    order: BTreeMap<u64, RequestId>,
    /// By their last command.
    silent: BTreeMap<u64, ClientId>,
    /// An unknown client dated at or before it may have been forgotten.
    forgotten_ms: u64,
}

impl Answers {
    /// What to answer without running the command; `None`: it is new.
    pub(super) fn find(&self, id: RequestId, fingerprint: u64) -> Option<Outcome> {
        let Some(client) = self.clients.get(&id.client) else {
            let forgotten = id.client.unix_ms() <= self.forgotten_ms && self.forgotten_ms > 0;
            return forgotten.then_some(Err(Refusal::Expired));
        };
        match client.kept.get(&id.sequence) {
            Some(kept) if kept.fingerprint == fingerprint => Some(kept.outcome.clone()),
            Some(_) => Some(Err(Refusal::IdReused)),
            None => (id.sequence <= client.floor).then_some(Err(Refusal::Expired)),
        }
    }

    /// Whether a command under that id was carried out, as far as it is kept.
    pub(super) fn was_carried_out(&self, id: RequestId) -> bool {
        let client = self.clients.get(&id.client);
        let kept = client.and_then(|client| client.kept.get(&id.sequence));
        kept.is_some_and(|kept| kept.outcome.is_ok())
    }

    pub(super) fn keep(&mut self, index: u64, id: RequestId, fingerprint: u64, outcome: Outcome) {
        let client = self.clients.entry(id.client).or_default();
        self.silent.remove(&client.last_index);
        client.last_index = index;
        let kept = Kept {
            index,
            fingerprint,
            outcome,
        };
        let twice = client.kept.insert(id.sequence, kept);
        assert!(twice.is_none(), "{id} ran twice");
        self.silent.insert(index, id.client);
        self.order.insert(index, id);
        self.forget();
    }

    fn forget(&mut self) {
        while self.order.len() > ANSWERS_KEPT
            && let Some((_, id)) = self.order.pop_first()
            && let Some(client) = self.clients.get_mut(&id.client)
        {
            client.kept.remove(&id.sequence);
            client.floor = client.floor.max(id.sequence);
        }
        while self.clients.len() > CLIENTS_KEPT
            && let Some((_, id)) = self.silent.pop_first()
            && let Some(client) = self.clients.remove(&id)
        {
            for kept in client.kept.values() {
                self.order.remove(&kept.index);
            }
            self.forgotten_ms = self.forgotten_ms.max(id.unix_ms());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::ids::Revision;

    fn id(client: u64, sequence: u64) -> RequestId {
        RequestId {
            client: ClientId::from_parts(client, 0),
            sequence: Sequence(sequence),
        }
    }

    fn done(revision: u64) -> Outcome {
        Ok(Answer::Done {
            revision: Revision(revision),
        })
    }

    #[test]
    fn what_is_forgotten_is_refused_and_never_run_again() {
        let mut answers = Answers::default();
        for n in 1..=ANSWERS_KEPT as u64 + 1 {
            answers.keep(n, id(5, n), n, done(n));
        }
        assert_eq!(answers.find(id(5, 1), 1), Some(Err(Refusal::Expired)));
        assert_eq!(answers.find(id(5, 2), 2), Some(done(2)));
        assert_eq!(answers.find(id(5, 2), 3), Some(Err(Refusal::IdReused)));
        assert_eq!(answers.find(id(5, 1 << 40), 3), None);
    }

    #[test]
    fn a_forgotten_client_is_refused() {
        let mut answers = Answers::default();
        for n in 1..=CLIENTS_KEPT as u64 + 1 {
            answers.keep(n, id(n, 1), n, done(n));
        }
        assert_eq!(answers.find(id(1, 2), 1), Some(Err(Refusal::Expired)));
        assert_eq!(answers.find(id(1 << 40, 1), 1), None);
        assert_eq!(answers.clients.len(), CLIENTS_KEPT);
        assert_eq!(answers.order.len(), answers.silent.len());
    }
}
