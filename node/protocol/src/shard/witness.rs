//! The lease from the witnesses, both sides: whose answers a primary needs, and how long a copy stands by what it answered.
//!
//! A primary has this lease while every copy of the witness set in the newest row that it has seen, and every copy that it
//! asked to add, answered a beacon: from when the beacon was sent, less the drift allowance. A copy that answered one stands
//! by it for the lease that the beacon asked for and the drift allowance, from when it answered; until then it does not let
//! itself be sealed. What an earlier process of it answered it does not know, so it waits after its start, too. Beacons are
//! the pulses of a primary, and the answers the acknowledgements of its copies.

use super::commit::RECENT_INTERVALS;
use super::message::{Ack, Beacon, BeaconAnswer, Message, NO_STREAM};
use super::replica::{Replica, Role};
use crate::effect::{Ask, Context, Effect};
use crate::mutant::Mutant;
use crate::tables::ClusterSettings;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{CopyId, Epoch, NodeId, Pair, Revision};

/// A witness that left so many beacons unanswered, one an interval, is asked to be dropped.
const UNANSWERED_MAX: u32 = 10;

/// How long a copy stands by an answer, from when it gave it.
pub(super) fn grace(lease: Duration) -> Duration {
    lease + ClusterSettings::drift_allowance(lease)
}

/// What a primary knows of its witnesses beyond the row.
#[derive(Debug)]
pub(super) struct Witnesses {
    answers: BTreeMap<CopyId, Answers>,
    /// Beacons sent to each witness since its last answer.
    unanswered: BTreeMap<CopyId, u32>,
    next_count: Instant,
    /// Demanded, and asked to be added at the revision of the row that was the newest then.
    adding: BTreeMap<CopyId, Revision>,
    /// The last witness was asked to be dropped at that revision: until a newer row answers there is no lease from it.
    given_up: Option<Revision>,
}

#[derive(Clone, Copy, Debug)]
struct Answers {
    /// Up to here they give a lease.
    until: Instant,
    /// When the last one came.
    heard: Instant,
}

impl Witnesses {
    pub fn new(now: Instant) -> Witnesses {
        Witnesses {
            answers: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            next_count: now,
            adding: BTreeMap::new(),
            given_up: None,
        }
    }

    pub fn answered(&mut self, copy: CopyId, answer: BeaconAnswer, now: Instant) {
        let length = answer.lease;
        let until = answer.sent + length.saturating_sub(ClusterSettings::drift_allowance(length));
        let known = self
            .answers
            .entry(copy)
            .or_insert(Answers { until, heard: now });
        known.until = known.until.max(until);
        known.heard = now;
        self.unanswered.remove(&copy);
    }

    /// A beacon went to each of the set; a pause of this process is nobody's silence.
    fn count(&mut self, set: &BTreeSet<CopyId>, interval: Duration, now: Instant) {
        if now < self.next_count {
            return;
        }
        self.next_count = now + interval;
        self.unanswered.retain(|copy, _| set.contains(copy));
        for copy in set {
            *self.unanswered.entry(*copy).or_default() += 1;
        }
    }

    /// A newer row answers what was asked at an older revision.
    ///
    /// Where it leaves only a witness that joins, the lease is given up before anything of the same step is answered: given back
    /// for that long it would be told to the witness, which then waits on, and answers would go out under it.
    fn on_row(&mut self, set: &BTreeSet<CopyId>, secondaries: &[CopyId], revision: Revision) {
        self.adding
            .retain(|copy, asked| *asked >= revision && !set.contains(copy));
        let last_joins = set.len() == 1 && !set.iter().any(|copy| secondaries.contains(copy));
        let asked = self.given_up.filter(|asked| *asked >= revision);
        self.given_up = asked.or(last_joins.then_some(revision));
    }

    fn is_silent(&self, copy: CopyId) -> bool {
        let unanswered = self.unanswered.get(&copy);
        unanswered.is_some_and(|count| *count > UNANSWERED_MAX)
    }

