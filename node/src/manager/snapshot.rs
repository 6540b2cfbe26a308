//! Snapshots of the tables as files: written whole under another name, synced, then renamed; checked when read.
//!
//! The same bytes are the file and what goes to another manager: a magic word, a format number, the length and bytes of
//! the header (Raft's metadata), the tables, and a CRC-32C over all of it. One snapshot is kept: the newest.

use super::codec;
use super::types::SnapshotMeta;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use understudy_protocol::tables::Tables;

const MAGIC: &[u8; 8] = b"USTABLES";
const FORMAT: u32 = 1;
/// Magic, format and the header's length.
const FRONT_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// What a snapshot says beside the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) meta: SnapshotMeta,
    /// Every manager that was ever in the group: an id is never used for another.
    pub(crate) ever: BTreeSet<u64>,
}

pub(crate) fn encode(header: &Header, tables: &Tables) -> io::Result<Bytes> {
    let header = codec::encode(header)?;
    let body = tables.encode();
    let mut bytes = BytesMut::with_capacity(FRONT_BYTES + header.len() + body.len() + CRC_BYTES);
    bytes.put_slice(MAGIC);
    bytes.put_u32(FORMAT);
    bytes.put_u32(header.len() as u32);
    bytes.put_slice(&header);
    bytes.put_slice(&body);
    let crc = crc32c::crc32c(&bytes);
    bytes.put_u32(crc);
    Ok(bytes.freeze())
}

pub(crate) fn decode(bytes: &[u8]) -> io::Result<(Header, Tables)> {
    let (header, body) = parts(bytes)?;
    let tables = Tables::decode(body).map_err(|error| damaged(&error.to_string()))?;
    Ok((header, tables))
}

/// The header alone; the checksum is checked all the same.
pub(crate) fn decode_header(bytes: &[u8]) -> io::Result<Header> {
    parts(bytes).map(|(header, _)| header)
}

fn parts(bytes: &[u8]) -> io::Result<(Header, &[u8])> {
    let (content, crc) = bytes
        .split_last_chunk::<CRC_BYTES>()
        .ok_or_else(|| damaged("too short"))?;
    if crc32c::crc32c(content) != u32::from_be_bytes(*crc) {
        return Err(damaged("wrong checksum"));
    }
    let (front, rest) = content
        .split_at_checked(FRONT_BYTES)
        .ok_or_else(|| damaged("too short"))?;
    let number =
        |at: usize| u32::from_be_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
    if &front[..MAGIC.len()] != MAGIC || number(8) != FORMAT {
        return Err(damaged("another format"));
    }
    let (header, body) = rest
        .split_at_checked(number(12) as usize)
        .ok_or_else(|| damaged("too short"))?;
    Ok((codec::decode(header)?, body))
}

fn damaged(why: &str) -> io::Error {
    codec::invalid(format!("the snapshot of the tables is damaged: {why}"))
}

/// The folder with the newest snapshot; clones share it.
#[derive(Clone)]
pub(crate) struct Snapshots {
    folder: PathBuf,
    newest: Arc<Mutex<Option<Newest>>>,
}

struct Newest {
    meta: SnapshotMeta,
    path: PathBuf,
}

impl Snapshots {
    /// Opens the folder. A damaged newest snapshot is an error: an older one would need log entries that are gone.
    pub(crate) fn open(folder: &Path) -> io::Result<Snapshots> {
        fs::create_dir_all(folder)?;
        let mut files = Vec::new();
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("snapshot") => files.push(path),
                _ => fs::remove_file(path)?,
            }
        }
        // Names are indexes of equal length.
        files.sort();
        let newest = files.pop();
        for older in files {
            fs::remove_file(older)?;
        }
        let newest = newest.map(|path| {
            let meta = decode_header(&fs::read(&path)?)?.meta;
            io::Result::Ok(Newest { meta, path })
        });
        Ok(Snapshots {
            folder: folder.to_path_buf(),
            newest: Arc::new(Mutex::new(newest.transpose()?)),
        })
    }

    /// Makes it the kept one, durably; an older one than the kept is dropped.
    pub(crate) fn save(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let mut newest = self.newest.lock();
        if newest
            .as_ref()
            .is_some_and(|kept| kept.meta.last_log_id > meta.last_log_id)
        {
            return Ok(());
        }
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let path = self.folder.join(format!("{index:020}.snapshot"));
        write_whole(&path, bytes)?;
        File::open(&self.folder)?.sync_all()?;
        let before = newest.replace(Newest {
            meta: meta.clone(),
            path: path.clone(),
        });
        match before {
            Some(before) if before.path != path => fs::remove_file(before.path),
            _ => Ok(()),
        }
    }

    /// The kept snapshot, read from its file.
    pub(crate) fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let newest = self.newest.lock();
        let Some(kept) = newest.as_ref() else {
            return Ok(None);
        };
        let bytes = Bytes::from(fs::read(&kept.path)?);
        Ok(Some((decode_header(&bytes)?.meta, bytes)))
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(index: u64) -> Header {
        let mut meta = SnapshotMeta::default();
        let leader = openraft::impls::leader_id_adv::LeaderId {
            term: 1,
            node_id: 1,
        };
        meta.last_log_id = Some(openraft::LogId::new(leader, index));
        Header {
            meta,
            ever: BTreeSet::from([1, 2]),
        }
    }

    #[test]
    fn a_snapshot_comes_back_whole_or_is_refused() {
        let bytes = encode(&header(7), &Tables::default()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), (header(7), Tables::default()));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "length {at}");
        }
    }

    #[test]
    fn the_newest_is_kept_and_an_unfinished_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        assert!(snapshots.load().unwrap().is_none());
        for index in [5, 9, 7] {
            let header = header(index);
            let bytes = encode(&header, &Tables::default()).unwrap();
            snapshots.save(&header.meta, &bytes).unwrap();
        }
        fs::write(folder.path().join("99.unfinished"), b"half").unwrap();
        let again = Snapshots::open(folder.path()).unwrap();
        assert_eq!(again.load().unwrap().unwrap().0, header(9).meta);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let file = fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        fs::write(file, b"damaged").unwrap();
        assert!(Snapshots::open(folder.path()).is_err());
    }
}
