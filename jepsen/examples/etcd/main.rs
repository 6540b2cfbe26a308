//! Tests etcd: `jepsen/examples/etcd/run.sh` gets it and runs this twice, with reads that must be linearizable and with reads that
//! must be seen not to be.
//!
//!     cargo run --profile ci -p understudy-jepsen --example etcd -- --nemesis kill,partition --time 60s --seed 1
//!
//! `system` says what the harness has to know of a cluster of etcd, `client` what an operation is in etcd; everything else is
//! the harness's.

mod client;
mod system;
mod wire;

use anyhow::{Context, ensure};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};
use system::Etcd;
use understudy_jepsen::live::harness::{self, Options, Subject};
use understudy_jepsen::live::system::{Keeps, Offers, Reads};
use understudy_jepsen::live::workload::Shape;

/// Of the workloads that the client understands.
const SHAPES: &[Shape] = &[Shape::Register, Shape::Set, Shape::Append];

/// Break a cluster of etcd, and judge what its clients saw
///
/// Exit status: 0 as promised (also: what must break was seen to), 1 a violation, 2 wrong usage, 3 it cannot be told, 4 an invalid
/// run.
#[derive(Parser)]
#[command(name = "etcd")]
struct Arguments {
    #[command(flatten)]
    run: Options,
    /// Whom a read asks: the majority, or only the member that the client speaks to
    #[arg(long, value_enum, default_value = "linearizable")]
    reads: Level,
    /// How many
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    members: u8,
    /// The program etcd, of version 3.4 or later
    #[arg(long, default_value = "etcd")]
    binary: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Linearizable,
    Serializable,
}

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("etcd: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Arguments {
    fn run(&self) -> anyhow::Result<u8> {
        if self.run.list {
            let offers = |reads| Offers {
                keeps: Keeps::Always,
                reads,
            };
            let settings = [
                ("--reads linearizable", offers(Reads::Fresh)),
                ("--reads serializable", offers(Reads::Old)),
            ];
            harness::list(SHAPES, &settings);
            return Ok(0);
        }
        let chosen = self.run.choose(SHAPES)?;
        let version = version_of(&self.binary)?;
        let serializable = self.reads == Level::Serializable;
        let reads = if serializable {
            "serializable"
        } else {
            "linearizable"
        };
        let (members, binary) = (self.members, self.binary.display());
        let subject = Subject {
            name: format!("etcd-{reads}"),
            setting: format!("{version}, {reads} reads, {members} members"),
            command: format!(
                "cargo run --profile ci -p understudy-jepsen --example etcd -- --reads {reads} --members {members} --binary {binary}"
            ),
            system: Arc::new(Etcd {
                binary: self.binary.clone(),
                members: usize::from(members),
                shape: chosen.shape(),
                serializable,
                channels: OnceLock::new(),
            }),
        };
        chosen.test(subject)
    }
}

/// `etcd 3.4.23`
fn version_of(binary: &Path) -> anyhow::Result<String> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| {
        format!(
            "{} cannot be run; jepsen/examples/etcd/run.sh gets it, or install etcd-server (Debian, Ubuntu), or name it with --binary",
            binary.display()
        )
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    ensure!(
        output.status.success(),
        "{} --version fails",
        binary.display()
    );
    let version = version.with_context(|| format!("{} is not etcd", binary.display()))?;
    Ok(format!("etcd {}", version.trim()))
}
