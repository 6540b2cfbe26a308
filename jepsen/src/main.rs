//! `understudy-jepsen`: judges histories; seeded simulation with faults, its replay, and the proof that
//! its checks catch mistakes.
//!
//! Exit codes of the simulator (`check` has its own): 0 clean, 1 an invariant is broken, 2 wrong usage, 3 the code under test panicked, 4 no convergence. Each
//! failure prints the command that repeats it.

use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;
use understudy_jepsen::check::Check;
use understudy_jepsen::run::{self, Plan, Summary};
use understudy_jepsen::sim::{Keep, Verdict};
use understudy_protocol::mutant::{self, Mutant};

/// Seeds of a run for which nobody said how many.
const SEEDS: u64 = 100;
/// The newest lines of a failed seed's trace that are shown.
const LINES_SHOWN: usize = 40;

#[derive(Parser)]
#[command(name = "understudy-jepsen", version = format!("{}{}", env!("CARGO_PKG_VERSION"), mutant::VERSION_SUFFIX), about = "Simulator and test harness of Understudy")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judge a history, of this system or of another one
    Check(Check),
    /// Run simulated clusters under faults, one for each seed
    Fuzz(Fuzz),
    /// Print what happens in one seed, line by line
    Replay(Replay),
    /// Show that each built-in mistake is caught (needs a build with the feature `mutants`)
    Mutants(Mutants),
    /// Break a cluster of real processes, and judge what its clients saw
    #[cfg(feature = "live")]
    Test(understudy_jepsen::live::cli::Test),
}

