//! Messages between copies, to and from the wire. Bytes of another build are malformed, never guessed at.

use bytes::Bytes;
use understudy_proto::{ClientId, CopyId, Epoch, Pair, RequestId, Sequence, ShardId, v1};
use understudy_protocol::codec::Malformed;
use understudy_protocol::conflict::ConflictReason;
use understudy_protocol::object::Object;
use understudy_protocol::request::DedupEntry;
use understudy_protocol::shard::message::{
    Ack, Beacon, BeaconAnswer, Branch, BranchMode, CopyChunk, DeltaChunk, Echo, Fate, FateKind,
    Message, Pulse, Reject, Scrub, ScrubEntry, Scrubbed, Submit, Submitted, Subscribe,
};
use understudy_protocol::store::{CopyProgress, Orphan};
use understudy_protocol::tables::settings::LEASE_MAX;
use understudy_protocol::time::{Duration, Instant};

use super::forwarded_wire;
use super::wire::{pair, request_id, to_pair};
use v1::peer_message::Kind;

fn pairs(pairs: &[Pair]) -> Vec<v1::Pair> {
    pairs.iter().copied().map(pair).collect()
}

fn to_pairs(pairs: Vec<v1::Pair>) -> Vec<Pair> {
    pairs.into_iter().map(|pair| to_pair(Some(pair))).collect()
}

/// A message about a shard as it is sent.
pub fn encode(shard: ShardId, message: Message) -> v1::PeerMessage {
    let kind = match message {
        Message::Subscribe(m) => Kind::Subscribe(v1::Subscribe {
            epoch: m.epoch.0,
            stream: m.stream,
            position: Some(pair(m.position)),
            checksum: m.checksum,
            epoch_starts: pairs(&m.epoch_starts),
            credit: m.credit,
            copying: m
                .copying
                .map(|progress| progress.to_bytes())
                .unwrap_or_default(),
            base: Some(pair(m.base)),
            delta_since: m.delta_since.map(pair),
            whole_records: m.whole,
        }),
        Message::Branch(m) => Kind::Branch(v1::Branch {
            epoch: m.epoch.0,
            stream: m.stream,
            cut: Some(pair(m.cut)),
            mode: match m.mode {
                BranchMode::Records => v1::branch::Mode::Records,
                BranchMode::Undo => v1::branch::Mode::Undo,
                BranchMode::Rebuild => v1::branch::Mode::Rebuild,
            } as i32,
        }),
        Message::Records(m) => Kind::Records(forwarded_wire::encode(m)),
        Message::Ack(m) => Kind::Ack(v1::Ack {
            epoch: m.epoch.0,
            stream: m.stream,
            position: Some(pair(m.position)),
            sent_us: m.sent.0,
            beacon: m.beacon.map(|answer| v1::BeaconAnswer {
                sent_us: answer.sent.0,
                lease_us: answer.lease.0,
            }),
        }),
        Message::CopyChunk(m) => Kind::Chunk(encode_chunk(m)),
        Message::Pulse(m) => Kind::Pulse(v1::Pulse {
            epoch: m.epoch.0,
            position: Some(pair(m.position)),
            base: Some(pair(m.base)),
            echo: m.echo.map(|echo| v1::Echo {
                stream: echo.stream,
                sent_us: echo.sent.0,
            }),
            commit: Some(pair(m.commit)),
            stream: m.stream,
            beacon: m.beacon.map(|beacon| v1::Beacon {
                sent_us: beacon.sent.0,
                lease_us: beacon.lease.0,
                leased: beacon.leased,
            }),
        }),
        Message::Reject(m) => Kind::Reject(v1::Reject { epoch: m.epoch.0 }),
        Message::Submit(m) => Kind::Submit(v1::Submit {
            epoch: m.epoch.0,
            orphans: m.orphans.iter().map(Orphan::encode).collect(),
            stream: m.stream,
        }),
        Message::Submitted(m) => Kind::Submitted(v1::Submitted {
            epoch: m.epoch.0,
            fates: m.fates.into_iter().map(encode_fate).collect(),
            everywhere: Some(pair(m.everywhere)),
            stream: m.stream,
        }),
        Message::Delta(m) => Kind::Delta(encode_delta(m)),
        Message::Scrub(m) => Kind::Scrub(v1::Scrub {
            epoch: m.epoch.0,
            stream: m.stream,
            number: m.number,
            after: m.after,
            last: m.last,
            at: Some(pair(m.at)),
            digest: m.digest,
        }),
        Message::Scrubbed(m) => Kind::Scrubbed(v1::Scrubbed {
            epoch: m.epoch.0,
            stream: m.stream,
            number: m.number,
            at: Some(pair(m.at)),
            same: m.same,
            more: m.more,
            entries: m.entries.into_iter().map(encode_entry).collect(),
        }),
    };
    v1::PeerMessage {
        shard: shard.0,
        kind: Some(kind),
    }
}

