//! What a shard forgets of its clients' requests: the body of an expiry record, and what stays of a client afterwards.
//!
//! The primary decides, and every copy removes exactly what the record names, so that all forget at the same version; the
//! record bears what was there before, so that an undo restores it. What stays is kept among the dedup entries, under
//! sequence number 0, which no request has: so it travels with full copies and is undone and checked like them.

use crate::codec::{Malformed, Put, Reader};
use crate::request::{DedupEntry, Outcome};
use bytes::{BufMut, BytesMut};
use understudy_proto::{ClientId, Pair, RequestId, Revision, Sequence};

/// Of a client of whom something was forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClientState {
    /// At or below it a request without an entry never runs: it may have run, and been forgotten.
    pub floor: Sequence,
    /// The highest pair of an entry that was removed.
    pub removed: Pair,
}

/// Of a shard in which a client's session ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShardState {
    /// No client without an entry may write by an older Sessions table.
    pub sessions: Revision,
    /// The highest pair of an entry that was removed of a client of whom nothing stays.
    pub removed: Pair,
}

/// Where a client's state is kept.
pub fn client_state_id(client: ClientId) -> RequestId {
    RequestId {
        client,
        sequence: Sequence(0),
    }
}

/// Where the shard's is: no client has this id, it is no UUIDv7.
pub fn shard_state_id() -> RequestId {
    client_state_id(ClientId(0))
}

fn state_entry(pair: Pair, number: u64) -> DedupEntry {
    DedupEntry {
        pair,
        fingerprint: number,
        outcome: Outcome::Applied(Vec::new()),
        conflicts: Vec::new(),
    }
}

impl ClientState {
    pub fn of(entry: &DedupEntry) -> ClientState {
        ClientState {
            floor: Sequence(entry.fingerprint),
            removed: entry.pair,
        }
    }

    pub fn entry(&self) -> DedupEntry {
        state_entry(self.removed, self.floor.0)
    }
}

impl ShardState {
    pub fn of(entry: &DedupEntry) -> ShardState {
        ShardState {
            sessions: Revision(entry.fingerprint),
            removed: entry.pair,
        }
    }

    pub fn entry(&self) -> DedupEntry {
        state_entry(self.removed, self.sessions.0)
    }
}

/// The body of an expiry record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpiryBody {
    /// Of the Sessions table by which it was judged who has ended.
    pub sessions: Revision,
    /// The shard's state before; looked at and changed only when a client ended.
    pub before: Option<DedupEntry>,
    /// In the order of their ids.
    pub clients: Vec<ClientExpiry>,
}

/// What goes of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientExpiry {
    pub client: ClientId,
    /// `None`: its session ended, and nothing of it stays.
    pub floor: Option<Sequence>,
    /// Its state before.
    pub before: Option<DedupEntry>,
    /// The entries that go, in the order of their numbers.
    pub removed: Vec<(Sequence, DedupEntry)>,
}

/// Dedup entries to be put, or removed.
pub type Entries = Vec<(RequestId, Option<DedupEntry>)>;

impl ClientExpiry {
    /// The highest pair of what goes, or went before.
    fn highest(&self) -> Pair {
        let before = self.before.iter().map(|entry| entry.pair);
        let removed = self.removed.iter().map(|(_, entry)| entry.pair);
        before.chain(removed).max().unwrap_or_default()
    }

    pub fn ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.removed.iter().map(|(sequence, _)| RequestId {
            client: self.client,
            sequence: *sequence,
        })
    }

    fn after(&self) -> Option<DedupEntry> {
        let state = |floor| ClientState {
            floor,
            removed: self.highest(),
        };
        self.floor.map(|floor| state(floor).entry())
    }
}

impl ExpiryBody {
    fn ended(&self) -> impl Iterator<Item = &ClientExpiry> {
        self.clients.iter().filter(|client| client.floor.is_none())
    }

