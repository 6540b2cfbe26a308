//! The checks that look at the whole world: who holds leases, every disk against its log, convergence, the history.

use super::world::World;
use crate::checker::values_are_explained;
use understudy_proto::{CopyId, ShardId};
use understudy_protocol::conflict::is_reserved;
use understudy_protocol::effect::Report;
use understudy_protocol::invariants::{Holder, Standing, Violation, unconverged};
use understudy_protocol::object::Value;
use understudy_protocol::store::Stored;
use understudy_protocol::tables::ShardEntry;

impl World {
    /// I2: at this moment, by each process's own clock.
    pub(super) fn check_holders(&mut self) {
        for number in 0..self.space.shards {
            self.check_holders_of(self.shard(number));
        }
    }

    pub(super) fn check_holders_of(&mut self, shard: ShardId) {
        let mut holders: Vec<Holder> = Vec::new();
        let mut wrong = None;
        for host in &self.hosts {
            let now = host.clock.read(self.env.now_us);
            let Some(process) = host.process.as_ref() else {
                continue;
            };
            let Some(holder) = process.holder(shard, now) else {
                continue;
            };
            if let Some(copy) = process.replica(shard)
                && copy.has_witnesses(now)
            {
                let demanded = copy.demanded_witnesses();
                let invariants = &self.env.invariants;
                let checked = invariants.on_witnessed(shard, holder.process, &demanded);
                wrong = wrong.or(checked.err());
            }
            holders.push(holder);
        }
        let checked = self.env.invariants.on_holders(shard, &holders);
        self.env.check(wrong.map_or(checked, Err));
    }

    pub(super) fn check_everything(&mut self) {
        self.check_holders();
        for number in 0..self.space.shards {
            let shard = self.shard(number);
            for host in &self.hosts {
                let Some(copy) = self.env.copy_at(host.number) else {
                    continue;
                };
                if copy.store != host.store {
                    continue;
                }
                let checked = self
                    .env
                    .invariants
                    .check_copy(copy, shard, &host.disk.store);
                self.env.check(checked);
            }
            let checked = self.env.invariants.check_acknowledged(shard);
            self.env.check(checked);
        }
        let line = format!("CHECKED all after {} events", self.events);
        self.env.note(format_args!("{line}"));
    }

    /// I13: what is still missing.
    pub(super) fn missing(&self) -> Option<String> {
        let tables = self.managers.tables();
        (0..self.space.shards).find_map(|number| {
            let shard = self.shard(number);
            match tables.shard(shard) {
                None => Some(format!("shard {shard} does not exist")),
                Some(row) => self
                    .standing(shard)
                    .and_then(|standing| unconverged(&standing))
                    .or_else(|| self.stray(shard, row))
                    .or_else(|| self.left_open(shard, row))
                    .or_else(|| self.orphans_left(shard)),
            }
        })
    }

    /// A cut that waits for a store that is here and has given back everything.
    fn left_open(&self, shard: ShardId, row: &ShardEntry) -> Option<String> {
        let mut listed = row.open_cuts.iter().flat_map(|cut| &cut.stores);
        listed.find_map(|copy| {
            let host = &self.hosts[*self.env.hosts.get(&copy.node)?];
            let process = host.process.as_ref()?;
            let here = process.id()?.copy() == *copy;
            let orphans = process.replica(shard).map_or(0, |it| it.report().orphans);
            let waits = || format!("an open cut of s{shard} waits for {}", host.place());
            (here && orphans == 0).then(waits)
        })
    }

    /// Orphans in a store that is here.
    fn orphans_left(&self, shard: ShardId) -> Option<String> {
        self.hosts.iter().find_map(|host| {
            let orphans = host.process.as_ref()?.replica(shard)?.report().orphans;
            let left = || format!("{} has {orphans} orphans of s{shard}", host.place());
            (orphans > 0).then(left)
        })
    }

    /// A copy that no row names and that was not deleted.
    fn stray(&self, shard: ShardId, row: &ShardEntry) -> Option<String> {
        self.hosts.iter().find_map(|host| {
            let process = host.process.as_ref()?;
            let stray = !row.names(process.id()?.copy()) && process.replica(shard)?.is_present();
            let keeps = || {
                format!(
                    "{} keeps a copy of s{shard} that no row names",
                    host.place()
                )
            };
            stray.then(keeps)
        })
    }

    fn standing(&self, shard: ShardId) -> Option<Standing> {
        let row = self.managers.tables().shard(shard)?;
        let with = |copy: CopyId| (copy, self.report(copy, shard));
        Some(Standing {
            shard,
            epoch: row.epoch,
            wanted: self.copies.min(self.hosts.len()),
            begun: row.begun.is_some(),
            primary: row.primary.map(|process| with(process.copy())),
            secondaries: row.secondaries.iter().copied().map(with).collect(),
            joining: row.joining.iter().copied().map(with).collect(),
            leaving: row.leaving.iter().copied().collect(),
            in_sync: row.is_in_sync().then_some(row.in_sync.len()),
            witnesses: row.witnesses.len(),
        })
    }

    fn report(&self, copy: CopyId, shard: ShardId) -> Option<Report> {
        let host = &self.hosts[*self.env.hosts.get(&copy.node)?];
        let process = host.process.as_ref()?;
        let replica = process
            .replica(shard)
            .filter(|_| host.store == copy.store)?;
        Some(replica.report())
    }

    /// What the clients saw against what is there in the end.
    pub(super) fn check_history(&mut self) {
        let mut values = Vec::new();
        for number in 0..self.space.shards {
            let shard = self.shard(number);
            let row = self.managers.tables().shard(shard);
            let Some(primary) = row.and_then(|row| row.primary) else {
                continue;
            };
            let host = &self.hosts[self.env.hosts[&primary.node]];
            let generation = host
                .process
                .as_ref()
                .and_then(|process| process.replica(shard))
                .map_or(0, |replica| replica.meta().live.generation);
            let page = host
                .disk
                .store
                .objects_after(shard, generation, None, usize::MAX);
            let objects = page.map(|page| page.items).unwrap_or_default();
            for (_, object) in objects.into_iter().filter(|(key, _)| !is_reserved(key)) {
                for component in object.components {
                    if let Value::Data(data) = component.value {
                        values.push(String::from_utf8_lossy(&data).into_owned());
                    }
                }
            }
        }
        if let Err(what) = values_are_explained(&self.history, &values) {
            self.env.check(Err(Violation {
                invariant: "I8",
                what,
            }));
        }
    }
}
