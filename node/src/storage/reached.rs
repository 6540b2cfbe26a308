//! How far the store is known to have come, told from beside its write-ahead log.
//!
//! RocksDB cannot tell a log whose last entry was never complete from one that lost entries at its end later: it opens
//! both, the second one shorter, in silence. So the writer notes the sequence number of what is durable in a file of its
//! own, without a sync: the note may lag behind after a power cut, it is never ahead. A store that opens below it is damaged.

use super::open::Database;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// In the store's folder, so that it is created, moved and discarded with it.
const NAME: &str = "REACHED";

/// The open note.
#[derive(Debug)]
pub(super) struct Reached {
    file: File,
}

impl Reached {
    pub fn open(folder: &Path) -> io::Result<Reached> {
        let file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(folder.join(NAME))?;
        Ok(Reached { file })
    }

    /// What the note says; `None` when there is none, or none that reads: then it proves nothing.
    pub fn read(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 12];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(decode(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(sequence), 0)
    }
}

impl Database {
    /// Notes that everything written so far is durable. A note that fails is an older note.
    pub(super) fn note_reached(&self) {
        let _ = self.reached.write(self.db.latest_sequence_number());
    }
}

fn encode(sequence: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: [u8; 12]) -> Option<u64> {
    let sequence = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
    (encode(sequence) == bytes).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_does_not_read_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let reached = Reached::open(folder.path()).unwrap();
        assert_eq!(reached.read().unwrap(), None);
        reached.write(77).unwrap();
        assert_eq!(
            Reached::open(folder.path()).unwrap().read().unwrap(),
            Some(77)
        );
        std::fs::write(folder.path().join(NAME), [1; 12]).unwrap();
        assert_eq!(reached.read().unwrap(), None);
    }
}
