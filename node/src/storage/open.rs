//! Opening a data folder's store: its lock, its format, and the options of RocksDB with their reasons.
//!
//! ```text
//! <data>/store.lock        held by the process that has the store open
//! <data>/store/            RocksDB
//! <data>/store.creating/   a store that is not complete yet; removed at the next start
//! <data>/store.damaged-N/  a store that was set aside
//! ```
//!
//! A store is made beside and renamed, so that a folder without RocksDB's own files is damage and never a fresh store.

use super::keys::{self, Family, StoreKey};
use super::reached::Reached;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    WriteBufferManager, WriteOptions,
};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use understudy_proto::StoreId;

/// The format of the store as a whole: families, keys and values. A store of another one is refused.
pub const FORMAT: u32 = 1;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for blocks read, filters, indexes and memtables together.
    pub cache_bytes: usize,
    /// The memtables' part of it; beyond it the fullest is flushed.
    pub write_buffer_bytes: usize,
    pub open_files: i32,
    /// Room on the disk that is kept for flushes and compactions; a write that would use it up waits as on a full disk.
    pub reserve_bytes: u64,
}

impl Default for Options {
    /// A million objects of 256 bytes, with log and dedup entries, under 500 MiB of resident memory.
    fn default() -> Options {
        Options {
            cache_bytes: 128 * MIB,
            write_buffer_bytes: 64 * MIB,
            open_files: 512,
            reserve_bytes: 256 * MIB as u64,
        }
    }
}

const MIB: usize = 1024 * 1024;

/// How the names of stores that were set aside begin.
const ASIDE: &str = "store.damaged-";

/// One open store. Reads go to it directly (`reader.rs`), writes through the one [`super::Writer`].
pub struct Database {
    pub(super) db: DB,
    pub(super) folder: PathBuf,
    pub(super) cache: Cache,
    pub(super) write_buffers: WriteBufferManager,
    pub(super) reserve_bytes: u64,
    pub(super) reached: Reached,
    /// Released when the process ends, however it ends. Declared last: it is dropped after the store is closed.
    _lock: File,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.folder.display())
    }
}

/// Why a store does not open.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open.
    Locked {
        folder: PathBuf,
        holder: String,
    },
    /// It was written by another version of the program.
    Format {
        found: u32,
    },
    /// Its files were made for another store id.
    Other {
        found: StoreId,
        wanted: StoreId,
    },
    /// What is there is not what was written. The store is set aside and its copies are rebuilt, never shorter.
    Damaged(String),
    Io(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked { folder, holder } => write!(
                f,
                "the data folder {} is in use by another process ({holder}); a folder belongs to one node",
                folder.display()
            ),
            OpenError::Format { found } => write!(
                f,
                "the store has format {found}, this program reads format {FORMAT}"
            ),
            OpenError::Other { found, wanted } => write!(
                f,
                "the files of the store are those of store {found}, and the folder's CLUSTER names {wanted}: \
                 restore or mount the whole data folder, or start with an empty one"
            ),
            OpenError::Damaged(what) => write!(f, "the store is damaged: {what}"),
            OpenError::Io(what) => write!(f, "the store cannot be opened: {what}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl Database {
    /// Opens the store of a data folder, and creates it when the folder never had one.
    pub fn open(data: &Path, options: &Options) -> Result<Database, OpenError> {
        fs::create_dir_all(data).map_err(|e| io_error("create the data folder", &e))?;
        let lock = lock(data)?;
        let folder = data.join("store");
        match Database::exists(data)? {
            true => look_inside(&folder)?,
            false => create(data, &folder, options)?,
        }
        let database = open_folder(&folder, options, lock)?;
        database.check_format()?;
        database.check_reached()?;
        Ok(database)
    }

    /// Whether the folder has a store, sound or not. A link whose volume is not mounted is one, too.
    pub fn exists(data: &Path) -> Result<bool, OpenError> {
        match fs::symlink_metadata(data.join("store")) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("look for the store", &error)),
        }
    }

    /// Marks a new store with its id. Files of another id were put here by somebody, from a backup or by a mount: what
    /// they promised is not what this id promised.
    pub fn belongs_to(&self, store: StoreId) -> Result<(), OpenError> {
        let (meta, key) = (self.family(Family::Meta), keys::store(StoreKey::Id));
        let found = self.db.get_cf(meta, key).map_err(|e| from_rocksdb(&e))?;
        let Some(found) = found else {
            let mut synced = WriteOptions::default();
            synced.set_sync(true);
            let written = self.db.put_cf_opt(meta, key, store.to_bytes(), &synced);
            return written.map_err(|e| from_rocksdb(&e));
        };
        match StoreId::from_slice(&found) {
            Some(found) if found == store => Ok(()),
            Some(found) => Err(OpenError::Other {
                found,
                wanted: store,
            }),
            None => Err(OpenError::Damaged("its id is none".into())),
        }
    }

    /// The stores that were set aside, by name.
    pub fn set_aside_before(data: &Path) -> Result<Vec<PathBuf>, OpenError> {
        let listed = fs::read_dir(data).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let listed = listed.map_err(|e| io_error("list the data folder", &e))?;
        let is_one = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(ASIDE);
        let mut places: Vec<PathBuf> = listed
            .iter()
            .filter(|e| is_one(e))
            .map(|e| e.path())
            .collect();
        places.sort_unstable();
        Ok(places)
    }

    /// Moves a store that does not open out of the way and names its new place. The next [`Database::open`] makes an empty
    /// one; the caller draws a new store id first, because what the old one promised is forgotten with it.
    pub fn set_aside(data: &Path) -> Result<PathBuf, OpenError> {
        let _lock = lock(data)?;
        let free = (1..).map(|n| data.join(format!("{ASIDE}{n}")));
        let place = free.into_iter().find(|place| !place.exists());
        let place = place.expect("the numbers do not end");
        fs::rename(data.join("store"), &place)
            .and_then(|()| sync_folder(data))
            .map_err(|e| io_error("set the store aside", &e))?;
        Ok(place)
    }

    pub(super) fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db
            .cf_handle(family.name())
            .expect("every family was opened")
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let stored = self
            .db
            .get_cf(self.family(Family::Meta), keys::store(StoreKey::Format))
            .map_err(|e| from_rocksdb(&e))?
            .ok_or_else(|| OpenError::Damaged("it does not tell its format".into()))?;
        let found = <[u8; 4]>::try_from(&stored[..])
            .map(u32::from_be_bytes)
            .map_err(|_| OpenError::Damaged("its format is no number".into()))?;
        match found {
            FORMAT => Ok(()),
            found => Err(OpenError::Format { found }),
        }
    }

    fn check_reached(&self) -> Result<(), OpenError> {
        let reached = self
            .reached
            .read()
            .map_err(|e| io_error("read how far it came", &e))?;
        let sequence = self.db.latest_sequence_number();
        match reached {
            Some(reached) if sequence < reached => Err(OpenError::Damaged(format!(
                "it came as far as {reached} and now ends at {sequence}"
            ))),
            _ => Ok(()),
        }
    }
}

