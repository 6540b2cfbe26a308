//! Everything about a run that is not the system's: what is asked for on the command line, networks, folders, reports, the exit status.
//!
//! A program that tests a system flattens [`Options`] into its own arguments, chooses, and hands a [`Subject`] over: the verb
//! `test` does so for Understudy, `jepsen/examples/etcd` for etcd.

use super::machines::{OwnEnd, enter_network};
use super::nemesis::{self, Cut, KINDS, Kind, TOO_SHORT_MS, Wanted};
use super::place::why_not_apart;
use super::report::{self, About};
use super::run::{self, Conclusion, Ran};
use super::system::{Member, Offers, System};
use super::worker::Load;
use super::workload::{self, Shape, Workload};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What can be chosen whatever the system is.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// What clients do; --list names them
    #[arg(long, default_value = "register")]
    pub workload: String,
    /// What goes wrong: names from --list, `none` or `all`
    #[arg(long, default_value = "kill,pause,partition")]
    pub nemesis: String,
    /// How long: 30s, 5m
    #[arg(long, default_value = "30s", value_parser = time)]
    pub time: Duration,
    /// Of the faults and the workload [default: from the clock]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Clients, each with one operation at a time
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub clients: u16,
    /// Operations a second that all clients together begin
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// All processes on loopback
    #[arg(long)]
    pub plain: bool,
    /// Where runs are stored, each in a folder of its own
    #[arg(long, default_value = "store")]
    pub store: PathBuf,
    /// Name workloads and nemeses, and where each must hold and must break
    #[arg(long)]
    pub list: bool,
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

/// A system to be tested, and how it is told.
pub struct Subject {
    pub system: Arc<dyn System>,
    /// In the name of the run's folder.
    pub name: String,
    /// For people: its version, how many processes, what kind of reads.
    pub setting: String,
    /// The command that runs it like this again; what was chosen is put behind it.
    pub command: String,
}

/// Options that make sense.
pub struct Chosen {
    options: Options,
    workload: Arc<dyn Workload>,
    wanted: Vec<Wanted>,
    seed: u64,
    /// Since 1970.
    began: Duration,
}

impl Options {
    /// `shapes`: of the workloads that the system's clients understand.
    pub fn choose(&self, shapes: &[Shape]) -> anyhow::Result<Chosen> {
        let name = &self.workload;
        let workload = workload::named(name);
        let workload = workload
            .with_context(|| format!("there is no workload '{name}'; --list names them"))?;
        if !shapes.contains(&workload.shape()) {
            bail!("the clients of this system do not understand the workload '{name}'");
        }
        let wanted = nemesis::parse(&self.nemesis).map_err(anyhow::Error::msg)?;
        let least = Duration::from_millis(TOO_SHORT_MS * wanted.len() as u64 + 2_000);
        if self.time < least {
            bail!(
                "{} faults take at least --time {}s",
                wanted.len(),
                least.as_secs_f64().ceil()
            );
        }
        let began = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Chosen {
            options: self.clone(),
            workload: Arc::from(workload),
            wanted,
            seed: self.seed.unwrap_or(began.as_nanos() as u64 % 1_000_000_000),
            began,
        })
    }
}

impl Chosen {
    pub fn shape(&self) -> Shape {
        self.workload.shape()
    }

    /// One run, told on the terminal and in its folder. What comes back is the exit status: 0 as promised, 1 a violation, 3 it
    /// cannot be told, 4 an invalid run.
    pub fn test(self, subject: Subject) -> anyhow::Result<u8> {
        let ready = self.ready(subject)?;
        // The harness's own network belongs to the thread that enters it and to those that this one starts.
        let thread = std::thread::Builder::new().name("harness".to_string());
        let ran = thread.spawn(move || in_own_network(ready))?.join();
        ran.map_err(|_| anyhow::anyhow!("the harness panicked"))
            .and_then(|code| code)
            .or_else(|error| {
                eprintln!("the run broke: {error:#}");
                Ok(4)
            })
    }

    fn ready(self, subject: Subject) -> anyhow::Result<Ready> {
        let Options {
            workload,
            nemesis,
            time,
            clients,
            rate,
            plain,
            store,
            ..
        } = self.options;
        let seed = self.seed;
        let folder = format!(
            "{workload}-{}-{seed}-{}",
            subject.name,
            self.began.as_secs()
        );
        let on_loopback = if plain { " --plain" } else { "" };
        Ok(Ready {
            about: About {
                setting: format!("{}, {clients} clients, seed {seed}", subject.setting),
                network: String::new(),
                repeat: format!(
                    "{} --workload {workload} --nemesis {nemesis} --time {}s --seed {seed} --clients {clients} --rate {rate}{on_loopback}",
                    subject.command,
                    time.as_secs_f64(),
                ),
                workload,
            },
            wanted: possible(self.wanted, &subject.system.members())?,
            system: subject.system,
            workload: self.workload,
            load: Load {
                workers: usize::from(clients),
                rate: f64::from(rate),
                time,
                seed,
            },
            plain,
            store: std::path::absolute(&store)?.join(folder),
        })
    }
}

