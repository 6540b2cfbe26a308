//! What an agent keeps about each process across its own restart: one small file each in its data folder.
//!
//! ```text
//! <data>/processes/<name>.json    the last launch, the process id, when the kernel started it, in which boot; whether a
//!                                 person stopped it
//! ```
//!
//! The launch is written before the process is started and its process id afterwards, so that an agent that is killed in
//! between finds the process by its launch. A file that cannot be read counts as none.

use super::Launch;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One process as it was last known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub launch: Option<Launch>,
    /// Unset between the launch's being drawn and the process's being started.
    pub pid: Option<u32>,
    /// In the kernel's ticks since the boot.
    pub start_time: Option<u64>,
    pub boot: String,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    /// A person wants it stopped.
    pub stopped: bool,
}

/// The files.
#[derive(Clone, Debug)]
pub struct States(PathBuf);

impl States {
    pub fn open(folder: &Path) -> io::Result<States> {
        let path = folder.join("processes");
        fs::create_dir_all(&path)?;
        Ok(States(path))
    }

    pub fn read(&self, name: &str) -> Saved {
        let text = fs::read_to_string(self.path(name));
        let saved = text.ok().and_then(|text| serde_json::from_str(&text).ok());
        saved.unwrap_or_default()
    }

    /// Whole or not at all, and on the disk when it returns.
    pub fn write(&self, name: &str, saved: &Saved) -> io::Result<()> {
        let beside = self.0.join(format!("{name}.new"));
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        file.sync_all()?;
        fs::rename(beside, self.path(name))?;
        File::open(&self.0)?.sync_all()
    }

    /// Of all processes that this agent or an earlier one ran.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_string())
        });
        names.collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let states = States::open(folder.path()).unwrap();
        assert_eq!(states.read("n1"), Saved::default());
        let saved = Saved {
            launch: Some(Launch::draw()),
            pid: Some(7),
            start_time: Some(123),
            boot: "b".to_string(),
            started_at_ms: 5,
            stopped: true,
        };
        states.write("n1", &saved).unwrap();
        assert_eq!(states.read("n1"), saved);
        assert_eq!(states.names(), ["n1"]);
        fs::write(folder.path().join("processes/n1.json"), "{").unwrap();
        assert_eq!(states.read("n1"), Saved::default());
    }
}
