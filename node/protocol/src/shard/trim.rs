//! How long a log is kept: by size and age, never what a copy of the row still needs, never past an open cut.
//!
//! The primary decides; the others trim to the primary's base, which its pulse tells.

use super::replica::{Replica, Role};
use crate::effect::{Ask, Context, Effect};
use crate::store::{StoreChange, StoreError};
use crate::time::Instant;
use std::collections::VecDeque;
use understudy_proto::Pair;

/// A mark is set about every so many bytes of log, and every so long; trimming goes from mark to mark.
const MARK_BYTES: u64 = 256 * 1024;
const MARK_MS: u64 = 10 * 60 * 1_000;

/// Where the log could be cut, and how much comes after.
#[derive(Debug)]
pub(super) struct Retention {
    /// (the record, the bytes of log up to it since this process became primary, the primary's time)
    marks: VecDeque<(Pair, u64, u64)>,
    bytes: u64,
    next: Instant,
}

impl Retention {
    pub fn new(position: Pair, wall_ms: u64) -> Retention {
        // What was there before counts as nothing, and as no older than this: it goes as soon as enough came after it, or
        // when it is certainly old.
        Retention {
            marks: VecDeque::from([(position, 0, wall_ms)]),
            bytes: 0,
            next: Instant::ZERO,
        }
    }

    pub fn note(&mut self, pair: Pair, bytes: usize, wall_ms: u64) {
        self.bytes += bytes as u64;
        if self.marks.back().is_none_or(|(_, upto, at)| {
            self.bytes - upto >= MARK_BYTES || wall_ms.saturating_sub(*at) >= MARK_MS
        }) {
            self.marks.push_back((pair, self.bytes, wall_ms));
        }
    }

    /// The last mark that size or age want gone.
    fn wanted(&self, log_bytes: u64, log_age_ms: u64, wall_ms: u64) -> Option<Pair> {
        let old = |at: u64| wall_ms.saturating_sub(at) > log_age_ms;
        let gone = |(_, upto, at): &&(Pair, u64, u64)| self.bytes - upto > log_bytes || old(*at);
        self.marks
            .iter()
            .take_while(gone)
            .last()
            .map(|(pair, _, _)| *pair)
    }

    /// Bytes of log after a record, as far as the marks tell.
    fn bytes_after(&self, pair: Pair) -> u64 {
        self.marks
            .iter()
            .find(|(mark, _, _)| *mark >= pair)
            .map_or(0, |(_, upto, _)| self.bytes - upto)
    }

    fn forget(&mut self, base: Pair) {
        while self.marks.front().is_some_and(|(mark, _, _)| *mark <= base) {
            self.marks.pop_front();
        }
    }
}

impl Replica {
    /// At the primary, about once a second.
    pub(super) fn trim(
        &mut self,
        context: &Context<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let (log_bytes, log_age_ms) = (self.settings.log_bytes, self.settings.log_age.as_millis());
        let Role::Primary(primary) = &mut self.role else {
            return Ok(());
        };
        if context.now < primary.retention.next || !primary.serving {
            return Ok(());
        }
        primary.retention.next = context.now + crate::time::Duration::from_millis(1_000);
        let Some(wanted) = primary
            .retention
            .wanted(log_bytes, log_age_ms, context.wall_ms)
        else {
            return Ok(());
        };
        let mut upto = wanted.min(self.visible);
        let row = self.row().clone();
        if let Some(cut) = row.oldest_open_cut {
            upto = upto.min(cut);
        }
        let Role::Primary(primary) = &self.role else {
            return Ok(());
        };
        for copy in &row.secondaries {
            let needed = primary.streams.needed_by(*copy).unwrap_or(Pair::ZERO);
            if needed < upto {
                if primary.retention.bytes_after(needed) > log_bytes.saturating_mul(2) {
                    out.push(Effect::Ask(Ask::TooFarBehind {
                        epoch: primary.epoch,
                        copy: *copy,
                    }));
                }
                upto = needed;
            }
        }
        for copy in &row.joining {
            // A joining copy that makes progress is waited for; one that is not here is rebuilt anyway.
            if let Some(needed) = primary.streams.needed_by(*copy)
                && primary.retention.bytes_after(needed) <= log_bytes.saturating_mul(4)
            {
                upto = upto.min(needed);
            }
        }
        self.trim_to(context, upto, out)
    }

    /// Removes the log up to and with this record, when this copy has it and something after it.
    pub(super) fn trim_to(
        &mut self,
        context: &Context<'_>,
        upto: Pair,
        out: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if upto <= self.meta.live.base || upto >= self.visible || self.staged.is_some() {
            return Ok(());
        }
        if self
            .assignment()
            .and_then(|row| row.oldest_open_cut)
            .is_some_and(|cut| upto > cut)
        {
            return Ok(());
        }
        let generation = self.live.generation;
        let Some(record) = context
            .stored
            .record(self.shard, generation, upto.version)?
        else {
            return Ok(());
        };
        if record.pair != upto {
            return Ok(());
        }
        self.meta.live.base = upto;
        self.meta.live.base_checksum = record.checksum;
        if let Role::Primary(primary) = &mut self.role {
            primary.retention.forget(upto);
        }
        let changes = vec![
            StoreChange::TrimLog {
                generation,
                upto: upto.version,
            },
            StoreChange::PutMeta(self.meta.clone()),
        ];
        self.persist(changes, out);
        Ok(())
    }
}
