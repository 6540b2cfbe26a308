//! Whether a history is linearizable: its operations can be put into one order that the model allows and that keeps what
//! was before what.
//!
//! A history is judged in parts that have nothing to do with each other (keys), on several threads, and each part from one
//! point to the next at which only one state is possible. When memory runs out the verdict is unknown, never a guess.

mod budget;
mod cut;
mod model;
mod prepared;
mod search;
mod shrink;

pub use budget::Budget;
pub use model::{Call, Class, Model, State};
pub use prepared::{Kind, Prepared};
pub use search::Found;
pub use shrink::Violation;

use crate::checker::models::Selected;
use crate::history::{NEVER, Operations, Unusable};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub threads: usize,
    /// For all threads together, beside the history itself.
    pub memory_bytes: u64,
    /// Look for the smallest part that shows a violation.
    pub explain: bool,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    Linearizable,
    Violation(Violation),
    /// Why.
    Unknown(String),
}

#[derive(Clone, Debug)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Operations that were judged: failed ones and reads of unknown outcome bind nothing.
    pub operations: usize,
    /// Of these, those whose outcome is unknown.
    pub unknown: usize,
    pub parts: usize,
    /// Places that the search looked at.
    pub looked_at: u64,
}

/// What came of a part.
struct Part {
    found: Found,
    operations: usize,
    unknown: usize,
    looked_at: u64,
}

pub fn judge(
    operations: &Operations,
    kind: Kind,
    settings: Settings,
) -> Result<Judgement, Unusable> {
    let parts = kind.parts(operations)?;
    let budget = Budget::new(settings.memory_bytes);
    let done = on_threads(operations, kind, &parts, settings.threads, &budget)?;
    let mut judgement = Judgement {
        verdict: Verdict::Linearizable,
        operations: 0,
        unknown: 0,
        parts: parts.len(),
        looked_at: 0,
    };
    let mut broken = None;
    for (index, part) in done.iter().enumerate() {
        judgement.operations += part.operations;
        judgement.unknown += part.unknown;
        judgement.looked_at += part.looked_at;
        match part.found {
            Found::Order => {}
            Found::NoOrder => broken = broken.or(Some(index)),
            Found::Exhausted if matches!(judgement.verdict, Verdict::Linearizable) => {
                let what = format!(
                    "the search needs more than {} MiB of memory",
                    settings.memory_bytes >> 20
                );
                judgement.verdict = Verdict::Unknown(what);
            }
            Found::Exhausted => {}
        }
    }
    if let Some(index) = broken {
        let violation =
            shrink::explain(operations, kind, &parts[index], &budget, settings.explain)?;
        judgement.verdict = Verdict::Violation(violation);
    }
    Ok(judgement)
}

/// Every part. When one is broken those after it are only counted, so that the same one is told whatever the threads do.
fn on_threads(
    operations: &Operations,
    kind: Kind,
    parts: &[Vec<Selected>],
    threads: usize,
    budget: &Budget,
) -> Result<Vec<Part>, Unusable> {
    let next = AtomicUsize::new(0);
    let broken = AtomicUsize::new(usize::MAX);
    let stops: Vec<Arc<AtomicBool>> = (0..threads.max(1)).map(|_| Arc::default()).collect();
    let at_work: Vec<AtomicUsize> = (0..threads.max(1)).map(|_| AtomicUsize::new(0)).collect();
    let done: Mutex<Vec<(usize, Result<Part, Unusable>)>> = Mutex::new(Vec::new());
    let work = |thread: usize| {
        loop {
            let index = next.fetch_add(1, Ordering::SeqCst);
            if index >= parts.len() {
                return;
            }
            at_work[thread].store(index, Ordering::SeqCst);
            stops[thread].store(false, Ordering::SeqCst);
            let budget = budget.for_search(u64::MAX).until(stops[thread].clone());
            let needed = index < broken.load(Ordering::SeqCst);
            let part = judge_part(operations, kind, &parts[index], needed.then_some(budget));
            if matches!(&part, Ok(part) if part.found == Found::NoOrder) {
                broken.fetch_min(index, Ordering::SeqCst);
                for (other, stop) in stops.iter().enumerate() {
                    if at_work[other].load(Ordering::SeqCst) > index {
                        stop.store(true, Ordering::SeqCst);
                    }
                }
            }
            done.lock()
                .expect("no thread panics with it")
                .push((index, part));
        }
    };
    std::thread::scope(|scope| {
        for thread in 1..threads.min(parts.len()) {
            let work = &work;
            scope.spawn(move || work(thread));
        }
        work(0);
    });
    let mut done = done.into_inner().expect("no thread panics with it");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, part)| part).collect()
}

fn judge_part(
    operations: &Operations,
    kind: Kind,
    part: &[Selected],
    budget: Option<Budget>,
) -> Result<Part, Unusable> {
    let mut prepared = kind.prepare(operations, part)?;
    let (found, looked_at) = match budget {
        Some(mut budget) => prepared.search(&mut budget),
        None => (Found::Exhausted, 0),
    };
    let calls = prepared.calls();
    Ok(Part {
        found,
        operations: calls.len(),
        unknown: calls.iter().filter(|call| call.ended == NEVER).count(),
        looked_at,
    })
}