#[derive(Args)]
struct Fuzz {
    /// How many seeds [default: 100]
    #[arg(long, conflicts_with = "time")]
    seeds: Option<u64>,
    /// How long instead: 90s, 5m, 1h
    #[arg(long = "for", id = "time", value_parser = parse_time)]
    time: Option<Duration>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Seeds at a time [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    twice: bool,
    /// Go on after a seed that is not clean, and list all of them
    #[arg(long)]
    keep_going: bool,
    /// Make this mistake on purpose
    #[arg(long, env = "UNDERSTUDY_MUTANT")]
    mutant: Option<String>,
}

#[derive(Args)]
struct Replay {
    seed: u64,
    /// Make this mistake on purpose
    #[arg(long, env = "UNDERSTUDY_MUTANT")]
    mutant: Option<String>,
    /// Write what the clients saw to this file, one JSON line each
    #[arg(long)]
    history: Option<std::path::PathBuf>,
}

#[derive(Args)]
struct Mutants {
    /// How long each mistake is looked for
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Only list those that stories and tests notice, and no seed
    #[arg(long)]
    by_story: bool,
    /// Only these
    names: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let code = match cli.command {
        Command::Check(check) => check.run(),
        Command::Fuzz(fuzz) => choose(fuzz.mutant.as_deref()).and_then(|()| fuzz.run()),
        Command::Replay(replay) => choose(replay.mutant.as_deref()).and_then(|()| replay.run()),
        Command::Mutants(mutants) => mutants.run(),
        #[cfg(feature = "live")]
        Command::Test(test) => test.run(),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("understudy-jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The mistake for the rest of the process.
fn choose(name: Option<&str>) -> anyhow::Result<()> {
    mutant::choose(name.unwrap_or_default()).map_err(anyhow::Error::msg)
}

impl Fuzz {
    fn run(&self) -> anyhow::Result<u8> {
        run::catch_panics();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let plan = Plan {
            start: self.start,
            count: self.seeds.or(self.time.is_none().then_some(SEEDS)),
            time: self.time,
            threads: self.threads.unwrap_or(cores),
            twice: self.twice,
            keep_going: self.keep_going,
        };
        let summary = run::many(plan);
        for (seed, verdict) in &summary.failed {
            self.tell(*seed, verdict, summary.failed.len() == 1);
        }
        println!("{}", describe(&summary, plan.threads));
        if let Some(what) = summary.too_few_deltas() {
            println!("{what}");
            return Ok(summary.exit_code().max(1));
        }
        Ok(summary.exit_code())
    }

    fn tell(&self, seed: u64, verdict: &Verdict, lines: bool) {
        println!("seed {seed}: {}", verdict.describe());
        if lines {
            for line in run::seed(seed, Keep::Last(LINES_SHOWN)).last {
                println!("    {line}");
            }
        }
        let mutant = self.mutant.as_ref().map(|name| format!(" --mutant {name}"));
        println!(
            "  repeat: understudy-jepsen replay {seed}{}",
            mutant.unwrap_or_default()
        );
    }
}

fn describe(summary: &Summary, threads: usize) -> String {
    let minutes = summary.took.as_secs_f64() / 60.0;
    let rate = summary.seeds as f64 / minutes.max(1e-9);
    let s = summary.statistics;
    let least = summary.least.unwrap_or_default();
    format!(
        "{} seeds, {} failed, {} events (a seed at least {}), {} faults (a seed at least {}), {} acknowledged writes, {} orphans left, {} recorded again, {} conflicts and {} of them decided, {} outcomes expired and {} orphans met that, {} acknowledged without managers, {} refused for want of a lease, {} promotions forced, {} pages of copies compared, {} deltas, {} records sent as operations and {} with objects, {} copies broken, {:.1} virtual hours; \
         {:.0} seeds a minute with {threads} threads",
        summary.seeds,
        summary.failed.len(),
        s.events,
        least.0,
        s.faults,
        least.1,
        s.acknowledged,
        s.orphans,
        s.recorded_again,
        s.conflicts,
        s.decided,
        s.forgotten,
        s.may_have_run,
        s.without_managers,
        s.no_lease,
        s.forced,
        s.compared,
        s.deltas,
        s.operations,
        s.with_objects,
        s.broken,
        s.virtual_us as f64 / 3.6e9,
        rate
    )
}

impl Replay {
    fn run(&self) -> anyhow::Result<u8> {
        run::catch_panics();
        let outcome = run::seed(self.seed, Keep::Print);
        if let Some(path) = &self.history {
            std::fs::write(path, outcome.history.to_json_lines())?;
        }
        println!("seed {}: {}", self.seed, outcome.verdict.describe());
        println!("trace {:016x}, {:?}", outcome.hash, outcome.statistics);
        Ok(outcome.verdict.exit_code())
    }
}

impl Mutants {
    /// A process makes at most one mistake, so each has one of its own.
    fn run(&self) -> anyhow::Result<u8> {
        if self.by_story {
            Mutant::BY_STORY
                .iter()
                .for_each(|mutant| println!("{}", mutant.name()));
            return Ok(0);
        }
        if !cfg!(feature = "mutants") {
            anyhow::bail!("this build has no mutants: build it with --features mutants");
        }
        let seconds = (self.minutes * 60.0).max(1.0);
        let mut survived = 0;
        let wanted = |m: &&Mutant| match self.names.is_empty() {
            true => !Mutant::BY_STORY.contains(m),
            false => self.names.iter().any(|n| n == m.name()),
        };
        for mutant in Mutant::ALL.iter().filter(wanted) {
            let name = mutant.name();
            let output = std::process::Command::new(std::env::current_exe()?)
                .args(["fuzz", "--mutant", name, "--for", &format!("{seconds}s")])
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let found = text.lines().find(|line| line.starts_with("seed "));
            match (output.status.code(), found) {
                (Some(1 | 3 | 4), Some(found)) => println!("caught   {name}: {found}"),
                (code, _) => {
                    survived += 1;
                    println!("SURVIVED {name} (exit {code:?})");
                    println!("  repeat: understudy-jepsen fuzz --mutant {name} --for {seconds}s");
                }
            }
        }
        println!(
            "{survived} of {} mutants survived",
            Mutant::ALL.iter().filter(wanted).count()
        );
        Ok(u8::from(survived > 0))
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: f64 = number
        .parse()
        .map_err(|_| format!("'{text}' is no time: 90s, 5m, 1h"))?;
    let seconds = match unit {
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(format!("'{unit}' is no unit: s, m or h")),
    };
    Ok(Duration::from_secs_f64(seconds))
}
