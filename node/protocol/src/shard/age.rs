//! How old a copy is: the last moment, on its own clock, before which it certainly lacks nothing that was acknowledged.
//!
//! A copy's acknowledgement bears the time at which it was sent; the primary, while it serves under its lease, gives that
//! time back with where it stands. Whatever anybody acknowledged before the sending lies at or before that position, or
//! was cut off: so once the copy has reached it, its age counts from the sending. A pulse alone proves nothing: it may
//! have been under way for long. No other machine's clock is read.

use crate::time::{Duration, Instant};
use std::collections::VecDeque;
use understudy_proto::Pair;

/// Answers that are remembered until the copy has their position. With one more the newest takes the place of the last.
const AHEAD_MAX: usize = 16;

/// The age of one copy. A process that starts knows nothing of it.
#[derive(Debug, Default)]
pub(super) struct Age {
    /// What was acknowledged before this is here.
    fresh: Option<Instant>,
    /// What will be true once the position is reached, by the time of sending.
    ahead: VecDeque<(Instant, Pair)>,
}

impl Age {
    /// The primary, under its lease, stood at this position after the copy had sent its message.
    pub fn answered(&mut self, sent: Instant, position: Pair) {
        let newest = self.ahead.back().map(|(sent, _)| *sent).max(self.fresh);
        if newest.is_some_and(|newest| newest >= sent) {
            return;
        }
        if self.ahead.len() == AHEAD_MAX {
            self.ahead.pop_back();
        }
        self.ahead.push_back((sent, position));
    }

    /// The copy itself serves as primary under a lease.
    pub fn serves(&mut self, now: Instant) {
        self.fresh = self.fresh.max(Some(now));
    }

    pub fn reach(&mut self, reached: impl Fn(Pair) -> bool) {
        // A position that a failover cut off is never reached: it goes with the first later one that is.
        if let Some(last) = self
            .ahead
            .iter()
            .rposition(|(_, position)| reached(*position))
        {
            let (sent, _) = self
                .ahead
                .drain(..=last)
                .next_back()
                .expect("it has a last");
            self.fresh = self.fresh.max(Some(sent));
        }
    }

    /// Records leave the copy: what was true of it may be so no more.
    pub fn forget(&mut self) {
        *self = Age::default();
    }

    pub fn fresh(&self) -> Option<Instant> {
        self.fresh
    }

    /// `None`: nothing is known.
    pub fn at(&self, now: Instant) -> Option<Duration> {
        self.fresh.map(|fresh| now.since(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Instant {
        Instant(ms * 1_000)
    }

    fn age_at(age: &Age, now: u64) -> Option<u64> {
        age.at(ms(now)).map(Duration::as_millis)
    }

    #[test]
    fn the_age_counts_from_the_sending_once_the_position_is_reached() {
        let mut age = Age::default();
        age.answered(ms(10), Pair::new(1, 5));
        age.answered(ms(20), Pair::new(1, 7));
        age.reach(|position| position <= Pair::new(1, 4));
        assert_eq!(age_at(&age, 50), None);
        age.reach(|position| position <= Pair::new(1, 6));
        assert_eq!(age_at(&age, 50), Some(40));
        age.reach(|position| position <= Pair::new(1, 7));
        assert_eq!(age_at(&age, 50), Some(30));
        // An answer that was overtaken changes nothing.
        age.answered(ms(15), Pair::new(1, 6));
        age.reach(|_| true);
        assert_eq!(age_at(&age, 50), Some(30));
        age.forget();
        assert_eq!(age_at(&age, 50), None);
    }

    #[test]
    fn a_copy_that_is_far_behind_remembers_the_oldest_answers_and_the_newest() {
        let mut age = Age::default();
        for at in 1..=100 {
            age.answered(ms(at), Pair::new(1, at));
        }
        assert_eq!(age.ahead.len(), AHEAD_MAX);
        age.reach(|position| position <= Pair::new(1, 3));
        assert_eq!(age_at(&age, 100), Some(97));
        age.reach(|position| position <= Pair::new(1, 100));
        assert_eq!(age_at(&age, 100), Some(0));
    }

    #[test]
    fn an_answer_about_a_branch_that_was_cut_off_holds_nothing_up() {
        let mut age = Age::default();
        age.answered(ms(1), Pair::new(1, 9));
        age.answered(ms(2), Pair::new(2, 7));
        age.reach(|position| position == Pair::new(2, 7));
        assert_eq!(age_at(&age, 2), Some(0));
    }
}