fn encode_chunk(m: CopyChunk) -> v1::CopyChunk {
    v1::CopyChunk {
        epoch: m.epoch.0,
        stream: m.stream,
        continues: m.continues.to_bytes(),
        then: m.then.to_bytes(),
        from: Some(pair(m.from)),
        checksum: m.checksum,
        epoch_starts: pairs(&m.epoch_starts),
        at: Some(pair(m.at)),
        objects: m
            .objects
            .into_iter()
            .map(|(key, object)| v1::CopiedObject {
                key,
                object: object.encode(),
            })
            .collect(),
        dedup: m
            .dedup
            .into_iter()
            .map(|(id, entry)| v1::CopiedDedup {
                id: Some(request_id(id)),
                entry: entry.encode(),
            })
            .collect(),
    }
}

/// An object that may be gone.
pub(super) fn encode_object((key, object): (Bytes, Option<Object>)) -> v1::CopiedObject {
    v1::CopiedObject {
        key,
        object: object.map(|object| object.encode()).unwrap_or_default(),
    }
}

pub(super) fn decode_object(
    copied: v1::CopiedObject,
) -> Result<(Bytes, Option<Object>), Malformed> {
    let object = match copied.object.is_empty() {
        true => None,
        false => Some(Object::decode(copied.object)?),
    };
    Ok((copied.key, object))
}

fn encode_delta(m: DeltaChunk) -> v1::DeltaChunk {
    let mut dedup: Vec<v1::DeltaDedup> = Vec::new();
    let mut last = None;
    for (id, entry) in m.dedup {
        if last.replace(id.client) != Some(id.client) {
            dedup.push(v1::DeltaDedup {
                client: Bytes::copy_from_slice(&id.client.to_bytes()),
                ..v1::DeltaDedup::default()
            });
        }
        let of_client = dedup.last_mut().expect("it was just pushed");
        of_client.sequences.push(id.sequence.0);
        let entry = entry.map(|entry| entry.encode()).unwrap_or_default();
        of_client.entries.push(entry);
    }
    v1::DeltaChunk {
        epoch: m.epoch.0,
        stream: m.stream,
        continues: m.continues.to_bytes(),
        then: m.then.to_bytes(),
        since: Some(pair(m.since)),
        upto: Some(pair(m.upto)),
        checksum: m.checksum,
        epoch_starts: pairs(&m.epoch_starts),
        at: Some(pair(m.at)),
        objects: m.objects.into_iter().map(encode_object).collect(),
        dedup,
    }
}

