//! A counter: adds that are asked for again under the same id until it is known what came of them, so each counts once.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::{Verdict, counter_bounds};
use crate::dice::Dice;
use crate::history::{Operations, Unusable, Value};
use crate::live::system::{Offers, Op};

const LAST_READS: usize = 3;

pub struct Counter;

struct OfWorker;

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        match dice.permille(200) {
            true => Op::new("read", Value::Nil),
            false => Op::new("add", Value::Int(dice.between(1, 5) as i64)),
        }
    }
}

impl Workload for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn about(&self) -> &'static str {
        "adds, repeated under the same request id until they are known; each counts exactly once"
    }

    fn shape(&self) -> Shape {
        Shape::Counter
    }

    fn generator(&self, _worker: usize, _workers: usize) -> Box<dyn Generator> {
        Box::new(OfWorker)
    }

    fn write(&self, _attempt: i64) -> Op {
        Op::new("add", Value::Int(1))
    }

    fn last(&self) -> Vec<Op> {
        vec![Op::new("read", Value::Nil); LAST_READS]
    }

    fn promise(&self, _offers: Offers) -> Promise {
        Promise::Holds
    }

    /// In a lazy namespace an add that a failover cut off becomes a conflict when others were added meanwhile, and an old copy
    /// lacks the newest; but nowhere may one count twice.
    fn judge(&self, operations: &Operations, offers: Offers) -> Result<Vec<Found>, Unusable> {
        let mut checked = counter_bounds(operations)?;
        if !offers.linearizable() {
            checked.verdict = without("too-low", checked.verdict);
        }
        Ok(vec![Found::of("counter-bounds", operations, checked)])
    }
}

fn without(name: &str, verdict: Verdict) -> Verdict {
    let Verdict::Violated(mut findings) = verdict else {
        return verdict;
    };
    findings.retain(|finding| finding.name != name);
    match findings.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Violated(findings),
    }
}
