//! Requests and their outcomes: what a client asks, what it comes to, and the entry by which a retry is known.

use crate::codec::{Malformed, Put, Reader};
use crate::object::{Component, LastWrite, Object, Value};
use bytes::{BufMut, Bytes, BytesMut};
use understudy_proto::{NamespaceId, Pair, RequestId, Sequence};

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    SetComponent {
        key: Bytes,
        name: Bytes,
        value: Bytes,
    },
    RemoveComponent {
        key: Bytes,
        name: Bytes,
    },
    Add {
        key: Bytes,
        name: Bytes,
        delta: i64,
    },
    Append {
        key: Bytes,
        name: Bytes,
        data: Bytes,
    },
    Get {
        key: Bytes,
    },
}

/// What must hold before the operations run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Precondition {
    LastPair {
        key: Bytes,
        pair: Pair,
    },
    ComponentValue {
        key: Bytes,
        name: Bytes,
        value: Value,
    },
    Absent {
        key: Bytes,
        absent: bool,
    },
}

impl Op {
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. }
            | Op::Delete { key }
            | Op::SetComponent { key, .. }
            | Op::RemoveComponent { key, .. }
            | Op::Add { key, .. }
            | Op::Append { key, .. }
            | Op::Get { key } => key,
        }
    }

    /// About as many bytes as it takes in a record.
    pub fn size(&self) -> usize {
        let rest = match self {
            Op::Put { value, .. } => value.len(),
            Op::SetComponent { name, value, .. } => name.len() + value.len(),
            Op::Append { name, data, .. } => name.len() + data.len(),
            Op::Add { name, .. } | Op::RemoveComponent { name, .. } => name.len() + 8,
            Op::Delete { .. } | Op::Get { .. } => 0,
        };
        self.key().len() + rest
    }

    fn encode(&self, out: &mut BytesMut) {
        let (tag, fields): (u8, [Option<&Bytes>; 3]) = match self {
            Op::Put { key, value } => (1, [Some(key), Some(value), None]),
            Op::Delete { key } => (2, [Some(key), None, None]),
            Op::SetComponent { key, name, value } => (3, [Some(key), Some(name), Some(value)]),
            Op::RemoveComponent { key, name } => (4, [Some(key), Some(name), None]),
            Op::Add { key, name, .. } => (5, [Some(key), Some(name), None]),
            Op::Append { key, name, data } => (6, [Some(key), Some(name), Some(data)]),
            Op::Get { key } => (7, [Some(key), None, None]),
        };
        out.put_u8(tag);
        for field in fields.into_iter().flatten() {
            out.put_bytes_field(field);
        }
        if let Op::Add { delta, .. } = self {
            out.put_signed(*delta);
        }
    }

    fn decode(reader: &mut Reader) -> Result<Op, Malformed> {
        let tag = reader.u8()?;
        let key = reader.bytes_field()?;
        Ok(match tag {
            1 => Op::Put {
                key,
                value: reader.bytes_field()?,
            },
            2 => Op::Delete { key },
            3 => Op::SetComponent {
                key,
                name: reader.bytes_field()?,
                value: reader.bytes_field()?,
            },
            4 => Op::RemoveComponent {
                key,
                name: reader.bytes_field()?,
            },
            5 => Op::Add {
                key,
                name: reader.bytes_field()?,
                delta: reader.signed()?,
            },
            6 => Op::Append {
                key,
                name: reader.bytes_field()?,
                data: reader.bytes_field()?,
            },
            7 => Op::Get { key },
            _ => return Err(Malformed("kind of operation")),
        })
    }
}

impl Precondition {
    pub fn key(&self) -> &Bytes {
        match self {
            Precondition::LastPair { key, .. }
            | Precondition::ComponentValue { key, .. }
            | Precondition::Absent { key, .. } => key,
        }
    }

