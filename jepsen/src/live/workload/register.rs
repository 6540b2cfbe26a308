//! Registers, one for each key: reads, writes of values that nobody writes twice, and compare-and-set of what was seen last.
//!
//! A few keys are in use at a time, and each for a bounded number of operations: what is open for ever makes the search of a
//! long-lived key dear. In the end all keys are read, so that a write that vanished is missed however old it is.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::linearizable::Kind;
use crate::dice::Dice;
use crate::history::event::Type;
use crate::history::{Operations, Unusable, Value};
use crate::live::system::{Done, Offers, Op};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys in use at a time.
const KEYS: i64 = 8;
/// Operations after which a key is left for the next one.
const OPERATIONS_OF_A_KEY: i64 = 400;
/// The newest that are read in the end.
const READ_LAST_MAX: i64 = 10_000;

#[derive(Default)]
pub struct Register {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    operations: AtomicI64,
    value: AtomicI64,
    /// The value that anybody saw last, by key: what a compare-and-set expects, or it would hardly ever succeed.
    seen: Mutex<BTreeMap<i64, Value>>,
}

impl Shared {
    /// The first key in use: all move on together, by one each time that one is used up.
    fn first_key(&self) -> i64 {
        self.operations.load(Ordering::Relaxed) / OPERATIONS_OF_A_KEY
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<i64, Value>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn register_key(key: &Value) -> String {
    format!("r/{key}")
}

struct OfWorker {
    shared: Arc<Shared>,
}

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        self.shared.operations.fetch_add(1, Ordering::Relaxed);
        let first = self.shared.first_key();
        let key = first + dice.below(KEYS as u64) as i64;
        let fresh = || Value::Int(self.shared.value.fetch_add(1, Ordering::Relaxed) + 1);
        match dice.weighted(&[50, 30, 20]) {
            0 => Op::keyed("read", key, Value::Nil),
            1 => Op::keyed("write", key, fresh()),
            _ => {
                let mut seen = self.shared.seen();
                *seen = seen.split_off(&first);
                let old = seen.get(&key).cloned().unwrap_or_default();
                Op::keyed("cas", key, Value::List(vec![old, fresh()]))
            }
        }
    }

    fn learn(&mut self, op: &Op, done: &Done) {
        let Some(key) = op.key.as_ref().and_then(Value::as_int) else {
            return;
        };
        if done.kind != Type::Ok {
            return;
        }
        let value = match op.f {
            "cas" => done.value.pair().map(|(_, new)| new.clone()),
            _ => Some(done.value.clone()),
        };
        self.shared.seen().extend(value.map(|value| (key, value)));
    }
}

impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn about(&self) -> &'static str {
        "read, write and compare-and-set of keys; linearizable"
    }

    fn shape(&self) -> Shape {
        Shape::Register
    }

    fn generator(&self, _worker: usize, _workers: usize) -> Box<dyn Generator> {
        Box::new(OfWorker {
            shared: self.shared.clone(),
        })
    }

    fn write(&self, _attempt: i64) -> Op {
        let value = self.shared.value.fetch_add(1, Ordering::Relaxed) + 1;
        Op::keyed("write", self.shared.first_key(), Value::Int(value))
    }

    fn last(&self) -> Vec<Op> {
        let end = self.shared.first_key() + KEYS;
        let keys = (end - READ_LAST_MAX).max(0)..end;
        keys.map(|key| Op::keyed("read", key, Value::Nil)).collect()
    }

    fn promise(&self, offers: Offers) -> Promise {
        match offers.linearizable() {
            true => Promise::Holds,
            false => Promise::Breaks,
        }
    }

    fn judge(&self, operations: &Operations, _offers: Offers) -> Result<Vec<Found>, Unusable> {
        let found = Found::linearizable("cas-register-kv", operations, Kind::CasRegisterKv)?;
        Ok(vec![found])
    }
}
