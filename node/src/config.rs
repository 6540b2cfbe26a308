//! Every setting of every role, once: its name, default and meaning. From this one place come the TOML file, the
//! environment variables, the flags, `config default` and the checks.
//!
//! A setting `raft.heartbeat_ms` is `heartbeat_ms` in `[raft]` of the file, `UNDERSTUDY_RAFT_HEARTBEAT_MS` in the
//! environment and `--raft-heartbeat-ms` as a flag; the later wins. Times are milliseconds, sizes bytes. A role gets its
//! structure whole and hands parts of it on; `validate` tells every problem, not the first.

mod address;
mod flags;
mod layers;
mod section;
mod words;

pub use address::{is_loopback, is_unspecified, split_address};
pub use flags::SettingFlags;
pub use layers::{Given, Layers, Loaded, Source, load};
pub use section::{Described, Section, described};
pub use words::split_words;

use address::Checks;
use section::section;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What is wrong with one setting, in one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

section! {
    /// Where a process listens.
    pub struct Listen {
        /// Clients: gRPC. host:port; port 0 takes a free one.
        public: String = "127.0.0.1:7420".to_string(),
        /// The other processes of the cluster: gRPC. Never for applications.
        internal: String = "127.0.0.1:7421".to_string(),
        /// Metrics, health and status: HTTP.
        admin: String = "127.0.0.1:7422".to_string(),
    }
}

section! {
    /// What a process writes about itself on standard error.
    pub struct LogSettings {
        /// error, warn, info, debug, trace, or a filter such as "info,openraft=warn".
        level: String = "info,openraft=warn".to_string(),
        /// text or json.
        format: String = "text".to_string(),
    }
}

section! {
    /// Under which addresses others reach a manager. Empty: where it listens.
    pub struct ManagerAdvertise {
        /// host:port for clients.
        public: String = String::new(),
        /// host:port for managers and nodes; the one in initial_managers.
        internal: String = String::new(),
    }
}

section! {
    /// Raft's timing and the length of its log. The same values in every manager.
    pub struct Raft {
        /// Between two heartbeats of the leader.
        heartbeat_ms: u64 = 50,
        /// A follower waits at least so long for its leader before it stands for election.
        election_timeout_min_ms: u64 = 150,
        /// At most so long; leases wait for this one after a leader is lost.
        election_timeout_max_ms: u64 = 300,
        /// Entries after which a snapshot is made and the log before it can go.
        snapshot_every: u64 = 10_000,
        /// Entries kept behind a snapshot, for managers that are only a little behind.
        log_kept: u64 = 2_000,
    }
}

section! {
    /// Settings of the whole cluster. The first manager leader founds the cluster with them; later starts ignore them.
    pub struct Founding {
        /// Between two heartbeats of a node to the managers.
        heartbeat_interval_ms: u64 = 100,
        /// How long a lease lasts, and so how long a lost primary is waited for. 0: 2.5 heartbeats, at least 1000.
        lease_ms: u64 = 0,
        /// How long a failover waits for slower candidates after the first one answered.
        slower_candidates_wait_ms: u64 = 100,
        /// How long a node stays away before another node gets copies in its place.
        replace_after_ms: u64 = 30_000,
    }
}

section! {
    /// When the primary follows its writers to another site, in namespaces that want it. The same values in every manager.
    pub struct NearWriters {
        /// A site leads when it has at least so many per cent of a shard's updates,
        share_percent: u32 = 50,
        /// and so many per cent of all more than the primary's site.
        margin_percent: u32 = 20,
        /// When it led for so long, the primary goes there.
        after_ms: u64 = 60_000,
        /// Not before so long after the shard's last change of primary, or after the manager began to lead.
        calm_ms: u64 = 300_000,
    }
}

