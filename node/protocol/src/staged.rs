//! The parts of a coalesced delta as they are staged beside the live generation, in their stored form.

use crate::codec::{Malformed, Reader};
use crate::object::Object;
use crate::request::DedupEntry;
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::{ClientId, RequestId, Sequence};

const FORMAT: u8 = 1;

/// What a delta says of an object or a dedup entry: what it is now, or that it is gone. A staged delta holds these in place of
/// objects, so that what it does not speak of is as in the live generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Staged {
    Object {
        key: Bytes,
        object: Option<Object>,
    },
    Dedup {
        id: RequestId,
        entry: Option<DedupEntry>,
    },
}

const STAGED_OBJECT: u8 = 1;
const STAGED_DEDUP: u8 = 2;

impl Staged {
    /// Under which it is kept.
    pub fn key(&self) -> Bytes {
        match self {
            Staged::Object { key, .. } => Staged::object_key(key),
            Staged::Dedup { id, .. } => {
                let mut out = BytesMut::with_capacity(25);
                out.put_u8(STAGED_DEDUP);
                out.put_u128(id.client.0);
                out.put_u64(id.sequence.0);
                out.freeze()
            }
        }
    }

    /// Under which a staged object is kept.
    pub fn object_key(key: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(key.len() + 1);
        out.put_u8(STAGED_OBJECT);
        out.put_slice(key);
        out.freeze()
    }

    /// Its stored form: a flag, and what is there.
    pub fn value(&self) -> Bytes {
        let form = match self {
            Staged::Object { object, .. } => object.as_ref().map(Object::encode),
            Staged::Dedup { entry, .. } => entry.as_ref().map(DedupEntry::encode),
        };
        let mut out = BytesMut::with_capacity(form.as_ref().map_or(0, Bytes::len) + 2);
        out.put_u8(FORMAT);
        out.put_u8(u8::from(form.is_some()));
        out.put_slice(&form.unwrap_or_default());
        out.freeze()
    }

    pub fn decode(key: &[u8], value: &Bytes) -> Result<Staged, Malformed> {
        let mut reader = Reader::new(value.clone());
        if reader.u8()? != FORMAT {
            return Err(Malformed("part of a delta of an unknown format"));
        }
        let there = reader.bool()?;
        let form = reader.take(reader.remaining())?;
        if !there && !form.is_empty() {
            return Err(Malformed("bytes after the end"));
        }
        match key.split_first() {
            Some((&STAGED_OBJECT, key)) => Ok(Staged::Object {
                key: Bytes::copy_from_slice(key),
                object: there.then(|| Object::decode(form)).transpose()?,
            }),
            Some((&STAGED_DEDUP, id)) if id.len() == 24 => {
                let (client, sequence) = id.split_at(16);
                let client = u128::from_be_bytes(client.try_into().expect("sixteen bytes"));
                let sequence = u64::from_be_bytes(sequence.try_into().expect("eight bytes"));
                Ok(Staged::Dedup {
                    id: RequestId {
                        client: ClientId(client),
                        sequence: Sequence(sequence),
                    },
                    entry: there.then(|| DedupEntry::decode(form)).transpose()?,
                })
            }
            _ => Err(Malformed("key of a part of a delta")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::LastWrite;
    use crate::request::{Outcome, plain_object};
    use understudy_proto::Pair;

    #[test]
    fn each_part_survives_its_stored_form_and_others_are_refused() {
        let id = RequestId {
            client: ClientId(5),
            sequence: Sequence(6),
        };
        let last = LastWrite {
            pair: Pair::new(2, 9),
            request: id,
        };
        let entry = DedupEntry {
            pair: last.pair,
            fingerprint: 7,
            outcome: Outcome::Applied(Vec::new()),
            conflicts: Vec::new(),
        };
        let key = Bytes::from_static(b"\x02k");
        let object = plain_object(Bytes::from_static(b"v"), last);
        let mut parts: Vec<Staged> = [None, Some(object)]
            .map(|object| {
                let key = key.clone();
                Staged::Object { key, object }
            })
            .into();
        parts.extend([None, Some(entry)].map(|entry| Staged::Dedup { id, entry }));
        for part in parts {
            let (key, value) = (part.key(), part.value());
            assert_eq!(Staged::decode(&key, &value), Ok(part));
            let more = [&value[..], b"x"].concat().into();
            assert!(Staged::decode(&key, &more).is_err());
            assert!(Staged::decode(b"", &value).is_err());
            assert!(Staged::decode(b"\x03", &value).is_err());
        }
    }
}
