//! Running a request on the newest state: preconditions, operations, outcome, and what changed.
//!
//! Pure: the state comes through a closure, the changes go out. Nothing changes when a precondition does not hold or an
//! operation cannot run; what was looked at is noted all the same, because a retry and a reconciliation need it.

use crate::change::{Change, ComponentChange, ObjectChange};
use crate::conflict::is_reserved;
use crate::object::{Component, LastWrite, Object, Value};
use crate::record::RequestBody;
use crate::request::{FailedOp, Op, OpResult, Outcome, Precondition, Request};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use understudy_proto::limits::{
    COMPONENTS_PER_OBJECT_MAX, OPS_PER_REQUEST_MAX, RECORD_BYTES_MAX, REQUEST_BYTES_MAX,
    VALUE_BYTES_MAX,
};
use understudy_proto::{Pair, RequestId};

/// What a request came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evaluated {
    pub outcome: Outcome,
    /// One for each object that was looked at or written, in the order of their keys.
    pub changes: Vec<ObjectChange>,
    pub written: Written,
}

/// An object while the request runs.
struct Working {
    before: Option<Object>,
    now: Vec<Component>,
    /// By component: how it was changed so far, in the narrowest form that has an exact inverse.
    touched: BTreeMap<Bytes, Touch>,
}

#[derive(Clone)]
enum Touch {
    Set,
    Add(i64),
    Append(Vec<Bytes>),
}

/// Old and new values and results may fill half of a record; the other half is left to the operations (at most
/// `REQUEST_BYTES_MAX`) and to the heads of the fields.
const RECORD_BYTES_HALF: usize = RECORD_BYTES_MAX / 2;
const _: () = assert!(REQUEST_BYTES_MAX + OPS_PER_REQUEST_MAX * OBJECT_HEAD <= RECORD_BYTES_HALF);
/// What a component costs beside its name and value: two lengths, two tags, a pair of at most 20 bytes.
const COMPONENT_HEAD: usize = 32;
/// What an object costs beside its key and components: lengths, tags, a pair and a request id.
const OBJECT_HEAD: usize = 80;

/// The new state of each object that a request wrote.
pub type Written = Vec<(Bytes, Option<Object>)>;

/// Runs the request as the record `pair`: what the record says of it, and what it wrote. The primary that records it and a copy
/// that gets the operation alone both form the record with this; an outcome that would make it too large is one that says so,
/// and changes nothing.
pub fn perform<E>(
    request: &Request,
    pair: Pair,
    lookup: impl FnMut(&Bytes) -> Result<Option<Object>, E>,
) -> Result<(RequestBody, Written), E> {
    let Evaluated {
        mut outcome,
        mut changes,
        mut written,
    } = evaluate(request, pair, lookup)?;
    if outcome.size() > RECORD_BYTES_MAX / 4 {
        let last = request.ops.len().saturating_sub(1) as u32;
        outcome = Outcome::Failed(last, FailedOp::TooLarge);
        changes
            .iter_mut()
            .for_each(|change| change.components.clear());
        written.clear();
    }
    let body = RequestBody {
        id: request.id,
        fingerprint: request.fingerprint,
        ops: request.ops.clone(),
        preconditions: request.preconditions.clone(),
        outcome,
        changes,
        earlier: Vec::new(),
    };
    Ok((body, written))
}

/// Runs the request as the record `pair`. `lookup` gives the newest state of a key.
pub fn evaluate<E>(
    request: &Request,
    pair: Pair,
    mut lookup: impl FnMut(&Bytes) -> Result<Option<Object>, E>,
) -> Result<Evaluated, E> {
    let mut state: BTreeMap<Bytes, Working> = BTreeMap::new();
    let keys = request
        .preconditions
        .iter()
        .map(|p| p.key())
        .chain(request.ops.iter().map(|op| op.key()));
    for key in keys {
        if !state.contains_key(key) {
            let before = lookup(key)?;
            let now = before
                .as_ref()
                .map(|object| object.components.clone())
                .unwrap_or_default();
            state.insert(
                key.clone(),
                Working {
                    before,
                    now,
                    touched: BTreeMap::new(),
                },
            );
        }
    }
    let outcome = run(request, pair, &mut state);
    Ok(conclude(request.id, pair, outcome, state))
}