    pub fn heard_within(&self, copy: CopyId, length: Duration, now: Instant) -> bool {
        let answers = self.answers.get(&copy);
        answers.is_some_and(|answers| now.since(answers.heard) <= length)
    }
}

/// What a copy remembers of the beacons of its primaries.
#[derive(Debug)]
pub(super) struct Witness {
    /// When the process started, as far as this copy knows.
    started: Instant,
    /// Until then it stands by what it answered.
    stands_until: Instant,
    /// Since when, and in which epoch, all beacons said that the primary has no lease, and what the last one asked for.
    leaseless: Option<(Epoch, Instant, Duration)>,
    /// Beacons of that epoch are answered no more.
    silent_in: Option<Epoch>,
}

impl Witness {
    pub fn new(now: Instant) -> Witness {
        Witness {
            started: now,
            stands_until: Instant::ZERO,
            leaseless: None,
            silent_in: None,
        }
    }

    fn hear(&mut self, epoch: Epoch, beacon: &Beacon, now: Instant) {
        if beacon.leased || Mutant::LeaselessBeaconResets.on() {
            self.leaseless = None;
            return;
        }
        let since = match self.leaseless {
            Some((known, since, _)) if known == epoch => since,
            _ => now,
        };
        self.leaseless = Some((epoch, since, beacon.lease));
    }

    fn grace_is_over(&self, longest: Duration, now: Instant) -> bool {
        let started = now >= self.started + grace(longest) || Mutant::GraceNotFromStart.on();
        (started && now >= self.stands_until) || Mutant::SealWithoutGrace.on()
    }

    /// The managers ask, and for one lease the primary said that it has none: it gets no more answers, so that the grace of
    /// the last one ends.
    fn fall_silent(&mut self, now: Instant) {
        if let Some((epoch, since, lease)) = self.leaseless
            && now.since(since) >= lease
        {
            self.silent_in = Some(epoch);
        }
    }
}

impl Replica {
    // ---- as primary

    /// Whether the process may act as primary now: it has a lease from the managers or from its witnesses.
    pub(super) fn leased(&self, context: &Context<'_>, epoch: Epoch) -> bool {
        let managers = || context.lease.holds(self.shard, epoch, context.now);
        let either = || managers() || self.has_witnesses(context.now);
        Mutant::SkipLeaseCheck.on() || (!context.lease.retired() && either())
    }

    /// Whether the lease from the witnesses holds, for the epoch in which this process is primary.
    pub fn has_witnesses(&self, now: Instant) -> bool {
        let Role::Primary(primary) = &self.role else {
            return false;
        };
        if self.row().witnesses.is_empty() {
            return Mutant::EmptySetGivesLease.on();
        }
        let until = |copy: &CopyId| primary.witnesses.answers.get(copy).map(|it| it.until);
        let fresh = |copy: &CopyId| until(copy).is_some_and(|until| now < until);
        primary.witnesses.given_up.is_none() && self.demanded_witnesses().iter().all(fresh)
    }

    /// The primary asked to let its last witness go and waits for the row that says so.
    pub fn gave_up_witnesses(&self) -> bool {
        matches!(&self.role, Role::Primary(primary) if primary.witnesses.given_up.is_some())
    }

    /// Whose answers the lease from the witnesses needs: those of the newest row, and those that this primary asked to add.
    pub fn demanded_witnesses(&self) -> BTreeSet<CopyId> {
        let Role::Primary(primary) = &self.role else {
            return BTreeSet::new();
        };
        let mut demanded = self.row().witnesses.clone();
        if !Mutant::WitnessBeforeDemand.on() {
            demanded.extend(primary.witnesses.adding.keys());
        }
        demanded
    }

    /// A new row of this epoch.
    pub(super) fn on_witnesses_row(&mut self) {
        let row = self.row();
        let (set, revision) = (row.witnesses.clone(), row.revision);
        let secondaries = row.secondaries.clone();
        let witnesses = &mut self.primary_mut().witnesses;
        witnesses.on_row(&set, &secondaries, revision);
    }

