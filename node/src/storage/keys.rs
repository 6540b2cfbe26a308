//! The key catalogue: every stored thing has its entry here, and every key begins with the shard.
//!
//! ```text
//! objects   shard (8) | generation (4) | object key            the object
//! log       shard (8) | generation (4) | version (8)           the record
//! dedup     shard (8) | generation (4) | client (16) | sequence (8)   the dedup entry
//! orphans   shard (8) | epoch (8) | version (8)                the record that a failover cut off
//! meta      shard (8)                                          what the copy knows of itself
//! meta      ff x 8    | name (1)                               what concerns the whole store
//! ```
//!
//! Numbers are big-endian, so that the order of the keys is the order of the numbers. Docs: `docs/storage.md`.

use understudy_proto::{ClientId, Pair, RequestId, Sequence, ShardId, Version};
use understudy_protocol::store::Generation;

/// A column family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    Objects,
    Log,
    Dedup,
    Orphans,
    Meta,
}

impl Family {
    pub const ALL: [Family; 5] = [
        Family::Objects,
        Family::Log,
        Family::Dedup,
        Family::Orphans,
        Family::Meta,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Family::Objects => "objects",
            Family::Log => "log",
            Family::Dedup => "dedup",
            Family::Orphans => "orphans",
            Family::Meta => "meta",
        }
    }
}

/// A key that is not in the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownKey;

/// Keys of the whole store, in the family `meta` under a shard id that no shard gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKey {
    /// The format of the store, a number of four bytes.
    Format = 1,
    /// Written by the progress probe; its value means nothing.
    Probe = 2,
    /// The store id that these files were made for, 16 bytes.
    Id = 3,
}

/// No shard has this id: ids are counted up from 1.
pub const NO_SHARD: ShardId = ShardId(u64::MAX);

pub fn store(key: StoreKey) -> [u8; 9] {
    let mut bytes = [0xff; 9];
    bytes[8] = key as u8;
    bytes
}

pub fn meta(shard: ShardId) -> [u8; 8] {
    shard.0.to_be_bytes()
}

pub fn object(shard: ShardId, generation: Generation, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(GENERATION_END + key.len());
    bytes.extend(shard.0.to_be_bytes());
    bytes.extend(generation.to_be_bytes());
    bytes.extend(key);
    bytes
}

pub fn record(shard: ShardId, generation: Generation, version: Version) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..SHARD_END].copy_from_slice(&shard.0.to_be_bytes());
    bytes[SHARD_END..GENERATION_END].copy_from_slice(&generation.to_be_bytes());
    bytes[GENERATION_END..].copy_from_slice(&version.0.to_be_bytes());
    bytes
}

pub fn dedup(shard: ShardId, generation: Generation, id: RequestId) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..SHARD_END].copy_from_slice(&shard.0.to_be_bytes());
    bytes[SHARD_END..GENERATION_END].copy_from_slice(&generation.to_be_bytes());
    bytes[GENERATION_END..CLIENT_END].copy_from_slice(&id.client.to_bytes());
    bytes[CLIENT_END..].copy_from_slice(&id.sequence.0.to_be_bytes());
    bytes
}

pub fn orphan(shard: ShardId, pair: Pair) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..SHARD_END].copy_from_slice(&shard.0.to_be_bytes());
    bytes[SHARD_END..16].copy_from_slice(&pair.epoch.0.to_be_bytes());
    bytes[16..].copy_from_slice(&pair.version.0.to_be_bytes());
    bytes
}

const SHARD_END: usize = 8;
const GENERATION_END: usize = 12;
const CLIENT_END: usize = 28;

/// The shard of any key; `None` for a key of the whole store.
pub fn shard_of(key: &[u8]) -> Result<Option<ShardId>, UnknownKey> {
    let shard = ShardId(number(key.get(..SHARD_END).ok_or(UnknownKey)?)?);
    Ok((shard != NO_SHARD).then_some(shard))
}

/// The object key behind shard and generation.
pub fn parse_object(key: &[u8]) -> Result<&[u8], UnknownKey> {
    key.get(GENERATION_END..).ok_or(UnknownKey)
}

pub fn parse_record(key: &[u8]) -> Result<Version, UnknownKey> {
    let rest = key.get(GENERATION_END..).ok_or(UnknownKey)?;
    Ok(Version(number(rest)?))
}

pub fn parse_dedup(key: &[u8]) -> Result<RequestId, UnknownKey> {
    let client = key.get(GENERATION_END..CLIENT_END).ok_or(UnknownKey)?;
    Ok(RequestId {
        client: ClientId::from_slice(client).ok_or(UnknownKey)?,
        sequence: Sequence(number(&key[CLIENT_END..])?),
    })
}

pub fn parse_orphan(key: &[u8]) -> Result<Pair, UnknownKey> {
    if key.len() != 24 {
        return Err(UnknownKey);
    }
    Ok(Pair::new(number(&key[SHARD_END..16])?, number(&key[16..])?))
}