/// Groups cannot be cut off from each other where there is only one: families do without that fault.
fn possible(mut wanted: Vec<Wanted>, members: &[Member]) -> anyhow::Result<Vec<Wanted>> {
    let one_group = members.windows(2).all(|two| two[0].group == two[1].group);
    for wanted in wanted.iter_mut().filter(|_| one_group) {
        let kinds = &mut wanted.kinds;
        kinds.retain(|kind| *kind != Kind::Partition(Cut::Groups));
        if kinds.is_empty() {
            bail!(
                "'{}' takes two groups of processes, and all of this system are one",
                wanted.name
            );
        }
    }
    Ok(wanted)
}

/// Everything that a run needs, checked.
struct Ready {
    workload: Arc<dyn Workload>,
    system: Arc<dyn System>,
    wanted: Vec<Wanted>,
    load: Load,
    plain: bool,
    store: PathBuf,
    about: About,
}

/// On a thread of its own.
fn in_own_network(mut ready: Ready) -> anyhow::Result<u8> {
    let why_not = match ready.plain {
        true => Some("--plain".to_string()),
        false => why_not_apart(),
    };
    let own_end = match why_not {
        None => Some(enter_network()?),
        Some(_) => None,
    };
    ready.about.network = why_not
        .map_or("each process in a network of its own".to_string(), |why| {
            format!("all processes on loopback ({why})")
        });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(until_interrupted(ready, own_end));
    // Tasks that hang must not keep the processes alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

async fn until_interrupted(ready: Ready, own_end: Option<OwnEnd>) -> anyhow::Result<u8> {
    use tokio::signal::unix::{SignalKind, signal};
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
        ..
    } = ready;
    std::fs::create_dir_all(&store).with_context(|| store.display().to_string())?;
    let scratch = tempfile::Builder::new()
        .prefix("understudy-jepsen-")
        .tempdir()?;
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
        eprintln!("the run's folder is incomplete: {error:#}");
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

/// What there is, and what must come out in some settings of a system whose clients understand these shapes.
pub fn list(shapes: &[Shape], settings: &[(&str, Offers)]) {
    println!("workloads, and what must come out (what must break: when a primary was cut off):");
    let known = workload::all().into_iter();
    for workload in known.filter(|workload| shapes.contains(&workload.shape())) {
        println!("  {:10} {}", workload.name(), workload.about());
        for (setting, offers) in settings {
            println!(
                "  {:10}   {setting}: {}",
                "",
                workload.promise(*offers).name()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(workload: &str, nemesis: &str, seconds: u64) -> Result<Chosen, String> {
        let options = Options {
            workload: workload.to_string(),
            nemesis: nemesis.to_string(),
            time: Duration::from_secs(seconds),
            seed: Some(1),
            clients: 1,
            rate: 1,
            plain: true,
            store: PathBuf::from("store"),
            list: false,
        };
        let chosen = options.choose(&[Shape::Register]);
        chosen.map_err(|error| error.to_string())
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_anything_starts() {
        let refused = |workload, nemesis, seconds| chosen(workload, nemesis, seconds).err();
        assert_eq!(refused("register", "kill,pause", 7), None);
        let why = |workload, nemesis, seconds| refused(workload, nemesis, seconds).unwrap();
        assert!(why("regist", "kill", 30).contains("no workload 'regist'"));
        assert!(why("bank", "kill", 30).contains("do not understand"));
        assert!(why("register", "kil", 30).contains("no nemesis 'kil'"));
        assert!(why("register", "kill,pause", 6).contains("--time 7s"));
        assert!(time("0s").is_err() && time("5 apples").is_err() && time("s").is_err());
        assert_eq!(time("1.5m"), Ok(Duration::from_secs(90)));
    }

    #[test]
    fn where_there_is_one_group_groups_are_not_cut_off_from_each_other() {
        let member = |group| Member {
            name: String::new(),
            group,
        };
        let (one, two) = ([member("a"), member("a")], [member("a"), member("b")]);
        let partitions = nemesis::parse("partition,kill").unwrap();
        let same = possible(partitions.clone(), &two).unwrap();
        assert_eq!(same, partitions);
        let fewer = possible(partitions, &one).unwrap();
        assert_eq!(fewer[0].kinds.len(), same[0].kinds.len() - 1);
        assert_eq!(fewer[1], same[1]);
        let only = nemesis::parse("partition-managers").unwrap();
        assert!(possible(only.clone(), &two).is_ok() && possible(only, &one).is_err());
    }
}
