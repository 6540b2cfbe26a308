//! What next? Pure decisions after each attempt: follow the named primary, ask the next cached copy, ask the managers,
//! wait, or tell the caller.
//!
//! No clock, no randomness, no I/O: time left and jitter are given from outside, so the simulator runs the same code.
//! A request keeps its id through all of it. What it never does: report *unknown* as failed, or retry wrong input.

use crate::error::{Error, Trouble};
use crate::route::{Redirect, ShardRoute};
use std::time::Duration;
use understudy_proto::failure::{Advice, Applied, Failure, Reason};
use understudy_proto::{Epoch, NodeId, RequestId};

/// Redirects followed in one walk; beyond it the next cached copy is asked. Each raises the epoch or names a copy that
/// was not asked yet, so only servers that contradict each other come near it.
const FOLLOWS_MAX: u32 = 8;

/// How long to wait between two walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// Doubles from `first` to `max`; half of it is fixed and half is the jitter (0 to `u32::MAX`), so that clients that
    /// failed together do not come back together.
    pub fn after(self, round: u32, jitter: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << round.min(16)).min(self.max);
        let half = doubled / 2;
        half + half.mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }
}

/// What is known about a request after some attempts.
#[derive(Clone, Debug)]
pub struct Ledger {
    request_id: Option<RequestId>,
    changes: bool,
    may_have_run: bool,
    last: Option<Trouble>,
}

impl Ledger {
    /// `changes`: whether running the request changes anything; a read has no unknown outcome.
    pub fn new(request_id: Option<RequestId>, changes: bool) -> Ledger {
        Ledger {
            request_id,
            changes,
            may_have_run: false,
            last: None,
        }
    }

    /// Whether some attempt may have run.
    pub fn may_have_run(&self) -> bool {
        self.may_have_run
    }

    /// Writes an attempt down. `Some`: no other attempt can do better.
    pub fn note(&mut self, trouble: Trouble) -> Option<Error> {
        if self.changes && trouble.applied() == Applied::Unknown {
            self.may_have_run = true;
        }
        self.last = Some(trouble.clone());
        let failure = match trouble {
            Trouble::Failure(failure) => failure,
            Trouble::NotSent(_) | Trouble::Lost(_) => return None,
        };
        match failure.reason.advice() {
            Advice::Stop => Some(self.stop(failure)),
            Advice::TellUnknown | Advice::NewClientId => Some(self.expired(failure)),
            Advice::Follow | Advice::TryElsewhere => None,
        }
    }

    /// The time is over.
    pub fn give_up(&self) -> Error {
        let last = self
            .last
            .clone()
            .unwrap_or_else(|| Trouble::NotSent("no time was left".to_string()));
        if self.may_have_run {
            return Error::OutcomeUnknown {
                request_id: self.request_id,
                last,
            };
        }
        match last {
            Trouble::Failure(failure) if storage(failure.reason) => Error::Storage(failure),
            other => Error::Unavailable(other),
        }
    }

    /// A refusal of the request's content holds for every attempt; any other refusal says nothing about earlier ones.
    fn stop(&self, failure: Failure) -> Error {
        match Error::certain(failure) {
            Error::Invalid(failure) => Error::Invalid(failure),
            _ if self.may_have_run => self.give_up(),
            other => other,
        }
    }

    fn expired(&self, failure: Failure) -> Error {
        if self.changes && (self.may_have_run || failure.applied == Applied::Unknown) {
            return Error::Expired {
                request_id: self.request_id,
                failure,
            };
        }
        Error::Refused(failure)
    }
}

fn storage(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::StorageFull | Reason::StorageFailed | Reason::StorageCorrupt
    )
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the request there. `forward`: a copy that is not the primary may pass it on.
    Ask { node: NodeId, forward: bool },
    /// Every cached copy was asked: get a fresh list from the managers, then call [`Walk::on_managers`].
    AskManagers,
    /// Wait so long, or until the route changes, then call [`Walk::start`] again.
    Wait(Duration),
    /// The client id was refused and the request certainly ran nowhere: give it an id of a client made from this time,
    /// then call [`Walk::start`] again.
    NewClientId { table_time_ms: Option<u64> },
    /// Tell the caller.
    Stop(Error),
}

/// Which copies may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The primary, then the others in the cached order.
    Primary,
    /// Any copy, near ones first, beginning with this one of them (modulo).
    Any(u32),
}

/// One request's way over the copies of its shard.
#[derive(Clone, Debug)]
pub struct Walk {
    ledger: Ledger,
    backoff: Backoff,
    wanted: Wanted,
    /// Whether the session may give the request another client id.
    id_replaceable: bool,
    /// Walks ended so far.
    round: u32,
    /// The epoch when this walk began.
    epoch: Epoch,
    /// Copies asked in this walk, with the epoch known then.
    asked: Vec<(NodeId, Epoch)>,
    follows: u32,
}

impl Walk {
    pub fn new(ledger: Ledger, wanted: Wanted, backoff: Backoff, id_replaceable: bool) -> Walk {
        Walk {
            ledger,
            backoff,
            wanted,
            id_replaceable,
            round: 0,
            epoch: Epoch::ZERO,
            asked: Vec::new(),
            follows: 0,
        }
    }

