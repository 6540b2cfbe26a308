//! The verb `test`: what is asked for on the command line becomes one run, its folder and its exit status.

use super::machines::{OwnEnd, enter_network};
use super::nemesis::{self, KINDS, TOO_SHORT_MS, Wanted};
use super::place::why_not_apart;
use super::report::{self, About};
use super::run::{self, Conclusion, Ran};
use super::system::{Keeps, Offers, Reads, System};
use super::understudy::{self, Mode, Understudy};
use super::worker::Load;
use super::workload::{self, Workload};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
    /// What clients do; --list names them
    #[arg(long, default_value = "register")]
    workload: String,
    /// What goes wrong: names from --list, `none` or `all`
    #[arg(long, default_value = "kill,pause,partition")]
    nemesis: String,
    /// How long: 30s, 5m
    #[arg(long, default_value = "30s", value_parser = crate::live::cli::time)]
    time: Duration,
    /// Of the faults and the workload [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Clients, each with one operation at a time
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Operations a second that all clients together begin
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
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
    /// All processes on loopback
    #[arg(long)]
    plain: bool,
    /// Where runs are stored, each in a folder of its own
    #[arg(long, default_value = "store")]
    store: PathBuf,
    /// Name workloads and nemeses, and where each must hold and must break
    #[arg(long)]
    list: bool,
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

