//! Conflicts: records that a failover cut off and that cannot be applied again, with both sides.
//!
//! A conflict is kept as an object under a key that no client can name, so that it outlives the log, travels with full
//! copies, is undone exactly, and can be read and written by the request that resolves it. docs/record-format.md has the
//! bytes.

use crate::change::{Change, ComponentChange, ObjectChange};
use crate::codec::{Malformed, Put, Reader};
use crate::object::{LastWrite, Object, Value};
use crate::record::{Body, Record, RequestBody};
use crate::request::{DedupEntry, Op, Precondition, Request};
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::{ClientId, NamespaceId, Pair, RequestId, Sequence};

/// Keys that begin so are not for clients: they name what the protocol keeps among the objects.
pub const RESERVED_PREFIX: &[u8] = &[0xff, 0xff];

/// The prefix of the keys of conflicts.
pub const CONFLICT_PREFIX: &[u8] = &[0xff, 0xff, b'c'];

/// Whether a key is one of the protocol's own.
pub fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(RESERVED_PREFIX)
}

/// Whether a key is that of a conflict. Whatever stands under one is about the same record that was cut off.
pub fn is_conflict_key(key: &[u8]) -> bool {
    key.starts_with(CONFLICT_PREFIX)
}

/// Why a record that was cut off is not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConflictReason {
    /// An object that it read, tested or wrote has another last writer here.
    ObjectChanged,
    /// Its request id has another outcome or other content here.
    OutcomeConflict,
    /// The request may have run here: entries of its client were removed since the branches parted.
    MayHaveRun,
    /// What would be needed to tell is no longer kept.
    CannotBeTold,
    /// It could be applied, and the namespace's policy does not want that.
    ByPolicy,
}

impl ConflictReason {
    pub fn as_str(self) -> &'static str {
        match self {
            ConflictReason::ObjectChanged => "object-changed",
            ConflictReason::OutcomeConflict => "outcome-conflict",
            ConflictReason::MayHaveRun => "may-have-run",
            ConflictReason::CannotBeTold => "cannot-be-told",
            ConflictReason::ByPolicy => "by-policy",
        }
    }

    fn tag(self) -> u8 {
        match self {
            ConflictReason::ObjectChanged => 1,
            ConflictReason::OutcomeConflict => 2,
            ConflictReason::MayHaveRun => 3,
            ConflictReason::CannotBeTold => 4,
            ConflictReason::ByPolicy => 5,
        }
    }

    fn of_tag(tag: u8) -> Result<ConflictReason, Malformed> {
        Ok(match tag {
            1 => ConflictReason::ObjectChanged,
            2 => ConflictReason::OutcomeConflict,
            3 => ConflictReason::MayHaveRun,
            4 => ConflictReason::CannotBeTold,
            5 => ConflictReason::ByPolicy,
            _ => return Err(Malformed("reason of a conflict")),
        })
    }
}

/// Both sides of a conflict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    pub reason: ConflictReason,
    /// The record as it was logged first; always a request's.
    pub cut_off: Record,
    /// For each object change of that record the last writer that the object has here; `None`: it is absent.
    pub stands: Vec<Option<LastWrite>>,
}

const FORMAT: u8 = 1;

impl Conflict {
    /// `None`: the record is no request's.
    pub fn new(
        reason: ConflictReason,
        cut_off: Record,
        stands: Vec<Option<LastWrite>>,
    ) -> Option<Conflict> {
        let Body::Request(body) = &cut_off.body else {
            return None;
        };
        assert_eq!(
            stands.len(),
            body.changes.len(),
            "one last writer for each object of {}",
            cut_off.pair
        );
        Some(Conflict {
            reason,
            cut_off,
            stands,
        })
    }

    /// The request that was cut off.
    pub fn request(&self) -> &RequestBody {
        match &self.cut_off.body {
            Body::Request(body) => body,
            _ => unreachable!("a conflict is about a request"),
        }
    }

    /// Under which key it is kept.
    pub fn key(&self) -> Bytes {
        conflict_key(self.request().id, self.cut_off.pair)
    }

