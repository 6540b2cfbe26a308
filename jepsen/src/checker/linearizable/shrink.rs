//! What shows that a part is not linearizable: its longest beginning that is, and as few of its operations as suffice.
//!
//! An operation is not simply left out: without a write, the reads of it would be wrong. It is weakened: it may have taken
//! effect at any time after its invocation or not at all, and what it answered binds nothing. If there is no order even so,
//! the ones that are left show the violation by themselves.

use super::budget::Budget;
use super::prepared::Kind;
use super::search::Found;
use crate::checker::models::Selected;
use crate::history::{NEVER, Operation, Operations, Unusable};
use std::time::{Duration, Instant};

/// Places that one attempt may look at: one that needs more is taken for one that fails, which only makes the answer longer.
const STEPS_MAX: u64 = 300_000;
/// And the memory that it may take.
const BYTES_MAX: u64 = 64 << 20;
/// How long all attempts for one violation may take, from the verdict on.
const TIME_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Violation {
    /// The operations of the part that was judged.
    pub part: Vec<u32>,
    /// The events before this one are linearizable: the first end of an operation that is not (as far as was found out in
    /// time, with `prefix_exact` only if so).
    pub prefix: u32,
    pub prefix_exact: bool,
    /// The operation whose end that is.
    pub breaks: u32,
    /// Operations that show the violation whatever the others did, by invocation.
    pub core: Vec<u32>,
}

struct Shrink<'a> {
    operations: &'a Operations,
    kind: Kind,
    budget: &'a Budget,
    until: Instant,
}

/// For a part that is known to have no order.
pub fn explain(
    operations: &Operations,
    kind: Kind,
    part: &[Selected],
    budget: &Budget,
    smallest: bool,
) -> Result<Violation, Unusable> {
    let mut shrink = Shrink {
        operations,
        kind,
        budget,
        until: Instant::now() + TIME_MAX,
    };
    let prepared = kind.prepare(operations, part)?;
    let judged: Vec<u32> = prepared.calls().iter().map(|call| call.operation).collect();
    let mut ends: Vec<(u32, u32)> = prepared
        .calls()
        .iter()
        .filter(|call| call.ended != NEVER)
        .map(|call| (call.ended, call.operation))
        .collect();
    ends.sort_unstable();
    let (good, prefix_exact) = match smallest {
        true => shrink.longest_prefix(part, &ends)?,
        false => (ends.len() - 1, false),
    };
    let (prefix, breaks) = ends[good];
    let mut kept = shrink.before(part, prefix + 1);
    if smallest {
        shrink.weaken(&mut kept)?;
    }
    let firm =
        |selected: &&Selected| selected.firm && judged.binary_search(&selected.operation).is_ok();
    Ok(Violation {
        prefix,
        prefix_exact,
        breaks,
        core: kept
            .iter()
            .filter(firm)
            .map(|selected| selected.operation)
            .collect(),
        part: judged,
    })
}

impl Shrink<'_> {
    fn operation(&self, selected: Selected) -> &Operation {
        &self.operations.all[selected.operation as usize]
    }

    /// What had begun before a place; what had not ended there is open.
    fn before(&self, part: &[Selected], place: u32) -> Vec<Selected> {
        let begun = part
            .iter()
            .filter(|selected| self.operation(**selected).invoked < place);
        let one = |selected: &Selected| Selected {
            firm: self.operation(*selected).ended < place,
            ..*selected
        };
        begun.map(one).collect()
    }

    fn search(&mut self, selected: &[Selected], mut budget: Budget) -> Result<Found, Unusable> {
        let mut prepared = self.kind.prepare(self.operations, selected)?;
        Ok(prepared.search(&mut budget).0)
    }

    /// The number of ends in the longest beginning that has an order, and whether that is exact.
    fn longest_prefix(
        &mut self,
        part: &[Selected],
        ends: &[(u32, u32)],
    ) -> Result<(usize, bool), Unusable> {
        // With `good` ends there is an order; with `bad` there is none.
        let (mut good, mut bad) = (0, ends.len());
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            let budget = self.budget.for_search(u64::MAX).before(self.until);
            match self.search(&self.before(part, ends[middle - 1].0 + 1), budget)? {
                Found::Order => good = middle,
                Found::NoOrder => bad = middle,
                Found::Exhausted => return Ok((bad - 1, false)),
            }
        }
        Ok((good, true))
    }

    /// Weakens ever smaller groups of operations, as long as there is no order.
    fn weaken(&mut self, kept: &mut Vec<Selected>) -> Result<(), Unusable> {
        let mut size = kept.len().div_ceil(2);
        loop {
            let mut weakened = false;
            let firm: Vec<usize> = (0..kept.len()).filter(|i| kept[*i].firm).collect();
            for group in firm.chunks(size) {
                if Instant::now() > self.until {
                    return Ok(());
                }
                let mut attempt = kept.clone();
                group.iter().for_each(|index| attempt[*index].firm = false);
                let budget = Budget::new(BYTES_MAX)
                    .for_search(STEPS_MAX)
                    .before(self.until);
                if self.search(&attempt, budget)? == Found::NoOrder {
                    *kept = attempt;
                    weakened = true;
                }
            }
            if size == 1 && !weakened {
                return Ok(());
            }
            size = size.div_ceil(2);
        }
    }
}
