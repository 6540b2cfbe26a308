//! A register, with or without compare-and-set, and the mutex, which is a register of two values.
//!
//! `register`: read, write. `cas-register`: also cas `[old new]`. Both begin as nil. `mutex`: acquire, release.

use super::{Calls, Numbers, argument, calls_of, happened, keyed, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{Operation, Operations, Unusable, Value};

/// What a call needs to find, and what it leaves; `None`: anything, and what it found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Swap {
    needs: Option<State>,
    leaves: Option<State>,
}

pub struct Register {
    swaps: Vec<Swap>,
}

/// `by_key`: values are `[key value]` (or have a field `key`), and all operations of the part are of one key.
pub fn cas_register(
    operations: &Operations,
    part: &[u32],
    by_key: bool,
) -> Result<(Register, Vec<Call>), Unusable> {
    build(operations, part, by_key, true)
}

pub fn register(operations: &Operations, part: &[u32]) -> Result<(Register, Vec<Call>), Unusable> {
    build(operations, part, false, false)
}

fn build(
    operations: &Operations,
    part: &[u32],
    by_key: bool,
    with_cas: bool,
) -> Result<(Register, Vec<Call>), Unusable> {
    let mut values: Numbers<Value> = Numbers::default();
    // Every register begins as nil, which is state 0.
    values.of(Value::Nil);
    let calls = calls_of(operations, part, |name, operation| {
        if !by_key {
            return swap(name, operation, with_cas, &mut values);
        }
        let (_, asked, answered) = keyed(operation)?;
        let of_key = Operation {
            asked,
            answered,
            ..operation.clone()
        };
        swap(name, &of_key, with_cas, &mut values)
    })?;
    Ok(made(calls))
}

fn made(calls: Calls<Swap>) -> (Register, Vec<Call>) {
    let register = Register {
        swaps: calls.classes,
    };
    (register, calls.calls)
}

fn swap(
    name: &str,
    operation: &Operation,
    with_cas: bool,
    values: &mut Numbers<Value>,
) -> Result<Option<Swap>, Unusable> {
    match name {
        "read" if !happened(operation) => Ok(None),
        "read" => Ok(Some(Swap {
            needs: Some(values.of(operation.answered.clone())),
            leaves: None,
        })),
        "write" => Ok(Some(Swap {
            needs: None,
            leaves: Some(values.of(operation.asked.clone())),
        })),
        "cas" if with_cas => {
            let Some((old, new)) = argument(operation)?.pair() else {
                let what = format!("'{}' is no pair [old new]", operation.asked);
                return Err(Unusable::at(operation.line, what));
            };
            Ok(Some(Swap {
                needs: Some(values.of(old.clone())),
                leaves: Some(values.of(new.clone())),
            }))
        }
        _ if with_cas => Err(unknown_function(name, operation, "read, write, cas")),
        _ => Err(unknown_function(name, operation, "read, write")),
    }
}

const FREE: State = 0;
const HELD: State = 1;

pub fn mutex(operations: &Operations, part: &[u32]) -> Result<(Register, Vec<Call>), Unusable> {
    let calls = calls_of(operations, part, |name, operation| match name {
        "acquire" => Ok(Some(Swap {
            needs: Some(FREE),
            leaves: Some(HELD),
        })),
        "release" => Ok(Some(Swap {
            needs: Some(HELD),
            leaves: Some(FREE),
        })),
        _ => Err(unknown_function(name, operation, "acquire, release")),
    })?;
    Ok(made(calls))
}

impl Model for Register {
    fn start(&self) -> State {
        0
    }

    #[inline]
    fn step(&mut self, state: State, class: Class) -> Option<State> {
        let swap = self.swaps[class as usize];
        match swap.needs {
            Some(needed) if needed != state => None,
            _ => Some(swap.leaves.unwrap_or(state)),
        }
    }

    #[inline]
    fn reads(&self, class: Class) -> bool {
        self.swaps[class as usize].leaves.is_none()
    }

    fn plain_values(&self) -> bool {
        true
    }

    #[inline]
    fn needs(&self, class: Class) -> Option<State> {
        self.swaps[class as usize].needs
    }

    #[inline]
    fn leaves(&self, class: Class) -> Option<State> {
        self.swaps[class as usize].leaves
    }
}