fn number(bytes: &[u8]) -> Result<u64, UnknownKey> {
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| UnknownKey)?;
    Ok(u64::from_be_bytes(bytes))
}

/// A range of keys, without its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

/// All keys of a shard in a family.
pub fn of_shard(shard: ShardId) -> KeyRange {
    starting_with(&shard.0.to_be_bytes())
}

/// All keys of a generation in the families objects, log and dedup.
pub fn of_generation(shard: ShardId, generation: Generation) -> KeyRange {
    starting_with(&object(shard, generation, b""))
}

/// All keys that begin like this.
pub fn starting_with(prefix: &[u8]) -> KeyRange {
    KeyRange {
        from: prefix.to_vec(),
        to: end_of(prefix),
    }
}

/// The first key after all that begin like this. The prefix begins with a shard that is not [`NO_SHARD`], so there is one.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    let last = end.last_mut().expect("only NO_SHARD is all ff");
    *last += 1;
    end
}

/// The first key after this one.
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0x0102);

    fn id(client: u128, sequence: u64) -> RequestId {
        RequestId {
            client: ClientId(client),
            sequence: Sequence(sequence),
        }
    }

    #[test]
    fn every_key_reads_back() {
        let shard = Ok(Some(SHARD));
        let key = object(SHARD, 3, b"some key");
        assert_eq!(parse_object(&key), Ok(&b"some key"[..]));
        assert_eq!(shard_of(&key), shard);
        let key = record(SHARD, 3, Version(9));
        assert_eq!(parse_record(&key), Ok(Version(9)));
        assert_eq!(shard_of(&key), shard);
        let key = dedup(SHARD, 3, id(5, 6));
        assert_eq!(parse_dedup(&key), Ok(id(5, 6)));
        assert_eq!(shard_of(&key), shard);
        let key = orphan(SHARD, Pair::new(7, 8));
        assert_eq!(parse_orphan(&key), Ok(Pair::new(7, 8)));
        assert_eq!(shard_of(&key), shard);
        assert_eq!(shard_of(&meta(SHARD)), shard);
        assert_eq!(shard_of(&store(StoreKey::Format)), Ok(None));
    }

    #[test]
    fn the_bytes_of_the_keys_are_pinned() {
        assert_eq!(
            object(SHARD, 3, b"k"),
            [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, b'k']
        );
        assert_eq!(
            record(SHARD, 3, Version(4))[8..],
            [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4]
        );
        assert_eq!(
            orphan(SHARD, Pair::new(1, 2))[8..],
            [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
        );
        assert_eq!(
            dedup(SHARD, 3, id(1, 2))[12..],
            [
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2
            ]
        );
        assert_eq!(
            store(StoreKey::Probe),
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]
        );
    }

    #[test]
    fn keys_of_another_shape_are_refused() {
        assert_eq!(shard_of(&[1; 7]), Err(UnknownKey));
        assert_eq!(parse_object(&[1; 11]), Err(UnknownKey));
        for length in (0..40).filter(|length| *length != 20) {
            assert_eq!(parse_record(&vec![1; length]), Err(UnknownKey));
        }
        for length in (0..40).filter(|length| *length != 36) {
            assert_eq!(parse_dedup(&vec![1; length]), Err(UnknownKey));
        }
        for length in (0..40).filter(|length| *length != 24) {
            assert_eq!(parse_orphan(&vec![1; length]), Err(UnknownKey));
        }
    }

    #[test]
    fn a_range_holds_its_own_keys_and_no_others() {
        let range = of_generation(SHARD, u32::MAX);
        let inside = |key: &[u8]| *range.from <= *key && *key < *range.to;
        assert!(inside(&object(SHARD, u32::MAX, &[0xff; 40])));
        assert!(inside(&record(SHARD, u32::MAX, Version(u64::MAX))));
        assert!(!inside(&object(SHARD, u32::MAX - 1, &[0xff; 40])));
        assert!(!inside(&object(ShardId(SHARD.0 + 1), 0, b"")));
        assert_eq!(of_shard(ShardId(0xff)).to, [0, 0, 0, 0, 0, 0, 1]);
        assert!(after(b"k") > b"k".to_vec() && after(b"k") < b"k\x01".to_vec());
    }

    #[test]
    fn the_order_of_keys_is_the_order_of_what_they_name() {
        let versions = [0, 1, 255, 256, u64::MAX].map(|v| record(SHARD, 1, Version(v)));
        assert!(versions.is_sorted());
        let pairs =
            [(0, 9), (1, 0), (1, 256), (256, 1)].map(|(e, v)| orphan(SHARD, Pair::new(e, v)));
        assert!(pairs.is_sorted());
        let ids = [id(1, 300), id(2, 1), id(2, 2), id(1 << 100, 0)].map(|id| dedup(SHARD, 1, id));
        assert!(ids.is_sorted());
    }
}