/// Admits one process. The file tells who holds it, for the other's message.
fn lock(data: &Path) -> Result<File, OpenError> {
    let path = data.join("store.lock");
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| io_error("open the lock file", &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::Locked {
                folder: data.to_path_buf(),
                holder: fs::read_to_string(&path).unwrap_or_default(),
            });
        }
        Err(error) => return Err(io_error("lock the data folder", &error.into())),
    }
    file.set_len(0)
        .and_then(|()| write!(file, "pid {}", std::process::id()))
        .map_err(|e| io_error("write the lock file", &e))?;
    Ok(file)
}

/// A folder without anything in it, or a link to nowhere, is no damaged store: its volume is not mounted.
fn look_inside(folder: &Path) -> Result<(), OpenError> {
    let mut entries = fs::read_dir(folder)
        .map_err(|e| io_error("look into the store; is its volume mounted?", &e))?;
    match entries.next() {
        Some(_) => Ok(()),
        None => Err(OpenError::Io(
            "its folder is empty; mount its volume, or remove the folder if the store is lost"
                .into(),
        )),
    }
}

/// Makes an empty store beside and renames it, so that it exists whole or not at all.
fn create(data: &Path, folder: &Path, options: &Options) -> Result<(), OpenError> {
    let beside = data.join("store.creating");
    let result = (|| {
        if beside.exists() {
            fs::remove_dir_all(&beside)?;
        }
        fs::create_dir(&beside)
    })();
    result.map_err(|e| io_error("begin a store", &e))?;
    write_format(&beside, options)?;
    fs::rename(&beside, folder)
        .and_then(|()| sync_folder(data))
        .map_err(|e| io_error("complete a store", &e))
}

fn write_format(folder: &Path, options: &Options) -> Result<(), OpenError> {
    let memory = Memory::new(options);
    let mut db_options = db_options(options, &memory);
    db_options.create_if_missing(true);
    db_options.create_missing_column_families(true);
    let families = families(&memory);
    let db =
        DB::open_cf_descriptors(&db_options, folder, families).map_err(|e| from_rocksdb(&e))?;
    let meta = db.cf_handle(Family::Meta.name()).expect("it was just made");
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    db.put_cf_opt(
        meta,
        keys::store(StoreKey::Format),
        FORMAT.to_be_bytes(),
        &synced,
    )
    .map_err(|e| from_rocksdb(&e))
}

