//! The request log of one shard: every request once and none missing, for those who follow it and for who reads it in the end.
//!
//! `follower`: followers read while it grows. `reconcile`: only the log as it is when everything is healed, which also has
//! what failovers cut off, given back or as conflicts.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::exactly_once;
use crate::dice::Dice;
use crate::history::{NEVER, Operations, Unusable, Value};
use crate::live::system::{Keeps, Offers, Op};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const FOLLOWERS: i64 = 2;
/// An answer is as long as the log, so there are few: in so many of a thousand operations.
const READ_PERMILLE: u32 = 4;
/// Stands for the log itself.
const LOG: i64 = -1;

pub struct Log {
    /// Read while it grows.
    followed: bool,
    next: Arc<AtomicI64>,
}

struct OfWorker {
    worker: usize,
    followed: bool,
    next: Arc<AtomicI64>,
}

impl Log {
    pub fn follower() -> Log {
        Log {
            followed: true,
            next: Arc::default(),
        }
    }

    pub fn reconcile() -> Log {
        Log {
            followed: false,
            next: Arc::default(),
        }
    }
}

/// Requests meet at few objects, so that what was cut off finds them changed.
pub fn object_key(request: i64) -> String {
    format!("o/{}", request % 24)
}

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        if self.followed && dice.permille(READ_PERMILLE) {
            let follower = self.worker as i64 % FOLLOWERS;
            return Op::keyed("read", follower, Value::Nil);
        }
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        Op::new("request", Value::Int(request))
    }
}

impl Workload for Log {
    fn name(&self) -> &'static str {
        match self.followed {
            true => "follower",
            false => "reconcile",
        }
    }

    fn about(&self) -> &'static str {
        match self.followed {
            true => "followers of a request log; each request once and none missing",
            false => {
                "the request log in the end; each acknowledged request once, as itself or as a conflict"
            }
        }
    }

    fn shape(&self) -> Shape {
        Shape::Log
    }

    fn generator(&self, worker: usize, _workers: usize) -> Box<dyn Generator> {
        Box::new(OfWorker {
            worker,
            followed: self.followed,
            next: self.next.clone(),
        })
    }

    fn write(&self, _attempt: i64) -> Op {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        Op::new("request", Value::Int(request))
    }

    fn last(&self) -> Vec<Op> {
        let followers = 0..if self.followed { FOLLOWERS } else { 0 };
        let reads = followers.chain([LOG]);
        reads
            .map(|copy| Op::keyed("read", copy, Value::Nil))
            .collect()
    }

    fn promise(&self, _offers: Offers) -> Promise {
        Promise::Holds
    }

    /// Where failovers cut off, a follower takes back what it saw: then only what it has in the end counts.
    fn judge(&self, operations: &Operations, offers: Offers) -> Result<Vec<Found>, Unusable> {
        let judged = match offers.keeps {
            Keeps::Always => None,
            Keeps::GivenBack => Some(without_early_reads(operations)),
        };
        let judged = judged.as_ref().unwrap_or(operations);
        let checked = exactly_once(judged)?;
        Ok(vec![Found::of("exactly-once", judged, checked)])
    }
}

fn without_early_reads(operations: &Operations) -> Operations {
    let is = |operation, name| operations.name(operation) == name;
    let requests = operations
        .all
        .iter()
        .filter(|operation| is(operation, "request"));
    let ended = requests
        .map(|operation| operation.ended)
        .filter(|ended| *ended != NEVER);
    let last = ended.max().unwrap_or(0);
    let kept = operations.all.iter();
    let kept = kept.filter(|operation| is(operation, "request") || operation.invoked > last);
    Operations {
        all: kept.cloned().collect(),
        names: operations.names.clone(),
        events: operations.events,
    }
}
