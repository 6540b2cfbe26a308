//! Models of what a system promises to be, for the search of [`linearizable`](super::linearizable).
//!
//! Each begins with the functions that it knows. An operation that a model does not know makes the input unusable.

mod counter;
mod kv;
mod queue;
mod register;
mod set;
mod transactions;

pub use counter::counter;
pub use kv::{Kv, Texts, kv};
pub use queue::queue;
pub use register::{Register, cas_register, mutex, register};
pub use set::set;
pub use transactions::{Initial, components, transactions};

use super::linearizable::{Call, Class};
use crate::history::{NEVER, Operation, Operations, Outcome, Unusable, Value};
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::hash::Hash;

/// Numbers things from 0, each once.
#[derive(Debug)]
pub(crate) struct Numbers<T> {
    by_thing: FxHashMap<T, u32>,
}

impl<T: Hash + Eq> Default for Numbers<T> {
    fn default() -> Self {
        Numbers {
            by_thing: FxHashMap::default(),
        }
    }
}

impl<T: Hash + Eq> Numbers<T> {
    pub fn of(&mut self, thing: T) -> u32 {
        let next = self.by_thing.len() as u32;
        *self.by_thing.entry(thing).or_insert(next)
    }

    pub fn len(&self) -> usize {
        self.by_thing.len()
    }
}

/// The calls of one part of a history, and the classes that they are of.
pub(crate) struct Calls<C> {
    pub calls: Vec<Call>,
    pub classes: Vec<C>,
}

/// An operation of a part, and whether what is known of its end counts. If not, it may have taken effect at any time after
/// its invocation or not at all, and what it answered binds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selected {
    pub operation: u32,
    pub firm: bool,
}

impl Selected {
    fn of(self, operations: &Operations) -> Cow<'_, Operation> {
        let operation = &operations.all[self.operation as usize];
        if self.firm || operation.outcome == Outcome::Failed {
            return Cow::Borrowed(operation);
        }
        Cow::Owned(Operation {
            outcome: Outcome::Unknown,
            ended: NEVER,
            answered: Value::Nil,
            key: operation.key.clone(),
            asked: operation.asked.clone(),
            ..*operation
        })
    }
}

/// The calls that `class` finds for the operations; `None`: it binds nothing. What failed is left out.
pub(crate) fn calls_of<C: Hash + Eq + Clone>(
    operations: &Operations,
    part: &[Selected],
    mut class: impl FnMut(&str, &Operation) -> Result<Option<C>, Unusable>,
) -> Result<Calls<C>, Unusable> {
    let mut numbers: FxHashMap<C, Class> = FxHashMap::default();
    let mut found = Calls {
        calls: Vec::with_capacity(part.len()),
        classes: Vec::new(),
    };
    for selected in part {
        let operation = selected.of(operations);
        if operation.outcome == Outcome::Failed {
            continue;
        }
        let Some(class) = class(operations.name(&operation), &operation)? else {
            continue;
        };
        let number = *numbers.entry(class.clone()).or_insert_with(|| {
            found.classes.push(class);
            found.classes.len() as Class - 1
        });
        found.calls.push(Call {
            invoked: operation.invoked,
            ended: operation.ended,
            class: number,
            operation: selected.operation,
        });
    }
    Ok(found)
}

/// The key of an operation and what is asked and answered about it: a field of its own, or the first of a pair.
pub fn keyed(operation: &Operation) -> Result<(Value, Value, Value), Unusable> {
    if let Some(key) = &operation.key {
        return Ok((
            key.clone(),
            operation.asked.clone(),
            operation.answered.clone(),
        ));
    }
    let Some((key, asked)) = operation.asked.pair() else {
        let what = format!("'{}' is no pair [key value]", operation.asked);
        return Err(Unusable::at(operation.line, what));
    };
    if operation.outcome != Outcome::Ok {
        return Ok((key.clone(), asked.clone(), Value::Nil));
    }
    match operation.answered.pair() {
        Some((same, answered)) if same == key => Ok((key.clone(), asked.clone(), answered.clone())),
        Some(_) => Err(Unusable::at(
            operation.end_line,
            "another key than was asked for",
        )),
        None => {
            let what = format!("'{}' is no pair [key value]", operation.answered);
            Err(Unusable::at(operation.end_line, what))
        }
    }
}

/// Whether it is certain that the operation took effect.
pub(crate) fn happened(operation: &Operation) -> bool {
    operation.ended != NEVER
}

pub(crate) fn unknown_function(name: &str, operation: &Operation, known: &str) -> Unusable {
    let what = format!("the function '{name}' is not known here; known are {known}");
    Unusable::at(operation.line, what)
}

/// The argument; where a harness tells it only with the answer, that.
pub(crate) fn argument(operation: &Operation) -> Result<&Value, Unusable> {
    match (&operation.asked, &operation.answered) {
        (Value::Nil, Value::Nil) => Err(Unusable::at(operation.line, "an argument is missing")),
        (Value::Nil, answered) => Ok(answered),
        (asked, _) => Ok(asked),
    }
}
