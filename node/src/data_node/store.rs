//! The store of a data node before the node registers: opened, its copies compared with their logs, repaired or set aside.
//!
//! An object or dedup entry that differs from the last records of its log is set right, counted and told. A store that does
//! not open, whose records do not verify, or whose objects the log cannot set right is kept beside under another name, and
//! the node comes back with an empty one under a new store id: a new copy, that nobody takes for what the old one promised.
//! Nothing is deleted here, and a store that is only in use, of another format or on a disk that fails is left alone.

use crate::data_folder::DataFolder;
use crate::process::RoleError;
use crate::storage::{Database, OpenError, Options};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use understudy_proto::ShardId;
use understudy_proto::limits::DAMAGED_STORES_MAX;
use understudy_protocol::startup::{StartupFindings, Window, check};
use understudy_protocol::store::{Batch, StoreError};

/// A store that may be served from.
#[derive(Debug)]
pub struct Ready {
    pub database: Database,
    pub start: StoreStart,
}

/// What the start found, for the status page and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStart {
    pub copies: u64,
    /// Records that were compared with objects and dedup entries.
    pub records: u64,
    /// By shard, where there were any.
    pub repairs: BTreeMap<ShardId, Repairs>,
    /// The store that this process began with was not fit to be used: a new store id was drawn.
    pub replaced: bool,
    /// Damaged stores that the folder keeps, of this start and of earlier ones.
    pub set_aside: Vec<PathBuf>,
}

/// What differed from the log and was set right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    pub objects: u64,
    pub dedup_entries: u64,
}

impl StoreStart {
    pub fn repaired(&self) -> Repairs {
        let sum = |of: fn(&Repairs) -> u64| self.repairs.values().map(of).sum();
        Repairs {
            objects: sum(|repairs| repairs.objects),
            dedup_entries: sum(|repairs| repairs.dedup_entries),
        }
    }
}

/// Why a store is not served from.
enum Unfit {
    /// What is there is not what was written.
    Damaged(String),
    Refused(RoleError),
}

/// Opens the store of the folder and checks it; the store id of the folder is the right one afterwards.
pub fn prepare(folder: &mut DataFolder, options: &Options) -> Result<Ready, RoleError> {
    let mut replaced = finish_setting_aside(folder)? || replace_missing(folder)?;
    let ready = match open_and_check(folder, options) {
        Err(Unfit::Damaged(why)) => {
            set_aside(folder, &why)?;
            replaced = true;
            open_and_check(folder, options)
        }
        other => other,
    };
    let mut ready = ready.map_err(|unfit| match unfit {
        Unfit::Refused(error) => error,
        Unfit::Damaged(why) => {
            RoleError::Failed(format!("a store that was just made is damaged: {why}"))
        }
    })?;
    ready.start.replaced = replaced;
    ready.start.set_aside = kept(folder)?;
    Ok(ready)
}

/// An earlier start drew the new id and ended before the files were moved.
fn finish_setting_aside(folder: &mut DataFolder) -> Result<bool, RoleError> {
    if folder.identity().to_set_aside.is_none() {
        return Ok(false);
    }
    if exists(folder)? {
        move_aside(folder, "an earlier start found it damaged")?;
    }
    folder.store_was_set_aside()?;
    Ok(true)
}

/// A node that joined once had a store. Without it, it must not come back under the id of the one that is gone.
fn replace_missing(folder: &mut DataFolder) -> Result<bool, RoleError> {
    if folder.identity().id.is_none() || exists(folder)? {
        return Ok(false);
    }
    let lost = folder.identity().store;
    folder.discard_store()?;
    folder.store_was_set_aside()?;
    tracing::error!(
        lost = lost.map(|id| id.to_string()),
        store = folder.identity().store.map(|id| id.to_string()),
        "the store is missing from the data folder; this node comes back with an empty one and gets its copies from the others"
    );
    Ok(true)
}

fn exists(folder: &DataFolder) -> Result<bool, RoleError> {
    Database::exists(folder.path()).map_err(|error| RoleError::Failed(error.to_string()))
}

fn open_and_check(folder: &DataFolder, options: &Options) -> Result<Ready, Unfit> {
    let database = Database::open(folder.path(), options).map_err(unfit_to_open)?;
    if let Some(store) = folder.identity().store {
        database.belongs_to(store).map_err(unfit_to_open)?;
    }
    let start = check_copies(&database)?;
    Ok(Ready { database, start })
}

