//! The verb `check`: judges a history, from whatever system, and shows what is wrong with it.
//!
//! Exit codes: 0 it holds, 1 it does not, 2 the input is unusable, 3 unknown (the memory did not suffice).

mod against;
mod models;
mod timeline;

pub use models::Model;

use crate::checker::elle::Consistency;
use crate::checker::{Checked, Finding, Verdict};
use crate::history::{Format, NEVER, Operation, Operations, Outcome, Unusable, read};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub const HOLDS: u8 = 0;
pub const VIOLATED: u8 = 1;
pub const UNUSABLE: u8 = 2;
pub const UNKNOWN: u8 = 3;

/// Operations of a finding that are printed; the timeline has all of them.
const SHOWN_MAX: usize = 40;

#[derive(Args)]
#[command(after_long_help = models::HELP)]
pub struct Check {
    /// Files with histories, plain or gzip; - is standard input
    #[arg(required = true)]
    histories: Vec<PathBuf>,
    /// What the system promises to be
    #[arg(long)]
    model: Model,
    /// What transactions of list-append promise
    #[arg(long, default_value = "strict-serializable")]
    consistency: Consistency,
    /// The format of the input [default: guessed from the content]
    #[arg(long)]
    format: Option<Format>,
    /// Threads that search [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Memory that the search may take, in MiB; when it does not suffice the verdict is unknown
    #[arg(long, default_value_t = 2_048)]
    memory: u64,
    /// Print the verdict as one JSON document a history
    #[arg(long)]
    json: bool,
    /// Draw what shows the violation into this HTML file (each process a lane)
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Do not look for the smallest part that shows a violation
    #[arg(long)]
    verdict_only: bool,
    /// Judge every history several times and print the milliseconds of the fastest, without reading it
    #[arg(long)]
    bench: bool,
    /// With --bench: run this program too, with a history and the model as its arguments; it prints the verdict and its
    /// milliseconds, apart by a space
    #[arg(long, requires = "bench", value_name = "PROGRAM")]
    against: Option<PathBuf>,
}

impl Check {
    pub fn run(&self) -> anyhow::Result<u8> {
        if self.bench {
            return against::run(self);
        }
        anyhow::ensure!(
            self.timeline.is_none() || self.histories.len() == 1,
            "--timeline draws one history"
        );
        let mut worst = HOLDS;
        for path in &self.histories {
            let code = match self.judge(path) {
                Ok((operations, checked)) => self.tell(path, &operations, &checked),
                Err(unusable) => {
                    self.tell_unusable(path, &unusable);
                    UNUSABLE
                }
            };
            worst = graver(worst, code);
        }
        Ok(worst)
    }

    fn judge(&self, path: &Path) -> Result<(Operations, Checked), Unusable> {
        let (_, events) = read(path, self.format)?;
        let operations = Operations::collect(events)?;
        let checked = self
            .model
            .check(&operations, self.settings(), self.consistency)?;
        Ok((operations, checked))
    }

    fn settings(&self) -> models::Settings {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        models::Settings {
            threads: self.threads.unwrap_or(cores).max(1),
            memory_bytes: self.memory.saturating_mul(1 << 20),
            explain: !self.verdict_only,
        }
    }

    fn tell(&self, path: &Path, operations: &Operations, checked: &Checked) -> u8 {
        if self.json {
            println!("{}", as_json(path, self.model, operations, checked));
        } else {
            self.print(path, operations, checked);
        }
        if let (Some(file), Verdict::Violated(findings)) = (&self.timeline, &checked.verdict) {
            let page = timeline::page(path, self.model, operations, findings);
            // The verdict stands, whatever becomes of the drawing.
            if let Err(error) = std::fs::write(file, page) {
                eprintln!("understudy-jepsen: {}: {error}", file.display());
            }
        }
        match checked.verdict {
            Verdict::Holds => HOLDS,
            Verdict::Violated(_) => VIOLATED,
            Verdict::Unknown(_) => UNKNOWN,
        }
    }

