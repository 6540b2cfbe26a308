//! The copies that one driver drives, and what is decided between them and the node's control: which row opens a copy,
//! what the process claims, asks and reports for each, who is meant by a hand-over.
//!
//! The node's shard threads and the simulator's hosts hold one each and only carry out what it tells, so neither can
//! differ from the other in what it decides.

use crate::control::NodeControl;
use crate::control::message::{Ask, CopyReport, HandOver};
use crate::effect::{self, Assignment, Caller, Context, Effect, Input};
use crate::shard::{Replica, Settings};
use crate::store::Saved;
use crate::time::{Duration, Instant};
use crate::writers::{WriterShares, Writers};
use std::collections::{BTreeMap, BTreeSet};
use understudy_proto::{Epoch, ProcessId, ShardId};

/// The copies, each with what was last told of it.
#[derive(Debug)]
pub struct Copies {
    me: ProcessId,
    settings: Settings,
    replicas: BTreeMap<ShardId, Replica>,
    claims: BTreeMap<ShardId, Epoch>,
    asks: BTreeMap<ShardId, BTreeSet<Ask>>,
    /// Stepped since the last reports.
    changed: BTreeSet<ShardId>,
    writers: Writers,
    /// The deltas that each shard makes, if it makes any.
    walks: BTreeMap<ShardId, usize>,
}

/// What a step came to. The notices come first: a lease must not be claimed later than the process acts.
#[derive(Default, Debug)]
pub struct Out {
    pub notices: Vec<Notice>,
    /// Of the replica that was stepped. [`Effect::Ask`] is not among them; it became a notice.
    pub effects: Vec<Effect>,
}

/// Something for the node's control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    Claim(ShardId, Epoch),
    GiveUp(ShardId),
    Ask(Ask),
    Withdraw(Ask),
    Report(CopyReport),
}

impl Notice {
    pub fn give(self, control: &mut NodeControl) {
        match self {
            Notice::Claim(shard, epoch) => control.claim(shard, epoch),
            Notice::GiveUp(shard) => control.give_up(shard),
            Notice::Ask(ask) => control.ask(ask),
            Notice::Withdraw(ask) => control.withdraw(&ask),
            Notice::Report(report) => control.report(report),
        }
    }
}

impl Copies {
    pub fn new(me: ProcessId, settings: Settings) -> Copies {
        Copies {
            me,
            settings,
            replicas: BTreeMap::new(),
            claims: BTreeMap::new(),
            asks: BTreeMap::new(),
            changed: BTreeSet::new(),
            writers: Writers::default(),
            walks: BTreeMap::new(),
        }
    }

    /// The cluster's heartbeat interval, which also paces the primaries' pulses.
    pub fn set_interval(&mut self, interval: Duration) {
        if self.settings.interval != interval {
            self.settings.interval = interval;
            for replica in self.replicas.values_mut() {
                replica.set_interval(interval);
            }
        }
    }

    /// Takes up a copy as the store has it, perhaps empty.
    pub fn open(&mut self, shard: ShardId, saved: Saved, now: Instant) {
        let replica = Replica::open(shard, self.me, saved, self.settings.clone(), now);
        let before = self.replicas.insert(shard, replica);
        assert!(before.is_none(), "{shard}: the copy is open already");
        self.changed.insert(shard);
    }

    /// Whether the row names a copy of this process that is not open yet, or waits for what it has to tell.
    pub fn lacks(&self, shard: ShardId, row: &Assignment) -> bool {
        let wanted = row.names(self.me.copy()) || row.open_cut_lists_me;
        wanted && !self.replicas.contains_key(&shard)
    }

    pub fn get(&self, shard: ShardId) -> Option<&Replica> {
        self.replicas.get(&shard)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ShardId, &Replica)> {
        self.replicas
            .iter()
            .map(|(shard, replica)| (*shard, replica))
    }

    /// The epoch in which the process acts as primary of the shard.
    pub fn claim(&self, shard: ShardId) -> Option<Epoch> {
        self.claims.get(&shard).copied()
    }

