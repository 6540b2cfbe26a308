//! Lists: transactions that append to lists of one shard and read them, each as one request.
//!
//! Lists come in groups, one group for a tag, so that there is work on several shards; no transaction leaves its group.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::elle::{Consistency, list_append};
use crate::dice::Dice;
use crate::history::{Operations, Unusable, Value};
use crate::live::system::{Keeps, Offers, Op, Reads};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const GROUPS: i64 = 3;
/// Lists of a group in use at a time.
const LISTS: i64 = 3;
/// A list is left for the next one after so many appends: reads are as long as it.
const APPENDS_OF_A_LIST: i64 = 50;
const STEPS_MAX: u64 = 4;

#[derive(Default)]
pub struct Append {
    shared: Arc<[Group; GROUPS as usize]>,
}

#[derive(Default)]
struct Group {
    appends: AtomicI64,
}

impl Group {
    fn first(&self) -> i64 {
        self.appends.load(Ordering::Relaxed) / APPENDS_OF_A_LIST
    }
}

struct OfWorker {
    shared: Arc<[Group; GROUPS as usize]>,
}

/// A list's number tells its group.
fn list_number(group: i64, number: i64) -> i64 {
    number * GROUPS + group
}

pub fn list_key(list: &Value) -> String {
    let group = list.as_int().unwrap_or(0).rem_euclid(GROUPS);
    format!("{{g{group}}}{list}")
}

fn step(name: &str, list: i64, value: Value) -> Value {
    Value::List(vec![Value::Keyword(name.into()), Value::Int(list), value])
}

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        let group = dice.below(GROUPS as u64) as i64;
        let of_group = &self.shared[group as usize];
        let steps = (0..dice.between(1, STEPS_MAX)).map(|_| {
            let list = list_number(group, of_group.first() + dice.below(LISTS as u64) as i64);
            match dice.permille(500) {
                true => step("r", list, Value::Nil),
                // A number that no list ever gets twice.
                false => {
                    let number = of_group.appends.fetch_add(1, Ordering::Relaxed);
                    step("append", list, Value::Int(number + 1))
                }
            }
        });
        Op::new("txn", Value::List(steps.collect()))
    }
}

impl Workload for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn about(&self) -> &'static str {
        "transactions of appends and reads on one shard; strictly serializable"
    }

    fn shape(&self) -> Shape {
        Shape::Append
    }

    fn generator(&self, _worker: usize, _workers: usize) -> Box<dyn Generator> {
        let shared = self.shared.clone();
        Box::new(OfWorker { shared })
    }

    fn write(&self, attempt: i64) -> Op {
        let group = attempt.rem_euclid(GROUPS);
        let of_group = &self.shared[group as usize];
        let list = list_number(group, of_group.first());
        let number = of_group.appends.fetch_add(1, Ordering::Relaxed);
        let step = step("append", list, Value::Int(number + 1));
        Op::new("txn", Value::List(vec![step]))
    }

    fn last(&self) -> Vec<Op> {
        let of_group = |group: i64| {
            let end = self.shared[group as usize].first() + LISTS;
            (0..end).map(move |number| list_number(group, number))
        };
        let lists = (0..GROUPS).flat_map(of_group);
        lists
            .map(|list| Op::new("txn", Value::List(vec![step("r", list, Value::Nil)])))
            .collect()
    }

    fn promise(&self, offers: Offers) -> Promise {
        match offers.keeps {
            Keeps::Always => Promise::Holds,
            Keeps::GivenBack => Promise::Breaks,
        }
    }

    /// An old copy is one that was once whole: what it shows goes into an order, if not into that of real time.
    fn judge(&self, operations: &Operations, offers: Offers) -> Result<Vec<Found>, Unusable> {
        let consistency = match offers.reads {
            Reads::Fresh => Consistency::StrictSerializable,
            _ => Consistency::Serializable,
        };
        let checked = list_append(operations, consistency)?;
        Ok(vec![Found::of("list-append", operations, checked)])
    }
}
