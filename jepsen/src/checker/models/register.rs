//! A register, with or without compare-and-set, and the mutex, which is a register of two values.
//!
//! `register`: read, write. `cas-register`: also cas `[old new]`. Both begin as nil. `mutex`: acquire, release.

use super::{Calls, Numbers, Selected, argument, calls_of, happened, keyed, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{Operation, Operations, Unusable, Value};

/// What a call needs to find, and what it leaves; `None`: anything, and what it found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Swap {
    needs: Option<State>,
    leaves: Option<State>,
    /// What it leaves depends on what it finds: index into [`Register::places`].
    places: Option<u32>,
}

impl Swap {
    pub fn read(value: State) -> Swap {
        Swap {
            needs: Some(value),
            leaves: None,
            places: None,
        }
    }

    pub fn write(value: State) -> Swap {
        Swap {
            needs: None,
            leaves: Some(value),
            places: None,
        }
    }

    pub fn cas(old: State, new: State) -> Swap {
        Swap {
            needs: Some(old),
            leaves: Some(new),
            places: None,
        }
    }

    pub fn at_places(index: usize) -> Swap {
        Swap {
            needs: None,
            leaves: None,
            places: Some(index as u32),
        }
    }
}

pub struct Register {
    swaps: Vec<Swap>,
    /// (found, left)
    places: Vec<Vec<(State, State)>>,
    /// What a call leaves that finds none of its places.
    elsewhere: State,
}

impl Register {
    /// By class. The state 0 is the first.
    pub(super) fn with_places(
        swaps: Vec<Swap>,
        places: Vec<Vec<(State, State)>>,
        elsewhere: State,
    ) -> Register {
        Register {
            swaps,
            places,
            elsewhere,
        }
    }
}

/// `by_key`: values are `[key value]` (or have a field `key`), and all operations of the part are of one key.
pub fn cas_register(
    operations: &Operations,
    part: &[Selected],
    by_key: bool,
) -> Result<(Register, Vec<Call>), Unusable> {
    build(operations, part, by_key, true)
}

pub fn register(
    operations: &Operations,
    part: &[Selected],
) -> Result<(Register, Vec<Call>), Unusable> {
    build(operations, part, false, false)
}

fn build(
    operations: &Operations,
    part: &[Selected],
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
    (Register::with_places(calls.classes, vec![], 0), calls.calls)
}

fn swap(
    name: &str,
    operation: &Operation,
    with_cas: bool,
    values: &mut Numbers<Value>,
) -> Result<Option<Swap>, Unusable> {
    match name {
        "read" if !happened(operation) => Ok(None),
        "read" => Ok(Some(Swap::read(values.of(operation.answered.clone())))),
        "write" => Ok(Some(Swap::write(values.of(operation.asked.clone())))),
        "cas" if with_cas => {
            let Some((old, new)) = argument(operation)?.pair() else {
                let what = format!("'{}' is no pair [old new]", operation.asked);
                return Err(Unusable::at(operation.line, what));
            };
            let (old, new) = (values.of(old.clone()), values.of(new.clone()));
            Ok(Some(Swap::cas(old, new)))
        }
        _ if with_cas => Err(unknown_function(name, operation, "read, write, cas")),
        _ => Err(unknown_function(name, operation, "read, write")),
    }
}

const FREE: State = 0;
const HELD: State = 1;

pub fn mutex(
    operations: &Operations,
    part: &[Selected],
) -> Result<(Register, Vec<Call>), Unusable> {
    let calls = calls_of(operations, part, |name, operation| match name {
        "acquire" => Ok(Some(Swap::cas(FREE, HELD))),
        "release" => Ok(Some(Swap::cas(HELD, FREE))),
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
            _ if swap.places.is_some() => {
                let found = self.places(class).iter().find(|(found, _)| *found == state);
                Some(found.map_or(self.elsewhere, |(_, left)| *left))
            }
            _ => Some(swap.leaves.unwrap_or(state)),
        }
    }

    #[inline]
    fn reads(&self, class: Class) -> bool {
        let swap = self.swaps[class as usize];
        swap.leaves.is_none() && swap.places.is_none()
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

    #[inline]
    fn places(&self, class: Class) -> &[(State, State)] {
        let places = self.swaps[class as usize].places;
        places.map_or(&[], |index| &self.places[index as usize])
    }
}
