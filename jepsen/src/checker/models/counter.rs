//! A counter that begins at 0: `add` of a number (also a negative one), `read`.

use super::{Numbers, Selected, argument, calls_of, happened, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{Operation, Operations, Unusable, Value};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Add(i128),
    Read(i128),
}

pub struct Counter {
    classes: Vec<Kind>,
    numbers: Numbers<i128>,
    values: Vec<i128>,
    /// Nothing is ever subtracted, so a counter does not come back from beyond.
    grows: bool,
    grown: usize,
}

pub fn counter(
    operations: &Operations,
    part: &[Selected],
) -> Result<(Counter, Vec<Call>), Unusable> {
    let calls = calls_of(operations, part, |name, operation| match name {
        "read" if !happened(operation) => Ok(None),
        "read" => Ok(Some(Kind::Read(number(&operation.answered, operation)?))),
        "add" => Ok(Some(Kind::Add(number(argument(operation)?, operation)?))),
        "inc" | "increment" => Ok(Some(Kind::Add(match &operation.asked {
            Value::Nil => 1,
            by => number(by, operation)?,
        }))),
        "dec" | "decrement" => Ok(Some(Kind::Add(match &operation.asked {
            Value::Nil => -1,
            by => -number(by, operation)?,
        }))),
        _ => Err(unknown_function(name, operation, "add, inc, dec, read")),
    })?;
    let grows = !calls
        .classes
        .iter()
        .any(|kind| matches!(kind, Kind::Add(n) if *n < 0));
    let mut counter = Counter {
        classes: calls.classes,
        numbers: Numbers::default(),
        values: Vec::new(),
        grows,
        grown: 0,
    };
    counter.state(0);
    Ok((counter, calls.calls))
}

/// No sum of as many as there can be is too large for an `i128`.
fn number(value: &Value, operation: &Operation) -> Result<i128, Unusable> {
    let number = value.as_int().map(i128::from);
    number.ok_or_else(|| Unusable::at(operation.line, format!("'{value}' is no whole number")))
}

impl Counter {
    fn state(&mut self, value: i128) -> State {
        let number = self.numbers.of(value);
        if number as usize == self.values.len() {
            self.values.push(value);
            self.grown += 5 * size_of::<i128>();
        }
        number
    }
}

impl Model for Counter {
    fn start(&self) -> State {
        0
    }

    fn step(&mut self, state: State, class: Class) -> Option<State> {
        let value = self.values[state as usize];
        match self.classes[class as usize] {
            Kind::Add(by) => Some(self.state(value + by)),
            Kind::Read(seen) => (seen == value).then_some(state),
        }
    }

    fn reads(&self, class: Class) -> bool {
        matches!(self.classes[class as usize], Kind::Read(_))
    }

    fn left_for_certain(&mut self, class: Class) -> Option<State> {
        match self.classes[class as usize] {
            Kind::Read(seen) => Some(self.state(seen)),
            Kind::Add(_) => None,
        }
    }

    fn looks_ahead(&self) -> bool {
        self.grows
    }

    fn leads_to(&mut self, state: State, read: Class) -> bool {
        match self.classes[read as usize] {
            Kind::Read(seen) => self.values[state as usize] <= seen,
            Kind::Add(_) => true,
        }
    }

    fn grown(&mut self) -> usize {
        std::mem::take(&mut self.grown)
    }
}