/// 90s, 5m, 1h.
fn time(text: &str) -> Result<Duration, String> {
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
    if !(1.0..=86_400.0).contains(&seconds) {
        return Err("a run takes from a second to a day".to_string());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Everything that a run needs, checked.
struct Ready {
    workload: Arc<dyn Workload>,
    system: Arc<Understudy>,
    wanted: Vec<Wanted>,
    load: Load,
    store: PathBuf,
    about: About,
}

impl Test {
    pub fn run(self) -> anyhow::Result<u8> {
        // The processes would not hear of it, and the sound product would pass for the broken one.
        anyhow::ensure!(
            std::env::var_os("UNDERSTUDY_MUTANT").is_none(),
            "UNDERSTUDY_MUTANT is for the simulator; real processes make the mistake that --mutant names"
        );
        if self.list {
            list();
            return Ok(0);
        }
        let ready = self.ready()?;
        let plain = self.plain;
        // The harness's own network belongs to the thread that enters it and to those that this one starts.
        let thread = std::thread::Builder::new().name("harness".to_string());
        let ran = thread.spawn(move || in_own_network(ready, plain))?.join();
        ran.map_err(|_| anyhow::anyhow!("the harness panicked"))
            .and_then(|code| code)
            .or_else(|error| {
                eprintln!("understudy-jepsen: {error:#}");
                Ok(4)
            })
    }

    fn ready(&self) -> anyhow::Result<Ready> {
        let workload = workload::named(&self.workload);
        let workload = workload.with_context(|| {
            format!(
                "there is no workload '{}'; --list names them",
                self.workload
            )
        })?;
        let wanted = nemesis::parse(&self.nemesis).map_err(anyhow::Error::msg)?;
        let least = Duration::from_millis(TOO_SHORT_MS * wanted.len() as u64 + 2_000);
        if self.time < least {
            bail!(
                "{} faults take at least --time {}s",
                wanted.len(),
                least.as_secs_f64().ceil()
            );
        }
        if !matches!(self.managers, 1 | 3 | 5 | 7) || !(1..=50).contains(&self.nodes) {
            bail!("take 1, 3, 5 or 7 managers, and 1 to 50 nodes");
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seed = self.seed.unwrap_or(now.as_nanos() as u64 % 1_000_000_000);
        let binary = binary(self.binary.as_deref())?;
        let plan = understudy::Plan {
            binary: binary.clone(),
            managers: self.managers,
            nodes: self.nodes,
            mode: self.namespace_policy,
            shards: match workload.shape().in_one_shard() {
                true => 1,
                false => SHARDS,
            },
            shape: workload.shape(),
            level: self.level().level(),
            mutant: self.mutant.clone(),
        };
        let store = std::path::absolute(&self.store)?;
        let folder = format!(
            "{}-{}-{seed}-{}",
            self.workload,
            self.namespace_policy.name(),
            now.as_secs()
        );
        Ok(Ready {
            about: About {
                workload: self.workload.clone(),
                setting: format!(
                    "{}{}, reads of level {}, {} managers, {} nodes, {} clients, seed {seed}",
                    self.mutant.as_ref().map_or(String::new(), |mutant| format!(
                        "with the mistake {mutant}, "
                    )),
                    self.namespace_policy.name(),
                    self.level().name(),
                    self.managers,
                    self.nodes,
                    self.clients
                ),
                network: String::new(),
                repeat: self.command(seed, &binary),
            },
            workload: Arc::from(workload),
            system: Arc::new(Understudy::new(plan)),
            wanted,
            load: Load {
                workers: usize::from(self.clients),
                rate: f64::from(self.rate),
                time: self.time,
                seed,
            },
            store: store.join(folder),
        })
    }

    fn level(&self) -> Level {
        let usual = match self.workload.as_str() {
            "sessions" => Level::Session,
            _ => Level::Primary,
        };
        self.reads.unwrap_or(usual)
    }

    fn command(&self, seed: u64, binary: &Path) -> String {
        let mut more = String::new();
        if let Some(mutant) = &self.mutant {
            more = format!(" --mutant {mutant}");
        }
        if self.plain {
            more.push_str(" --plain");
        }
        format!(
            "understudy-jepsen test --workload {} --nemesis {} --time {}s --seed {seed} --clients {} --rate {} --managers {} --nodes {} --namespace-policy {} --reads {} --binary {}{more}",
            self.workload,
            self.nemesis,
            self.time.as_secs_f64(),
            self.clients,
            self.rate,
            self.managers,
            self.nodes,
            self.namespace_policy.name(),
            self.level().name(),
            binary.display()
        )
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

/// On a thread of its own.
fn in_own_network(ready: Ready, plain: bool) -> anyhow::Result<u8> {
    let why_not = match plain {
        true => Some("--plain".to_string()),
        false => why_not_apart(),
    };
    let own_end = match why_not {
        None => Some(enter_network()?),
        Some(_) => None,
    };
    let network = why_not.map_or("each process in a network of its own".to_string(), |why| {
        format!("all processes on loopback ({why})")
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(until_interrupted(ready, own_end, network));
    // Tasks that hang must not keep the processes alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

async fn until_interrupted(
    mut ready: Ready,
    own_end: Option<OwnEnd>,
    network: String,
) -> anyhow::Result<u8> {
    use tokio::signal::unix::{SignalKind, signal};
    ready.about.network = network;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        code = one(ready, own_end) => code,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; all processes end"),
        _ = terminate.recv() => bail!("terminated; all processes end"),
    }
}

async fn one(ready: Ready, own_end: Option<OwnEnd>) -> anyhow::Result<u8> {
    let Ready {
        workload,
        system,
        wanted,
        load,
        store,
        about,
    } = ready;
    std::fs::create_dir_all(&store).with_context(|| store.display().to_string())?;
    let scratch = tempfile::Builder::new()
        .prefix("understudy-jepsen-")
        .tempdir()?;
    let system: Arc<dyn System> = system;
    let plan = run::Plan {
        system,
        workload,
        wanted: wanted.clone(),
        load,
        own_end,
        scratch: scratch.path().to_path_buf(),
        store: store.clone(),
        heal_limit: run::HEAL_LIMIT,
    };
    let ran = run::run(plan).await;
    let conclusion = ran.conclusion(&wanted);
    if conclusion != Conclusion::AsPromised {
        tell_trouble(keep_logs(scratch.path(), &store));
    }
    tell_trouble(write_results(&about, &ran, &conclusion, &store));
    report::print(&about, &ran, &conclusion, &store);
    Ok(conclusion.exit_code())
}

/// A full disk does not change what was seen.
fn tell_trouble(done: anyhow::Result<()>) {
    if let Err(error) = done {
        eprintln!("understudy-jepsen: {error:#}");
    }
}

fn write_results(
    about: &About,
    ran: &Ran,
    conclusion: &Conclusion,
    store: &Path,
) -> anyhow::Result<()> {
    let results = report::json(about, ran, conclusion);
    let text = serde_json::to_string_pretty(&results)?;
    std::fs::write(store.join("results.json"), text).context("results.json")
}

fn keep_logs(from: &Path, store: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            std::fs::copy(&path, store.join(name))?;
        }
    }
    Ok(())
}

fn list() {
    println!("workloads, and what must come out (what must break: when a primary was cut off):");
    let settings = [
        ("in_sync", Keeps::Always, Reads::Fresh),
        ("in_sync, --reads session", Keeps::Always, Reads::OfSession),
        ("in_sync, --reads any", Keeps::Always, Reads::Old),
        ("lazy", Keeps::GivenBack, Reads::Fresh),
        ("lazy, --reads session", Keeps::GivenBack, Reads::OfSession),
    ];
    for workload in workload::all() {
        println!("  {:10} {}", workload.name(), workload.about());
        for (setting, keeps, reads) in settings {
            let offers = Offers { keeps, reads };
            println!(
                "  {:10}   {setting}: {}",
                "",
                workload.promise(offers).name()
            );
        }
    }
    println!("nemeses; the part before the first '-' stands for all of its family:");
    for (kind, name, about) in KINDS {
        let network = if kind.needs_network() {
            " (needs root)"
        } else {
            ""
        };
        println!("  {name:18} {about}{network}");
    }
}