section! {
    /// A manager: one of 1, 3, 5 or 7 processes that agree on where every shard is.
    pub struct ManagerConfig {
        /// The id of this manager, from 1; it is never used again, also not after the manager was removed.
        id: u64 = 0,
        /// A name for people. Empty: manager-<id>.
        name: String = String::new(),
        /// The folder that holds everything this process writes.
        data_dir: PathBuf = PathBuf::new(),
        /// "id@host:port" of the internal port of every manager that forms the cluster at its first start, the same
        /// list in each one's config. Clients find its public port just before that one; where it is elsewhere write
        /// "id@host:port/host:port". Ignored once the folder holds a log; empty: wait for `cluster managers add`.
        initial_managers: Vec<String> = Vec::new(),
        /// Listen beyond loopback in plain text and without authentication.
        insecure: bool = false,
        /// How long a clean stop may take.
        shutdown_timeout_ms: u64 = 5_000,
        /// After so long with every node up and every shard whole, copies and primaries move to nodes that have fewer, one at a
        /// time. 0: never.
        balance_after_ms: u64 = 60_000,
        /// Where to listen.
        listen: Listen = Listen::default(),
        /// Under which addresses others reach it.
        advertise: ManagerAdvertise = ManagerAdvertise::default(),
        /// Raft.
        raft: Raft = Raft::default(),
        /// What the cluster is founded with.
        founding: Founding = Founding::default(),
        /// Primaries that follow their writers.
        near_writers: NearWriters = NearWriters::default(),
        /// The log of the process.
        log: LogSettings = LogSettings::default(),
    }
}

section! {
    /// Under which addresses others reach a node. Empty: where it listens.
    pub struct NodeAdvertise {
        /// host:port for clients of the same site.
        inside: String = String::new(),
        /// host:port for clients elsewhere. Empty: the same as inside.
        outside: String = String::new(),
        /// host:port for managers and other nodes.
        internal: String = String::new(),
    }
}

section! {
    /// What the store may use.
    pub struct Storage {
        /// Memory for blocks read, filters, indexes and write buffers together.
        cache_bytes: u64 = 128 * 1024 * 1024,
        /// The write buffers' part of it; beyond it the fullest is flushed.
        write_buffer_bytes: u64 = 64 * 1024 * 1024,
        /// Files held open.
        open_files: u32 = 512,
        /// Room on the disk kept for flushes and compactions; a write that would use it up is refused as STORAGE_FULL.
        reserve_bytes: u64 = 256 * 1024 * 1024,
    }
}

section! {
    /// How much of its log a primary keeps beyond what its copies need, where the namespace does not say.
    pub struct Retention {
        /// Bytes of a shard.
        log_bytes: u64 = 64 * 1024 * 1024,
        /// Age.
        log_age_ms: u64 = 24 * 3_600 * 1_000,
    }
}

/// 366 days: a clock can be added to.
const SCRUB_EVERY_MS_MAX: u64 = 366 * 24 * 3_600 * 1_000;

section! {
    /// Comparing the objects of all copies in the background, of the shards whose primary a node is.
    pub struct ScrubSettings {
        /// Bytes of objects that a node reads for it in a second; as many are read at each other copy. 0: never.
        bytes_per_second: u64 = 4 * 1024 * 1024,
        /// Between two comparisons of a shard; the first one comes within an hour after a node became its primary.
        every_ms: u64 = 24 * 3_600 * 1_000,
    }
}

section! {
    /// A data node: it stores copies of shards and serves clients.
    pub struct NodeConfig {
        /// The node's name in the cluster. Empty: the machine's host name.
        name: String = String::new(),
        /// The folder that holds everything this process writes.
        data_dir: PathBuf = PathBuf::new(),
        /// host:port of the internal ports of some managers.
        managers: Vec<String> = Vec::new(),
        /// The place of this node. Links inside a site are cheap. Empty: the one site without a name.
        site: String = String::new(),
        /// Further facts for people, name = "value".
        labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Listen beyond loopback in plain text and without authentication.
        insecure: bool = false,
        /// Between two heartbeats before the cluster's own setting is known.
        heartbeat_interval_ms: u64 = 100,
        /// Threads that run shards. 0: one for each processor.
        shard_threads: u32 = 0,
        /// Bytes of full copies that this node sends in a second, over all its shards; records of the log do not count. 0: no bound.
        full_copy_bytes_per_second: u64 = 0,
        /// How long a clean stop may take: hand over, flush, close.
        shutdown_timeout_ms: u64 = 5_000,
        /// Where to listen.
        listen: Listen = Listen::default(),
        /// Under which addresses others reach it.
        advertise: NodeAdvertise = NodeAdvertise::default(),
        /// The store.
        storage: Storage = Storage::default(),
        /// What is kept of the shards' logs.
        retention: Retention = Retention::default(),
        /// Comparing the copies.
        scrub: ScrubSettings = ScrubSettings::default(),
        /// The log of the process.
        log: LogSettings = LogSettings::default(),
        /// The agent that started it.
        agent: StartedBy = StartedBy::default(),
    }
}

