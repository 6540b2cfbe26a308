//! Reads that any copy may answer: when it has reached what the caller saw, or is not older than the caller allows.
//!
//! A read that cannot be answered yet waits here, in bounded number, until the copy gets there or the deadline passes. No
//! message goes to another node for it. Whoever waits at a copy that is deleted, breaks or is rebuilt is sent elsewhere.

use super::branch;
use super::replica::{ReadAnswer, Replica, Role, storage_failure};
use super::secondary::Phase;
use crate::effect::{Caller, Context, Effect};
use crate::mutant::Mutant;
use crate::store::Generation;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use understudy_proto::Pair;
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::limits::{READS_WAITING_BYTES_MAX, READS_WAITING_MAX};

/// What a copy must have before it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Everything that the caller's session saw: each of these pairs lies in the copy's log. One for each epoch in which
    /// the session saw something since a read last found all of them on one branch.
    Session(Vec<Pair>),
    /// What was acknowledged so long ago, or earlier.
    Bounded(Duration),
}

/// A read on its way in, or waiting.
#[derive(Debug)]
pub(super) struct Read {
    pub caller: Caller,
    pub keys: Vec<Bytes>,
    pub freshness: Freshness,
    pub deadline: Instant,
}

/// The reads that wait, and until when the copy's log is in motion.
#[derive(Debug)]
pub(super) struct Reads {
    waiting: Vec<Read>,
    bytes: usize,
    /// No later than this one of them has to be refused.
    next_deadline: Instant,
    /// The copy as they were last judged at.
    judged_at: Option<Ground>,
    generation: Generation,
    /// Until this batch is durable, records are leaving the log.
    leaving_until: u64,
    /// Until this batch is durable, another generation is becoming the live one.
    switching_until: u64,
}

/// What the answers depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ground {
    settled: Option<Pair>,
    fresh: Option<Instant>,
    serves: bool,
}

/// What becomes of a read at this copy now.
enum Verdict {
    Answer { as_primary: bool },
    Wait,
    Forked { token: Pair, cut: Pair },
}

impl Reads {
    pub fn new(generation: Generation) -> Reads {
        Reads {
            waiting: Vec::new(),
            bytes: 0,
            next_deadline: Instant::ZERO,
            judged_at: None,
            generation,
            leaving_until: 0,
            switching_until: 0,
        }
    }

    /// A batch was emitted. True: with it, records leave the log.
    pub fn on_batch(&mut self, number: u64, back: bool, generation: Generation) -> bool {
        let switched = self.generation != generation;
        self.generation = generation;
        if switched {
            self.switching_until = number;
        }
        if back || switched {
            self.leaving_until = number;
        }
        back || switched
    }

    /// The batch takes the live generation to another position, by no record.
    pub fn on_delta(&mut self, number: u64) {
        self.switching_until = number;
        self.leaving_until = number;
    }

    /// Whether the live generation is not on the disk yet.
    pub fn is_switching(&self, persisted: u64) -> bool {
        persisted < self.switching_until
    }

    fn has_room(&self, read: &Read) -> bool {
        self.waiting.len() < READS_WAITING_MAX
            && self.bytes + read.bytes() <= READS_WAITING_BYTES_MAX
    }

    fn push(&mut self, read: Read) {
        self.next_deadline = match self.waiting.is_empty() {
            true => read.deadline,
            false => self.next_deadline.min(read.deadline),
        };
        self.bytes += read.bytes();
        self.waiting.push(read);
    }

    fn take(&mut self) -> Vec<Read> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}

impl Read {
    fn bytes(&self) -> usize {
        self.keys.iter().map(Bytes::len).sum()
    }

    fn refuse(self, failure: Failure, out: &mut Vec<Effect>) {
        out.push(Effect::Read {
            caller: self.caller,
            answer: Err(failure),
            as_primary: false,
        });
    }
}

impl Replica {
    pub(super) fn on_read(&mut self, context: &Context<'_>, read: Read, out: &mut Vec<Effect>) {
        if let Err(failure) = self.check_readable() {
            return read.refuse(failure, out);
        }
        match self.verdict(context, &read.freshness) {
            Verdict::Wait if context.now < read.deadline => {
                if self.reads.has_room(&read) {
                    self.reads.push(read);
                } else {
                    let what = "too many reads of this shard wait for a version; ask another copy";
                    read.refuse(Failure::no(Reason::Overloaded, what), out);
                }
            }
            verdict => self.conclude(context, read, verdict, out),
        }
    }

    /// After every step: answers the reads for which the copy is there now, and refuses those whose deadline passed.
    pub(super) fn answer_reads(&mut self, context: &Context<'_>, out: &mut Vec<Effect>) {
        self.reach_answers();
        if self.reads.waiting.is_empty() {
            return;
        }
        if let Err(failure) = self.check_readable() {
            for read in self.reads.take() {
                read.refuse(failure.clone(), out);
            }
            return;
        }
        let ground = Ground {
            settled: self.settled(),
            fresh: self.age.fresh(),
            serves: self.serves_now(context),
        };
        if self.reads.judged_at == Some(ground) && context.now < self.reads.next_deadline {
            return;
        }
        self.reads.judged_at = Some(ground);
        for read in self.reads.take() {
            match self.verdict(context, &read.freshness) {
                Verdict::Wait if context.now < read.deadline => self.reads.push(read),
                verdict => self.conclude(context, read, verdict, out),
            }
        }
    }

