//! What clients do, and what must be true of it: generators of operations, and the checkers that judge the history.
//!
//! A workload knows nothing of the system: the same one runs against whatever implements
//! [`System`](super::system::System) and understands its functions.

mod append;
mod bank;
mod counter;
mod log;
mod register;
mod sessions;
mod set;
mod verdict;

pub use append::list_key;
pub use bank::account_key;
pub use log::object_key;
pub use register::register_key;
pub use set::ELEMENT_PREFIX;
pub use verdict::{Found, Promise};

use super::system::{Done, Offers, Op};
use crate::dice::Dice;
use crate::history::{Operations, Unusable};

/// Which functions a client has to understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// `read`, `write`, `cas` of a key.
    Register,
    /// `add` of an element, `read` of all.
    Set,
    /// `add` of a number, `read`.
    Counter,
    /// `open` accounts, `transfer` between them, `read` of all.
    Bank,
    /// `txn` of `[:append k v]` and `[:r k nil]`.
    Append,
    /// `read` and `write` of a key, with versions in the answers: `[value [epoch version]]`.
    Sessions,
    /// `request` of a number, `read` of all numbers in the order of a log.
    Log,
}

impl Shape {
    pub const ALL: &[Shape] = &[
        Shape::Register,
        Shape::Set,
        Shape::Counter,
        Shape::Bank,
        Shape::Append,
        Shape::Sessions,
        Shape::Log,
    ];

    /// Whether everything of the workload is together in one place of the system, which a fault has to find.
    pub fn in_one_shard(self) -> bool {
        matches!(self, Shape::Counter | Shape::Bank | Shape::Log)
    }
}

/// What the operations of one worker are drawn from.
pub trait Generator: Send {
    fn next(&mut self, dice: &mut Dice) -> Op;

    /// What came of the worker's operation.
    fn learn(&mut self, _op: &Op, _done: &Done) {}
}

/// One kind of work.
pub trait Workload: Send + Sync {
    fn name(&self) -> &'static str;

    /// In a sentence, for `--list`.
    fn about(&self) -> &'static str;

    fn shape(&self) -> Shape;

    /// Done before the history begins, in this order; each has to succeed.
    fn setup(&self) -> Vec<Op> {
        Vec::new()
    }

    fn generator(&self, worker: usize, workers: usize) -> Box<dyn Generator>;

    /// A write of the same kind as the generator's, another one each time: one of them has to succeed when all faults are over.
    fn write(&self, attempt: i64) -> Op;

    /// Done when all faults are over and after that write, in this order; a read that fails is tried again.
    fn last(&self) -> Vec<Op>;

    /// What is to come out when the system offers that.
    fn promise(&self, offers: Offers) -> Promise;

    /// Judges a whole history.
    fn judge(&self, operations: &Operations, offers: Offers) -> Result<Vec<Found>, Unusable>;
}

/// All, in the order in which they are listed.
pub fn all() -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(register::Register::default()),
        Box::new(set::Set::default()),
        Box::new(counter::Counter),
        Box::new(bank::Bank),
        Box::new(append::Append::default()),
        Box::new(sessions::Sessions::default()),
        Box::new(log::Log::follower()),
        Box::new(log::Log::reconcile()),
    ]
}

pub fn named(name: &str) -> Option<Box<dyn Workload>> {
    all().into_iter().find(|workload| workload.name() == name)
}
