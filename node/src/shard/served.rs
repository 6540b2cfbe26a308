//! The reads that copies here answered, by level, and those that they could not, counted since the process began.

use super::host::Wanted;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use understudy_proto::failure::{Failure, Reason};
use understudy_protocol::shard::{Freshness, ReadAnswer, ReadLevel};

#[derive(Debug, Default)]
pub struct Served {
    pub primary: AtomicU64,
    pub session: AtomicU64,
    pub bounded: AtomicU64,
    pub any: AtomicU64,
    /// The copy did not become fresh enough until the deadline.
    pub behind: AtomicU64,
    /// A failover cut off what the session saw.
    pub forked: AtomicU64,
}

/// How a read was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Primary,
    Session,
    Bounded,
    Any,
}

impl From<&Wanted> for Asked {
    fn from(wanted: &Wanted) -> Asked {
        match wanted {
            Wanted::Now(ReadLevel::Primary) => Asked::Primary,
            Wanted::Now(ReadLevel::Any) => Asked::Any,
            Wanted::Fresh(Freshness::Session(_), _) => Asked::Session,
            Wanted::Fresh(Freshness::Bounded(_), _) => Asked::Bounded,
        }
    }
}

impl Served {
    pub fn note(&self, asked: Asked, answer: &Result<ReadAnswer, Failure>) {
        let counter = match (answer.as_ref().map_err(|failure| failure.reason), asked) {
            (Ok(_), Asked::Primary) => &self.primary,
            (Ok(_), Asked::Session) => &self.session,
            (Ok(_), Asked::Bounded) => &self.bounded,
            (Ok(_), Asked::Any) => &self.any,
            (Err(Reason::CopyBehind), _) => &self.behind,
            (Err(Reason::Forked), _) => &self.forked,
            // Whoever asks is sent elsewhere, and is counted there.
            (Err(_), _) => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_protocol::time::Instant;

    #[test]
    fn each_level_and_each_refusal_has_its_own_counter() {
        let served = Served::default();
        let session = Asked::from(&Wanted::Fresh(
            Freshness::Session(Vec::new()),
            Instant::ZERO,
        ));
        let refused = |reason| Err(Failure::no(reason, "no"));
        served.note(session, &refused(Reason::CopyBehind));
        served.note(session, &refused(Reason::Forked));
        served.note(session, &refused(Reason::Forked));
        served.note(session, &refused(Reason::NotPrimary));
        let answer = || {
            Ok(ReadAnswer {
                objects: Vec::new(),
                token: Default::default(),
                age: None,
            })
        };
        let all = [
            (Asked::Primary, 3),
            (session, 4),
            (Asked::Bounded, 5),
            (Asked::from(&Wanted::Now(ReadLevel::Any)), 6),
        ];
        for (asked, times) in all {
            (0..times).for_each(|_| served.note(asked, &answer()));
        }
        let Served {
            primary,
            session,
            bounded,
            any,
            behind,
            forked,
        } = served;
        let counts = [primary, session, bounded, any, behind, forked];
        assert_eq!(counts.map(|c| c.into_inner()), [3, 4, 5, 6, 1, 2]);
    }
}
