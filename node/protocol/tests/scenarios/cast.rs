//! The machines of a story: which there are, when their processes start and die, and what becomes durable on their disks.

use super::command::{Parsed, Words};
use super::machine::{Machine, SHARD};
use super::trace::{self, numbers};
use super::world::{World, unknown};
use understudy_proto::{NodeId, Pair};
use understudy_protocol::effect::Input;
use understudy_protocol::time::Duration;

impl World {
    pub(super) fn copies(&mut self, words: &mut Words) -> Parsed<()> {
        if let Some(ms) = words.number_option("interval")? {
            self.settings.interval = Duration::from_millis(ms);
        }
        if let Some(bytes) = words.number_option("log-bytes")? {
            self.settings.log_bytes = bytes;
        }
        if let Some(records) = words.number_option("delta")? {
            self.settings.delta_records_min = records;
        }
        for node in words.all_nodes()? {
            if self.machines.contains_key(&node) {
                return Err(format!("n{node} is there"));
            }
            self.machines.insert(node, Machine::new(node));
            self.start(node)?;
        }
        Ok(())
    }

    /// What most stories begin with: the first copy is the primary of epoch 1, the others follow.
    pub(super) fn cluster(&mut self, words: &mut Words) -> Parsed<()> {
        self.copies(words)?;
        let mut nodes = self.machines.keys();
        let primary = *nodes.next().ok_or("a copy is missing")?;
        let others = trace::list(nodes, ",", |node| format!("n{node}"));
        self.run(&format!(
            "row epoch=1 primary=n{primary} secondaries={others}"
        ))?;
        self.run(&format!("lease n{primary} epoch=1"))?;
        self.settle()?;
        self.trace.clear();
        let at = self
            .machine(primary)?
            .store
            .clone()
            .open_shard(SHARD)
            .expect("it can be read");
        let at = at.last.map_or(Pair::ZERO, |last| last.pair);
        self.say(format!(
            "n{primary} is the primary of epoch 1 with a lease, all are at {at}"
        ));
        Ok(())
    }

    pub(super) fn start(&mut self, node: NodeId) -> Parsed<()> {
        let (settings, now) = (self.settings.clone(), self.now);
        let machine = self.machine_mut(node)?;
        machine.start(settings, now)?;
        let process = machine.process();
        let report = machine
            .replica
            .as_ref()
            .expect("it was just started")
            .report();
        self.say(format!(
            "n{node} starts as process {}, at {}, promise {}",
            process.incarnation, report.position, report.promise
        ));
        let opened = self
            .invariants
            .on_opened(process.copy(), SHARD, report.durable);
        self.check(opened);
        Ok(())
    }

    pub(super) fn crash(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let keep = words.number_option("keep")?.unwrap_or(0);
        if self.machine(node)?.replica.is_none() {
            return Err(format!("n{node} is down"));
        }
        let kept = self.sync_batches(node, keep)?;
        let machine = self.machine_mut(node)?;
        let lost = numbers(machine.unsynced.iter().map(|batch| batch.number));
        machine.crash();
        let happened = match kept.is_empty() {
            true => format!("n{node} dies, lost {lost}"),
            false => format!(
                "n{node} dies, {} reached the disk, lost {lost}",
                numbers(kept)
            ),
        };
        self.say(happened);
        Ok(())
    }

    /// Batches become durable, and the replica is not told yet.
    pub(super) fn sync(&mut self, node: NodeId, count: Option<usize>) -> Parsed<()> {
        let synced = self.sync_batches(node, count.unwrap_or(usize::MAX))?;
        match synced.is_empty() {
            true => Err(format!("n{node} has nothing to persist")),
            false => {
                self.say(format!("n{node} has {} on disk", numbers(synced)));
                Ok(())
            }
        }
    }

    pub(super) fn sync_batches(&mut self, node: NodeId, count: usize) -> Parsed<Vec<u64>> {
        let mut synced = Vec::new();
        while synced.len() < count {
            let machine = self.machines.get_mut(&node).ok_or_else(|| unknown(node))?;
            let Some(batch) = machine.sync_one() else {
                break;
            };
            let durable = self
                .invariants
                .on_durable(machine.copy(), &batch, &machine.store);
            self.check(durable);
            synced.push(batch.number);
        }
        Ok(synced)
    }

    pub(super) fn report(&mut self, node: NodeId) -> Parsed<()> {
        let untold = self.machine_mut(node)?.untold.take();
        let number = untold.ok_or_else(|| format!("n{node} knows what is on its disk"))?;
        self.step(node, Input::Persisted { number })
    }
}
