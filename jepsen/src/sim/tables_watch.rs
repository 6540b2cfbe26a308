//! What is checked whenever a command is applied to the managers' tables: once for what it says, at every manager for
//! being the same (I11: managers that applied the same log hold equal tables, also over a restart).

use super::env::Env;
use std::collections::BTreeSet;
use understudy_proto::{CopyId, ProcessId, Revision, ShardId};
use understudy_protocol::effect::InSyncSet;
use understudy_protocol::invariants::{Row, Violation};
use understudy_protocol::tables::command::{EntryChange, EntryOp};
use understudy_protocol::tables::watch::Changed;
use understudy_protocol::tables::{Applied, Command, Envelope, ShardEntry, Tables, invariants};

#[derive(Debug, Default)]
pub struct TablesWatch {
    /// What each command came to where it was applied first.
    first: Vec<Applied>,
}

impl TablesWatch {
    /// Applies the command of the log at `at`, counted from 0.
    pub fn apply(
        &mut self,
        tables: &mut Tables,
        at: usize,
        envelope: &Envelope,
        env: &mut Env,
    ) -> Applied {
        let index = at as u64 + 1;
        if at < self.first.len() {
            let applied = tables.apply(index, envelope);
            if applied != self.first[at] {
                let what = format!("the command {index} came to something else at another manager");
                env.check(Err(broken(what)));
            }
            return applied;
        }
        let promotions = promotions(&envelope.command, tables);
        let stale = stale_rows(&envelope.command, tables);
        let applied = tables.apply(index, envelope);
        self.first.push(applied.clone());
        for (shard, revision) in stale {
            if tables
                .shard(shard)
                .is_some_and(|row| row.revision != revision)
            {
                let what = format!("a stale change of the row of shard {shard} was made");
                env.check(Err(broken(what)));
            }
        }
        self.on_first(tables, index, envelope, &applied, promotions, env);
        applied
    }

    fn on_first(
        &mut self,
        tables: &Tables,
        index: u64,
        envelope: &Envelope,
        applied: &Applied,
        promotions: Vec<Promotion>,
        env: &mut Env,
    ) {
        if applied.changes.is_empty() {
            return;
        }
        env.note(format_args!("TABLES {index} {}", brief(&envelope.command)));
        if let Some(fault) = invariants::faults(tables).into_iter().next() {
            env.check(Err(broken(fault)));
        }
        for promotion in promotions {
            let row = tables.shard(promotion.shard);
            if row.and_then(|row| row.primary) == Some(promotion.promoted) {
                let forced = row.is_some_and(|row| row.forced == Some(promotion.epoch));
                env.forced += u64::from(forced);
                promotion.check(env);
            }
        }
        for change in &applied.changes {
            if let Changed::Shard(shard, entry) = &change.what {
                let row = row_of(entry);
                env.note(format_args!("ROW s{shard} {}", brief_row(entry)));
                let checked = env.invariants.on_row(*shard, row);
                env.check(checked);
            }
        }
    }

    /// The tables after a restart from a snapshot.
    pub fn reload(&self, tables: &Tables, env: &mut Env) -> Tables {
        match Tables::decode(&tables.encode()) {
            Ok(again) => {
                if again != *tables {
                    env.check(Err(broken("a snapshot gives other tables".to_string())));
                }
                again
            }
            Err(error) => {
                env.check(Err(broken(error.to_string())));
                tables.clone()
            }
        }
    }

    /// The tables after a restart from the log alone.
    pub fn replay(&mut self, log: &[Envelope], env: &mut Env) -> Tables {
        let mut tables = Tables::default();
        for (at, envelope) in log.iter().enumerate() {
            self.apply(&mut tables, at, envelope, env);
        }
        tables
    }
}

fn broken(what: String) -> Violation {
    Violation {
        invariant: "I11",
        what,
    }
}

fn row_of(entry: &ShardEntry) -> Row {
    let listed = entry
        .open_cuts
        .iter()
        .flat_map(|cut| cut.stores.iter().copied());
    Row {
        epoch: entry.epoch,
        primary: entry.primary,
        listed: listed.collect(),
        secondaries: entry.secondaries.iter().copied().collect(),
        in_sync: entry.min_in_sync.map(|min| InSyncSet {
            members: entry.in_sync.clone(),
            min,
        }),
        eligible: entry.eligible.clone(),
        witnesses: entry.witnesses.clone(),
        forced: entry.forced,
    }
}

