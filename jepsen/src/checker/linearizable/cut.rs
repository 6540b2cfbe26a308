//! Cuts a part at points where only one state is possible, whatever came before: a call was alone there, and tells by
//! itself what it left, and no call of unknown outcome may matter any more.

use super::budget::Budget;
use super::model::{Call, Model, State};
use super::search::{Found, Search, may_leave, seen_until};
use crate::history::NEVER;

/// Whether there is an order, and how many places were looked at.
pub fn search<M: Model>(model: &mut M, calls: &[Call], budget: &mut Budget) -> (Found, u64) {
    let mut looked_at = 0;
    let mut start = model.start();
    let mut from = 0;
    let cuts = cuts(model, calls);
    let last = (calls.len(), start);
    for (until, state) in cuts.into_iter().chain([last]) {
        let mut search = Search::new(model, &calls[from..until], start);
        let found = search.run(budget);
        looked_at += search.looked_at;
        budget.give_back(search.bytes());
        if found != Found::Order {
            return (found, looked_at);
        }
        (from, start) = (until, state);
    }
    (Found::Order, looked_at)
}

/// (number of calls before the cut, the state there)
fn cuts<M: Model>(model: &mut M, calls: &[Call]) -> Vec<(usize, State)> {
    let seen = seen_until(model, calls);
    let mut cuts = Vec::new();
    // The last end of a call so far; what unknown calls there are can matter until `live`.
    let (mut ended, mut live) = (0, 0);
    for (index, call) in calls.iter().enumerate() {
        let alone = index == 0 || ended < call.invoked;
        if call.ended == NEVER {
            let matters = match model.plain_values() {
                true => may_leave(model, call.class)
                    .filter_map(|left| seen.get(&left))
                    .max()
                    .copied(),
                false => Some(NEVER),
            };
            live = live.max(matters.unwrap_or(0));
            continue;
        }
        ended = ended.max(call.ended);
        let next = calls.get(index + 1).map_or(0, |next| next.invoked);
        if alone
            && call.ended < next
            && live <= call.ended
            && let Some(state) = model.left_for_certain(call.class)
        {
            cuts.push((index + 1, state));
        }
    }
    cuts
}
