//! The check of a copy at a node's start: on a disk that loses nothing but its unsynced end it finds nothing.
//!
//! A real node repairs what differs, and gives up a store that cannot be repaired. If the check erred on a sound copy, whatever
//! the protocol made of it (undone, rebuilt, trimmed), it would destroy data; so every start in every seed asks it.

use understudy_proto::{CopyId, ShardId};
use understudy_protocol::invariants::{Checked, Violation};
use understudy_protocol::startup::{Window, check};
use understudy_protocol::store::{Saved, StoreError, Stored};

pub fn finds_nothing(copy: CopyId, shard: ShardId, saved: &Saved, stored: &dyn Stored) -> Checked {
    let wrong = |what: String| {
        Err(Violation {
            invariant: "I5",
            what: format!("the start check of {copy} s{shard}: {what}"),
        })
    };
    // The longest window and the shortest: a short one meets objects that were last written before it.
    let least = check(shard, saved, stored, Window::of_one(usize::MAX));
    let both = check(shard, saved, stored, Window::of_one(1)).and_then(|mut findings| {
        let more = least?;
        findings.repairs.extend(more.repairs);
        findings.mismatches.extend(more.mismatches);
        Ok(findings)
    });
    match both {
        Err(StoreError::Io(_)) => Ok(()),
        Err(error) => wrong(error.to_string()),
        Ok(findings) if findings.repairs.is_empty() && findings.mismatches.is_empty() => Ok(()),
        Ok(findings) => wrong(format!(
            "objects {:?}, {} dedup entries",
            findings.mismatches, findings.dedup_repaired
        )),
    }
}
