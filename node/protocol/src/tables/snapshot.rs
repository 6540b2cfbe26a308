//! The tables as bytes: a magic word, a format number, length and checksum, then MessagePack with named fields.
//!
//! What is cut short, damaged, of another kind or of a later format is refused; nothing is guessed.

use super::state::Tables;
use std::fmt;

const MAGIC: &[u8; 8] = b"USTABLES";
/// Raised when an older program could no longer read what is written.
pub const FORMAT: u32 = 1;
/// Magic, format (u32), length (u64), CRC-32C (u32); big-endian.
const HEADER: usize = 8 + 4 + 8 + 4;

/// Why bytes are no snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    Foreign,
    Format { found: u32, known: u32 },
    Truncated { found: u64, wanted: u64 },
    Damaged,
    Unreadable(String),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Foreign => f.write_str("the bytes are no snapshot of the tables"),
            SnapshotError::Format { found, known } => write!(
                f,
                "the snapshot has format {found}, this program reads up to {known}: use a newer one"
            ),
            SnapshotError::Truncated { found, wanted } => {
                write!(f, "the snapshot has {found} bytes of {wanted}")
            }
            SnapshotError::Damaged => f.write_str("the snapshot's checksum does not fit"),
            SnapshotError::Unreadable(why) => write!(f, "the snapshot cannot be read: {why}"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl Tables {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        rmp_serde::encode::write_named(&mut bytes, self).expect("writing into memory succeeds");
        let body = &bytes[HEADER..];
        let (length, checksum) = (body.len() as u64, crc32c::crc32c(body));
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_be_bytes());
        bytes[12..20].copy_from_slice(&length.to_be_bytes());
        bytes[20..24].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Tables, SnapshotError> {
        if !bytes.starts_with(MAGIC) {
            return Err(SnapshotError::Foreign);
        }
        if bytes.len() < HEADER {
            return Err(truncated(bytes.len(), HEADER as u64));
        }
        let (head, body) = bytes.split_at(HEADER);
        let found = number(&head[8..12]) as u32;
        if found == 0 || found > FORMAT {
            let known = FORMAT;
            return Err(SnapshotError::Format { found, known });
        }
        let length = number(&head[12..20]);
        if body.len() as u64 != length {
            return Err(truncated(body.len(), length));
        }
        if u64::from(crc32c::crc32c(body)) != number(&head[20..24]) {
            return Err(SnapshotError::Damaged);
        }
        rmp_serde::from_slice(body).map_err(|e| SnapshotError::Unreadable(e.to_string()))
    }
}

fn truncated(found: usize, wanted: u64) -> SnapshotError {
    SnapshotError::Truncated {
        found: found as u64,
        wanted,
    }
}

fn number(big_endian: &[u8]) -> u64 {
    big_endian
        .iter()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}
