//! Sessions: each worker writes and reads registers at copies that have what it saw, and must never see less than that.
//!
//! Every answer tells the version of what it is about, so that older and newer are no matter of interpretation.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::sessions;
use crate::dice::Dice;
use crate::history::{Operations, Unusable, Value};
use crate::live::system::{Offers, Op, Reads};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const KEYS: u64 = 6;

#[derive(Default)]
pub struct Sessions {
    next: Arc<AtomicI64>,
}

struct OfWorker {
    next: Arc<AtomicI64>,
}

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        let key = dice.below(KEYS) as i64;
        match dice.permille(350) {
            true => {
                let value = self.next.fetch_add(1, Ordering::Relaxed);
                Op::keyed("write", key, Value::Int(value))
            }
            false => Op::keyed("read", key, Value::Nil),
        }
    }
}

impl Workload for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn about(&self) -> &'static str {
        "reads at any copy that has what the session saw; it sees its own writes and never goes back"
    }

    fn shape(&self) -> Shape {
        Shape::Sessions
    }

    fn generator(&self, _worker: usize, _workers: usize) -> Box<dyn Generator> {
        let next = self.next.clone();
        Box::new(OfWorker { next })
    }

    fn write(&self, attempt: i64) -> Op {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        Op::keyed("write", attempt.rem_euclid(KEYS as i64), Value::Int(value))
    }

    fn last(&self) -> Vec<Op> {
        let keys = 0..KEYS as i64;
        keys.map(|key| Op::keyed("read", key, Value::Nil)).collect()
    }

    fn promise(&self, offers: Offers) -> Promise {
        match offers.reads {
            Reads::OfSession => Promise::Holds,
            // A lazy primary does not know what a session saw of the one before it.
            Reads::Fresh if offers.linearizable() => Promise::Holds,
            Reads::Fresh => Promise::Open,
            Reads::Old => Promise::Breaks,
        }
    }

    fn judge(&self, operations: &Operations, _offers: Offers) -> Result<Vec<Found>, Unusable> {
        let checked = sessions(operations)?;
        Ok(vec![Found::of("sessions", operations, checked)])
    }
}