    fn print(&self, path: &Path, operations: &Operations, checked: &Checked) {
        if self.histories.len() > 1 {
            println!("{}:", path.display());
        }
        let words = self.model.words();
        match &checked.verdict {
            Verdict::Holds => println!("{}", words.0),
            Verdict::Violated(_) => println!("{}", words.1),
            Verdict::Unknown(why) => println!("unknown: {why}"),
        }
        let figures = checked
            .figures
            .iter()
            .map(|(name, n)| format!(", {n} {name}"));
        println!(
            "{} operations judged, {} of them of unknown outcome{}",
            checked.operations,
            checked.unknown,
            figures.collect::<String>()
        );
        if let Verdict::Violated(findings) = &checked.verdict {
            findings
                .iter()
                .for_each(|finding| print_finding(operations, finding));
        }
    }

    fn tell_unusable(&self, path: &Path, unusable: &Unusable) {
        if self.json {
            let told = json!({
                "history": path.display().to_string(), "verdict": "unusable", "line": unusable.line, "error": unusable.what,
            });
            println!("{told}");
        }
        // Whoever reads the output of --json may still want to see why on the terminal.
        eprintln!("understudy-jepsen: {}: {unusable}", path.display());
    }
}

/// Of two exit codes. What cannot be judged weighs most, for nothing is known of it.
fn graver(one: u8, other: u8) -> u8 {
    let weight = |code: u8| {
        [UNUSABLE, VIOLATED, UNKNOWN, HOLDS]
            .iter()
            .position(|c| *c == code)
    };
    if weight(other) < weight(one) {
        other
    } else {
        one
    }
}

fn print_finding(operations: &Operations, finding: &Finding) {
    println!("\n{}: {}", finding.name, finding.text);
    for number in finding.operations.iter().take(SHOWN_MAX) {
        println!(
            "  {}",
            line_of(operations, &operations.all[*number as usize])
        );
    }
    let more = finding.operations.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        println!("  and {more} more");
    }
}

/// An operation in one line.
fn line_of(operations: &Operations, operation: &Operation) -> String {
    let name = operations.name(operation);
    let key = operation
        .key
        .as_ref()
        .map_or(String::new(), |key| format!(" {key}"));
    let asked = match operation.asked.is_nil() {
        true => String::new(),
        false => format!(" {}", operation.asked),
    };
    let ended = match operation.outcome {
        Outcome::Ok if operation.answered == operation.asked => "ok".to_string(),
        Outcome::Ok => format!("ok {}", operation.answered),
        Outcome::Failed => "failed".to_string(),
        Outcome::Unknown => "of unknown outcome".to_string(),
    };
    let lines = match operation.end_line {
        0 => format!("line {}", operation.line),
        end => format!("lines {} to {end}", operation.line),
    };
    format!(
        "{lines}: process {} {name}{key}{asked}: {ended}",
        operation.process
    )
}

fn as_json(
    path: &Path,
    model: Model,
    operations: &Operations,
    checked: &Checked,
) -> serde_json::Value {
    let one = |number: &u32| {
        let operation = &operations.all[*number as usize];
        json!({
            "line": operation.line,
            "end_line": (operation.end_line > 0).then_some(operation.end_line),
            "process": operation.process,
            "f": operations.name(operation),
            "key": operation.key.as_ref().map(ToString::to_string),
            "asked": operation.asked.to_string(),
            "answered": (operation.ended != NEVER).then(|| operation.answered.to_string()),
        })
    };
    let finding = |finding: &Finding| {
        json!({
            "name": finding.name,
            "text": finding.text,
            "operations": finding.operations.iter().map(one).collect::<Vec<_>>(),
        })
    };
    let (verdict, why, findings) = match &checked.verdict {
        Verdict::Holds => (model.words().0, None, vec![]),
        Verdict::Violated(findings) => (
            model.words().1,
            None,
            findings.iter().map(finding).collect(),
        ),
        Verdict::Unknown(why) => ("unknown", Some(why), vec![]),
    };
    let figures: serde_json::Map<String, serde_json::Value> = checked
        .figures
        .iter()
        .map(|(name, n)| (name.replace(' ', "_"), json!(n)))
        .collect();
    json!({
        "history": path.display().to_string(),
        "model": model.name(),
        "verdict": verdict,
        "why": why,
        "operations": checked.operations,
        "unknown": checked.unknown,
        "figures": figures,
        "findings": findings,
    })
}

/// How long something takes, in milliseconds.
fn timed<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let begun = Instant::now();
    let result = what();
    (result, begun.elapsed().as_secs_f64() * 1e3)
}
