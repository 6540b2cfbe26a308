//! A bank: money goes from account to account in transactions of one shard, and all accounts together hold the same always.

use super::{Found, Generator, Promise, Shape, Workload};
use crate::checker::bank::{Rules, bank};
use crate::dice::Dice;
use crate::history::{Operations, Unusable, Value};
use crate::live::system::{Offers, Op};

const ACCOUNTS: i64 = 8;
const BALANCE: i64 = 100;
const AMOUNT_MAX: u64 = 10;
const LAST_READS: usize = 3;

pub struct Bank;

struct OfWorker;

/// All in one shard.
pub fn account_key(account: &Value) -> String {
    format!("{{bank}}{account}")
}

fn accounts() -> Vec<Value> {
    (0..ACCOUNTS).map(Value::Int).collect()
}

fn read() -> Op {
    Op::new("read", Value::List(accounts()))
}

fn transfer(from: i64, to: i64, amount: i64) -> Op {
    let field = |name: &str, value| (Value::Keyword(name.into()), Value::Int(value));
    let value = vec![
        field("from", from),
        field("to", to),
        field("amount", amount),
    ];
    Op::new("transfer", Value::map(value))
}

impl Generator for OfWorker {
    fn next(&mut self, dice: &mut Dice) -> Op {
        if dice.permille(400) {
            return read();
        }
        let from = dice.below(ACCOUNTS as u64) as i64;
        let to = (from + dice.between(1, ACCOUNTS as u64 - 1) as i64) % ACCOUNTS;
        transfer(from, to, dice.between(1, AMOUNT_MAX) as i64)
    }
}

impl Workload for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn about(&self) -> &'static str {
        "transfers between accounts of one shard, under conditions; the total stays"
    }

    fn shape(&self) -> Shape {
        Shape::Bank
    }

    fn setup(&self) -> Vec<Op> {
        let opened = accounts().into_iter();
        let opened = opened.map(|account| (account, Value::Int(BALANCE)));
        vec![Op::new("open", Value::map(opened.collect()))]
    }

    fn generator(&self, _worker: usize, _workers: usize) -> Box<dyn Generator> {
        Box::new(OfWorker)
    }

    fn write(&self, attempt: i64) -> Op {
        // Some account is not empty.
        let from = attempt.rem_euclid(ACCOUNTS);
        transfer(from, (from + 1) % ACCOUNTS, 1)
    }

    fn last(&self) -> Vec<Op> {
        vec![read(); LAST_READS]
    }

    /// A state of any copy is one that was once whole.
    fn promise(&self, _offers: Offers) -> Promise {
        Promise::Holds
    }

    fn judge(&self, operations: &Operations, _offers: Offers) -> Result<Vec<Found>, Unusable> {
        let rules = Rules {
            total: Some(ACCOUNTS * BALANCE),
            negative_allowed: false,
        };
        let checked = bank(operations, rules)?;
        Ok(vec![Found::of("bank", operations, checked)])
    }
}