    /// One step of one replica. False: there is no copy of the shard.
    pub fn step(
        &mut self,
        context: &Context<'_>,
        shard: ShardId,
        input: Input,
        out: &mut Out,
    ) -> bool {
        let Some(replica) = self.replicas.get_mut(&shard) else {
            return false;
        };
        if let Input::Assignment(row) = &input
            && replica
                .assignment()
                .is_none_or(|known| known.revision < row.revision)
        {
            let answered = self.asks.remove(&shard).unwrap_or_default();
            out.notices
                .extend(answered.into_iter().map(Notice::Withdraw));
        }
        let (quiet, before) = (matches!(input, Input::Tick), out.effects.len());
        let walks: usize = self.walks.values().sum();
        replica.set_walks_elsewhere(walks - self.walks.get(&shard).unwrap_or(&0));
        replica.step(context, input, &mut out.effects);
        match replica.walks() {
            0 => self.walks.remove(&shard),
            walks => self.walks.insert(shard, walks),
        };
        if !quiet || out.effects.len() > before {
            self.changed.insert(shard);
        }
        let (claim, promise) = (replica.claim(), replica.meta().promise);
        self.follow_claim(shard, claim, out);
        let is_for_managers = |e: &mut Effect| matches!(e, Effect::Ask(_) | Effect::Unask(_));
        for effect in out.effects.extract_if(.., is_for_managers) {
            let asks = self.asks.entry(shard).or_default();
            match effect {
                Effect::Ask(ask) => {
                    let ask = to_managers(ask, shard, promise);
                    if asks.insert(ask) {
                        out.notices.push(Notice::Ask(ask));
                    }
                }
                Effect::Unask(ask) => {
                    let ask = to_managers(ask, shard, promise);
                    if asks.remove(&ask) {
                        out.notices.push(Notice::Withdraw(ask));
                    }
                }
                _ => unreachable!("only these were taken out"),
            }
        }
        true
    }

    /// Keeps what the process claims equal to what its replicas act as.
    fn follow_claim(&mut self, shard: ShardId, claim: Option<Epoch>, out: &mut Out) {
        if self.claim(shard) == claim {
            return;
        }
        self.writers.forget(shard);
        match claim {
            Some(epoch) => {
                self.claims.insert(shard, epoch);
                out.notices.push(Notice::Claim(shard, epoch));
            }
            None => {
                self.claims.remove(&shard);
                // Whoever gives up asks for nothing any more.
                self.asks.remove(&shard);
                out.notices.push(Notice::GiveUp(shard));
            }
        }
    }

    /// Tells of every copy that may have changed since the last time.
    pub fn reports(&mut self, out: &mut Vec<Notice>) {
        for shard in std::mem::take(&mut self.changed) {
            let replica = &self.replicas[&shard];
            let report = replica.report();
            out.push(Notice::Report(CopyReport {
                shard,
                present: replica.is_present(),
                last: report.durable,
                promised: report.promise,
                followed: report.followed,
                orphans: report.orphans,
            }));
        }
    }

    /// An update of the shard from that site was acknowledged, and not for the second time. Only of shards whose primary follows
    /// its writers.
    pub fn wrote(&mut self, shard: ShardId, site: &str, now: Instant) {
        if self.claims.contains_key(&shard) {
            self.writers.count(shard, site, now);
        }
    }

    /// Where the updates come from, for each shard of which that is to be told anew.
    pub fn writers(&mut self, now: Instant) -> Vec<WriterShares> {
        let due = self.writers.take_due(now).into_iter();
        let told = due.filter_map(|(shard, sites)| {
            let epoch = self.claim(shard)?;
            Some(WriterShares {
                shard,
                epoch,
                sites,
            })
        });
        told.collect()
    }

    /// How a hand-over that the managers want is put to the copy. `None`: this process is not meant, or not any more.
    pub fn hand_over(
        &self,
        wanted: &HandOver,
        caller: Caller,
        give_up_at: Instant,
    ) -> Option<Input> {
        let replica = self.get(wanted.shard)?;
        let acts = self.claim(wanted.shard) == Some(wanted.epoch);
        // Asked again after its promise, it tells it once more.
        let promised = replica.meta().promise == wanted.new_epoch;
        (acts || promised).then_some(Input::Seal {
            caller,
            epoch: wanted.new_epoch,
            hand_over: acts.then_some(effect::HandOver {
                to: wanted.target,
                give_up_at,
            }),
            // It is the old primary, which is nobody's witness.
            grace: None,
        })
    }
}

fn to_managers(ask: effect::Ask, shard: ShardId, promise: Epoch) -> Ask {
    match ask {
        effect::Ask::NewEpoch { epoch } => Ask::NewEpoch {
            shard,
            epoch,
            at_least: promise.max(epoch.next()),
        },
        effect::Ask::Complete { epoch, copy } => Ask::Complete { shard, epoch, copy },
        effect::Ask::TooFarBehind { epoch, copy } => Ask::MarkJoining { shard, epoch, copy },
        effect::Ask::HandOver { epoch, to } => Ask::HandOver { shard, epoch, to },
        effect::Ask::AddInSync {
            epoch,
            revision,
            copy,
        } => Ask::AddInSync {
            shard,
            epoch,
            revision,
            copy,
        },
        effect::Ask::DropInSync {
            epoch,
            revision,
            copy,
        } => Ask::DropInSync {
            shard,
            epoch,
            revision,
            copy,
        },
        effect::Ask::AddWitness {
            epoch,
            revision,
            copy,
        } => Ask::AddWitness {
            shard,
            epoch,
            revision,
            copy,
        },
        effect::Ask::DropWitness {
            epoch,
            revision,
            copy,
        } => Ask::DropWitness {
            shard,
            epoch,
            revision,
            copy,
        },
    }
}