/// A message that came from the copy of a node.
pub fn decode(from: CopyId, message: v1::PeerMessage) -> Result<(ShardId, Message), Malformed> {
    let kind = message.kind.ok_or(Malformed("a message without a kind"))?;
    let message_of = match kind {
        Kind::Subscribe(m) => Message::Subscribe(Subscribe {
            epoch: Epoch(m.epoch),
            stream: m.stream,
            copy: from,
            position: to_pair(m.position),
            checksum: m.checksum,
            epoch_starts: to_pairs(m.epoch_starts),
            credit: m.credit,
            copying: match m.copying.is_empty() {
                true => None,
                false => Some(CopyProgress::from_bytes(m.copying)?),
            },
            base: to_pair(m.base),
            delta_since: m.delta_since.map(|since| to_pair(Some(since))),
            whole: m.whole_records,
        }),
        Kind::Branch(m) => Message::Branch(Branch {
            epoch: Epoch(m.epoch),
            stream: m.stream,
            cut: to_pair(m.cut),
            mode: match m.mode() {
                v1::branch::Mode::Records => BranchMode::Records,
                v1::branch::Mode::Undo => BranchMode::Undo,
                v1::branch::Mode::Rebuild => BranchMode::Rebuild,
                v1::branch::Mode::Unspecified => return Err(Malformed("mode of a branch")),
            },
        }),
        Kind::Records(m) => {
            let shard = ShardId(message.shard);
            Message::Records(forwarded_wire::decode(shard, m)?)
        }
        Kind::Ack(m) => Message::Ack(Ack {
            epoch: Epoch(m.epoch),
            stream: m.stream,
            copy: from,
            position: to_pair(m.position),
            sent: Instant(m.sent_us),
            beacon: m.beacon.map(|answer| BeaconAnswer {
                sent: Instant(answer.sent_us),
                lease: decode_lease(answer.lease_us),
            }),
        }),
        Kind::Chunk(m) => Message::CopyChunk(decode_chunk(m)?),
        Kind::Pulse(m) => Message::Pulse(Pulse {
            epoch: Epoch(m.epoch),
            position: to_pair(m.position),
            base: to_pair(m.base),
            echo: m.echo.map(|echo| Echo {
                stream: echo.stream,
                sent: Instant(echo.sent_us),
            }),
            commit: to_pair(m.commit),
            stream: m.stream,
            beacon: m.beacon.map(|beacon| Beacon {
                sent: Instant(beacon.sent_us),
                lease: decode_lease(beacon.lease_us),
                leased: beacon.leased,
            }),
        }),
        Kind::Reject(m) => Message::Reject(Reject {
            epoch: Epoch(m.epoch),
        }),
        Kind::Submit(m) => {
            let received = |bytes: &Bytes| Orphan::received(ShardId(message.shard), bytes);
            Message::Submit(Submit {
                epoch: Epoch(m.epoch),
                stream: m.stream,
                copy: from,
                orphans: m.orphans.iter().map(received).collect::<Result<_, _>>()?,
            })
        }
        Kind::Submitted(m) => Message::Submitted(Submitted {
            epoch: Epoch(m.epoch),
            stream: m.stream,
            fates: m
                .fates
                .into_iter()
                .map(decode_fate)
                .collect::<Result<_, _>>()?,
            everywhere: to_pair(m.everywhere),
        }),
        Kind::Delta(m) => Message::Delta(decode_delta(m)?),
        Kind::Scrub(m) => Message::Scrub(Scrub {
            epoch: Epoch(m.epoch),
            stream: m.stream,
            number: m.number,
            after: m.after,
            last: m.last,
            at: to_pair(m.at),
            digest: m.digest,
        }),
        Kind::Scrubbed(m) => Message::Scrubbed(Scrubbed {
            epoch: Epoch(m.epoch),
            stream: m.stream,
            copy: from,
            number: m.number,
            at: to_pair(m.at),
            same: m.same,
            more: m.more,
            entries: m.entries.into_iter().map(decode_entry).collect(),
        }),
    };
    Ok((ShardId(message.shard), message_of))
}

fn encode_entry(entry: ScrubEntry) -> v1::ScrubbedObject {
    v1::ScrubbedObject {
        key: entry.key,
        pair: Some(pair(entry.pair)),
        digest: entry.digest,
    }
}

fn decode_entry(m: v1::ScrubbedObject) -> ScrubEntry {
    ScrubEntry {
        key: m.key,
        pair: to_pair(m.pair),
        digest: m.digest,
    }
}

/// No lease is longer than the longest that can be set.
fn decode_lease(us: u64) -> Duration {
    Duration(us).min(LEASE_MAX)
}

fn encode_fate(fate: Fate) -> v1::submitted::Fate {
    use v1::submitted::fate::Kind;
    let kind = match fate.kind {
        FateKind::Stands => Kind::Stands,
        FateKind::Applied => Kind::Applied,
        FateKind::OutcomeOnly => Kind::OutcomeOnly,
        FateKind::Conflict(ConflictReason::ObjectChanged) => Kind::ConflictObjectChanged,
        FateKind::Conflict(ConflictReason::OutcomeConflict) => Kind::ConflictOutcome,
        FateKind::Conflict(ConflictReason::MayHaveRun) => Kind::ConflictMayHaveRun,
        FateKind::Conflict(ConflictReason::CannotBeTold) => Kind::ConflictCannotBeTold,
        FateKind::Conflict(ConflictReason::ByPolicy) => Kind::ConflictByPolicy,
        FateKind::Discarded => Kind::Discarded,
    };
    v1::submitted::Fate {
        pair: Some(pair(fate.pair)),
        kind: kind as i32,
        stands: Some(pair(fate.stands)),
    }
}

