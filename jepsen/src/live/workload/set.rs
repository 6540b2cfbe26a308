//! A set: elements are added, each once, and all are read now and then and in the end. What was acknowledged must be there.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::set_full;
use crate::dice::Dice;
use crate::history::{Operations, Unusable, Value};
use crate::live::system::{Offers, Op, Reads};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub const ELEMENT_PREFIX: &str = "e/";
/// A read is as long as the set, so there are few.
const READ_PERMILLE: u32 = 2;
const LAST_READS: usize = 3;

#[derive(Default)]
pub struct Set {
    next: Arc<AtomicI64>,
}

struct OfWorker {
    next: Arc<AtomicI64>,
}

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        match dice.permille(READ_PERMILLE) {
            true => Op::new("read", Value::Nil),
            false => Op::new("add", Value::Int(self.next.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn about(&self) -> &'static str {
        "elements are added and all are read; nothing acknowledged is lost"
    }

    fn shape(&self) -> Shape {
        Shape::Set
    }

    fn generator(&self, _worker: usize, _workers: usize) -> Box<dyn Generator> {
        let next = self.next.clone();
        Box::new(OfWorker { next })
    }

    fn write(&self, _attempt: i64) -> Op {
        Op::new("add", Value::Int(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn last(&self) -> Vec<Op> {
        vec![Op::new("read", Value::Nil); LAST_READS]
    }

    /// In a lazy namespace, too: what a failover cut off is given back, for nobody else writes an element.
    fn promise(&self, offers: Offers) -> Promise {
        match offers.reads {
            Reads::Fresh => Promise::Holds,
            _ => Promise::Open,
        }
    }

    fn judge(&self, operations: &Operations, offers: Offers) -> Result<Vec<Found>, Unusable> {
        let checked = set_full(operations, offers.linearizable())?;
        Ok(vec![Found::of("set-full", operations, checked)])
    }
}
