//! The numbered invariants of docs/protocol.md as checks over many copies at once, one file each.
//!
//! [`Invariants`] is fed with what happens anywhere (a batch formed, a batch durable, an entry changed, a copy sealed, an
//! answer given) and keeps a shadow of every copy's disk, so that each event costs only what it touched. It looks at
//! everything and changes nothing; the simulator runs it after every event, tests may run it over what they wrote.

mod i12_position;
mod i13_convergence;
mod i14_most_advanced;
mod i1_one_primary;
mod i2_leases;
mod i3_versions;
mod i4_same_log;
mod i5_fold;
mod i6_committed;
mod i7_acknowledged;
mod i8_once;
mod i9_session;

mod branches;
mod reconciled;
mod shadow;

pub use branches::Branches;
pub use i2_leases::Holder;
pub use i6_committed::Commit;
pub use i13_convergence::{Standing, unconverged};
pub use shadow::CopyShadow;

use crate::effect::{Answer, InSyncSet};
use crate::object::Object;
use crate::request::Request;
use crate::shard::ReadAnswer;
use crate::store::{Batch, StoreChange, Stored};
use crate::tables::ConflictPolicy;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use understudy_proto::{CopyId, Epoch, Pair, ProcessId, ShardId};

/// What was broken, and how it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its number in docs/protocol.md.
    pub invariant: &'static str,
    pub what: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, what: impl Into<String>) -> Violation {
        let what = what.into();
        Violation { invariant, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.invariant, self.what)
    }
}

impl std::error::Error for Violation {}

pub type Checked = Result<(), Violation>;

/// A shard's row in the naming table, as far as the checks need it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Row {
    pub epoch: Epoch,
    pub primary: Option<ProcessId>,
    /// The stores that an open cut lists.
    pub listed: BTreeSet<CopyId>,
    /// Copies that are complete.
    pub secondaries: BTreeSet<CopyId>,
    /// Of an in_sync shard.
    pub in_sync: Option<InSyncSet>,
    pub eligible: BTreeSet<CopyId>,
    pub witnesses: BTreeSet<CopyId>,
    /// The newest epoch that a forced promotion began.
    pub forced: Option<Epoch>,
}

impl Row {
    /// Whether what was acknowledged under that pair may have been passed over by a forced promotion.
    fn may_be_passed_over(&self, pair: Pair) -> bool {
        self.forced.is_some_and(|forced| pair.epoch < forced)
    }
}

/// All checks and what they remember.
#[derive(Debug, Default)]
pub struct Invariants {
    branches: Branches,
    copies: BTreeMap<(ShardId, CopyId), CopyShadow>,
    rows: BTreeMap<ShardId, Row>,
    primaries: i1_one_primary::Primaries,
    acknowledged: i7_acknowledged::Acknowledged,
    committed: i6_committed::Committed,
    seals: i14_most_advanced::Seals,
    acknowledgements: i9_session::Acknowledgements,
    reconciled: reconciled::Reconciled,
    deltas: usize,
}

impl Invariants {
    /// A replica emitted a batch. Its records exist from now on, whether or not the batch ever becomes durable.
    pub fn on_formed(&mut self, copy: CopyId, batch: &Batch) -> Checked {
        for change in &batch.changes {
            if let StoreChange::AppendRecord { record, .. } = change {
                i3_versions::pair_is_used_once(&mut self.branches, batch.shard, copy, record)?;
            }
        }
        Ok(())
    }

    /// A batch of that copy is durable; `stored` shows the store with it.
    pub fn on_durable(&mut self, copy: CopyId, batch: &Batch, stored: &dyn Stored) -> Checked {
        let shard = batch.shard;
        let shadow = self.copies.entry((shard, copy)).or_default();
        let before = shadow.position();
        let follows = shadow
            .meta
            .as_ref()
            .map_or(Epoch::ZERO, |meta| meta.promise);
        let touched = shadow.follow(copy, batch, &mut self.branches, stored)?;
        i12_position::went_back_only_by_undo(copy, shard, before, shadow.position(), &touched)?;
        i5_fold::touched_objects(copy, shard, shadow, &touched, stored)?;
        i8_once::touched_entries(copy, shard, shadow, &touched, stored)?;
        for orphan in &touched.orphans_gone {
            self.reconciled.went_in_time(
                copy,
                shard,
                follows,
                *orphan,
                &self.branches,
                &self.copies,
            )?;
        }
        for pair in &touched.undone {
            self.committed.not_undone(copy, shard, *pair)?;
        }
        self.deltas += usize::from(touched.by_delta);
        if touched.removed {
            self.check_acknowledged(shard)?;
        }
        Ok(())
    }

