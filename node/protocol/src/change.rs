//! What a record did to an object: enough to do it again, to undo it exactly, and to see whether the object is still as
//! the record found it.

use crate::codec::{Malformed, Put, Reader};
use crate::object::{Component, LastWrite, Object, Value};
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::{Pair, RequestId};

/// What a record read, tested or wrote of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectChange {
    pub key: Bytes,
    /// The object's last writer before; `None`: the object was absent.
    pub before: Option<LastWrite>,
    /// In the order of their names. Empty: the object was only read or tested.
    pub components: Vec<ComponentChange>,
}

/// What a record did to one component.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ComponentChange {
    pub name: Bytes,
    pub change: Change,
}

/// Each form has its exact inverse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A value in place of another; `None`: absent.
    Set {
        old: Option<(Value, Pair)>,
        new: Option<Value>,
    },
    /// Added to a counter; an absent one counts from 0.
    Add { old_pair: Option<Pair>, delta: i64 },
    /// Appended to bytes; an absent one is empty.
    Append {
        old_pair: Option<Pair>,
        old_length: u64,
        data: Bytes,
    },
}

/// The object is not what the record found, or not what it left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch;

impl ObjectChange {
    pub fn is_write(&self) -> bool {
        !self.components.is_empty()
    }

    /// The object after the record. The object must be as the record found it.
    pub fn apply(
        &self,
        object: Option<Object>,
        pair: Pair,
        request: RequestId,
    ) -> Result<Option<Object>, Mismatch> {
        if object.as_ref().map(|o| o.last) != self.before {
            return Err(Mismatch);
        }
        if !self.is_write() {
            // Looking at an object does not make the record its last writer.
            return Ok(object);
        }
        let mut components = object.map(|o| o.components).unwrap_or_default();
        for change in &self.components {
            let at = find(&components, &change.name);
            let old = at.ok().map(|at| &components[at]);
            match change.change.forward(old)? {
                Some(value) => put(
                    &mut components,
                    at,
                    Component {
                        name: change.name.clone(),
                        value,
                        pair,
                    },
                ),
                None => remove(&mut components, at),
            }
        }
        Ok(object_of(components, Some(LastWrite { pair, request })))
    }

