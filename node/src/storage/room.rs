//! How much room the store's disk has.

use super::open::Database;
use std::io;

/// Bytes of the disk under a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Free for this process.
    pub free: u64,
    pub total: u64,
}

impl Database {
    pub fn room(&self) -> io::Result<Room> {
        let found = rustix::fs::statvfs(&self.folder)?;
        Ok(Room {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    /// Whether so many bytes fit beside a part of the reserve. On a small disk the reserve is at most an eighth of it.
    pub(super) fn has_room(
        &self,
        bytes: u64,
        numerator: u64,
        denominator: u64,
    ) -> io::Result<bool> {
        let room = self.room()?;
        let reserve = self.reserve_bytes.min(room.total / 8);
        let kept = reserve * numerator / denominator;
        Ok(room.free >= bytes.saturating_add(kept))
    }
}