    /// How many coalesced deltas were switched in.
    pub fn deltas(&self) -> usize {
        self.deltas
    }

    /// A copy submits orphans to the primary of an epoch.
    pub fn on_submit(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        epoch: Epoch,
        pairs: &[Pair],
    ) -> Checked {
        let orphans = self
            .copies
            .get(&(shard, copy))
            .map(|shadow| &shadow.orphans);
        self.reconciled.in_order(copy, shard, epoch, pairs, orphans)
    }

    /// A process started and opened its copy: it stands where its disk stands.
    pub fn on_opened(&self, copy: CopyId, shard: ShardId, durable: Pair) -> Checked {
        let position = self.position(copy, shard);
        i12_position::opened_where_the_disk_stands(copy, shard, position, durable)
    }

    /// A process says that it serves as primary.
    pub fn on_serving(&mut self, process: ProcessId, shard: ShardId, epoch: Epoch) -> Checked {
        self.primaries.serves(process, shard, epoch)
    }

    /// The processes that hold a lease for the shard at this moment.
    pub fn on_holders(&self, shard: ShardId, holders: &[Holder]) -> Checked {
        i2_leases::one_holder(shard, holders)?;
        let row = self.rows.get(&shard);
        let named = row.and_then(|row| Some((row.primary?, row.epoch)));
        i2_leases::holder_is_named(shard, holders, named)
    }

    /// The process holds the lease from its witnesses at this moment, by the answers of these.
    pub fn on_witnessed(
        &self,
        shard: ShardId,
        process: ProcessId,
        demanded: &BTreeSet<CopyId>,
    ) -> Checked {
        match self.rows.get(&shard) {
            Some(row) => i2_leases::needs_every_witness(shard, process, &row.witnesses, demanded),
            None => Ok(()),
        }
    }

    /// The process answered, as primary, something about the shard; `holds` is its lease at that moment.
    pub fn on_served(
        &self,
        process: ProcessId,
        shard: ShardId,
        serving: Option<Epoch>,
        holds: bool,
    ) -> Checked {
        i2_leases::served_inside_its_lease(process, shard, serving, holds)?;
        let position = self.position(process.copy(), shard);
        i3_versions::answering_epoch_has_a_record(process, shard, serving, position)
    }

    /// The process answered a write.
    pub fn on_answer(
        &mut self,
        process: ProcessId,
        shard: ShardId,
        request: &Request,
        answer: &Answer,
    ) -> Checked {
        let copy = process.copy();
        let shadow = self.copies.entry((shard, copy)).or_default();
        i8_once::answer_is_the_record(copy, shard, shadow, &self.branches, request, answer)?;
        self.acknowledged.add(shard, answer.pair, request.id);
        let row = self.rows.entry(shard).or_default();
        if row.in_sync.is_some() {
            self.committed.answered(shard, answer.pair)?;
        }
        self.acknowledged
            .one_is_kept(shard, answer.pair, row, &self.copies, &self.branches)
    }

    /// The process answered a read: with what is durable there, and with a token that it has reached.
    pub fn on_read(&self, process: ProcessId, shard: ShardId, token: Pair) -> Checked {
        let shadow = self.copies.get(&(shard, process.copy()));
        i5_fold::token_is_reached(process, shard, shadow, token)
    }

    /// A write was answered at this time of the driver's clock, in microseconds.
    pub fn on_acknowledged(&mut self, shard: ShardId, pair: Pair, at_us: u64) {
        self.acknowledgements.add(shard, pair, at_us);
    }

    /// The process answered a read of these keys. `upto_us`: for a bounded read, the time (on the clock of
    /// [`Invariants::on_acknowledged`]) up to which it may miss nothing.
    pub fn on_fresh_read(
        &self,
        process: ProcessId,
        shard: ShardId,
        keys: &[Bytes],
        answer: &ReadAnswer,
        upto_us: Option<u64>,
    ) -> Checked {
        self.on_read(process, shard, answer.token)?;
        let objects: &[Option<Object>] = &answer.objects;
        i9_session::shows_the_log(&self.branches, shard, answer.token, keys, objects)?;
        match upto_us {
            None => Ok(()),
            Some(upto_us) => {
                self.acknowledgements
                    .all_are_reached(process, shard, answer.token, upto_us)
            }
        }
    }