/// The rows for which the command's only change names another revision than theirs: they have to stay as they are.
fn stale_rows(command: &Command, tables: &Tables) -> Vec<(ShardId, Revision)> {
    let Command::ChangeEntries(changes) = command else {
        return Vec::new();
    };
    let stale = changes.iter().filter_map(|change| {
        let only = changes
            .iter()
            .filter(|other| other.shard == change.shard)
            .count()
            == 1;
        let row = tables.shard(change.shard)?;
        (only && row.revision != change.revision).then_some((change.shard, row.revision))
    });
    stale.collect()
}

/// A promotion that a command asks for, with the candidates as they were.
struct Promotion {
    shard: ShardId,
    epoch: understudy_proto::Epoch,
    promoted: ProcessId,
    sealed: BTreeSet<CopyId>,
    candidates: BTreeSet<CopyId>,
}

impl Promotion {
    fn check(self, env: &mut Env) {
        let checked = env.invariants.on_promoted(
            self.shard,
            self.epoch,
            self.promoted.copy(),
            &self.sealed,
            &self.candidates,
        );
        env.check(checked);
    }
}

fn promotions(command: &Command, tables: &Tables) -> Vec<Promotion> {
    let Command::ChangeEntries(changes) = command else {
        return Vec::new();
    };
    changes
        .iter()
        .filter_map(|change| promotion(change, tables))
        .collect()
}

fn promotion(change: &EntryChange, tables: &Tables) -> Option<Promotion> {
    let EntryOp::Promote {
        epoch,
        promoted,
        sealed,
        ..
    } = &change.op
    else {
        return None;
    };
    let row = tables.shard(change.shard)?;
    Some(Promotion {
        shard: change.shard,
        epoch: *epoch,
        promoted: *promoted,
        sealed: sealed.clone(),
        candidates: row.promotable().collect(),
    })
}

/// The rows that changed after a revision, and the revision of the tables; `None`: nothing did.
pub fn rows_after(
    tables: &Tables,
    after: Revision,
) -> Option<(Revision, Vec<(ShardId, ShardEntry)>)> {
    let revision = tables.revision();
    if revision <= after {
        return None;
    }
    let rows = tables
        .shards()
        .iter()
        .filter(|(_, row)| row.revision > after);
    Some((
        revision,
        rows.map(|(shard, row)| (*shard, row.clone())).collect(),
    ))
}

fn brief(command: &Command) -> String {
    match command {
        Command::ChangeEntries(changes) => {
            let each = changes
                .iter()
                .map(|change| format!("s{} {:?}", change.shard, change.op));
            each.collect::<Vec<_>>().join("; ")
        }
        Command::RegisterNode(r) => format!("register {} {}", r.name, r.launch.0),
        other => {
            let text = format!("{other:?}");
            text.chars().take(120).collect()
        }
    }
}

fn brief_row(entry: &ShardEntry) -> String {
    let list = |copies: &mut dyn Iterator<Item = CopyId>| {
        copies
            .map(|c| c.node.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let primary = entry.primary.map_or("none".to_string(), |p| p.to_string());
    let secondaries = list(&mut entry.secondaries.iter().copied());
    let joining = list(&mut entry.joining.iter().copied());
    let cuts: Vec<String> = entry
        .open_cuts
        .iter()
        .map(|cut| format!("{}@{}", cut.cut, list(&mut cut.stores.iter().copied())))
        .collect();
    let begun = entry.begun.map(|begun| begun.epoch);
    let forced = entry.forcing().map(|forced| forced.copy.node);
    let set = match entry.min_in_sync {
        None => String::new(),
        Some(min) => {
            let members = list(&mut entry.in_sync.iter().copied());
            let eligible = list(&mut entry.eligible.iter().copied());
            format!(" in sync [{members}] of {min} eligible [{eligible}]")
        }
    };
    let witnesses = list(&mut entry.witnesses.iter().copied());
    format!(
        "epoch {} primary {primary} secondaries [{secondaries}] joining [{joining}] witnesses [{witnesses}] cuts {cuts:?} begun {begun:?} forced {forced:?} {:?}{set}",
        entry.epoch, entry.forced
    )
}