    /// The object before the record. The object must be as the record left it.
    pub fn undo(&self, object: Option<Object>, pair: Pair) -> Result<Option<Object>, Mismatch> {
        if !self.is_write() {
            let untouched = object.as_ref().map(|o| o.last) == self.before;
            return untouched.then_some(object).ok_or(Mismatch);
        }
        if object.as_ref().is_some_and(|o| o.last.pair != pair) {
            return Err(Mismatch);
        }
        let mut components = object.map(|o| o.components).unwrap_or_default();
        for change in &self.components {
            let at = find(&components, &change.name);
            let new = at.ok().map(|at| &components[at]);
            match change.change.backward(new)? {
                Some((value, pair)) => put(
                    &mut components,
                    at,
                    Component {
                        name: change.name.clone(),
                        value,
                        pair,
                    },
                ),
                None => remove(&mut components, at),
            }
        }
        if components.is_empty() != self.before.is_none() {
            return Err(Mismatch);
        }
        Ok(object_of(components, self.before))
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_bytes_field(&self.key);
        match self.before {
            None => out.put_u8(0),
            Some(last) => {
                out.put_u8(1);
                out.put_pair(last.pair);
                out.put_request_id(last.request);
            }
        }
        out.put_varint(self.components.len() as u64);
        for component in &self.components {
            out.put_bytes_field(&component.name);
            component.change.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<ObjectChange, Malformed> {
        let key = reader.bytes_field()?;
        let before = match reader.bool()? {
            false => None,
            true => Some(LastWrite {
                pair: reader.pair()?,
                request: reader.request_id()?,
            }),
        };
        let components = (0..reader.count()?)
            .map(|_| {
                Ok(ComponentChange {
                    name: reader.bytes_field()?,
                    change: Change::decode(reader)?,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(ObjectChange {
            key,
            before,
            components,
        })
    }
}

fn find(components: &[Component], name: &[u8]) -> Result<usize, usize> {
    components.binary_search_by(|component| component.name[..].cmp(name))
}

fn put(components: &mut Vec<Component>, at: Result<usize, usize>, component: Component) {
    match at {
        Ok(at) => components[at] = component,
        Err(at) => components.insert(at, component),
    }
}

fn remove(components: &mut Vec<Component>, at: Result<usize, usize>) {
    if let Ok(at) = at {
        components.remove(at);
    }
}

fn object_of(components: Vec<Component>, last: Option<LastWrite>) -> Option<Object> {
    match last {
        Some(last) if !components.is_empty() => Some(Object { last, components }),
        _ => None,
    }
}

impl Change {
    fn forward(&self, old: Option<&Component>) -> Result<Option<Value>, Mismatch> {
        match self {
            Change::Set { new, .. } => Ok(new.clone()),
            Change::Add { delta, .. } => match old.map(|c| &c.value) {
                None => Ok(Some(Value::Counter(*delta))),
                Some(Value::Counter(counter)) => counter
                    .checked_add(*delta)
                    .map(|sum| Some(Value::Counter(sum)))
                    .ok_or(Mismatch),
                Some(Value::Data(_)) => Err(Mismatch),
            },
            Change::Append {
                old_length, data, ..
            } => match old.map(|c| &c.value) {
                None if *old_length == 0 => Ok(Some(Value::Data(data.clone()))),
                Some(Value::Data(bytes)) if bytes.len() as u64 == *old_length => {
                    let mut joined = BytesMut::with_capacity(bytes.len() + data.len());
                    joined.put_slice(bytes);
                    joined.put_slice(data);
                    Ok(Some(Value::Data(joined.freeze())))
                }
                _ => Err(Mismatch),
            },
        }
    }

    fn backward(&self, new: Option<&Component>) -> Result<Option<(Value, Pair)>, Mismatch> {
        match self {
            Change::Set { old, .. } => Ok(old.clone()),
            Change::Add { old_pair, delta } => match (new.map(|c| &c.value), old_pair) {
                (Some(Value::Counter(_)), None) => Ok(None),
                (Some(Value::Counter(counter)), Some(pair)) => counter
                    .checked_sub(*delta)
                    .map(|before| Some((Value::Counter(before), *pair)))
                    .ok_or(Mismatch),
                _ => Err(Mismatch),
            },
            Change::Append {
                old_pair,
                old_length,
                data,
            } => match (new.map(|c| &c.value), old_pair) {
                (Some(Value::Data(bytes)), _)
                    if bytes.len() as u64 != old_length + data.len() as u64 =>
                {
                    Err(Mismatch)
                }
                (Some(Value::Data(_)), None) => Ok(None),
                (Some(Value::Data(bytes)), Some(pair)) => Ok(Some((
                    Value::Data(bytes.slice(..*old_length as usize)),
                    *pair,
                ))),
                _ => Err(Mismatch),
            },
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Change::Set { old, new } => {
                out.put_u8(1 + u8::from(old.is_some()) + 2 * u8::from(new.is_some()));
                if let Some((value, pair)) = old {
                    value.encode(out);
                    out.put_pair(*pair);
                }
                if let Some(value) = new {
                    value.encode(out);
                }
            }
            Change::Add { old_pair, delta } => {
                out.put_u8(5);
                out.put_pair(old_pair.unwrap_or(Pair::ZERO));
                out.put_signed(*delta);
            }
            Change::Append {
                old_pair,
                old_length,
                data,
            } => {
                out.put_u8(6);
                out.put_pair(old_pair.unwrap_or(Pair::ZERO));
                out.put_varint(*old_length);
                out.put_bytes_field(data);
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Change, Malformed> {
        let some = |pair: Pair| (pair != Pair::ZERO).then_some(pair);
        Ok(match reader.u8()? {
            tag @ 1..=4 => {
                let old = match (tag - 1) & 1 {
                    0 => None,
                    _ => Some((Value::decode(reader)?, reader.pair()?)),
                };
                let new = match (tag - 1) & 2 {
                    0 => None,
                    _ => Some(Value::decode(reader)?),
                };
                Change::Set { old, new }
            }
            5 => Change::Add {
                old_pair: some(reader.pair()?),
                delta: reader.signed()?,
            },
            6 => Change::Append {
                old_pair: some(reader.pair()?),
                old_length: reader.varint()?,
                data: reader.bytes_field()?,
            },
            _ => return Err(Malformed("kind of change")),
        })
    }
}