fn open_folder(folder: &Path, options: &Options, lock: File) -> Result<Database, OpenError> {
    let memory = Memory::new(options);
    let db_options = db_options(options, &memory);
    check_families(&db_options, folder)?;
    let db = DB::open_cf_descriptors(&db_options, folder, families(&memory))
        .map_err(|e| from_rocksdb(&e))?;
    let reached = Reached::open(folder).map_err(|e| io_error("open how far it came", &e))?;
    Ok(Database {
        db,
        reached,
        folder: folder.to_path_buf(),
        cache: memory.cache,
        write_buffers: memory.write_buffers,
        reserve_bytes: options.reserve_bytes,
        _lock: lock,
    })
}

/// Exactly the families of the catalogue, beside RocksDB's own `default`, which stays empty.
fn check_families(options: &rocksdb::Options, folder: &Path) -> Result<(), OpenError> {
    let mut found = DB::list_cf(options, folder).map_err(|e| from_rocksdb(&e))?;
    found.retain(|name| name != "default");
    found.sort_unstable();
    let mut expected = Family::ALL.map(Family::name);
    expected.sort_unstable();
    if found == expected {
        return Ok(());
    }
    Err(OpenError::Damaged(format!(
        "its families are {found:?}, not {expected:?}"
    )))
}

/// What all families share: one bound for blocks read and memtables.
struct Memory {
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl Memory {
    fn new(options: &Options) -> Memory {
        let cache = Cache::new_lru_cache(options.cache_bytes);
        // Without stalls: a flush that lags makes the memtables larger for a moment, a stalled writer would stop leases.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            options.write_buffer_bytes,
            false,
            cache.clone(),
        );
        Memory {
            cache,
            write_buffers,
        }
    }
}

fn db_options(options: &Options, memory: &Memory) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();
    // The default would open in silence without everything after a bad block. This one gives up on it, and drops only a
    // last entry that was never complete.
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A write-ahead log that is missing or shorter than it was when it was closed is damage.
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_paranoid_checks(true);
    db.set_write_buffer_manager(&memory.write_buffers);
    // A family that is rarely written keeps old logs alive; beyond this it is flushed. It bounds a restart, too.
    db.set_max_total_wal_size(128 * MIB as u64);
    db.set_max_open_files(options.open_files);
    db.set_max_background_jobs(2);
    // Flushes and compactions reach the disk as they go, so that a round's sync does not wait for theirs.
    db.set_bytes_per_sync(MIB as u64);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 * MIB);
    db
}

fn families(memory: &Memory) -> Vec<ColumnFamilyDescriptor> {
    let descriptor =
        |family: Family| ColumnFamilyDescriptor::new(family.name(), family_options(family, memory));
    Family::ALL.map(descriptor).into()
}

/// How a family is read and written.
struct Shape {
    memtable_bytes: usize,
    block_bytes: usize,
    /// Point reads of keys that are often absent.
    bloom: bool,
}

impl Shape {
    fn of(family: Family) -> Shape {
        match family {
            // Read by key before each write, and in order by scans and full copies.
            Family::Objects => Shape {
                memtable_bytes: 16 * MIB,
                block_bytes: 8 * 1024,
                bloom: true,
            },
            // Appended, read in order, trimmed by range: large blocks, no filter, as much as possible dies in the memtable.
            Family::Log => Shape {
                memtable_bytes: 32 * MIB,
                block_bytes: 32 * 1024,
                bloom: false,
            },
            // Nearly every read is of a request that was never seen.
            Family::Dedup => Shape {
                memtable_bytes: 8 * MIB,
                block_bytes: 4 * 1024,
                bloom: true,
            },
            Family::Orphans | Family::Meta => Shape {
                memtable_bytes: MIB,
                block_bytes: 4 * 1024,
                bloom: false,
            },
        }
    }
}

fn family_options(family: Family, memory: &Memory) -> rocksdb::Options {
    let shape = Shape::of(family);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&memory.cache);
    table.set_block_size(shape.block_bytes);
    // Counted and evicted like everything else; the newest level's stay, else each read would fetch them again.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if shape.bloom {
        // One false answer in a hundred.
        table.set_bloom_filter(10.0, false);
        table.set_optimize_filters_for_memory(true);
    }
    let mut options = rocksdb::Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(shape.memtable_bytes);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn io_error(doing: &str, error: &io::Error) -> OpenError {
    OpenError::Io(format!("{doing}: {error}"))
}

fn from_rocksdb(error: &rocksdb::Error) -> OpenError {
    match error.kind() {
        // A missing file is reported as an I/O error or as an argument.
        rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument => {
            OpenError::Damaged(error.to_string())
        }
        _ if error.to_string().contains("No such file") => OpenError::Damaged(error.to_string()),
        _ => OpenError::Io(error.to_string()),
    }
}
