//! The change log: a bounded ring of what changed at which revision, so that a watcher misses nothing or is told so.

use super::bindings::Binding;
use super::entry::ShardEntry;
use super::membership::NodeEntry;
use super::naming::Namespace;
use super::sessions::Session;
use super::settings::ClusterSettings;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use understudy_proto::ids::{ClientId, NamespaceId, Revision, ShardId};

/// Changes that are kept; beyond it the oldest go and a watcher that still needs them is told `Compacted`.
pub const CHANGES_KEPT: usize = 16_384;

/// One change. All changes of one command bear the same revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub revision: Revision,
    pub what: Changed,
}

/// The new value of what changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    Settings(ClusterSettings),
    Node(NodeEntry),
    Namespace(Namespace),
    NamespaceDeleted(NamespaceId),
    Shard(ShardId, ShardEntry),
    ShardDeleted(ShardId),
    Session(ClientId, Session),
    Bound(String, Binding),
    Unbound(String),
}

/// The changes after the revision asked for are no longer kept: read the tables, then watch from their revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The first revision whose changes are all kept.
    pub first: Revision,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChangeLog {
    /// Revisions are not falling.
    ring: VecDeque<Change>,
    /// At this revision and before it something is missing.
    missing_through: Revision,
}

impl ChangeLog {
    pub(super) fn extend(&mut self, changes: &[Change]) {
        for change in changes {
            let newest = self.ring.back().map_or(Revision::ZERO, |c| c.revision);
            assert!(newest <= change.revision, "revision {newest} goes back");
            self.ring.push_back(change.clone());
        }
        while self.ring.len() > CHANGES_KEPT {
            let oldest = self.ring.pop_front().map(|c| c.revision);
            self.missing_through = oldest.unwrap_or(self.missing_through);
        }
    }

    /// All changes with a revision above `after`, oldest first.
    pub(super) fn after(
        &self,
        after: Revision,
    ) -> Result<impl Iterator<Item = &Change> + '_, Compacted> {
        if after < self.missing_through {
            return Err(Compacted {
                first: self.missing_through.next(),
            });
        }
        let start = self.ring.partition_point(|c| c.revision <= after);
        Ok(self.ring.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64) -> Change {
        Change {
            revision: Revision(revision),
            what: Changed::ShardDeleted(ShardId(revision)),
        }
    }

    #[test]
    fn a_watch_has_no_hole_or_says_so() {
        let mut log = ChangeLog::default();
        let all: Vec<Change> = (1..=CHANGES_KEPT as u64 + 3).map(change).collect();
        log.extend(&all[..10]);
        assert_eq!(log.after(Revision::ZERO).unwrap().count(), 10);
        log.extend(&all[10..]);
        let first = Revision(4);
        assert_eq!(
            log.after(Revision(2)).err(),
            Some(Compacted { first }),
            "revision 3 is gone"
        );
        let rest: Vec<u64> = log
            .after(Revision(3))
            .unwrap()
            .map(|c| c.revision.0)
            .collect();
        assert_eq!(rest.first(), Some(&4));
        assert_eq!(rest.len(), CHANGES_KEPT);
        assert_eq!(log.after(Revision(1 << 40)).unwrap().count(), 0);
    }

    #[test]
    fn a_revision_that_lost_a_part_is_not_streamed() {
        let mut log = ChangeLog::default();
        log.extend(&[change(1), change(1)]);
        let rest: Vec<Change> = (0..CHANGES_KEPT as u64 - 1)
            .map(|i| change(2 + i))
            .collect();
        log.extend(&rest);
        assert!(log.after(Revision::ZERO).is_err());
        assert!(log.after(Revision(1)).is_ok());
    }
}
