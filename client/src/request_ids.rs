//! A session's request ids: which number comes next, and up to which all are answered.
//!
//! Pure. Numbers rise from 1 and are never given twice; answers come in any order. What the servers are told,
//! `answered_upto`, is the largest n with all numbers up to n answered, so that they may forget those and nothing else.

use std::collections::BTreeMap;
use understudy_proto::{ClientId, RequestId, Sequence};

/// Which of a client's requests are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Everything up to here is answered.
    upto: u64,
    /// Answered stretches beyond, first -> last; they neither touch each other nor `upto`. One for each open gap, not for
    /// each answer, so a request that is never answered costs one entry.
    beyond: BTreeMap<u64, u64>,
}

impl Marks {
    /// The largest n such that all numbers up to n are answered.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    pub fn is_answered(&self, number: u64) -> bool {
        let stretch = self.beyond.range(..=number).next_back();
        number <= self.upto || stretch.is_some_and(|(_, last)| number <= *last)
    }

    /// Marks a number as answered; twice is as good as once.
    pub fn answer(&mut self, number: u64) {
        if self.is_answered(number) {
            return;
        }
        let mut first = number;
        let mut last = number;
        if let Some((&below, &end)) = self.beyond.range(..number).next_back()
            && end + 1 == number
        {
            first = below;
        }
        if let Some(end) = number
            .checked_add(1)
            .and_then(|next| self.beyond.remove(&next))
        {
            last = end;
        }
        if first == self.upto + 1 {
            self.beyond.remove(&first);
            self.upto = last;
        } else {
            self.beyond.insert(first, last);
        }
    }
}

/// The request ids of one client id.
#[derive(Clone, Debug)]
pub struct RequestIds {
    client: ClientId,
    /// The number that the next request gets.
    next: u64,
    marks: Marks,
    /// Given by the caller to go on with; such a client id is never replaced behind its back.
    resumed: bool,
}

impl RequestIds {
    /// A client id that was just made: numbers from 1.
    pub fn new(client: ClientId) -> RequestIds {
        RequestIds {
            client,
            next: 1,
            marks: Marks::default(),
            resumed: false,
        }
    }

    /// A client id that was used before; numbers below `next` were given out, and no mark about them is made.
    pub fn resume(client: ClientId, next: u64) -> RequestIds {
        RequestIds {
            client,
            next: next.max(1),
            marks: Marks::default(),
            resumed: true,
        }
    }

    pub fn client(&self) -> ClientId {
        self.client
    }

    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The number that the next request will get: what to keep to resume the session later.
    pub fn upcoming(&self) -> u64 {
        self.next
    }

    pub fn take(&mut self) -> RequestId {
        let sequence = Sequence(self.next);
        self.next = sequence.next().0;
        RequestId {
            client: self.client,
            sequence,
        }
    }

    /// A number that the caller chose: later ones come after it.
    pub fn note_used(&mut self, sequence: Sequence) {
        self.next = self.next.max(sequence.0.saturating_add(1));
    }

    /// The caller needs no answer to this request any more.
    pub fn answer(&mut self, id: RequestId) {
        if id.client == self.client {
            self.marks.answer(id.sequence.0);
        }
    }

    /// What to tell the servers.
    pub fn answered_upto(&self) -> u64 {
        self.marks.upto()
    }
}
