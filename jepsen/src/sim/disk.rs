//! One node's disk: the in-memory twin of the store, with a sync that takes time, hangs or fails.
//!
//! Batches become durable one by one in the order in which they were written, so that every state in between is seen by
//! the checks; a crash keeps the oldest of the unsynced ones, as many as chance wants.

use crate::dice::{Dice, Purpose};
use std::collections::VecDeque;
use understudy_proto::CopyId;
use understudy_proto::failure::Reason;
use understudy_protocol::store::Batch;
use understudy_protocol::testing::MemoryStore;

use super::env::Env;

#[derive(Debug)]
pub struct Disk {
    pub store: MemoryStore,
    dice: Dice,
    unsynced: VecDeque<Batch>,
    syncing: bool,
    hung: u32,
    sync_min_us: u64,
    sync_max_us: u64,
    /// When the last sync ended, or when there was nothing to sync.
    pub progressed_us: u64,
}

impl Disk {
    pub fn new(seed: u64, node: usize) -> Disk {
        let mut dice = Dice::new(seed, Purpose::Disks, node as u64);
        // One disk in six is slow.
        let slow = if dice.permille(160) { 20 } else { 1 };
        let sync_min_us = dice.between(50, 1_000);
        Disk {
            store: MemoryStore::new(),
            sync_max_us: sync_min_us + dice.between(100, 8_000) * slow,
            sync_min_us,
            dice,
            unsynced: VecDeque::new(),
            syncing: false,
            hung: 0,
            progressed_us: 0,
        }
    }

    pub fn write(&mut self, batch: Batch) -> Result<(), Reason> {
        self.store.write(batch.clone())?;
        self.unsynced.push_back(batch);
        Ok(())
    }

    /// Begins a sync of all that waits: after how long it is done, and how many batches it takes.
    pub fn begin_sync(&mut self) -> Option<(u64, usize)> {
        if self.syncing || self.hung > 0 || self.unsynced.is_empty() {
            return None;
        }
        self.syncing = true;
        let takes = self.dice.between(self.sync_min_us, self.sync_max_us);
        Some((takes, self.unsynced.len()))
    }

    /// The sync is done, unless the disk hangs: then it never is, for this process.
    pub fn end_sync(&mut self, copy: CopyId, batches: usize, env: &mut Env) -> Vec<Batch> {
        if self.hung > 0 {
            self.syncing = false;
            return Vec::new();
        }
        self.syncing = false;
        self.progressed_us = env.now_us;
        (0..batches)
            .filter_map(|_| self.keep_oldest(copy, env))
            .collect()
    }

    fn keep_oldest(&mut self, copy: CopyId, env: &mut Env) -> Option<Batch> {
        let batch = self.unsynced.pop_front()?;
        self.store.sync_upto(1);
        let checked = env.invariants.on_durable(copy, &batch, &self.store);
        env.check(checked);
        Some(batch)
    }

    /// The process dies. What it wrote without a sync may have reached the disk or not.
    pub fn crash(&mut self, copy: Option<CopyId>, env: &mut Env) {
        let kept = self.dice.index(self.unsynced.len() + 1);
        if let Some(copy) = copy {
            for _ in 0..kept {
                self.keep_oldest(copy, env);
            }
        }
        let lost = self.unsynced.len();
        if kept + lost > 0 {
            env.note(format_args!(
                "disk keeps {kept} unsynced batches and loses {lost}"
            ));
        }
        self.unsynced.clear();
        self.store.crash(0);
        self.syncing = false;
    }

    pub fn hang(&mut self) {
        self.hung += 1;
    }

    pub fn unhang(&mut self) {
        self.hung = self.hung.saturating_sub(1);
    }

    pub fn fail(&mut self) {
        self.store.fail_next_write(Reason::StorageFailed);
    }

    /// Whether a synced write was taken within that time; a disk with nothing to do could take one.
    pub fn makes_progress(&mut self, now_us: u64, interval_us: u64) -> bool {
        if self.unsynced.is_empty() && self.hung == 0 {
            self.progressed_us = now_us;
        }
        now_us.saturating_sub(self.progressed_us) <= interval_us
    }
}
