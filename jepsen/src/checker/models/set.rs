//! A set that is empty at first: `add` of an element, `read` of all of them.

use super::{Numbers, Selected, argument, calls_of, happened, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{Operations, Unusable, Value};
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Add(u32),
    /// Sorted.
    Read(Arc<[u32]>),
}

pub struct Set {
    classes: Vec<Kind>,
    states: Numbers<Arc<[u32]>>,
    members: Vec<Arc<[u32]>>,
    grown: usize,
}

pub fn set(operations: &Operations, part: &[Selected]) -> Result<(Set, Vec<Call>), Unusable> {
    let mut elements: Numbers<Value> = Numbers::default();
    let calls = calls_of(operations, part, |name, operation| match name {
        "read" if !happened(operation) => Ok(None),
        "read" => {
            let Some(seen) = operation.answered.elements() else {
                let what = format!("'{}' is no set or list", operation.answered);
                return Err(Unusable::at(operation.end_line, what));
            };
            let mut seen: Vec<u32> = seen.iter().map(|e| elements.of(e.clone())).collect();
            seen.sort_unstable();
            // One that shows an element twice stays as it is: no set does.
            Ok(Some(Kind::Read(seen.into())))
        }
        "add" => Ok(Some(Kind::Add(elements.of(argument(operation)?.clone())))),
        _ => Err(unknown_function(name, operation, "add, read")),
    })?;
    let mut set = Set {
        classes: calls.classes,
        states: Numbers::default(),
        members: Vec::new(),
        grown: 0,
    };
    set.state(Arc::from([]));
    Ok((set, calls.calls))
}

impl Set {
    fn state(&mut self, members: Arc<[u32]>) -> State {
        let number = self.states.of(members.clone());
        if number as usize == self.members.len() {
            self.grown += members.len() * 4 + 64;
            self.members.push(members);
        }
        number
    }
}

impl Model for Set {
    fn start(&self) -> State {
        0
    }

    fn step(&mut self, state: State, class: Class) -> Option<State> {
        let members = &self.members[state as usize];
        match &self.classes[class as usize] {
            Kind::Read(seen) => (seen == members).then_some(state),
            Kind::Add(element) => match members.binary_search(element) {
                Ok(_) => Some(state),
                Err(at) => {
                    let mut more = members.to_vec();
                    more.insert(at, *element);
                    Some(self.state(more.into()))
                }
            },
        }
    }

    fn reads(&self, class: Class) -> bool {
        matches!(self.classes[class as usize], Kind::Read(_))
    }

    fn left_for_certain(&mut self, class: Class) -> Option<State> {
        match &self.classes[class as usize] {
            Kind::Read(seen) => Some(self.state(seen.clone())),
            Kind::Add(_) => None,
        }
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    /// Nothing is ever removed.
    fn leads_to(&mut self, state: State, read: Class) -> bool {
        let members = &self.members[state as usize];
        match &self.classes[read as usize] {
            Kind::Read(seen) => {
                members.len() <= seen.len() && members.iter().all(|e| seen.binary_search(e).is_ok())
            }
            Kind::Add(_) => true,
        }
    }

    fn grown(&mut self) -> usize {
        std::mem::take(&mut self.grown)
    }
}