    pub fn encode(&self) -> Bytes {
        let record = self.cut_off.encode().bytes;
        let mut out = BytesMut::with_capacity(record.len() + 48 * self.stands.len() + 16);
        out.put_u8(FORMAT);
        out.put_u8(self.reason.tag());
        out.put_bytes_field(&record);
        out.put_varint(self.stands.len() as u64);
        for last in &self.stands {
            match last {
                None => out.put_u8(0),
                Some(last) => {
                    out.put_u8(1);
                    out.put_pair(last.pair);
                    out.put_request_id(last.request);
                }
            }
        }
        out.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Conflict, Malformed> {
        let mut reader = Reader::new(bytes.clone());
        if reader.u8()? != FORMAT {
            return Err(Malformed("conflict of an unknown format"));
        }
        let reason = ConflictReason::of_tag(reader.u8()?)?;
        let (cut_off, _) = Record::decode_request_only(&reader.bytes_field()?)?;
        let stands = (0..reader.count()?)
            .map(|_| {
                Ok(match reader.bool()? {
                    false => None,
                    true => Some(LastWrite {
                        pair: reader.pair()?,
                        request: reader.request_id()?,
                    }),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        if stands.len() != cut_off.changes().len() {
            return Err(Malformed("one last writer for each object of a conflict"));
        }
        Ok(Conflict {
            reason,
            cut_off,
            stands,
        })
    }

    /// The conflict that an object under a conflict's key holds.
    pub fn of_object(object: &Object) -> Result<Conflict, Malformed> {
        match &object.components[..] {
            [one] if one.name.is_empty() => match &one.value {
                Value::Data(bytes) => Conflict::decode(bytes),
                Value::Counter(_) => Err(Malformed("a counter in a conflict's place")),
            },
            _ => Err(Malformed("components in a conflict's place")),
        }
    }
}

/// The key of the conflict about a request's record.
pub fn conflict_key(id: RequestId, cut_off: Pair) -> Bytes {
    let mut key = BytesMut::with_capacity(CONFLICT_PREFIX.len() + 40);
    key.put_slice(CONFLICT_PREFIX);
    key.put_slice(&id.client.to_bytes());
    key.put_u64(id.sequence.0);
    key.put_u64(cut_off.epoch.0);
    key.put_u64(cut_off.version.0);
    key.freeze()
}

/// Which conflict is resolved, as it was shown to whoever decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The request that was cut off.
    pub request: RequestId,
    /// Its record.
    pub cut_off: Pair,
    /// The record that put the conflict.
    pub pair: Pair,
}

/// The request that resolves a conflict: what is decided, on objects as they were shown, and the conflict goes. It is run,
/// deduplicated, logged, undone and given back like any other; the conflict is one of its objects.
///
/// The conflict's own condition and its removal come last, so that the indexes in an outcome are those of the caller's lists.
pub fn resolution(
    id: RequestId,
    namespace: NamespaceId,
    shown: Shown,
    mut ops: Vec<Op>,
    mut preconditions: Vec<Precondition>,
    answered_upto: Sequence,
) -> Request {
    let key = conflict_key(shown.request, shown.cut_off);
    let pair = shown.pair;
    preconditions.push(Precondition::LastPair {
        key: key.clone(),
        pair,
    });
    ops.push(Op::Delete { key });
    Request::new(id, namespace, ops, preconditions, answered_upto)
}

/// The request and the record that a conflict's key names.
pub fn parse_conflict_key(key: &[u8]) -> Option<(RequestId, Pair)> {
    let rest = key.strip_prefix(CONFLICT_PREFIX)?;
    let (client, rest) = rest.split_first_chunk::<16>()?;
    let numbers: &[u8; 24] = rest.try_into().ok()?;
    let number = |at: usize| {
        let bytes = numbers[at..at + 8].try_into().expect("eight bytes");
        u64::from_be_bytes(bytes)
    };
    let id = RequestId {
        client: ClientId::from_slice(client)?,
        sequence: Sequence(number(0)),
    };
    Some((id, Pair::new(number(8), number(16))))
}

/// What a conflict's record does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConflictBody {
    pub id: RequestId,
    /// The dedup entry that stood under the id; only an outcome conflict finds one.
    pub replaced: Option<DedupEntry>,
    /// Puts the conflict under its key. `None`: it is discarded, nobody has to decide it, and this record alone tells of it.
    pub change: Option<ObjectChange>,
    /// What it puts, or what is discarded.
    pub conflict: Conflict,
}

impl ConflictBody {
    /// `before`: what stands under the conflict's key.
    pub fn new(
        conflict: Conflict,
        replaced: Option<DedupEntry>,
        before: Option<&Object>,
    ) -> ConflictBody {
        let old = before
            .and_then(|object| object.component(b""))
            .map(|component| (component.value.clone(), component.pair));
        let change = ObjectChange {
            key: conflict.key(),
            before: before.map(|object| object.last),
            components: vec![ComponentChange {
                name: Bytes::new(),
                change: Change::Set {
                    old,
                    new: Some(Value::Data(conflict.encode())),
                },
            }],
        };
        ConflictBody {
            id: conflict.request().id,
            replaced,
            change: Some(change),
            conflict,
        }
    }

    /// The conflict that nobody is asked about.
    pub fn discarded(conflict: Conflict, replaced: Option<DedupEntry>) -> ConflictBody {
        ConflictBody {
            id: conflict.request().id,
            replaced,
            change: None,
            conflict,
        }
    }

    /// The dedup entry that goes with the record.
    pub fn entry(&self, pair: Pair) -> DedupEntry {
        let cut_off = self.conflict.request();
        let mut entry = self.replaced.clone().unwrap_or_else(|| DedupEntry {
            pair,
            fingerprint: cut_off.fingerprint,
            outcome: cut_off.outcome.clone(),
            conflicts: Vec::new(),
        });
        entry.pair = pair;
        entry.conflicts.push(self.conflict.cut_off.pair);
        entry
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_request_id(self.id);
        match &self.replaced {
            None => out.put_u8(0),
            Some(entry) => {
                out.put_u8(1);
                out.put_bytes_field(&entry.encode());
            }
        }
        match &self.change {
            Some(change) => change.encode(out),
            None => out.put_bytes_field(&self.conflict.encode()),
        }
    }

    /// The body of a record of kind 4, or of kind 6.
    pub(crate) fn decode(reader: &mut Reader, discarded: bool) -> Result<ConflictBody, Malformed> {
        let id = reader.request_id()?;
        let replaced = match reader.bool()? {
            false => None,
            true => Some(DedupEntry::decode(reader.bytes_field()?)?),
        };
        if discarded {
            let conflict = Conflict::decode(&reader.bytes_field()?)?;
            if conflict.request().id != id {
                return Err(Malformed("a discarded record under another request's id"));
            }
            return Ok(ConflictBody::discarded(conflict, replaced));
        }
        let change = ObjectChange::decode(reader)?;
        let conflict = match &change.components[..] {
            [
                ComponentChange {
                    name,
                    change:
                        Change::Set {
                            new: Some(Value::Data(bytes)),
                            ..
                        },
                },
            ] if name.is_empty() => Conflict::decode(bytes)?,
            _ => return Err(Malformed("a conflict's record puts one plain value")),
        };
        if conflict.request().id != id || conflict.key() != change.key {
            return Err(Malformed("a conflict under another one's key"));
        }
        Ok(ConflictBody {
            id,
            replaced,
            change: Some(change),
            conflict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_key_names_its_request_and_record() {
        let id = RequestId {
            client: ClientId(0x0102_0304),
            sequence: Sequence(77),
        };
        let key = conflict_key(id, Pair::new(3, 900));
        assert!(is_conflict_key(&key) && is_reserved(&key));
        assert_eq!(parse_conflict_key(&key), Some((id, Pair::new(3, 900))));
        for length in 0..key.len() {
            assert_eq!(parse_conflict_key(&key[..length]), None);
        }
        assert_eq!(parse_conflict_key(&[&key[..], b"x"].concat()), None);
    }
}
