//! The steps of transactions, with keys and appended elements as numbers. A transaction has the number of its operation.

use crate::checker::models::unknown_function;
use crate::history::{Operation, Operations, Outcome, Unusable, Value};
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

/// Where a number stands for no transaction or no element.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// Of the element with this number.
    Append(u32),
    /// Only what was surely seen.
    Read { key: u32, list: &'a [Value] },
}

/// A value that was appended to a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    pub key: u32,
    pub value: &'a Value,
    /// The transaction.
    pub writer: u32,
    /// It is the last that its transaction appended to the key.
    pub is_last: bool,
}

#[derive(Debug)]
pub(super) struct Transactions<'a> {
    pub operations: &'a Operations,
    pub keys: Vec<&'a Value>,
    pub elements: Vec<Element<'a>>,
    steps: Vec<Step<'a>>,
    /// Where the steps of each transaction begin; one more at the end.
    starts: Vec<u32>,
    key_numbers: FxHashMap<&'a Value, u32>,
    numbers: FxHashMap<(u32, &'a Value), u32>,
}

impl<'a> Transactions<'a> {
    pub fn of(operations: &'a Operations) -> Result<Transactions<'a>, Unusable> {
        let mut transactions = Transactions {
            operations,
            keys: Vec::new(),
            elements: Vec::new(),
            steps: Vec::new(),
            starts: vec![0],
            key_numbers: FxHashMap::default(),
            numbers: FxHashMap::default(),
        };
        // The last element that the transaction at hand appended to each key.
        let mut last_of: FxHashMap<u32, u32> = FxHashMap::default();
        for (number, operation) in operations.all.iter().enumerate() {
            let name = operations.name(operation);
            if name != "txn" {
                return Err(unknown_function(name, operation, "txn"));
            }
            last_of.clear();
            transactions.add(number as u32, operation, &mut last_of)?;
            let end = transactions.steps.len() as u32;
            transactions.starts.push(end);
        }
        Ok(transactions)
    }

    pub fn len(&self) -> usize {
        self.operations.all.len()
    }

    pub fn operation(&self, transaction: u32) -> &'a Operation {
        &self.operations.all[transaction as usize]
    }

    pub fn outcome(&self, transaction: u32) -> Outcome {
        self.operation(transaction).outcome
    }

    /// Whether the transaction that appended the element did.
    pub fn has_failed(&self, element: u32) -> bool {
        self.outcome(self.elements[element as usize].writer) == Outcome::Failed
    }

    pub fn steps(&self, transaction: u32) -> &[Step<'a>] {
        let at = transaction as usize;
        &self.steps[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// [`NONE`] when nobody appended it.
    pub fn element(&self, key: u32, value: &'a Value) -> u32 {
        self.numbers.get(&(key, value)).copied().unwrap_or(NONE)
    }

    /// A transaction, with the line by which one finds it.
    pub fn name(&self, transaction: u32) -> String {
        format!("T{transaction} (line {})", self.operation(transaction).line)
    }

    fn add(
        &mut self,
        number: u32,
        operation: &'a Operation,
        last_of: &mut FxHashMap<u32, u32>,
    ) -> Result<(), Unusable> {
        // An answer that repeats no steps tells nothing of what was read.
        let answers = !operation.answered.is_nil();
        let (told, line) = match answers {
            true => (&operation.answered, operation.end_line),
            false => (&operation.asked, operation.line),
        };
        let Some(steps) = told.elements() else {
            return Err(Unusable::at(line, format!("'{told}' is no list of steps")));
        };
        for step in steps {
            let Some([function, key, value]) = step.elements() else {
                let what = format!("'{step}' is no step [function key value]");
                return Err(Unusable::at(line, what));
            };
            match function.name().unwrap_or_default() {
                "append" => {
                    let key = self.key(key);
                    self.append(number, key, value, last_of)?;
                }
                "r" | "read" => {
                    let list = match value {
                        Value::Nil => &[],
                        Value::List(list) => &list[..],
                        other => {
                            return Err(Unusable::at(line, format!("'{other}' is no list")));
                        }
                    };
                    let key = self.key(key);
                    if answers {
                        self.steps.push(Step::Read { key, list });
                    }
                }
                other => return Err(unknown_function(other, operation, "append, r")),
            }
        }
        Ok(())
    }

    fn key(&mut self, key: &'a Value) -> u32 {
        let next = self.keys.len() as u32;
        let number = *self.key_numbers.entry(key).or_insert(next);
        if number == next {
            self.keys.push(key);
        }
        number
    }

    fn append(
        &mut self,
        writer: u32,
        key: u32,
        value: &'a Value,
        last_of: &mut FxHashMap<u32, u32>,
    ) -> Result<(), Unusable> {
        let element = Element {
            key,
            value,
            writer,
            is_last: true,
        };
        let number = match self.numbers.entry((key, value)) {
            Entry::Vacant(place) => {
                let number = self.elements.len() as u32;
                self.elements.push(element);
                *place.insert(number)
            }
            Entry::Occupied(place) => {
                let number = *place.get();
                let earlier = self.elements[number as usize].writer;
                let failed = |transaction| self.outcome(transaction) == Outcome::Failed;
                // What failed may be tried again: then it is the attempt that counts that appended it.
                if failed(writer) {
                    return Ok(());
                }
                if !failed(earlier) {
                    let what = format!(
                        "{value} is appended to {} a second time, after line {}: what is appended must be unique",
                        self.keys[key as usize],
                        self.operation(earlier).line
                    );
                    return Err(Unusable::at(self.operation(writer).line, what));
                }
                self.elements[number as usize] = element;
                number
            }
        };
        if let Some(before) = last_of.insert(key, number) {
            self.elements[before as usize].is_last = false;
        }
        self.steps.push(Step::Append(number));
        Ok(())
    }
}