fn decode_fate(m: v1::submitted::Fate) -> Result<Fate, Malformed> {
    use v1::submitted::fate::Kind;
    let kind = match m.kind() {
        Kind::Stands => FateKind::Stands,
        Kind::Applied => FateKind::Applied,
        Kind::OutcomeOnly => FateKind::OutcomeOnly,
        Kind::ConflictObjectChanged => FateKind::Conflict(ConflictReason::ObjectChanged),
        Kind::ConflictOutcome => FateKind::Conflict(ConflictReason::OutcomeConflict),
        Kind::ConflictMayHaveRun => FateKind::Conflict(ConflictReason::MayHaveRun),
        Kind::ConflictCannotBeTold => FateKind::Conflict(ConflictReason::CannotBeTold),
        Kind::ConflictByPolicy => FateKind::Conflict(ConflictReason::ByPolicy),
        Kind::Discarded => FateKind::Discarded,
        Kind::Unspecified => return Err(Malformed("fate of an orphan")),
    };
    Ok(Fate {
        pair: to_pair(m.pair),
        kind,
        stands: to_pair(m.stands),
    })
}

/// Of a dedup entry. With the sequence number 0, which no request has, a table keeps what it knows of a client or of the shard.
fn entry_id(id: Option<v1::RequestId>) -> Result<RequestId, Malformed> {
    let id = id.ok_or(Malformed("request id"))?;
    Ok(RequestId {
        client: ClientId::from_slice(&id.client_id).ok_or(Malformed("request id"))?,
        sequence: Sequence(id.sequence),
    })
}

fn decode_chunk(m: v1::CopyChunk) -> Result<CopyChunk, Malformed> {
    let object = |copied: v1::CopiedObject| Ok((copied.key, Object::decode(copied.object)?));
    let dedup =
        |copied: v1::CopiedDedup| Ok((entry_id(copied.id)?, DedupEntry::decode(copied.entry)?));
    Ok(CopyChunk {
        epoch: Epoch(m.epoch),
        stream: m.stream,
        continues: CopyProgress::from_bytes(m.continues)?,
        then: CopyProgress::from_bytes(m.then)?,
        from: to_pair(m.from),
        checksum: m.checksum,
        epoch_starts: to_pairs(m.epoch_starts),
        at: to_pair(m.at),
        objects: m
            .objects
            .into_iter()
            .map(object)
            .collect::<Result<_, Malformed>>()?,
        dedup: m
            .dedup
            .into_iter()
            .map(dedup)
            .collect::<Result<_, Malformed>>()?,
    })
}

