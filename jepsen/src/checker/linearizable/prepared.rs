//! The models by name, and a part of a history made ready for one of them.

use super::budget::Budget;
use super::cut;
use super::model::{Call, Model};
use super::search::Found;
use crate::checker::models::{self, Initial, Kv, Selected};
use crate::history::{Operations, Unusable, Value};
use rustc_hash::FxHashMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Register,
    CasRegister,
    CasRegisterKv,
    Kv,
    MultiRegister,
    Mutex,
    Set,
    Counter,
    Queue,
    Transactions,
}

pub struct Prepared {
    calls: Vec<Call>,
    model: Box<dyn Searchable>,
}

/// A model of whatever type, with its search made for that type.
trait Searchable {
    fn search(&mut self, calls: &[Call], budget: &mut Budget) -> (Found, u64);
}

impl<M: Model> Searchable for M {
    fn search(&mut self, calls: &[Call], budget: &mut Budget) -> (Found, u64) {
        cut::search(self, calls, budget)
    }
}

impl Prepared {
    fn new<M: Model + 'static>((model, calls): (M, Vec<Call>)) -> Prepared {
        Prepared {
            calls,
            model: Box::new(model),
        }
    }

    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Whether there is an order of its calls, and how many places were looked at.
    pub fn search(&mut self, budget: &mut Budget) -> (Found, u64) {
        self.model.search(&self.calls, budget)
    }
}

impl Kind {
    /// The operations of each part that can be judged alone, by their numbers.
    pub fn parts(self, operations: &Operations) -> Result<Vec<Vec<Selected>>, Unusable> {
        let with_key = operations
            .all
            .iter()
            .find(|operation| operation.key.is_some());
        if let (false, Some(operation)) = (matches!(self, Kind::CasRegisterKv | Kind::Kv), with_key)
        {
            let what = "an operation with a key: this model has none (cas-register-kv and kv do)";
            return Err(Unusable::at(operation.line, what));
        }
        let parts = match self {
            Kind::CasRegisterKv | Kind::Kv => by_key(operations)?,
            Kind::MultiRegister | Kind::Transactions => models::components(operations),
            _ => vec![(0..operations.all.len() as u32).collect()],
        };
        let firm = true;
        let selected = |operation| Selected { operation, firm };
        Ok(parts
            .into_iter()
            .map(|part| part.into_iter().map(selected).collect())
            .collect())
    }

    pub fn prepare(self, operations: &Operations, part: &[Selected]) -> Result<Prepared, Unusable> {
        Ok(match self {
            Kind::Register => Prepared::new(models::register(operations, part)?),
            Kind::CasRegister => Prepared::new(models::cas_register(operations, part, false)?),
            Kind::CasRegisterKv => Prepared::new(models::cas_register(operations, part, true)?),
            Kind::Kv => match models::kv(operations, part)? {
                Kv::Register(register, calls) => Prepared::new((register, calls)),
                Kv::Texts(texts, calls) => Prepared::new((texts, calls)),
            },
            Kind::MultiRegister => {
                Prepared::new(models::transactions(operations, part, Initial::Zero)?)
            }
            Kind::Mutex => Prepared::new(models::mutex(operations, part)?),
            Kind::Set => Prepared::new(models::set(operations, part)?),
            Kind::Counter => Prepared::new(models::counter(operations, part)?),
            Kind::Queue => Prepared::new(models::queue(operations, part)?),
            Kind::Transactions => {
                Prepared::new(models::transactions(operations, part, Initial::Nil)?)
            }
        })
    }
}

fn by_key(operations: &Operations) -> Result<Vec<Vec<u32>>, Unusable> {
    let mut parts: Vec<Vec<u32>> = Vec::new();
    let mut part_of: FxHashMap<Value, usize> = FxHashMap::default();
    for (index, operation) in operations.all.iter().enumerate() {
        let (key, _, _) = models::keyed(operation)?;
        let part = *part_of.entry(key).or_insert_with(|| {
            parts.push(Vec::new());
            parts.len() - 1
        });
        parts[part].push(index as u32);
    }
    Ok(parts)
}
