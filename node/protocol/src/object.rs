//! Objects as a copy holds them: components with values, each with the pair of the record that wrote it.
//!
//! An object without components is absent: there are no tombstones, the log tells what was deleted.

use crate::codec::{Malformed, Put, Reader};
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::{Pair, RequestId};

/// The value of one component.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Data(Bytes),
    Counter(i64),
}

impl Value {
    /// What the value counts for in limits and retention.
    pub fn size(&self) -> usize {
        match self {
            Value::Data(data) => data.len(),
            Value::Counter(_) => 8,
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Value::Data(data) => {
                out.put_u8(0);
                out.put_bytes_field(data);
            }
            Value::Counter(counter) => {
                out.put_u8(1);
                out.put_signed(*counter);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Value, Malformed> {
        match reader.u8()? {
            0 => Ok(Value::Data(reader.bytes_field()?)),
            1 => Ok(Value::Counter(reader.signed()?)),
            _ => Err(Malformed("kind of value")),
        }
    }
}

/// One component and the record that wrote it last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    pub name: Bytes,
    pub value: Value,
    pub pair: Pair,
}

/// Which record and which request wrote an object last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastWrite {
    pub pair: Pair,
    pub request: RequestId,
}

/// An object. Its components are sorted by name, each name once, at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    pub last: LastWrite,
    pub components: Vec<Component>,
}

const FORMAT: u8 = 1;

impl Object {
    pub fn component(&self, name: &[u8]) -> Option<&Component> {
        self.find(name).ok().map(|at| &self.components[at])
    }

    /// Where the component is, or where it would be.
    pub fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.components
            .binary_search_by(|component| component.name[..].cmp(name))
    }

    /// The form in the store: format, last writer, components.
    pub fn encode(&self) -> Bytes {
        let size: usize = self
            .components
            .iter()
            .map(|c| c.name.len() + c.value.size() + 24)
            .sum();
        let mut out = BytesMut::with_capacity(size + 48);
        out.put_u8(FORMAT);
        out.put_pair(self.last.pair);
        out.put_request_id(self.last.request);
        out.put_varint(self.components.len() as u64);
        for component in &self.components {
            out.put_bytes_field(&component.name);
            out.put_pair(component.pair);
            component.value.encode(&mut out);
        }
        out.freeze()
    }

    pub fn decode(bytes: Bytes) -> Result<Object, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(Malformed("object of an unknown format"));
        }
        let last = LastWrite {
            pair: reader.pair()?,
            request: reader.request_id()?,
        };
        let count = reader.count()?;
        let mut components: Vec<Component> = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let name = reader.bytes_field()?;
            let pair = reader.pair()?;
            let value = Value::decode(&mut reader)?;
            if components.last().is_some_and(|before| before.name >= name) {
                return Err(Malformed("components out of order"));
            }
            components.push(Component { name, value, pair });
        }
        if components.is_empty() {
            return Err(Malformed("object without components"));
        }
        reader.finish()?;
        Ok(Object { last, components })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::{ClientId, Sequence};

    fn object() -> Object {
        let last = LastWrite {
            pair: Pair::new(2, 70_000),
            request: RequestId {
                client: ClientId(7),
                sequence: Sequence(300),
            },
        };
        let component = |name: &'static [u8], value| Component {
            name: Bytes::from_static(name),
            value,
            pair: last.pair,
        };
        Object {
            last,
            components: vec![
                component(b"", Value::Data(Bytes::from_static(b"plain"))),
                component(b"n", Value::Counter(-5)),
            ],
        }
    }

    #[test]
    fn an_object_survives_its_stored_form() {
        assert_eq!(Object::decode(object().encode()), Ok(object()));
    }

    #[test]
    fn a_damaged_object_is_refused() {
        let bytes = object().encode();
        for length in 0..bytes.len() {
            assert!(
                Object::decode(bytes.slice(..length)).is_err(),
                "cut at {length}"
            );
        }
        let mut long = bytes.to_vec();
        long.push(0);
        assert!(Object::decode(long.into()).is_err());
    }
}
