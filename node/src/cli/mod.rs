//! What a person types: one binary, one file a verb or noun.
//!
//! Client verbs stand on `understudy-client` and know nothing of the servers' insides. Each ends with an exit status of
//! `exit`, prints on standard output what was asked for, and everything else on standard error.

mod agent;
pub mod bench;
pub mod bulk;
mod bytes;
mod client;
mod cluster;
pub mod cluster_agent;
mod cluster_drain;
pub mod cluster_processes;
mod cluster_verify;
mod completion;
mod config;
mod conflicts;
mod delete;
pub mod demo;
mod dev;
mod exit;
mod export;
pub mod faults;
mod get;
mod import;
mod lines;
pub mod local;
mod log;
mod man;
mod namespace;
mod naming;
mod orphans;
mod output;
mod promote;
pub mod pulse;
mod put;
pub mod read_back;
mod request;
mod scan;
mod server;
mod session;
mod show;
mod txn;
mod watch;
mod write;

pub use client::ClientFlags;
pub use exit::{Ended, Exit, Trouble};
pub use output::{Output, Progress, Rows};

use crate::config::{ManagerConfig, NodeConfig};
use crate::version;
use clap::{CommandFactory, Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// A replicated state store: every update runs once, and survives the machines that it is told to survive.
///
/// Client verbs ask http://127.0.0.1:7420 unless --endpoints or UNDERSTUDY_ENDPOINTS names others.
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 a condition was not met, 5 unavailable,
/// 6 outcome unknown (repeat with the same --request-id). Servers: 3 = the data folder is unusable.
#[derive(Debug, Parser)]
#[command(
    name = "understudy",
    version = version::version(),
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a whole cluster on this machine, loopback only
    Dev(dev::Args),
    /// Show a failover under load, and check that nothing acknowledged was lost and nothing ran twice
    Demo(demo::Args),
    /// Run a manager
    Manager(server::ServerArgs<ManagerConfig>),
    /// Run a data node
    Node(server::ServerArgs<NodeConfig>),
    /// Run the agent of a machine, or see and change what it runs
    Agent(agent::Args),
    /// Write one object
    Put(put::Args),
    /// Read objects
    Get(get::Args),
    /// Remove one object, or one component of it
    Delete(delete::Args),
    /// List objects in key order
    Scan(scan::Args),
    /// Run several operations as one, all or nothing, from JSON lines
    Txn(txn::Args),
    /// Follow the changes of keys
    Watch(watch::Args),
    /// Load objects or operations from JSON lines
    Import(import::Args),
    /// Write all objects as JSON lines
    Export(export::Args),
    /// Read a shard's request log: each request once, with its outcome
    Log(log::Args),
    /// Ask what became of one request
    Request(request::Args),
    /// List what failovers cut off
    Orphans(orphans::Args),
    /// What failovers cut off and a person has to decide
    Conflicts(conflicts::Args),
    /// Client ids for --request-id
    Session(session::Args),
    /// Names that applications bind to endpoints
    Naming(naming::Args),
    /// Namespaces and their policies
    Namespace(namespace::Args),
    /// Members, shards, managers, transfers
    Cluster(cluster::Args),
    /// Generate load and measure
    Bench(bench::Args),
    /// Show, check or make the settings of a role
    Config(config::Args),
    /// Print the completion script of a shell
    Completion(completion::Args),
    /// Make documents from this program
    Gen(man::Args),
}

/// Parses, runs, reports.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(wrong) = version::choose_mistake() {
        eprintln!("error: UNDERSTUDY_MUTANT: {wrong}");
        return ExitCode::from(Exit::Usage as u8);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let status = match runtime.block_on(run(cli.verb)) {
        Ok(exit) => exit as u8,
        Err(trouble) => {
            if !trouble.silent {
                eprintln!("{trouble}");
            }
            trouble.exit as u8
        }
    };
    // A server that did not come to its end in time is not waited for a second time.
    runtime.shutdown_background();
    end(status)
}

/// Ends the process at once. Returning from `main` would destroy the static objects of RocksDB while threads that are not
/// waited for may still use them, which aborts the process. What was acknowledged is on the disk.
#[allow(unsafe_code)] // The standard library's exit runs these destructors too.
fn end(status: u8) -> ! {
    // Nobody is left to be told.
    let _ = std::io::stdout().flush();
    // SAFETY: it takes no pointer and never returns.
    unsafe { libc::_exit(i32::from(status)) }
}

async fn run(verb: Verb) -> Ended {
    match verb {
        Verb::Dev(args) => dev::run(args).await,
        Verb::Demo(args) => demo::run(args).await,
        Verb::Manager(args) => server::manager(args).await,
        Verb::Node(args) => server::node(args).await,
        Verb::Agent(args) => agent::run(args).await,
        Verb::Put(args) => put::run(args).await,
        Verb::Get(args) => get::run(args).await,
        Verb::Delete(args) => delete::run(args).await,
        Verb::Scan(args) => scan::run(args).await,
        Verb::Txn(args) => txn::run(args).await,
        Verb::Watch(args) => watch::run(args).await,
        Verb::Import(args) => import::run(args).await,
        Verb::Export(args) => export::run(args).await,
        Verb::Log(args) => log::run(args).await,
        Verb::Request(args) => request::run(args).await,
        Verb::Orphans(args) => orphans::run(args).await,
        Verb::Conflicts(args) => conflicts::run(args).await,
        Verb::Session(args) => session::run(args).await,
        Verb::Naming(args) => naming::run(args).await,
        Verb::Namespace(args) => namespace::run(args).await,
        Verb::Cluster(args) => cluster::run(args).await,
        Verb::Bench(args) => bench::run(args).await,
        Verb::Config(args) => config::run(args),
        Verb::Completion(args) => completion::run(args),
        Verb::Gen(args) => man::run(args),
    }
}

/// The whole command line, for completion and manual pages.
fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }
}