    /// What the record makes of the dedup entries.
    pub fn after(&self) -> Entries {
        let mut entries = Entries::new();
        for client in &self.clients {
            entries.extend(client.ids().map(|id| (id, None)));
            entries.push((client_state_id(client.client), client.after()));
        }
        if let Some(highest) = self.ended().map(ClientExpiry::highest).max() {
            let before = self.before.as_ref().map(ShardState::of).unwrap_or_default();
            let after = ShardState {
                sessions: before.sessions.max(self.sessions),
                removed: before.removed.max(highest),
            };
            entries.push((shard_state_id(), Some(after.entry())));
        }
        entries
    }

    /// What its undo makes of them.
    pub fn before(&self) -> Entries {
        let mut entries = Entries::new();
        for client in &self.clients {
            let removed = client.removed.iter().map(|(_, entry)| Some(entry.clone()));
            entries.extend(client.ids().zip(removed));
            entries.push((client_state_id(client.client), client.before.clone()));
        }
        if self.ended().next().is_some() {
            entries.push((shard_state_id(), self.before.clone()));
        }
        entries
    }

    /// Entries that go.
    pub fn removed(&self) -> usize {
        self.clients.iter().map(|client| client.removed.len()).sum()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.sessions.0);
        put_entry(self.before.as_ref(), out);
        out.put_varint(self.clients.len() as u64);
        for client in &self.clients {
            out.put_request_id(RequestId {
                client: client.client,
                sequence: client.floor.unwrap_or(Sequence(0)),
            });
            out.put_u8(u8::from(client.floor.is_some()));
            put_entry(client.before.as_ref(), out);
            out.put_varint(client.removed.len() as u64);
            for (sequence, entry) in &client.removed {
                out.put_varint(sequence.0);
                out.put_bytes_field(&entry.encode());
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<ExpiryBody, Malformed> {
        let body = ExpiryBody {
            sessions: Revision(reader.u64()?),
            before: read_entry(reader)?,
            clients: (0..reader.count()?)
                .map(|_| read_client(reader))
                .collect::<Result<_, _>>()?,
        };
        if body.clients.is_empty() {
            return Err(Malformed("an expiry of nothing"));
        }
        if !body.clients.is_sorted_by(|a, b| a.client < b.client) {
            return Err(Malformed("clients out of order"));
        }
        Ok(body)
    }
}

fn put_entry(entry: Option<&DedupEntry>, out: &mut BytesMut) {
    out.put_u8(u8::from(entry.is_some()));
    if let Some(entry) = entry {
        out.put_bytes_field(&entry.encode());
    }
}

fn read_entry(reader: &mut Reader) -> Result<Option<DedupEntry>, Malformed> {
    match reader.bool()? {
        true => Ok(Some(DedupEntry::decode(reader.bytes_field()?)?)),
        false => Ok(None),
    }
}

fn read_client(reader: &mut Reader) -> Result<ClientExpiry, Malformed> {
    let RequestId { client, sequence } = reader.request_id()?;
    let (stays, floor) = (reader.bool()?, sequence);
    let expiry = ClientExpiry {
        client,
        floor: stays.then_some(floor),
        before: read_entry(reader)?,
        removed: (0..reader.count()?)
            .map(|_| {
                let sequence = Sequence(reader.varint()?);
                Ok((sequence, DedupEntry::decode(reader.bytes_field()?)?))
            })
            .collect::<Result<_, _>>()?,
    };
    if !stays && floor != Sequence(0) {
        return Err(Malformed("a floor of a client that ended"));
    }
    let rising = expiry.removed.is_sorted_by(|a, b| a.0 < b.0);
    let above = expiry
        .removed
        .last()
        .is_some_and(|(last, _)| stays && *last > floor);
    let first = expiry
        .removed
        .first()
        .is_some_and(|(first, _)| *first == Sequence(0));
    if !rising || above || first {
        return Err(Malformed("removed entries out of order"));
    }
    Ok(expiry)
}