section! {
    /// Where an agent listens.
    pub struct AgentListen {
        /// Managers, and people with `understudy agent list`: gRPC. host:port; port 0 takes a free one.
        internal: String = "127.0.0.1:7423".to_string(),
        /// Metrics, health and status: HTTP.
        admin: String = "127.0.0.1:7424".to_string(),
    }
}

section! {
    /// Under which address the managers reach an agent. Empty: where it listens.
    pub struct AgentAdvertise {
        /// host:port.
        internal: String = String::new(),
    }
}

section! {
    /// How long an agent waits before it starts a process again that ended.
    pub struct AgentRestart {
        /// The first time; twice as long each further time.
        first_ms: u64 = 250,
        /// At most.
        most_ms: u64 = 30_000,
        /// After running so long the next pause is the first one again.
        stable_ms: u64 = 10_000,
    }
}

section! {
    /// An agent: it starts the processes of its machine, restarts them, and tells the managers at once when one ends.
    pub struct AgentConfig {
        /// The folder that holds everything this process writes.
        data_dir: PathBuf = PathBuf::new(),
        /// host:port of the internal ports of the managers, which are told of ends. Empty: nobody is told.
        managers: Vec<String> = Vec::new(),
        /// The processes: name = "command line". Quotes as in a shell, and nothing else of one; the word understudy at the
        /// beginning is the agent's own executable. The program has to be the process itself, not a script that starts it
        /// (unless that uses exec).
        processes: BTreeMap<String, String> = BTreeMap::new(),
        /// Listen beyond loopback in plain text and without authentication: others can then stop and start the processes.
        insecure: bool = false,
        /// Stop the processes when the agent is stopped. Otherwise they go on, and the next agent takes them over.
        stop_with_agent: bool = false,
        /// A process that is stopped and does not end within this time is killed.
        stop_timeout_ms: u64 = 10_000,
        /// Pauses before restarts.
        restart: AgentRestart = AgentRestart::default(),
        /// Where to listen.
        listen: AgentListen = AgentListen::default(),
        /// Under which address managers reach it.
        advertise: AgentAdvertise = AgentAdvertise::default(),
        /// The log of the process.
        log: LogSettings = LogSettings::default(),
    }
}

section! {
    /// Set by the agent that starts a node, in its environment; not by people.
    pub struct StartedBy {
        /// The launch by which the agent knows this start. Empty: no agent.
        launch_id: String = String::new(),
        /// The agent's process id: the launch counts only for its direct child. 0: none.
        pid: u32 = 0,
        /// host:port where the managers reach the agent.
        address: String = String::new(),
    }
}

section! {
    /// A client: what every verb of the command line needs.
    pub struct ClientConfig {
        /// http://host:port of some nodes or managers, in the order in which they are asked.
        endpoints: Vec<String> = vec!["http://127.0.0.1:7420".to_string()],
        /// The namespace of the objects.
        namespace: String = "default".to_string(),
        /// Where this client is; servers of the same site hand out their inside addresses.
        site: String = String::new(),
        /// How long a call may take over all its attempts.
        deadline_ms: u64 = 10_000,
        /// table or json.
        output: String = "table".to_string(),
    }
}

/// Where one of the first managers is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialManager {
    pub internal: String,
    /// For clients; without a word of its own the port before the internal one.
    pub public: String,
}

