//! `check --bench`: how long verdicts take, beside another program on the same files in the same run.
//!
//! Reading the histories is left out, on both sides: what is compared is the search.

use super::{Check, HOLDS, UNUSABLE, VIOLATED, timed};
use crate::checker::Verdict;
use crate::history::{Operations, read};
use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

/// Of several runs the fastest counts: it is the one that was disturbed least.
const RUNS: usize = 3;

pub fn run(check: &Check) -> anyhow::Result<u8> {
    let (mut ours_ms, mut theirs_ms, mut differ) = (0.0, 0.0, 0);
    let settings = super::models::Settings {
        explain: false,
        ..check.settings()
    };
    for path in &check.histories {
        let (_, events) =
            read(path, check.format).with_context(|| format!("{}", path.display()))?;
        let (operations, read_ms) = timed(|| Operations::collect(events));
        let operations = operations.with_context(|| format!("{}", path.display()))?;
        let mut best = f64::INFINITY;
        let mut verdict = Verdict::Holds;
        for _ in 0..RUNS {
            let (checked, ms) =
                timed(|| check.model.check(&operations, settings, check.consistency));
            verdict = checked?.verdict;
            best = best.min(ms);
        }
        ours_ms += best;
        let word = match verdict {
            Verdict::Holds => check.model.words().0,
            Verdict::Violated(_) => check.model.words().1,
            Verdict::Unknown(_) => "unknown",
        };
        let mut line = format!(
            "{}: {word} {best:.3} ms (read in {read_ms:.1} ms)",
            path.display()
        );
        if let Some(program) = &check.against {
            let (their_word, ms) = theirs(program, path, &check.model.name())?;
            theirs_ms += ms;
            differ += u64::from(their_word != word);
            line += &format!("; {}: {their_word} {ms:.3} ms", program.display());
        }
        println!("{line}");
    }
    println!("together {ours_ms:.3} ms with {} threads", settings.threads);
    let Some(program) = &check.against else {
        return Ok(HOLDS);
    };
    println!(
        "{}: {theirs_ms:.3} ms, {:.2} times as long; {differ} verdicts differ",
        program.display(),
        theirs_ms / ours_ms
    );
    Ok(if differ > 0 { VIOLATED } else { HOLDS })
}

/// The verdict and the milliseconds that the other program prints, the best of as many runs.
fn theirs(program: &Path, history: &Path, model: &str) -> anyhow::Result<(String, f64)> {
    let mut best: Option<(String, f64)> = None;
    for _ in 0..RUNS {
        let output = Command::new(program)
            .arg(history)
            .arg(model)
            .output()
            .with_context(|| format!("{}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace();
        let told = words
            .next()
            .zip(words.next().and_then(|ms| ms.parse::<f64>().ok()));
        let Some((word, ms)) = told else {
            bail!(
                "{} printed no verdict and milliseconds (exit {UNUSABLE} is for that): {text}{}",
                program.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        };
        if best.as_ref().is_none_or(|(_, least)| ms < *least) {
            best = Some((word.to_string(), ms));
        }
    }
    best.context("no run")
}
