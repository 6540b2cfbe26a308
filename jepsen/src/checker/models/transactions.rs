//! Several registers, read and changed by transactions, each done in order and at once.
//!
//! The function is `txn`. Steps: `[:r k v]` or `[:read k v]` (with
//! a nil value, of unknown value where nil is not what a register begins with), `[:w k v]` or `[:write k v]`,
//! `[:append k v]` to a list, `[:cas k [old new]]`, and `[:check k v]`, which must hold for the rest to take effect.

use super::{Numbers, Selected, calls_of, happened, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{NEVER, Operation, Operations, Unusable, Value};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What every register is at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initial {
    /// nil; a list to which something is appended is empty.
    Nil,
    /// 0, and a read of nil tells nothing (`multi-register`).
    Zero,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Read(u32, u32),
    Write(u32, u32),
    Append(u32, u32),
    Cas(u32, u32, u32),
}

type Steps = Arc<[Step]>;

pub struct Transactions {
    classes: Vec<Steps>,
    contents: Contents,
    states: Numbers<Arc<[u32]>>,
    registers: Vec<Arc<[u32]>>,
    grown: usize,
}

/// What registers hold, by number: a value, or a list that grew by an element.
#[derive(Default)]
struct Contents {
    values: FxHashMap<Value, u32>,
    lists: FxHashMap<(u32, u32), u32>,
    next: u32,
}

impl Contents {
    fn value(&mut self, value: &Value) -> u32 {
        if let Value::List(elements) = value {
            // By its elements, so that it equals the list that appends made. An empty one equals nil.
            let mut list = self.plain(&Value::Nil);
            for element in elements {
                let element = self.value(element);
                list = self.appended(list, element);
            }
            return list;
        }
        self.plain(value)
    }

    fn plain(&mut self, value: &Value) -> u32 {
        if let Some(number) = self.values.get(value) {
            return *number;
        }
        self.values.insert(value.clone(), self.next);
        self.next += 1;
        self.next - 1
    }

    fn appended(&mut self, list: u32, element: u32) -> u32 {
        let number = *self.lists.entry((list, element)).or_insert(self.next);
        self.next = self.next.max(number + 1);
        number
    }
}

pub fn transactions(
    operations: &Operations,
    part: &[Selected],
    initial: Initial,
) -> Result<(Transactions, Vec<Call>), Unusable> {
    let mut keys: Numbers<Value> = Numbers::default();
    let mut contents = Contents::default();
    let begins = contents.value(&match initial {
        Initial::Nil => Value::Nil,
        Initial::Zero => Value::Int(0),
    });
    let calls = calls_of(operations, part, |name, operation| {
        let steps = steps(name, operation, initial, &mut keys, &mut contents)?;
        Ok((happened(operation) || !only_reads(&steps)).then_some(steps))
    })?;
    let mut transactions = Transactions {
        classes: calls.classes,
        contents,
        states: Numbers::default(),
        registers: Vec::new(),
        grown: 0,
    };
    transactions.state(vec![begins; keys.len()].into());
    Ok((transactions, calls.calls))
}

fn steps(
    name: &str,
    operation: &Operation,
    initial: Initial,
    keys: &mut Numbers<Value>,
    contents: &mut Contents,
) -> Result<Steps, Unusable> {
    let known = happened(operation) && !operation.answered.is_nil();
    let told = if known {
        &operation.answered
    } else {
        &operation.asked
    };
    if known && !operation.asked.is_nil() && !are_alike(&operation.asked, &operation.answered) {
        let what = "other steps than were asked for";
        return Err(Unusable::at(operation.end_line, what));
    }
    if name != "txn" {
        return Err(unknown_function(name, operation, "txn"));
    }
    let Some(list) = told.elements() else {
        let what = format!("'{told}' is no list of steps");
        return Err(Unusable::at(operation.line, what));
    };
    let mut steps = Vec::with_capacity(list.len());
    for step in list {
        let parts = step.elements().unwrap_or(&[]);
        let [name, key, value] = parts else {
            let what = format!("'{step}' is no step [function key value]");
            return Err(Unusable::at(operation.line, what));
        };
        let key = keys.of(key.clone());
        match name.name().unwrap_or_default() {
            "r" | "read" => {
                // What is not known to have happened has no answers, and nil may mean that nothing was told.
                if known && !(value.is_nil() && initial == Initial::Zero) {
                    steps.push(Step::Read(key, contents.value(value)));
                }
            }
            "check" => steps.push(Step::Read(key, contents.value(value))),
            "w" | "write" => steps.push(Step::Write(key, contents.value(value))),
            "append" => steps.push(Step::Append(key, contents.value(value))),
            "cas" => match value.pair() {
                Some((old, new)) => {
                    let (old, new) = (contents.value(old), contents.value(new));
                    steps.push(Step::Cas(key, old, new));
                }
                None => {
                    let what = format!("'{value}' is no pair [old new]");
                    return Err(Unusable::at(operation.line, what));
                }
            },
            other => {
                return Err(unknown_function(
                    other,
                    operation,
                    "r, w, append, cas, check",
                ));
            }
        }
    }
    Ok(steps.into())
}

/// Whether two lists of steps do the same to the same keys. Only what was read may differ, for it was not known before.
fn are_alike(asked: &Value, answered: &Value) -> bool {
    let (Some(asked), Some(answered)) = (asked.elements(), answered.elements()) else {
        return false;
    };
    let alike = |(one, other): (&Value, &Value)| {
        let (one, other) = (
            one.elements().unwrap_or(&[]),
            other.elements().unwrap_or(&[]),
        );
        one.len() == other.len()
            && one
                .iter()
                .zip(other)
                .take(2)
                .all(|(one, other)| one == other)
    };
    asked.len() == answered.len() && asked.iter().zip(answered).all(alike)
}

fn only_reads(steps: &[Step]) -> bool {
    steps.iter().all(|step| matches!(step, Step::Read(..)))
}

impl Transactions {
    fn state(&mut self, registers: Arc<[u32]>) -> State {
        let number = self.states.of(registers.clone());
        if number as usize == self.registers.len() {
            self.grown += registers.len() * 4 + 64;
            self.registers.push(registers);
        }
        number
    }
}

impl Model for Transactions {
    fn start(&self) -> State {
        0
    }

    fn step(&mut self, state: State, class: Class) -> Option<State> {
        let steps = self.classes[class as usize].clone();
        let before = self.registers[state as usize].clone();
        // Most calls of a busy register only read.
        let mut changed: Option<Vec<u32>> = None;
        for step in steps.iter() {
            let now = |key: u32| changed.as_deref().unwrap_or(&before)[key as usize];
            let (key, left) = match *step {
                Step::Read(key, value) if now(key) == value => continue,
                Step::Cas(key, old, new) if now(key) == old => (key, new),
                Step::Read(..) | Step::Cas(..) => return None,
                Step::Write(key, value) => (key, value),
                Step::Append(key, value) => (key, self.contents.appended(now(key), value)),
            };
            changed.get_or_insert_with(|| before.to_vec())[key as usize] = left;
        }
        Some(changed.map_or(state, |changed| self.state(changed.into())))
    }

    fn reads(&self, class: Class) -> bool {
        only_reads(&self.classes[class as usize])
    }

    fn grown(&mut self) -> usize {
        std::mem::take(&mut self.grown)
    }
}

/// Parts of the operations that share no key, so that each can be judged alone.
pub fn components(operations: &Operations) -> Vec<Vec<u32>> {
    let mut keys: Numbers<Value> = Numbers::default();
    let mut parent: Vec<u32> = Vec::new();
    let mut of: Vec<u32> = Vec::with_capacity(operations.all.len());
    for operation in &operations.all {
        let mut first = NEVER;
        // Where a harness tells the steps only with the answer, the keys are there.
        let told =
            [&operation.asked, &operation.answered].map(|steps| steps.elements().unwrap_or(&[]));
        for step in told.into_iter().flatten() {
            let Some([_, key, ..]) = step.elements() else {
                continue;
            };
            let key = keys.of(key.clone());
            if key as usize == parent.len() {
                parent.push(key);
            }
            let root = root_of(&mut parent, key);
            match first {
                NEVER => first = root,
                earlier => parent[root as usize] = root_of(&mut parent, earlier),
            }
        }
        of.push(first);
    }
    let mut parts: Vec<Vec<u32>> = Vec::new();
    let mut by_root: FxHashMap<u32, usize> = FxHashMap::default();
    for (index, key) in of.into_iter().enumerate() {
        let root = if key == NEVER {
            NEVER
        } else {
            root_of(&mut parent, key)
        };
        let part = *by_root.entry(root).or_insert_with(|| {
            parts.push(Vec::new());
            parts.len() - 1
        });
        parts[part].push(index as u32);
    }
    parts
}

fn root_of(parent: &mut [u32], key: u32) -> u32 {
    let mut at = key;
    while parent[at as usize] != at {
        parent[at as usize] = parent[parent[at as usize] as usize];
        at = parent[at as usize];
    }
    at
}