    /// A session that saw these pairs of the shard got an answer with this token.
    pub fn on_session_read(&self, shard: ShardId, saw: &[Pair], token: Pair) -> Checked {
        i9_session::sees_what_the_session_saw(&self.branches, shard, saw, token)
    }

    /// The primary of an in_sync shard moved its commit point.
    pub fn on_committed(&mut self, shard: ShardId, commit: &Commit) -> Checked {
        let row = self.rows.get(&shard);
        self.committed
            .add(shard, commit, row, &self.branches, &self.copies)
    }

    /// The process answered a read of an in_sync shard; `newest`: at the level of a primary.
    pub fn on_committed_read(
        &self,
        process: ProcessId,
        shard: ShardId,
        newest: bool,
        token: Pair,
        objects: &[(Bytes, Option<Object>)],
    ) -> Checked {
        self.committed.read(process, shard, newest, token, objects)
    }

    /// The row of the shard changed in the managers' tables.
    pub fn on_row(&mut self, shard: ShardId, row: Row) -> Checked {
        let old = self.rows.get(&shard);
        self.primaries.row_changed(shard, old, &row)?;
        self.reconciled.row_changed(shard, &row);
        i6_committed::promoted_is_in_sync(shard, old, &row)?;
        let since = old.map_or(Epoch::ZERO, |old| old.epoch);
        if row.forced > Some(since) {
            let promoted = row.primary.map(ProcessId::copy);
            let last = promoted.map_or(Pair::ZERO, |copy| self.position(copy, shard));
            self.committed
                .passed_over(shard, row.epoch, last, &self.branches)?;
        }
        self.rows.insert(shard, row);
        self.check_acknowledged(shard)
    }

    /// A copy promised an epoch and told its last pair. `follows`: it has a row of that epoch or a later one by now.
    pub fn on_sealed(
        &mut self,
        copy: CopyId,
        shard: ShardId,
        epoch: Epoch,
        last: Pair,
        follows: bool,
    ) -> Checked {
        if follows {
            return Ok(());
        }
        self.seals.add(copy, shard, epoch, last);
        let position = self.position(copy, shard);
        i14_most_advanced::seal_tells_the_end(copy, shard, epoch, position, last)
    }

    /// The managers promoted a copy; `candidates` are those of the row before.
    pub fn on_promoted(
        &self,
        shard: ShardId,
        epoch: Epoch,
        promoted: CopyId,
        sealed: &BTreeSet<CopyId>,
        candidates: &BTreeSet<CopyId>,
    ) -> Checked {
        self.seals
            .most_advanced(shard, epoch, promoted, sealed, candidates)
    }

    /// Everything about one copy against its disk.
    pub fn check_copy(&self, copy: CopyId, shard: ShardId, stored: &dyn Stored) -> Checked {
        let Some(shadow) = self.copies.get(&(shard, copy)) else {
            return Ok(());
        };
        i3_versions::whole_log(copy, shard, shadow, stored)?;
        i5_fold::all_objects(copy, shard, shadow, &self.branches, stored)?;
        i8_once::all_entries(copy, shard, shadow, stored)
    }

    /// Every acknowledged write of the shard is somewhere.
    pub fn check_acknowledged(&mut self, shard: ShardId) -> Checked {
        let row = self.rows.entry(shard).or_default();
        self.acknowledged
            .all_are_kept(shard, row, &self.copies, &self.branches)
    }

    /// Where the copy's disk stands.
    pub fn position(&self, copy: CopyId, shard: ShardId) -> Pair {
        let shadow = self.copies.get(&(shard, copy));
        shadow.map_or(Pair::ZERO, CopyShadow::position)
    }

    /// How many acknowledged writes were seen.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.count()
    }

    /// How many records were applied again, and how many conflicts were logged, on any branch.
    pub fn reconciled(&self) -> (usize, usize) {
        self.branches.reconciled()
    }

    /// How many conflicts were resolved, on any branch.
    pub fn decided(&self) -> usize {
        self.branches.decided()
    }

    /// What the shard's namespace wants done with orphans; it never changes.
    pub fn set_policy(&mut self, shard: ShardId, policy: ConflictPolicy) {
        self.branches.set_policy(shard, policy);
    }

    /// How many dedup entries expiry records removed, and how many conflicts were logged because of that, on any branch.
    pub fn forgotten(&self) -> (usize, usize) {
        self.branches.forgotten()
    }

    /// How many records are in orphan logs.
    pub fn orphans(&self) -> usize {
        self.copies.values().map(|c| c.orphans.len()).sum()
    }
}
