//! What shows that a part is not linearizable: its longest beginning that is, and as few of its operations as suffice.
//!
//! An operation is not simply left out: without a write, the reads of it would be wrong. It is weakened: it may have taken
//! effect after its invocation or not at all, and what it answered binds nothing. If there is no order even so, the ones
//! that are left show the violation by themselves.

use super::budget::Budget;
use super::model::Call;
use super::prepared::Prepared;
use super::search::Found;
use crate::history::NEVER;

/// Places that one attempt may look at: one that needs more is taken for one that fails, which only makes the answer longer.
const STEPS_MAX: u64 = 300_000;
/// And all attempts for one violation.
const STEPS_ALL_MAX: u64 = 20_000_000;

#[derive(Clone, Debug)]
pub struct Violation {
    /// The operations of the part that were judged.
    pub part: Vec<u32>,
    /// The events before this one are linearizable: the first end of an operation that is not (as far as was found out in
    /// time, with `exact` only if so).
    pub prefix: u32,
    pub prefix_exact: bool,
    /// The operation whose end that is.
    pub breaks: u32,
    /// Operations that show the violation whatever the others did, by invocation.
    pub core: Vec<u32>,
}

struct Shrink<'a> {
    prepared: &'a mut Prepared,
    budget: &'a Budget,
    steps_left: u64,
}

/// For a part that is known to have no order.
pub fn explain(prepared: &mut Prepared, budget: &Budget, smallest: bool) -> Violation {
    let calls = prepared.calls().to_vec();
    let part = calls.iter().map(|call| call.operation).collect();
    let mut shrink = Shrink {
        prepared,
        budget,
        steps_left: STEPS_ALL_MAX,
    };
    let (ends, exact) = shrink.longest_prefix(&calls);
    let until = |n: usize| ends_at(&calls, n);
    let breaks = until(ends + 1);
    let mut kept = truncated(&calls, breaks.0 + 1);
    if smallest {
        shrink.weaken(&mut kept);
    }
    let firm = kept.iter().filter(|call| call.ended != NEVER);
    Violation {
        part,
        prefix: breaks.0,
        prefix_exact: exact,
        breaks: breaks.1,
        core: firm.map(|call| call.operation).collect(),
    }
}

/// The place and the operation of the `n`th end, from 1.
fn ends_at(calls: &[Call], n: usize) -> (u32, u32) {
    let mut ends: Vec<(u32, u32)> = calls
        .iter()
        .filter(|call| call.ended != NEVER)
        .map(|call| (call.ended, call.operation))
        .collect();
    ends.sort_unstable();
    ends[n - 1]
}

/// What had happened before a place.
fn truncated(calls: &[Call], until: u32) -> Vec<Call> {
    let begun = calls.iter().filter(|call| call.invoked < until);
    let open = |call: &Call| Call {
        ended: if call.ended < until {
            call.ended
        } else {
            NEVER
        },
        ..*call
    };
    begun.map(open).collect()
}

impl Shrink<'_> {
    fn search(&mut self, calls: &[Call], steps: u64) -> Found {
        let steps = steps.min(self.steps_left);
        let mut budget = self.budget.for_search(steps);
        let (found, looked_at) = self.prepared.search(calls, &mut budget);
        self.steps_left -= looked_at.min(self.steps_left);
        found
    }

    /// The number of ends in the longest beginning that has an order, and whether that is exact.
    fn longest_prefix(&mut self, calls: &[Call]) -> (usize, bool) {
        let mut ends: Vec<u32> = calls
            .iter()
            .map(|call| call.ended)
            .filter(|end| *end != NEVER)
            .collect();
        ends.sort_unstable();
        // With `good` ends there is an order; with `bad` there is none.
        let (mut good, mut bad) = (0, ends.len());
        let mut exact = true;
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            match self.search(&truncated(calls, ends[middle - 1] + 1), u64::MAX) {
                Found::Order => good = middle,
                Found::NoOrder => bad = middle,
                Found::Exhausted => {
                    exact = false;
                    break;
                }
            }
        }
        (bad - 1, exact)
    }

    /// Weakens ever smaller groups of calls, as long as there is no order.
    fn weaken(&mut self, calls: &mut Vec<Call>) {
        let mut group = calls.len().div_ceil(2);
        loop {
            let mut weakened = false;
            let firm: Vec<usize> = (0..calls.len())
                .filter(|i| calls[*i].ended != NEVER)
                .collect();
            for group in firm.chunks(group) {
                let mut attempt = calls.clone();
                group.iter().for_each(|index| attempt[*index].ended = NEVER);
                if self.search(&attempt, STEPS_MAX) == Found::NoOrder {
                    *calls = attempt;
                    weakened = true;
                }
            }
            if group == 1 && !weakened {
                return;
            }
            group = group.div_ceil(2);
            if self.steps_left == 0 {
                return;
            }
        }
    }
}
