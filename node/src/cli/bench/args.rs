//! The flags of `understudy bench`.

use crate::cli::client::OutputFlag;
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use understudy_client::Transport;

/// Generate load, and measure throughput, latency and the servers' CPU time.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub kind: Option<Kind>,
    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Kind {
    /// What the parts below can do at best on this machine, and how far from it the store is
    Floor(FloorArgs),
    /// How long clients wait when a primary's process, and when the manager leader's, is killed
    Failover(FailoverArgs),
    /// How much memory a node needs for many objects
    Memory(MemoryArgs),
    /// The server of `floor`; started by it
    #[command(hide = true)]
    EchoServer(EchoArgs),
    /// How a node catches up that missed many updates of few objects, and in how many bytes
    CatchUp(CatchUpArgs),
    /// How long after its acknowledgement a write can be read at the other copies
    Lag(LagArgs),
    /// How long it takes until many writes that a failover cut off are recorded again
    Reconcile(ReconcileArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub struct LoadArgs {
    /// Servers of a cluster that runs; without them, one of our own is started
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub endpoints: Option<Vec<String>>,
    /// With --endpoints: the process ids on this machine whose CPU time counts
    #[arg(long = "pid", value_delimiter = ',', value_name = "LIST")]
    pub pids: Vec<u32>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// The cluster that the bench starts itself.
#[derive(clap::Args, Clone, Debug)]
pub struct ClusterArgs {
    /// The first port of our own cluster; every further process takes the next ten. 0: free ports
    #[arg(long, default_value_t = 0)]
    pub port_base: u16,
    /// Where the new folder for the data is made. By default where this machine keeps temporary files
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Leave the data where they are, and say where
    #[arg(long)]
    pub keep: bool,
    /// Acknowledge when every copy has it, instead of the primary alone
    #[arg(long)]
    pub in_sync: bool,
    /// Shards of the namespace; 0: as many as the servers make by default
    #[arg(long, default_value_t = 0)]
    pub shards: u32,
    /// How the result is printed
    #[arg(long, short = 'o', value_name = "HOW", default_value = "table")]
    pub output: OutputFlag,
}

/// The load.
#[derive(clap::Args, Clone, Debug)]
pub struct PlanArgs {
    #[arg(long, default_value = "bench")]
    pub namespace: String,
    /// Clients, each with connections and a session of its own
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub clients: u32,
    /// Requests that each client has on the way at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub in_flight: u32,
    /// Open loop: start so many requests a second over all clients, and count each one's time from when it was due.
    /// By default a closed loop: the next request starts when the last one is answered
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub value_size: u32,
    /// The share of puts; the rest are gets of what was loaded before
    #[arg(long, default_value_t = 1.0, value_name = "0..1")]
    pub puts: f64,
    /// How many different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// How the keys are drawn
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub distribution: Distribution,
    /// Zipfian: 0.99 sends half of the requests to about a hundredth of the keys
    #[arg(long, default_value_t = 0.99)]
    pub theta: f64,
    /// One pipelined stream for each client and node, or one call for each request
    #[arg(long, value_enum, default_value_t = Way::Stream)]
    pub transport: Way,
    /// Wait until so many secondaries have each write too
    #[arg(long, default_value_t = 0)]
    pub copies: u32,
    /// Seconds before the measurement begins
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub warm_up: f64,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub duration: f64,
    /// What keys and values are drawn by
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    Uniform,
    Zipfian,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    Stream,
    Unary,
}

#[derive(clap::Args, Clone, Debug)]
pub struct FloorArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub plan: PlanArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct FailoverArgs {
    /// What happens to the primary of most shards: its process is killed, or frozen until the others took over; or one of its
    /// shards is handed over
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    pub fault: Fault,
    /// How often
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub faults: u32,
    /// How often the manager leader's process is killed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub leader_faults: u32,
    /// An agent starts the nodes, reports the end of each at once, and restarts it; not for frozen processes
    #[arg(long)]
    pub agent: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Clients, each with one request on the way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub clients: u32,
    /// Requests a second over all clients
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    Kill,
    Freeze,
    Transfer,
}

#[derive(clap::Args, Clone, Debug)]
pub struct LagArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Writes of other keys that go on meanwhile. Without --rate the peak is measured first, and half of it is the rate
    #[command(flatten)]
    pub plan: PlanArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct MemoryArgs {
    /// Objects to load
    #[arg(long, default_value_t = 1_000_000)]
    pub objects: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub value_size: u32,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct CatchUpArgs {
    /// Updates that the node misses
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub updates: u64,
    /// Objects that they go to, in turn
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub objects: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub value_size: u32,
    /// Clients that write
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub clients: u32,
    /// Requests that each client has on the way at once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub in_flight: u32,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct ReconcileArgs {
    /// Acknowledged writes that only one node has when it dies
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub orphans: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub value_size: u32,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct EchoArgs {
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: String,
}

impl ClusterArgs {
    pub fn is_json(&self) -> bool {
        self.output == OutputFlag::Json
    }
}

impl PlanArgs {
    pub fn warm_up(&self) -> Duration {
        seconds(self.warm_up)
    }

    pub fn duration(&self) -> Duration {
        seconds(self.duration.max(0.1))
    }

    pub fn transport(&self) -> Transport {
        match self.transport {
            Way::Stream => Transport::Stream,
            Way::Unary => Transport::Unary,
        }
    }

    /// Requests on the way at once over all clients.
    pub fn workers(&self) -> u32 {
        self.clients * self.in_flight
    }
}

/// An hour is the bound of every bench.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.min(3_600.0)).unwrap_or_default()
}