    /// Once an interval: asks to drop who is silent or no secondary any more, and to add who answers.
    /// `sent`: a beacon went out just now.
    pub(super) fn keep_witnesses(
        &mut self,
        context: &Context<'_>,
        sent: bool,
        out: &mut Vec<Effect>,
    ) {
        let (now, interval) = (context.now, self.settings.interval);
        let row = self.row();
        let (set, revision) = (row.witnesses.clone(), row.revision);
        let secondaries = row.secondaries.clone();
        let primary = self.primary_mut();
        let (epoch, witnesses) = (primary.epoch, &mut primary.witnesses);
        if sent {
            witnesses.count(&set, interval, now);
        }
        let answers = set.iter().any(|copy| !witnesses.is_silent(*copy));
        for copy in set.iter().copied() {
            let last = set.len() == 1;
            let joins = !secondaries.contains(&copy);
            if last && joins {
                witnesses.given_up = Some(revision);
            }
            let silent = answers && witnesses.is_silent(copy);
            if joins || silent {
                out.push(Effect::Ask(Ask::DropWitness {
                    epoch,
                    revision,
                    copy,
                }));
            }
        }
        // One at a time: each is a compare-and-set on the row.
        if witnesses.adding.is_empty() {
            let recent = interval.scale(RECENT_INTERVALS, 1);
            let ready = |copy: &&CopyId| {
                // Demanded while its answer is over, it would end the lease in the middle of a step.
                let gives = witnesses.answers.get(*copy).is_some_and(|a| now < a.until);
                !set.contains(*copy) && gives && witnesses.heard_within(**copy, recent, now)
            };
            if let Some(copy) = secondaries.iter().find(ready).copied() {
                witnesses.adding.insert(copy, revision);
            }
        }
        // Demanded from here on; asked until a newer row answers.
        for copy in witnesses.adding.keys().copied() {
            out.push(Effect::Ask(Ask::AddWitness {
                epoch,
                revision,
                copy,
            }));
        }
    }

    // ---- as a copy

    /// What goes into the answer to a beacon of the primary of that epoch. `None`: it gets none.
    pub(super) fn answer_beacon(
        &mut self,
        context: &Context<'_>,
        epoch: Epoch,
        beacon: &Beacon,
    ) -> Option<BeaconAnswer> {
        self.witness.hear(epoch, beacon, context.now);
        let silent = self.witness.silent_in == Some(epoch);
        if silent || self.is_broken() || context.lease.beacon(context.now).is_none() {
            return None;
        }
        let until = context.now + grace(beacon.lease);
        self.witness.stands_until = self.witness.stands_until.max(until);
        Some(BeaconAnswer {
            sent: beacon.sent,
            lease: beacon.lease,
        })
    }

    /// Answers a beacon and acknowledges nothing: there is nothing that could be acknowledged now.
    pub(super) fn only_answer(
        &self,
        context: &Context<'_>,
        to: NodeId,
        epoch: Epoch,
        beacon: Option<BeaconAnswer>,
        out: &mut Vec<Effect>,
    ) {
        if beacon.is_none() {
            return;
        }
        let ack = Ack {
            epoch,
            stream: NO_STREAM,
            copy: self.copy(),
            position: Pair::ZERO,
            sent: context.now,
            beacon,
        };
        out.push(Effect::Send {
            to,
            message: Message::Ack(ack),
        });
    }

    /// Whether the copy lets itself be sealed. `longest`: as in [`crate::effect::Input::Seal`].
    pub(super) fn may_be_sealed(&mut self, now: Instant, longest: Option<Duration>) -> bool {
        // Whoever is primary was no witness of a lease that may still hold: its own epoch began when all earlier ones were over.
        let Some(longest) = longest.filter(|_| !matches!(self.role, Role::Primary(_))) else {
            return true;
        };
        let over = self.witness.grace_is_over(longest, now);
        if !over {
            self.witness.fall_silent(now);
        }
        over
    }
}