impl InitialManager {
    /// `host:port` or `host:port/host:port`.
    fn parse(text: &str) -> Result<InitialManager, String> {
        let (internal, public) = match text.split_once('/') {
            Some((internal, public)) => (internal, Some(public)),
            None => (text, None),
        };
        let (_, port) = split_address(internal)?;
        let host = internal.rsplit_once(':').map_or("", |(host, _)| host);
        let public = match public {
            Some(public) => {
                split_address(public)?;
                public.to_string()
            }
            None => format!("{host}:{}", port.saturating_sub(1)),
        };
        Ok(InitialManager {
            internal: internal.to_string(),
            public,
        })
    }
}

impl ManagerConfig {
    /// Every problem of the settings.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.that(
            "id",
            self.id > 0,
            "has to be set, from 1: each manager has its own",
        );
        checks.folder(&self.data_dir);
        checks.listen(&self.listen, self.insecure);
        checks.advertised(
            "advertise.public",
            &self.advertise.public,
            "listen.public",
            &self.listen.public,
        );
        checks.advertised(
            "advertise.internal",
            &self.advertise.internal,
            "listen.internal",
            &self.listen.internal,
        );
        self.check_initial(&mut checks);
        let raft = &self.raft;
        let apart = raft.election_timeout_min_ms > 2 * raft.heartbeat_ms;
        checks.at_least("raft.heartbeat_ms", raft.heartbeat_ms, 10);
        checks.that(
            "raft.election_timeout_min_ms",
            apart,
            "has to be more than twice raft.heartbeat_ms",
        );
        let order = raft.election_timeout_max_ms > raft.election_timeout_min_ms;
        checks.that(
            "raft.election_timeout_max_ms",
            order,
            "has to be more than raft.election_timeout_min_ms",
        );
        checks.at_least("raft.snapshot_every", raft.snapshot_every, 100);
        let near = &self.near_writers;
        let (share, margin) = (
            u64::from(near.share_percent),
            u64::from(near.margin_percent),
        );
        checks.between("near_writers.share_percent", share, 1, 100);
        checks.between("near_writers.margin_percent", margin, 1, 100);
        checks.at_least("near_writers.after_ms", near.after_ms, 1_000);
        checks.at_least("near_writers.calm_ms", near.calm_ms, 1_000);
        self.check_founding(&mut checks);
        checks.log(&self.log);
        checks.problems()
    }

    fn check_initial(&self, checks: &mut Checks) {
        let initial = self.initial();
        checks.bad("initial_managers", initial.as_ref().err());
        let Ok(initial) = initial else { return };
        if initial.is_empty() {
            return;
        }
        let odd = matches!(initial.len(), 1 | 3 | 5 | 7);
        checks.that("initial_managers", odd, "has to name 1, 3, 5 or 7 managers");
        let named = initial.contains_key(&self.id);
        checks.that(
            "initial_managers",
            named,
            "has to name this manager too, by its id",
        );
    }

    fn check_founding(&self, checks: &mut Checks) {
        let founding = &self.founding;
        checks.between(
            "founding.heartbeat_interval_ms",
            founding.heartbeat_interval_ms,
            50,
            60_000,
        );
        let lease = founding.lease_ms;
        let least = 2 * self.raft.election_timeout_max_ms + 2 * founding.heartbeat_interval_ms;
        let derived = (founding.heartbeat_interval_ms * 5 / 2).max(1_000);
        let enough = if lease == 0 { derived } else { lease } >= least;
        let why = "has to be at least twice raft.election_timeout_max_ms plus twice founding.heartbeat_interval_ms";
        checks.that("founding.lease_ms", enough, why);
    }

    /// The initial managers by id.
    pub fn initial(&self) -> Result<BTreeMap<u64, InitialManager>, String> {
        let mut managers = BTreeMap::new();
        for text in &self.initial_managers {
            let wrong = |why: &str| format!("'{text}': {why}, write id@host:port");
            let (id, address) = text
                .split_once('@')
                .ok_or_else(|| wrong("there is no id"))?;
            let id: u64 = id.parse().map_err(|_| wrong(&format!("'{id}' is no id")))?;
            let manager = InitialManager::parse(address).map_err(|why| wrong(&why))?;
            if id == 0 || managers.insert(id, manager).is_some() {
                return Err(format!("'{text}': ids are at least 1 and each stands once"));
            }
        }
        Ok(managers)
    }

    /// The name that is shown.
    pub fn shown_name(&self) -> String {
        match self.name.as_str() {
            "" => format!("manager-{}", self.id),
            name => name.to_string(),
        }
    }
}