fn run(request: &Request, pair: Pair, state: &mut BTreeMap<Bytes, Working>) -> Outcome {
    for (index, precondition) in request.preconditions.iter().enumerate() {
        if !holds(precondition, &state[precondition.key()]) {
            return Outcome::ConditionFailed(index as u32);
        }
    }
    let last = LastWrite {
        pair,
        request: request.id,
    };
    let mut results = Vec::with_capacity(request.ops.len());
    let mut results_size = 0;
    for (index, op) in request.ops.iter().enumerate() {
        let object = state.get_mut(op.key()).expect("every key was looked up");
        match run_op(op, object, last) {
            Ok(result) => {
                results_size += result_size(&result);
                results.push(result);
            }
            Err(why) => return Outcome::Failed(index as u32, why),
        }
        if results_size > RECORD_BYTES_HALF {
            return Outcome::Failed(index as u32, FailedOp::TooLarge);
        }
    }
    let size: usize = state.iter().map(|(key, o)| o.record_size(key)).sum();
    if size + results_size > bytes_max(request) {
        return Outcome::Failed(
            request.ops.len().saturating_sub(1) as u32,
            FailedOp::TooLarge,
        );
    }
    Outcome::Applied(results)
}

/// How much old and new values and results may fill. The resolution of a conflict has to bear the conflict, which may be larger
/// than half of a record by itself: it gets what its own content leaves.
fn bytes_max(request: &Request) -> usize {
    if !request.ops.iter().any(|op| is_reserved(op.key())) {
        return RECORD_BYTES_HALF;
    }
    let ops = request.ops.iter().map(Op::size);
    let conditions = request.preconditions.iter().map(Precondition::size);
    let content: usize = ops.chain(conditions).map(|size| size + OBJECT_HEAD).sum();
    (RECORD_BYTES_MAX - 4 * OBJECT_HEAD).saturating_sub(content)
}

fn holds(precondition: &Precondition, object: &Working) -> bool {
    match precondition {
        Precondition::LastPair { pair, .. } => {
            object.before.as_ref().is_some_and(|o| o.last.pair == *pair)
        }
        Precondition::ComponentValue { name, value, .. } => object
            .before
            .as_ref()
            .and_then(|o| o.component(name))
            .is_some_and(|c| c.value == *value),
        Precondition::Absent { absent, .. } => object.before.is_none() == *absent,
    }
}

fn run_op(op: &Op, object: &mut Working, last: LastWrite) -> Result<OpResult, FailedOp> {
    match op {
        Op::Put { value, .. } => {
            let existed = !object.now.is_empty();
            object.clear();
            object.set(
                &Bytes::new(),
                Value::Data(value.clone()),
                last.pair,
                Touch::Set,
            )?;
            Ok(OpResult::Existed(existed))
        }
        Op::Delete { .. } => {
            let existed = !object.now.is_empty();
            object.clear();
            Ok(OpResult::Existed(existed))
        }
        Op::SetComponent { name, value, .. } => {
            let existed = object.find(name).is_ok();
            object.set(name, Value::Data(value.clone()), last.pair, Touch::Set)?;
            Ok(OpResult::Existed(existed))
        }
        Op::RemoveComponent { name, .. } => {
            let at = object.find(name);
            if let Ok(at) = at {
                object.now.remove(at);
                object.touched.insert(name.clone(), Touch::Set);
            }
            Ok(OpResult::Existed(at.is_ok()))
        }
        Op::Add { name, delta, .. } => {
            let before = match object.value(name) {
                None => 0,
                Some(Value::Counter(counter)) => *counter,
                Some(Value::Data(_)) => return Err(FailedOp::WrongKind),
            };
            let after = before.checked_add(*delta).ok_or(FailedOp::Overflow)?;
            object.set(name, Value::Counter(after), last.pair, Touch::Add(*delta))?;
            Ok(OpResult::Counter(after))
        }
        Op::Append { name, data, .. } => {
            let before = match object.value(name) {
                None => Bytes::new(),
                Some(Value::Data(bytes)) => bytes.clone(),
                Some(Value::Counter(_)) => return Err(FailedOp::WrongKind),
            };
            let length = before.len() + data.len();
            if length > VALUE_BYTES_MAX {
                return Err(FailedOp::TooLarge);
            }
            let mut joined = BytesMut::with_capacity(length);
            joined.put_slice(&before);
            joined.put_slice(data);
            object.set(
                name,
                Value::Data(joined.freeze()),
                last.pair,
                Touch::Append(vec![data.clone()]),
            )?;
            Ok(OpResult::Length(length as u64))
        }
        Op::Get { .. } => Ok(OpResult::Object(object.view(last))),
    }
}