    /// Begins a walk over the shard's copies.
    pub fn start(&mut self, shard: &ShardRoute) -> Step {
        self.epoch = shard.epoch;
        self.asked.clear();
        self.follows = 0;
        self.next_copy(shard)
    }

    /// The attempt at `from` failed; `shard` is the route with what the failure taught already in it.
    pub fn on_trouble(
        &mut self,
        from: NodeId,
        trouble: Trouble,
        shard: &ShardRoute,
        left: Duration,
        jitter: u32,
    ) -> Step {
        let reason = trouble.reason();
        let redirect = trouble.failure().and_then(Redirect::of);
        if let Some(step) = self.look_at_refusal(&trouble) {
            return step;
        }
        if let Some(error) = self.ledger.note(trouble) {
            return Step::Stop(error);
        }
        if left.is_zero() {
            return Step::Stop(self.ledger.give_up());
        }
        match (reason, redirect) {
            (Some(Reason::Overloaded), _) => self.wait(left, jitter),
            (_, Some(redirect)) => self.follow(from, &redirect, shard),
            _ => self.next_copy(shard),
        }
    }

    /// The managers were asked; `shard` is the route that they gave.
    pub fn on_managers(
        &mut self,
        answer: Result<(), Trouble>,
        shard: &ShardRoute,
        left: Duration,
        jitter: u32,
    ) -> Step {
        if let Err(trouble) = answer {
            // Only the request's own attempts decide whether it may have run; a lost question to a manager does not.
            let heard = match trouble {
                Trouble::Lost(why) => Trouble::NotSent(why),
                Trouble::Failure(failure) => Trouble::Failure(Failure {
                    applied: Applied::No,
                    ..failure
                }),
                other => other,
            };
            let stops = matches!(
                heard.reason(),
                Some(Reason::NamespaceUnknown | Reason::FieldInvalid)
            );
            // The copies' own words say more than that the managers were away as well.
            if (stops || self.ledger.last.is_none())
                && let Some(error) = self.ledger.note(heard)
            {
                return Step::Stop(error);
            }
        }
        if left.is_zero() {
            return Step::Stop(self.ledger.give_up());
        }
        if shard.epoch > self.epoch {
            self.round += 1;
            return self.start(shard);
        }
        self.wait(left, jitter)
    }

    /// The deadline passed while nothing was under way.
    pub fn give_up(&self) -> Error {
        self.ledger.give_up()
    }

    /// Whether some attempt may have run.
    pub fn may_have_run(&self) -> bool {
        self.ledger.may_have_run()
    }

    /// Two refusals are no last word: a copy may not have heard of a new namespace yet, and a client id can be replaced
    /// while nothing ran under it.
    fn look_at_refusal(&mut self, trouble: &Trouble) -> Option<Step> {
        let failure = trouble.failure()?;
        match failure.reason {
            Reason::NamespaceUnknown => {
                self.ledger.last = Some(trouble.clone());
                Some(Step::AskManagers)
            }
            Reason::ClientIdRefused if self.id_replaceable && !self.ledger.may_have_run() => {
                let table_time_ms = failure
                    .metadata
                    .get("table_time_ms")
                    .and_then(|text| text.parse().ok());
                // Once only: a second refusal of a fresh id is the caller's to know.
                self.id_replaceable = false;
                Some(Step::NewClientId { table_time_ms })
            }
            _ => None,
        }
    }

    /// The new id of a request that was given another client id.
    pub fn renamed(&mut self, request_id: RequestId) {
        self.ledger.request_id = Some(request_id);
    }

    fn follow(&mut self, from: NodeId, redirect: &Redirect, shard: &ShardRoute) -> Step {
        let Some(primary) = redirect.primary.filter(|primary| *primary != from) else {
            return self.next_copy(shard);
        };
        let older = redirect.epoch < shard.epoch;
        let asked_at = self.asked.iter().rfind(|(node, _)| *node == primary);
        let asked_since = asked_at.is_some_and(|(_, epoch)| *epoch >= redirect.epoch);
        if older || asked_since || self.follows >= FOLLOWS_MAX {
            return self.next_copy(shard);
        }
        self.follows += 1;
        self.ask(primary, shard)
    }

    /// The next server in the cached list, in its order, that this walk has not asked; none left: the managers.
    fn next_copy(&mut self, shard: &ShardRoute) -> Step {
        let unasked = |node: &NodeId| !self.asked.iter().any(|(asked, _)| asked == node);
        match shard.order(self.wanted).find(unasked) {
            Some(node) => self.ask(node, shard),
            None => Step::AskManagers,
        }
    }

    fn ask(&mut self, node: NodeId, shard: &ShardRoute) -> Step {
        self.asked.push((node, shard.epoch));
        // The first walk wants to learn who the primary is; later ones also go through whoever still reaches it.
        let forward = self.round > 0 && shard.primary != Some(node);
        Step::Ask { node, forward }
    }

    /// Half of what is left stays for the attempt after the wait: one that begins at the last moment would turn a
    /// certain *no* into an unknown.
    fn wait(&mut self, left: Duration, jitter: u32) -> Step {
        if left < self.backoff.first * 2 {
            return Step::Stop(self.ledger.give_up());
        }
        let pause = self.backoff.after(self.round, jitter).min(left / 2);
        self.round += 1;
        Step::Wait(pause)
    }
}