    /// About as many bytes as it takes in a record.
    pub fn size(&self) -> usize {
        let rest = match self {
            Precondition::ComponentValue { name, value, .. } => name.len() + value.size(),
            Precondition::LastPair { .. } => 20,
            Precondition::Absent { .. } => 1,
        };
        self.key().len() + rest
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Precondition::LastPair { key, pair } => {
                out.put_u8(1);
                out.put_bytes_field(key);
                out.put_pair(*pair);
            }
            Precondition::ComponentValue { key, name, value } => {
                out.put_u8(2);
                out.put_bytes_field(key);
                out.put_bytes_field(name);
                value.encode(out);
            }
            Precondition::Absent { key, absent } => {
                out.put_u8(3);
                out.put_bytes_field(key);
                out.put_u8(u8::from(*absent));
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Precondition, Malformed> {
        let tag = reader.u8()?;
        let key = reader.bytes_field()?;
        Ok(match tag {
            1 => Precondition::LastPair {
                key,
                pair: reader.pair()?,
            },
            2 => Precondition::ComponentValue {
                key,
                name: reader.bytes_field()?,
                value: Value::decode(reader)?,
            },
            3 => Precondition::Absent {
                key,
                absent: reader.bool()?,
            },
            _ => return Err(Malformed("kind of precondition")),
        })
    }
}

/// What a client asks of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    pub id: RequestId,
    pub ops: Vec<Op>,
    pub preconditions: Vec<Precondition>,
    /// The client needs no answers any more up to this number.
    pub answered_upto: Sequence,
    /// Of the namespace and the content; made by [`Request::new`].
    pub fingerprint: u64,
}

impl Request {
    pub fn new(
        id: RequestId,
        namespace: NamespaceId,
        ops: Vec<Op>,
        preconditions: Vec<Precondition>,
        answered_upto: Sequence,
    ) -> Request {
        let mut content = BytesMut::with_capacity(256);
        content.put_u64(namespace.0);
        encode_content(&ops, &preconditions, &mut content);
        let fingerprint = xxhash_rust::xxh3::xxh3_64(&content);
        Request {
            id,
            ops,
            preconditions,
            answered_upto,
            fingerprint,
        }
    }
}

/// Operations and preconditions, as they stand in a record.
pub(crate) fn encode_content(ops: &[Op], preconditions: &[Precondition], out: &mut BytesMut) {
    out.put_varint(ops.len() as u64);
    for op in ops {
        op.encode(out);
    }
    out.put_varint(preconditions.len() as u64);
    for precondition in preconditions {
        precondition.encode(out);
    }
}

pub(crate) fn decode_content(
    reader: &mut Reader,
) -> Result<(Vec<Op>, Vec<Precondition>), Malformed> {
    let ops = (0..reader.count()?)
        .map(|_| Op::decode(reader))
        .collect::<Result<_, _>>()?;
    let preconditions = (0..reader.count()?)
        .map(|_| Precondition::decode(reader))
        .collect::<Result<_, _>>()?;
    Ok((ops, preconditions))
}

/// What one operation gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpResult {
    /// put, delete, set, remove: whether it was there before.
    Existed(bool),
    /// add: the counter afterwards.
    Counter(i64),
    /// append: the length afterwards.
    Length(u64),
    /// get.
    Object(Option<Object>),
}

/// Why an operation could not run on the state that it met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailedOp {
    WrongKind,
    Overflow,
    TooLarge,
}

/// What a request came to. Logged; every retry gets the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// One result for each operation.
    Applied(Vec<OpResult>),
    /// The precondition of this index did not hold.
    ConditionFailed(u32),
    /// The operation of this index could not run.
    Failed(u32, FailedOp),
}

impl Outcome {
    /// About as many bytes as it takes.
    pub fn size(&self) -> usize {
        match self {
            Outcome::Applied(results) => results.iter().map(OpResult::size).sum(),
            _ => 8,
        }
    }

