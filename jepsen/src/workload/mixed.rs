//! A bit of everything over few keys: puts, deletes, components, counters, appends, transactions with preconditions,
//! reads, retries under the same id, and now and then an id used for other content.
//!
//! Each seed draws its own weights, some of them zero: a run that only appends finds other mistakes than one that does
//! everything.

use super::{Condition, Level, Operation, Seen, Step};
use crate::dice::{Dice, Purpose};
use std::collections::BTreeMap;
use understudy_proto::shard_of_key::shard_index;

/// Keys of one shard.
const KEYS_PER_SHARD: u64 = 4;
const COMPONENTS: [&str; 3] = ["", "a", "b"];

#[derive(Debug)]
pub struct Mixed {
    dice: Dice,
    client: u64,
    written: u64,
    /// For each shard the text between the braces of its keys.
    tags: Vec<String>,
    step_weights: [u32; 5],
    operation_weights: [u32; 7],
    seen: BTreeMap<String, Seen>,
    last: Option<String>,
}

impl Mixed {
    pub fn new(seed: u64, client: u64, shards: u32) -> Mixed {
        // The weights belong to the seed, not to the client.
        let mut setup = Dice::new(seed, Purpose::Clients, 1_000);
        let mut weight = |most: u64, zero: u32| {
            if setup.permille(zero) {
                0
            } else {
                setup.between(1, most) as u32
            }
        };
        let step_weights = [
            40 + weight(60, 0),
            weight(40, 300),
            weight(40, 200),
            weight(12, 200),
            weight(4, 400),
        ];
        let mut operation_weights = [0; 7];
        for slot in &mut operation_weights {
            *slot = weight(20, 250);
        }
        operation_weights[0] += 1;
        Mixed {
            dice: Dice::new(seed, Purpose::Clients, client),
            client,
            written: 0,
            tags: tags(shards),
            step_weights,
            operation_weights,
            seen: BTreeMap::new(),
            last: None,
        }
    }

    /// The next step.
    pub fn step(&mut self) -> Step {
        match self.dice.weighted(&self.step_weights) {
            0 => self.update(1),
            1 => {
                let operations = self.dice.between(2, 4);
                self.update(operations)
            }
            2 => self.read(),
            3 if self.last.is_some() => Step::Again,
            4 if self.last.is_some() => self.misuse(),
            _ => self.update(1),
        }
    }

    /// What the objects of the last update have become.
    pub fn saw(&mut self, keys: impl IntoIterator<Item = String>, seen: Seen) {
        self.seen.extend(keys.into_iter().map(|key| (key, seen)));
    }

    fn update(&mut self, operations: u64) -> Step {
        let tag = self.dice.pick(&self.tags).clone();
        let conditions = match self.dice.permille(250) {
            true => vec![self.condition(&tag)],
            false => Vec::new(),
        };
        let operations: Vec<Operation> = (0..operations).map(|_| self.operation(&tag)).collect();
        self.last = operations.first().map(|op| op.key().to_string());
        let copies = if self.dice.permille(100) {
            self.dice.between(1, 2) as u32
        } else {
            0
        };
        Step::Update {
            operations,
            conditions,
            copies,
        }
    }

    fn misuse(&mut self) -> Step {
        let key = self.last.clone().expect("only after an update");
        let value = self.value();
        Step::Misuse {
            operations: vec![Operation::Put { key, value }],
        }
    }

    fn read(&mut self) -> Step {
        let tag = self.dice.pick(&self.tags).clone();
        let keys = (0..self.dice.between(1, 3))
            .map(|_| self.key(&tag))
            .collect();
        let level = match self.dice.weighted(&[3, 2, 5, 4]) {
            0 => Level::Primary,
            1 => Level::Any,
            2 => Level::Session,
            _ => Level::Bounded {
                staleness_ms: *self.dice.pick(&[1, 120, 200, 300, 500, 1_000, 3_000]),
            },
        };
        Step::Read { keys, level }
    }

    fn condition(&mut self, tag: &str) -> Condition {
        let key = self.key(tag);
        match (self.dice.below(4), self.seen.get(&key)) {
            (0 | 1, Some(seen)) => Condition::Pair {
                key,
                epoch: seen.epoch,
                version: seen.version,
            },
            (2, _) => {
                let value = format!("c{}.{}", self.client, self.written);
                Condition::Value {
                    key,
                    component: String::new(),
                    value,
                }
            }
            (pick, _) => Condition::Absent {
                key,
                absent: pick == 3,
            },
        }
    }

    fn operation(&mut self, tag: &str) -> Operation {
        let key = self.key(tag);
        let component = self.dice.pick(&COMPONENTS).to_string();
        match self.dice.weighted(&self.operation_weights) {
            0 => Operation::Put {
                key,
                value: self.value(),
            },
            1 => Operation::Delete { key },
            2 => Operation::Set {
                key,
                component,
                value: self.value(),
            },
            3 => Operation::Remove { key, component },
            4 => {
                let delta = self.dice.between(1, 20) as i64 - 5;
                Operation::Add {
                    key,
                    component: "n".to_string(),
                    delta,
                }
            }
            5 => {
                let data = format!("[{}]", self.text());
                Operation::Append {
                    key,
                    component,
                    data,
                }
            }
            _ => Operation::Get { key },
        }
    }

    fn key(&mut self, tag: &str) -> String {
        format!("{{{tag}}}{}", self.dice.below(KEYS_PER_SHARD))
    }

    /// Every value is written once in a run.
    fn value(&mut self) -> String {
        format!("c{}", self.text())
    }

    fn text(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.client, self.written)
    }
}

/// For each shard a tag that hashes to it.
fn tags(shards: u32) -> Vec<String> {
    let mut tags = vec![None; shards as usize];
    let mut number = 0u32;
    while tags.iter().any(Option::is_none) {
        let tag = number.to_string();
        let slot = &mut tags[shard_index(tag.as_bytes(), shards) as usize];
        *slot = slot.take().or(Some(tag));
        number += 1;
    }
    tags.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_replays_and_keeps_an_update_in_one_shard() {
        let mut one = Mixed::new(3, 1, 8);
        let mut two = Mixed::new(3, 1, 8);
        for _ in 0..500 {
            let step = one.step();
            assert_eq!(step, two.step());
            let Step::Update { operations, .. } = step else {
                continue;
            };
            let shard = |op: &Operation| shard_index(op.key().as_bytes(), 8);
            assert!(
                operations
                    .iter()
                    .all(|op| shard(op) == shard(&operations[0]))
            );
        }
    }

    #[test]
    fn every_shard_has_keys() {
        let of: Vec<u32> = tags(8)
            .iter()
            .map(|tag| shard_index(tag.as_bytes(), 8))
            .collect();
        assert_eq!(of, (0..8).collect::<Vec<_>>());
    }
}