impl NodeConfig {
    /// Every problem of the settings.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.name("name", &self.name);
        checks.name("site", &self.site);
        checks.folder(&self.data_dir);
        checks.that(
            "scrub.every_ms",
            self.scrub.every_ms <= SCRUB_EVERY_MS_MAX,
            "has to be at most a year, 31622400000; scrub.bytes_per_second = 0 switches the comparing off",
        );
        checks.that(
            "managers",
            !self.managers.is_empty(),
            "has to name the internal address of a manager, host:port",
        );
        for manager in &self.managers {
            checks.bad("managers", split_address(manager).err().as_ref());
        }
        checks.listen(&self.listen, self.insecure);
        let advertise = &self.advertise;
        checks.advertised(
            "advertise.inside",
            &advertise.inside,
            "listen.public",
            &self.listen.public,
        );
        checks.advertised(
            "advertise.outside",
            &advertise.outside,
            "advertise.inside",
            &advertise.inside,
        );
        checks.advertised(
            "advertise.internal",
            &advertise.internal,
            "listen.internal",
            &self.listen.internal,
        );
        checks.between(
            "heartbeat_interval_ms",
            self.heartbeat_interval_ms,
            50,
            60_000,
        );
        checks.at_most("shard_threads", u64::from(self.shard_threads), 1_024);
        let storage = &self.storage;
        checks.at_least(
            "storage.write_buffer_bytes",
            storage.write_buffer_bytes,
            1024 * 1024,
        );
        let fits = storage.cache_bytes >= storage.write_buffer_bytes;
        checks.that(
            "storage.cache_bytes",
            fits,
            "has to be at least storage.write_buffer_bytes, which is a part of it",
        );
        checks.at_least("storage.open_files", u64::from(storage.open_files), 64);
        checks.log(&self.log);
        checks.problems()
    }
}

impl AgentConfig {
    /// Every problem of the settings.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.folder(&self.data_dir);
        for manager in &self.managers {
            checks.bad("managers", split_address(manager).err().as_ref());
        }
        let some = !self.processes.is_empty();
        checks.that(
            "processes",
            some,
            "has to name a process: name = \"command line\"",
        );
        for (name, command) in &self.processes {
            let key = format!("processes.{name}");
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let fits = name.len() <= 100 && name.chars().all(plain) && !name.starts_with('.');
            let why = "a name has letters, digits, '-', '_' and '.', does not begin with '.', and at most 100 of them";
            checks.that(&key, fits && !name.is_empty(), why);
            checks.bad(&key, split_words(command).err().as_ref());
        }
        let listen = &self.listen;
        for (key, address) in [
            ("listen.internal", &listen.internal),
            ("listen.admin", &listen.admin),
        ] {
            checks.listens(key, address, self.insecure);
        }
        checks.advertised(
            "advertise.internal",
            &self.advertise.internal,
            "listen.internal",
            &listen.internal,
        );
        checks.between("stop_timeout_ms", self.stop_timeout_ms, 1, 600_000);
        checks.between("restart.first_ms", self.restart.first_ms, 1, 600_000);
        let order = self.restart.most_ms >= self.restart.first_ms;
        checks.that(
            "restart.most_ms",
            order,
            "has to be at least restart.first_ms",
        );
        checks.at_most("restart.most_ms", self.restart.most_ms, 3_600_000);
        checks.at_most("restart.stable_ms", self.restart.stable_ms, 86_400_000);
        checks.log(&self.log);
        checks.problems()
    }
}

impl ClientConfig {
    /// Every problem of the settings.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        checks.that(
            "endpoints",
            !self.endpoints.is_empty(),
            "has to name a server, http://host:port",
        );
        checks.between(
            "deadline_ms",
            self.deadline_ms,
            1,
            understudy_proto::limits::DEADLINE_MS_MAX,
        );
        checks.one_of("output", &self.output, &["table", "json"]);
        checks.problems()
    }
}

#[cfg(test)]
mod tests;