    /// The same result with the same returned values, wherever and under whichever pairs these were written.
    pub fn is_same_as(&self, other: &Outcome) -> bool {
        match (self, other) {
            (Outcome::Applied(mine), Outcome::Applied(others)) => {
                mine.len() == others.len()
                    && mine
                        .iter()
                        .zip(others)
                        .all(|(mine, other)| mine.is_same_as(other))
            }
            _ => self == other,
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Outcome::Applied(results) => {
                out.put_u8(1);
                out.put_varint(results.len() as u64);
                for result in results {
                    encode_result(result, out);
                }
            }
            Outcome::ConditionFailed(index) => {
                out.put_u8(2);
                out.put_varint(u64::from(*index));
            }
            Outcome::Failed(index, why) => {
                out.put_u8(3);
                out.put_varint(u64::from(*index));
                out.put_u8(match why {
                    FailedOp::WrongKind => 1,
                    FailedOp::Overflow => 2,
                    FailedOp::TooLarge => 3,
                });
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Outcome, Malformed> {
        Ok(match reader.u8()? {
            1 => Outcome::Applied(
                (0..reader.count()?)
                    .map(|_| decode_result(reader))
                    .collect::<Result<_, _>>()?,
            ),
            2 => Outcome::ConditionFailed(index(reader)?),
            3 => {
                let index = index(reader)?;
                let why = match reader.u8()? {
                    1 => FailedOp::WrongKind,
                    2 => FailedOp::Overflow,
                    3 => FailedOp::TooLarge,
                    _ => return Err(Malformed("kind of failure")),
                };
                Outcome::Failed(index, why)
            }
            _ => return Err(Malformed("kind of outcome")),
        })
    }
}

fn index(reader: &mut Reader) -> Result<u32, Malformed> {
    u32::try_from(reader.varint()?).map_err(|_| Malformed("index over 32 bits"))
}

fn encode_result(result: &OpResult, out: &mut BytesMut) {
    match result {
        OpResult::Existed(existed) => out.put_u8(if *existed { 2 } else { 1 }),
        OpResult::Counter(counter) => {
            out.put_u8(3);
            out.put_signed(*counter);
        }
        OpResult::Length(length) => {
            out.put_u8(4);
            out.put_varint(*length);
        }
        OpResult::Object(None) => out.put_u8(5),
        OpResult::Object(Some(object)) => {
            out.put_u8(6);
            out.put_bytes_field(&object.encode());
        }
    }
}

fn decode_result(reader: &mut Reader) -> Result<OpResult, Malformed> {
    Ok(match reader.u8()? {
        1 => OpResult::Existed(false),
        2 => OpResult::Existed(true),
        3 => OpResult::Counter(reader.signed()?),
        4 => OpResult::Length(reader.varint()?),
        5 => OpResult::Object(None),
        6 => OpResult::Object(Some(Object::decode(reader.bytes_field()?)?)),
        _ => return Err(Malformed("kind of result")),
    })
}

/// By which a retry is known: kept for each request above its client's floor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DedupEntry {
    pub pair: Pair,
    pub fingerprint: u64,
    pub outcome: Outcome,
    /// The records under this id that failovers cut off and that became conflicts here, the first first.
    pub conflicts: Vec<Pair>,
}

const FORMAT: u8 = 1;
/// With conflicts.
const FORMAT_WITH_CONFLICTS: u8 = 2;

impl DedupEntry {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        out.put_u8(match self.conflicts.is_empty() {
            true => FORMAT,
            false => FORMAT_WITH_CONFLICTS,
        });
        out.put_pair(self.pair);
        out.put_u64(self.fingerprint);
        self.outcome.encode(&mut out);
        if !self.conflicts.is_empty() {
            out.put_varint(self.conflicts.len() as u64);
            for pair in &self.conflicts {
                out.put_pair(*pair);
            }
        }
        out.freeze()
    }

    pub fn decode(bytes: Bytes) -> Result<DedupEntry, Malformed> {
        let mut reader = Reader::new(bytes);
        let with_conflicts = match reader.u8()? {
            FORMAT => false,
            FORMAT_WITH_CONFLICTS => true,
            _ => return Err(Malformed("dedup entry of an unknown format")),
        };
        let mut entry = DedupEntry {
            pair: reader.pair()?,
            fingerprint: reader.u64()?,
            outcome: Outcome::decode(&mut reader)?,
            conflicts: Vec::new(),
        };
        if with_conflicts {
            entry.conflicts = (0..reader.count()?)
                .map(|_| reader.pair())
                .collect::<Result<_, _>>()?;
            if entry.conflicts.is_empty() {
                return Err(Malformed(
                    "a dedup entry with no conflicts has another format",
                ));
            }
        }
        reader.finish()?;
        Ok(entry)
    }
}

/// A component with the name that marks the object's plain value.
pub fn plain(value: Bytes, pair: Pair) -> Component {
    Component {
        name: Bytes::new(),
        value: Value::Data(value),
        pair,
    }
}

/// An object of one plain value.
pub fn plain_object(value: Bytes, last: LastWrite) -> Object {
    Object {
        last,
        components: vec![plain(value, last.pair)],
    }
}

impl OpResult {
    fn is_same_as(&self, other: &OpResult) -> bool {
        match (self, other) {
            (OpResult::Object(Some(mine)), OpResult::Object(Some(other))) => {
                let values = |object: &Object| -> Vec<(Bytes, Value)> {
                    let components = object.components.iter();
                    components
                        .map(|c| (c.name.clone(), c.value.clone()))
                        .collect()
                };
                values(mine) == values(other)
            }
            _ => self == other,
        }
    }

    /// What the result counts for in the limit of a record.
    pub fn size(&self) -> usize {
        match self {
            OpResult::Object(Some(object)) => object
                .components
                .iter()
                .map(|c| c.name.len() + c.value.size() + 24)
                .sum(),
            _ => 12,
        }
    }
}