fn decode_delta(m: v1::DeltaChunk) -> Result<DeltaChunk, Malformed> {
    let mut dedup = Vec::new();
    for of_client in m.dedup {
        let client = ClientId::from_slice(&of_client.client).ok_or(Malformed("client id"))?;
        if of_client.sequences.len() != of_client.entries.len() {
            return Err(Malformed("entries without their numbers"));
        }
        for (sequence, entry) in of_client.sequences.into_iter().zip(of_client.entries) {
            let id = RequestId {
                client,
                sequence: Sequence(sequence),
            };
            let entry = match entry.is_empty() {
                true => None,
                false => Some(DedupEntry::decode(entry)?),
            };
            dedup.push((id, entry));
        }
    }
    Ok(DeltaChunk {
        epoch: Epoch(m.epoch),
        stream: m.stream,
        continues: CopyProgress::from_bytes(m.continues)?,
        then: CopyProgress::from_bytes(m.then)?,
        since: to_pair(m.since),
        upto: to_pair(m.upto),
        checksum: m.checksum,
        epoch_starts: to_pairs(m.epoch_starts),
        at: to_pair(m.at),
        objects: m
            .objects
            .into_iter()
            .map(decode_object)
            .collect::<Result<_, Malformed>>()?,
        dedup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_proto::{NodeId, StoreId};
    use understudy_protocol::object::LastWrite;
    use understudy_protocol::request::{Outcome, plain_object};

    const SHARD: ShardId = ShardId(6);

    fn from() -> CopyId {
        CopyId {
            node: NodeId(2),
            store: StoreId(9),
        }
    }

    fn chunk() -> DeltaChunk {
        let id = |client, sequence| RequestId {
            client: ClientId(client),
            sequence: Sequence(sequence),
        };
        let last = LastWrite {
            pair: Pair::new(2, 9),
            request: id(5, 6),
        };
        let entry = DedupEntry {
            pair: last.pair,
            fingerprint: 7,
            outcome: Outcome::Applied(Vec::new()),
            conflicts: vec![Pair::new(1, 8)],
        };
        let object = plain_object(Bytes::from_static(b"v"), last);
        DeltaChunk {
            epoch: Epoch(2),
            stream: 3,
            continues: CopyProgress::Objects { after: None },
            then: CopyProgress::Dedup {
                after: Some(id(5, 6)),
            },
            since: Pair::new(1, 4),
            upto: Pair::new(2, 9),
            checksum: 11,
            epoch_starts: vec![Pair::new(1, 1), Pair::new(2, 8)],
            at: Pair::new(2, 10),
            objects: vec![
                (Bytes::from_static(b"gone"), None),
                (Bytes::from_static(b"here"), Some(object)),
            ],
            // The shard's own state has client 0, that of a client number 0.
            dedup: vec![
                (id(0, 0), Some(entry.clone())),
                (id(5, 0), Some(entry)),
                (id(5, 6), None),
                (id(8, 6), None),
            ],
        }
    }

    #[test]
    fn a_piece_of_a_delta_survives_the_wire() {
        let sent = Message::Delta(chunk());
        let message = encode(SHARD, sent.clone());
        let Some(Kind::Delta(delta)) = &message.kind else {
            panic!("{message:?}");
        };
        assert_eq!(
            delta.dedup.len(),
            3,
            "the numbers of a client stand together"
        );
        assert_eq!(decode(from(), message), Ok((SHARD, sent)));
    }

    #[test]
    fn a_malformed_piece_of_a_delta_is_refused() {
        let mutilated = |change: fn(&mut v1::DeltaChunk)| {
            let mut delta = encode_delta(chunk());
            change(&mut delta);
            let message = v1::PeerMessage {
                shard: SHARD.0,
                kind: Some(Kind::Delta(delta)),
            };
            decode(from(), message)
        };
        assert!(mutilated(|_| ()).is_ok());
        assert!(mutilated(|delta| delta.continues = Bytes::new()).is_err());
        assert!(mutilated(|delta| delta.then = Bytes::from_static(b"\x09")).is_err());
        assert!(mutilated(|delta| delta.dedup[0].client = Bytes::from_static(b"short")).is_err());
        assert!(mutilated(|delta| delta.dedup[1].sequences.push(9)).is_err());
        assert!(mutilated(|delta| delta.dedup[0].entries[0] = Bytes::from_static(b"x")).is_err());
        assert!(mutilated(|delta| delta.objects[1].object = Bytes::from_static(b"x")).is_err());
    }
}

#[cfg(test)]
mod copied_entries {
    use super::*;
    use understudy_proto::{NodeId, StoreId};
    use understudy_protocol::expiry::{client_state_id, shard_state_id};
    use understudy_protocol::request::Outcome;

    /// Also those by which a table remembers that it forgot: no request has their number.
    #[test]
    fn every_dedup_entry_of_a_full_copy_arrives() {
        let shard = ShardId(6);
        let client = ClientId(5);
        let request = RequestId {
            client,
            sequence: Sequence(1),
        };
        let entry = |id| {
            let entry = DedupEntry {
                pair: Pair::new(2, 9),
                fingerprint: 7,
                outcome: Outcome::Applied(Vec::new()),
                conflicts: Vec::new(),
            };
            (id, entry)
        };
        let ids = [client_state_id(client), request, shard_state_id()];
        let chunk = CopyChunk {
            epoch: Epoch(2),
            stream: 3,
            continues: CopyProgress::Dedup { after: None },
            then: CopyProgress::Dedup {
                after: Some(client_state_id(client)),
            },
            from: Pair::new(2, 9),
            checksum: 4,
            epoch_starts: vec![Pair::new(1, 1), Pair::new(2, 9)],
            at: Pair::new(2, 9),
            objects: Vec::new(),
            dedup: ids.map(entry).to_vec(),
        };
        let from = CopyId {
            node: NodeId(2),
            store: StoreId(9),
        };
        let sent = encode(shard, Message::CopyChunk(chunk.clone()));
        assert_eq!(decode(from, sent), Ok((shard, Message::CopyChunk(chunk))));
    }
}