fn unfit_to_open(error: OpenError) -> Unfit {
    match error {
        OpenError::Damaged(why) => Unfit::Damaged(why),
        OpenError::Io(_) => Unfit::Refused(RoleError::Failed(error.to_string())),
        OpenError::Locked { .. } | OpenError::Format { .. } | OpenError::Other { .. } => {
            Unfit::Refused(RoleError::FolderUnusable(error.to_string()))
        }
    }
}

/// Compares every copy with the end of its log, and repairs each in one write.
fn check_copies(database: &Database) -> Result<StoreStart, Unfit> {
    let began = Instant::now();
    let shards = database.shards().map_err(unfit_to_read)?;
    let window = Window::of_one(shards.len());
    let mut start = StoreStart::default();
    for shard in shards {
        let saved = database.open_shard(shard).map_err(unfit_to_read)?;
        let findings = check(shard, &saved, database, window).map_err(unfit_to_read)?;
        start.copies += 1;
        start.records += findings.examined;
        repair(database, shard, findings, &mut start)?;
    }
    let (copies, records) = (start.copies, start.records);
    tracing::info!(copies, records, took = ?began.elapsed(), "the copies were compared with the ends of their logs");
    Ok(start)
}

/// Whatever cannot be read back as it was written makes the store unfit; a disk that fails may do better the next time.
fn unfit_to_read(error: StoreError) -> Unfit {
    match error {
        StoreError::Corrupt(why) => Unfit::Damaged(why),
        StoreError::Io(why) => {
            let why = format!("the store cannot be read: {why}; look at the disk, and start again");
            Unfit::Refused(RoleError::Failed(why))
        }
    }
}

fn repair(
    database: &Database,
    shard: ShardId,
    findings: StartupFindings,
    start: &mut StoreStart,
) -> Result<(), Unfit> {
    if let Some(lost) = findings.mismatches.iter().find(|found| !found.repaired) {
        return Err(Unfit::Damaged(format!(
            "shard {shard}: the object {} is not what record {} left, and the log does not reach back far enough to tell it",
            lost.key.escape_ascii(),
            lost.last
        )));
    }
    if findings.repairs.is_empty() {
        return Ok(());
    }
    let repairs = Repairs {
        objects: findings.mismatches.len() as u64,
        dedup_entries: findings.dedup_repaired,
    };
    for object in &findings.mismatches {
        tracing::warn!(%shard, key = %object.key.escape_ascii(), record = %object.last, "an object differs from the log");
    }
    let batch = Batch {
        shard,
        number: 0,
        changes: findings.repairs,
    };
    database.repair(&batch).map_err(|failure| {
        let why = format!(
            "shard {shard} cannot be repaired: {failure}; make room on the disk or replace it"
        );
        Unfit::Refused(RoleError::Failed(why))
    })?;
    let Repairs {
        objects,
        dedup_entries,
    } = repairs;
    tracing::warn!(%shard, objects, dedup_entries, "repaired at start: they differed from the log");
    start.repairs.insert(shard, repairs);
    Ok(())
}

/// First the new id, then the files: a start that ends in between goes on from there.
fn set_aside(folder: &mut DataFolder, why: &str) -> Result<(), RoleError> {
    let kept = kept(folder)?.len();
    if kept >= DAMAGED_STORES_MAX {
        let folder = folder.path().display();
        return Err(RoleError::FolderUnusable(format!(
            "{folder}: the store is damaged ({why}), and {kept} damaged ones are kept here already; find out what damages \
             them, move store.damaged-* away and start again"
        )));
    }
    folder.discard_store()?;
    move_aside(folder, why)?;
    folder.store_was_set_aside()
}

fn move_aside(folder: &DataFolder, why: &str) -> Result<(), RoleError> {
    let place = Database::set_aside(folder.path())
        .map_err(|error| RoleError::FolderUnusable(error.to_string()))?;
    let name = |id: Option<understudy_proto::StoreId>| id.map(|id| id.to_string());
    let (old, new) = (
        name(folder.identity().to_set_aside),
        name(folder.identity().store),
    );
    let note = format!(
        "Set aside by understudy, which never deletes it.\nstore id: {}\nwhy: {why}\n",
        old.as_deref().unwrap_or("unknown")
    );
    if let Err(error) = std::fs::write(place.join("SET-ASIDE"), note) {
        tracing::warn!(%error, "the note in the store that was set aside cannot be written");
    }
    tracing::error!(
        why,
        kept_in = %place.display(),
        old,
        new,
        "the store is damaged and was set aside; this node comes back with an empty one and gets its copies from the others"
    );
    Ok(())
}

fn kept(folder: &DataFolder) -> Result<Vec<PathBuf>, RoleError> {
    Database::set_aside_before(folder.path()).map_err(|error| RoleError::Failed(error.to_string()))
}