impl Working {
    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.now
            .binary_search_by(|component| component.name[..].cmp(name))
    }

    fn value(&self, name: &[u8]) -> Option<&Value> {
        self.find(name).ok().map(|at| &self.now[at].value)
    }

    fn clear(&mut self) {
        for component in self.now.drain(..) {
            self.touched.insert(component.name, Touch::Set);
        }
    }

    fn set(
        &mut self,
        name: &Bytes,
        value: Value,
        pair: Pair,
        touch: Touch,
    ) -> Result<(), FailedOp> {
        match self.find(name) {
            Ok(at) => {
                self.now[at].value = value;
                self.now[at].pair = pair;
            }
            Err(_) if self.now.len() >= COMPONENTS_PER_OBJECT_MAX => {
                return Err(FailedOp::TooLarge);
            }
            Err(at) => self.now.insert(
                at,
                Component {
                    name: name.clone(),
                    value,
                    pair,
                },
            ),
        }
        let touch = match (self.touched.remove(name), touch) {
            (None, touch) => touch,
            (Some(Touch::Add(sum)), Touch::Add(delta)) => {
                sum.checked_add(delta).map_or(Touch::Set, Touch::Add)
            }
            (Some(Touch::Append(mut parts)), Touch::Append(more)) => {
                parts.extend(more);
                Touch::Append(parts)
            }
            _ => Touch::Set,
        };
        self.touched.insert(name.clone(), touch);
        Ok(())
    }

    /// The object as a `Get` inside the request sees it.
    fn view(&self, last: LastWrite) -> Option<Object> {
        if self.touched.is_empty() {
            return self.before.clone();
        }
        (!self.now.is_empty()).then(|| Object {
            last,
            components: self.now.clone(),
        })
    }

    /// The whole object counts on both sides, also where a part of it changes: what can be written can be deleted.
    fn record_size(&self, key: &Bytes) -> usize {
        let values = if self.touched.is_empty() {
            0
        } else {
            let before = self.before.as_ref().map_or(0, |o| size_of(&o.components));
            before + size_of(&self.now)
        };
        OBJECT_HEAD + key.len() + values
    }
}

fn size_of(components: &[Component]) -> usize {
    components
        .iter()
        .map(|c| COMPONENT_HEAD + c.name.len() + c.value.size())
        .sum()
}

fn result_size(result: &OpResult) -> usize {
    match result {
        OpResult::Object(Some(object)) => OBJECT_HEAD + size_of(&object.components),
        _ => 0,
    }
}

fn conclude(
    request: RequestId,
    pair: Pair,
    outcome: Outcome,
    state: BTreeMap<Bytes, Working>,
) -> Evaluated {
    let applied = matches!(outcome, Outcome::Applied(_));
    let mut changes = Vec::with_capacity(state.len());
    let mut written = Vec::new();
    for (key, working) in state {
        let before = working.before.as_ref().map(|object| object.last);
        let components = if applied {
            component_changes(&working)
        } else {
            Vec::new()
        };
        if !components.is_empty() {
            let object = (!working.now.is_empty()).then(|| Object {
                last: LastWrite { pair, request },
                components: working.now,
            });
            written.push((key.clone(), object));
        }
        changes.push(ObjectChange {
            key,
            before,
            components,
        });
    }
    Evaluated {
        outcome,
        changes,
        written,
    }
}

fn component_changes(working: &Working) -> Vec<ComponentChange> {
    let before = |name: &[u8]| {
        working
            .before
            .as_ref()
            .and_then(|object| object.component(name))
    };
    let mut changes = Vec::with_capacity(working.touched.len());
    for (name, touch) in &working.touched {
        let old = before(name);
        let change = match touch {
            Touch::Add(delta) => Change::Add {
                old_pair: old.map(|c| c.pair),
                delta: *delta,
            },
            Touch::Append(parts) => Change::Append {
                old_pair: old.map(|c| c.pair),
                old_length: old.map_or(0, |c| c.value.size() as u64),
                data: join(parts),
            },
            Touch::Set => {
                let new = working.value(name).cloned();
                if old.is_none() && new.is_none() {
                    continue;
                }
                Change::Set {
                    old: old.map(|c| (c.value.clone(), c.pair)),
                    new,
                }
            }
        };
        changes.push(ComponentChange {
            name: name.clone(),
            change,
        });
    }
    changes
}

fn join(parts: &[Bytes]) -> Bytes {
    match parts {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}
