//! The verb `test`: runs of Understudy, as the command line asks for them.

use super::harness::{self, Options, Subject};
use super::system::{Keeps, Offers, Reads};
use super::understudy::{self, Mode, Understudy};
use super::workload::Shape;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use understudy_client::ReadLevel;

const SHARDS: u32 = 6;

/// Run a cluster of real processes, break it, and judge what its clients saw.
///
/// With root each process gets a network of its own, and packets can be lost, kept back, repeated and turned round. Without,
/// or with --plain, the processes are on loopback and can only be killed and paused.
///
/// Exit status: 0 as promised (also: what must break was seen to), 1 a violation, 2 wrong usage, 3 it cannot be told,
/// 4 an invalid run: a fault that was asked for never happened, or the harness broke.
#[derive(clap::Args, Debug)]
pub struct Test {
    #[command(flatten)]
    run: Options,
    /// Managers: 1, 3, 5 or 7
    #[arg(long, default_value_t = 3)]
    managers: usize,
    /// Data nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// What the namespace promises
    #[arg(long, value_enum, default_value = "in_sync")]
    namespace_policy: Mode,
    /// The level of reads [default: session for the workload sessions, else primary]
    #[arg(long, value_enum)]
    reads: Option<Level>,
    /// The product [default: `understudy` beside this program, or in PATH]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A mistake that the processes make on purpose; for a product built with the feature `mutants`
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Level {
    Primary,
    Any,
    Session,
    Bounded,
}

impl Level {
    fn level(self) -> ReadLevel {
        match self {
            Level::Primary => ReadLevel::Primary,
            Level::Any => ReadLevel::Any,
            Level::Session => ReadLevel::Session,
            Level::Bounded => ReadLevel::Bounded(Duration::from_millis(500)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Primary => "primary",
            Level::Any => "any",
            Level::Session => "session",
            Level::Bounded => "bounded",
        }
    }
}

impl Test {
    pub fn run(self) -> anyhow::Result<u8> {
        // The processes would not hear of it, and the sound product would pass for the broken one.
        anyhow::ensure!(
            std::env::var_os("UNDERSTUDY_MUTANT").is_none(),
            "UNDERSTUDY_MUTANT is for the simulator; real processes make the mistake that --mutant names"
        );
        if self.run.list {
            list();
            return Ok(0);
        }
        let chosen = self.run.choose(Shape::ALL)?;
        let subject = self.subject(chosen.shape())?;
        chosen.test(subject)
    }

    fn subject(&self, shape: Shape) -> anyhow::Result<Subject> {
        if !matches!(self.managers, 1 | 3 | 5 | 7) || !(1..=50).contains(&self.nodes) {
            bail!("take 1, 3, 5 or 7 managers, and 1 to 50 nodes");
        }
        let binary = binary(self.binary.as_deref())?;
        let (policy, level) = (self.namespace_policy.name(), self.level().name());
        let (managers, nodes) = (self.managers, self.nodes);
        let (mut mistaken, mut mistakes) = (String::new(), String::new());
        if let Some(mutant) = &self.mutant {
            mistaken = format!("with the mistake {mutant}, ");
            mistakes = format!(" --mutant {mutant}");
        }
        Ok(Subject {
            name: policy.to_string(),
            setting: format!(
                "{mistaken}{policy}, reads of level {level}, {managers} managers, {nodes} nodes"
            ),
            command: format!(
                "understudy-jepsen test --managers {managers} --nodes {nodes} --namespace-policy {policy} --reads {level} --binary {}{mistakes}",
                binary.display()
            ),
            system: Arc::new(Understudy::new(understudy::Plan {
                binary,
                managers,
                nodes,
                mode: self.namespace_policy,
                shards: match shape.in_one_shard() {
                    true => 1,
                    false => SHARDS,
                },
                shape,
                level: self.level().level(),
                mutant: self.mutant.clone(),
            })),
        })
    }

    fn level(&self) -> Level {
        let usual = match self.run.workload.as_str() {
            "sessions" => Level::Session,
            _ => Level::Primary,
        };
        self.reads.unwrap_or(usual)
    }
}

fn binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let name = "understudy";
    let candidates: Vec<PathBuf> = match named {
        Some(path) => vec![path.to_path_buf()],
        None => {
            let beside = std::env::current_exe()?.with_file_name(name);
            let path = std::env::var_os("PATH").unwrap_or_default();
            let in_path = std::env::split_paths(&path).map(|folder| folder.join(name));
            std::iter::once(beside).chain(in_path).collect()
        }
    };
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    let found = found.context("the product's binary is not there; name it with --binary")?;
    Ok(std::path::absolute(found)?)
}

fn list() {
    let settings = [
        ("in_sync", Keeps::Always, Reads::Fresh),
        ("in_sync, --reads session", Keeps::Always, Reads::OfSession),
        ("in_sync, --reads any", Keeps::Always, Reads::Old),
        ("lazy", Keeps::GivenBack, Reads::Fresh),
        ("lazy, --reads session", Keeps::GivenBack, Reads::OfSession),
    ];
    let offers = |(setting, keeps, reads)| (setting, Offers { keeps, reads });
    harness::list(Shape::ALL, &settings.map(offers));
}
