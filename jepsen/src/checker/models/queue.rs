//! A first-in, first-out queue that is empty at first: `enqueue` of a value, `dequeue`, which answers nil (or `:empty`)
//! when there is nothing in it.
//!
//! A dequeue of unknown outcome may have taken whatever was first.

use super::{Numbers, Selected, argument, calls_of, happened, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{Operations, Unusable, Value};
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Enqueue(u32),
    Dequeue(u32),
    DequeueAny,
    FoundEmpty,
}

pub struct Queue {
    classes: Vec<Kind>,
    states: Numbers<Arc<[u32]>>,
    contents: Vec<Arc<[u32]>>,
    grown: usize,
}

pub fn queue(operations: &Operations, part: &[Selected]) -> Result<(Queue, Vec<Call>), Unusable> {
    let mut values: Numbers<Value> = Numbers::default();
    let calls = calls_of(operations, part, |name, operation| match name {
        "enqueue" => Ok(Some(Kind::Enqueue(values.of(argument(operation)?.clone())))),
        "dequeue" if !happened(operation) => Ok(Some(Kind::DequeueAny)),
        "dequeue" => Ok(Some(match &operation.answered {
            Value::Nil => Kind::FoundEmpty,
            Value::Keyword(name) if &**name == "empty" => Kind::FoundEmpty,
            value => Kind::Dequeue(values.of(value.clone())),
        })),
        _ => Err(unknown_function(name, operation, "enqueue, dequeue")),
    })?;
    let mut queue = Queue {
        classes: calls.classes,
        states: Numbers::default(),
        contents: Vec::new(),
        grown: 0,
    };
    queue.state(Arc::from([]));
    Ok((queue, calls.calls))
}

impl Queue {
    fn state(&mut self, contents: Arc<[u32]>) -> State {
        let number = self.states.of(contents.clone());
        if number as usize == self.contents.len() {
            self.grown += contents.len() * 4 + 64;
            self.contents.push(contents);
        }
        number
    }
}

impl Model for Queue {
    fn start(&self) -> State {
        0
    }

    fn step(&mut self, state: State, class: Class) -> Option<State> {
        let contents = &self.contents[state as usize];
        match self.classes[class as usize] {
            Kind::Enqueue(value) => {
                let mut more = contents.to_vec();
                more.push(value);
                Some(self.state(more.into()))
            }
            Kind::Dequeue(value) if contents.first() != Some(&value) => None,
            Kind::Dequeue(_) | Kind::DequeueAny => {
                let rest = contents.get(1..).map(Arc::from);
                Some(rest.map_or(state, |rest| self.state(rest)))
            }
            Kind::FoundEmpty => contents.is_empty().then_some(state),
        }
    }

    fn reads(&self, class: Class) -> bool {
        matches!(self.classes[class as usize], Kind::FoundEmpty)
    }

    fn left_for_certain(&mut self, class: Class) -> Option<State> {
        let empty = matches!(self.classes[class as usize], Kind::FoundEmpty);
        empty.then(|| self.state(Arc::from([])))
    }

    fn grown(&mut self) -> usize {
        std::mem::take(&mut self.grown)
    }
}