    fn conclude(&self, context: &Context<'_>, read: Read, verdict: Verdict, out: &mut Vec<Effect>) {
        let (answer, as_primary) = match verdict {
            Verdict::Answer { as_primary } => {
                let answer = self.found(context, &read.keys, as_primary);
                (answer, as_primary)
            }
            Verdict::Wait => (Err(self.behind(context, &read.freshness)), false),
            Verdict::Forked { token, cut } => (Err(self.forked(token, cut)), false),
        };
        out.push(Effect::Read {
            caller: read.caller,
            answer,
            as_primary,
        });
    }

    fn verdict(&self, context: &Context<'_>, freshness: &Freshness) -> Verdict {
        match freshness {
            Freshness::Session(_) if Mutant::SessionIgnoresToken.on() => {
                Verdict::Answer { as_primary: false }
            }
            Freshness::Session(tokens) => self.verdict_on(tokens),
            Freshness::Bounded(_) if self.serves_now(context) => {
                Verdict::Answer { as_primary: true }
            }
            Freshness::Bounded(staleness) => match self.age.at(context.now) {
                Some(age) if age <= *staleness => Verdict::Answer { as_primary: false },
                _ => Verdict::Wait,
            },
        }
    }

    fn verdict_on(&self, tokens: &[Pair]) -> Verdict {
        let Some(end) = self.settled() else {
            return Verdict::Wait;
        };
        let starts = self.starts_at(end);
        let on_branch = |token: &Pair| {
            let by_number = Mutant::TokenByNumber.on() && *token <= end;
            by_number || branch::holds(starts, end, *token)
        };
        let missing: Vec<Pair> = tokens.iter().copied().filter(|t| !on_branch(t)).collect();
        match missing.iter().find(|token| **token <= end) {
            Some(token) => Verdict::Forked {
                token: *token,
                cut: branch::end_before(starts, end, *token),
            },
            None if missing.is_empty() => Verdict::Answer { as_primary: false },
            None => Verdict::Wait,
        }
    }

    /// The end of the log that reads are judged by; `None` while a tail is being undone or another generation moves in,
    /// for then it is not known, or known to be wrong, which records the copy will have.
    fn settled(&self) -> Option<Pair> {
        let undoing = matches!(&self.role, Role::Secondary(secondary)
            if matches!(secondary.phase, Phase::Undoing { .. }));
        let settled = !undoing && self.persisted >= self.reads.leaving_until;
        settled.then_some(self.visible)
    }

    /// The epoch starts up to there; those of records that are not durable yet are left out.
    fn starts_at(&self, end: Pair) -> &[Pair] {
        let starts = &self.meta.live.epoch_starts;
        &starts[..starts.partition_point(|start| *start <= end)]
    }

    /// Whether this is the primary, under its lease: then nothing acknowledged is missing here.
    fn serves_now(&self, context: &Context<'_>) -> bool {
        if Mutant::BoundedWithoutLease.on()
            && matches!(&self.role, Role::Primary(primary) if primary.serving)
        {
            return true;
        }
        self.check_primary(context).is_ok()
    }

    fn reach_answers(&mut self) {
        let Some(end) = self.settled() else { return };
        let starts = &self.meta.live.epoch_starts;
        let starts = &starts[..starts.partition_point(|start| *start <= end)];
        let early = Mutant::AgeBeforeReached.on();
        self.age
            .reach(|position| early || branch::holds(starts, end, position));
    }

    /// How old the copy is at most; `None`: that is not known.
    pub fn age(&self, context: &Context<'_>) -> Option<Duration> {
        match self.serves_now(context) {
            true => Some(Duration::ZERO),
            false => self.age.at(context.now),
        }
    }

    /// Reads that wait at this copy.
    pub fn reads_waiting(&self) -> usize {
        self.reads.waiting.len()
    }

    /// The objects as they are durable here; in_sync, and `as_primary`: as they are committed, for that is durable everywhere
    /// in the set, whether or not the objects of this disk hold it yet.
    pub(super) fn found(
        &self,
        context: &Context<'_>,
        keys: &[Bytes],
        as_primary: bool,
    ) -> Result<ReadAnswer, Failure> {
        let committed = self.live.applied.filter(|_| as_primary);
        let (shard, stored) = (self.shard, context.stored);
        let objects = keys.iter().map(|key| {
            let object = match committed {
                Some(_) if Mutant::VisibleBeforeCommit.on() => self.live.newest(shard, stored, key),
                Some(_) => self.live.committed(shard, stored, key),
                None => self.live.durable(shard, stored, key),
            };
            object.map_err(|error| storage_failure(&error, Applied::No))
        });
        Ok(ReadAnswer {
            objects: objects.collect::<Result<_, _>>()?,
            token: committed.unwrap_or(self.visible),
            age: self.age(context),
        })
    }

    fn behind(&self, context: &Context<'_>, freshness: &Freshness) -> Failure {
        let failure = |what: &str| {
            let what = format!("{what} before the deadline; ask another copy");
            Failure::no(Reason::CopyBehind, what)
                .with("shard", self.shard.to_string())
                .with("position", self.visible.to_string())
        };
        match freshness {
            Freshness::Session(tokens) => {
                let newest = tokens.iter().max().copied().unwrap_or_default();
                failure("this copy did not reach what the session saw")
                    .with("token", newest.to_string())
            }
            Freshness::Bounded(_) => {
                let failure = failure("this copy did not become as fresh as asked for");
                match self.age.at(context.now) {
                    Some(age) => failure.with("age_ms", age.as_millis().to_string()),
                    None => failure,
                }
            }
        }
    }

    fn forked(&self, token: Pair, cut: Pair) -> Failure {
        let what = format!(
            "{token}, which the session saw, was cut off by a failover; read anew without the token"
        );
        Failure::no(Reason::Forked, what)
            .with("shard", self.shard.to_string())
            .with("token", token.to_string())
            .with("cut", cut.to_string())
            .with("position", self.visible.to_string())
    }
}
