//! Where two logs of a shard part: arithmetic on epoch starts.
//!
//! A log is known by its epoch starts, the pairs of the first records of its epochs, and by its end. There is at most one
//! primary per epoch, so two logs that share an epoch start share everything before it.

use understudy_proto::Pair;

/// The end of what two logs share. In the highest epoch that both lists hold, the smaller of the two ends; with no shared
/// epoch (0, 0).
pub fn cut(left: &[Pair], left_end: Pair, right: &[Pair], right_end: Pair) -> Pair {
    let shared = left.iter().enumerate().rev().find_map(|(at, start)| {
        right
            .iter()
            .position(|other| other == start)
            .map(|other_at| (at, other_at))
    });
    match shared {
        None => Pair::ZERO,
        Some((at, other_at)) => {
            end_of_epoch(left, left_end, at).min(end_of_epoch(right, right_end, other_at))
        }
    }
}

/// The last record of the epoch whose start is at this index.
fn end_of_epoch(starts: &[Pair], end: Pair, at: usize) -> Pair {
    match starts.get(at + 1) {
        None => end,
        Some(next) => Pair {
            epoch: starts[at].epoch,
            version: (next.version.0 - 1).into(),
        },
    }
}

/// Whether a pair is a record of this log (or (0, 0), before all).
pub fn holds(starts: &[Pair], end: Pair, pair: Pair) -> bool {
    if pair == Pair::ZERO {
        return true;
    }
    match starts.iter().position(|start| start.epoch == pair.epoch) {
        None => false,
        Some(at) => pair.version >= starts[at].version && pair <= end_of_epoch(starts, end, at),
    }
}

/// The most that this log can share with a branch that holds a pair which this log does not: the end, in this log, of the
/// last epoch that began before the pair.
pub fn end_before(starts: &[Pair], end: Pair, pair: Pair) -> Pair {
    match starts.iter().rposition(|start| *start <= pair) {
        None => Pair::ZERO,
        Some(at) => end_of_epoch(starts, end, at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn p(epoch: u64, version: u64) -> Pair {
        Pair {
            epoch: understudy_proto::Epoch(epoch),
            version: understudy_proto::Version(version),
        }
    }

    #[test]
    fn the_cut_is_the_smaller_end_of_the_highest_shared_epoch() {
        // One branch, the left longer.
        assert_eq!(cut(&[p(1, 1)], p(1, 9), &[p(1, 1)], p(1, 4)), p(1, 4));
        // The right one went on in epoch 2 from version 6; the left has a tail 6 to 9 in epoch 1.
        assert_eq!(
            cut(&[p(1, 1)], p(1, 9), &[p(1, 1), p(2, 6)], p(2, 20)),
            p(1, 5)
        );
        // Both went their own ways.
        assert_eq!(
            cut(&[p(1, 1), p(3, 8)], p(3, 9), &[p(1, 1), p(2, 6)], p(2, 20)),
            p(1, 5)
        );
        // Nothing shared.
        assert_eq!(cut(&[p(1, 1)], p(1, 9), &[], p(0, 0)), Pair::ZERO);
        assert_eq!(cut(&[], Pair::ZERO, &[p(1, 1)], p(1, 4)), Pair::ZERO);
    }

    #[test]
    fn what_a_branch_shares_with_a_pair_that_was_cut_off() {
        let starts = [p(1, 1), p(2, 6), p(4, 9)];
        assert_eq!(end_before(&starts, p(4, 20), p(1, 7)), p(1, 5));
        assert_eq!(end_before(&starts, p(4, 20), p(2, 9)), p(2, 8));
        // Epoch 3 began somewhere in what is shared, at its end or before.
        assert_eq!(end_before(&starts, p(4, 20), p(3, 9)), p(2, 8));
        assert_eq!(end_before(&[p(2, 1)], p(2, 3), p(1, 4)), Pair::ZERO);
    }

    #[test]
    fn a_pair_is_on_a_branch_only_within_its_epoch() {
        let starts = [p(1, 1), p(2, 6)];
        assert!(holds(&starts, p(2, 20), p(1, 5)));
        assert!(!holds(&starts, p(2, 20), p(1, 6)));
        assert!(!holds(&starts, p(2, 20), p(2, 5)));
        assert!(holds(&starts, p(2, 20), p(2, 20)));
        assert!(!holds(&starts, p(2, 20), p(2, 21)));
        assert!(holds(&[], Pair::ZERO, Pair::ZERO));
    }

    /// What a follower of the request log does (docs/request-log.md): it knows the ends of the epochs that it read.
    #[test]
    fn a_position_gives_a_bound_and_what_was_held_up_to_it_the_cut() {
        let (theirs, their_end) = ([p(1, 1), p(2, 31)], p(2, 60));
        let (ours, our_end) = ([p(1, 1), p(3, 40)], p(3, 70));
        let bound = end_before(&ours, our_end, their_end);
        assert_eq!(bound, p(1, 39), "the position alone");
        let held = [p(1, 30), p(2, 60)];
        let last = held.into_iter().filter(|at| *at <= bound).max();
        assert_eq!(last, Some(cut(&ours, our_end, &theirs, their_end)));
        assert_eq!(last, Some(p(1, 30)), "1.31 to 1.39 would be left out else");
    }
}
