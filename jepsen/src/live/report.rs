//! What a run came to, for people on the terminal and for programs in `results.json`.

use super::nemesis::Applied;
use super::run::{Conclusion, Ran};
use super::workload::Found;
use crate::checker::Verdict;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Of a violation: the smallest part that shows it is rarely longer.
const LINES_SHOWN: usize = 16;
const LINE_CHARACTERS: usize = 300;

/// What was run, as it is told.
#[derive(Clone, Debug)]
pub struct About {
    pub workload: String,
    pub setting: String,
    pub network: String,
    pub repeat: String,
}

pub fn print(about: &About, ran: &Ran, conclusion: &Conclusion, store: &Path) {
    println!("{}: {}; {}", about.workload, about.setting, about.network);
    for applied in &ran.faults {
        println!("  {}", line_of(applied));
    }
    let (ok, fail, info) = ran.counts.sums();
    let rate = (ok + fail + info) as f64 / ran.worked.as_secs_f64().max(1e-9);
    println!(
        "{} operations in {:.1} s ({rate:.0}/s): {ok} ok, {fail} fail, {info} info",
        ok + fail + info,
        ran.worked.as_secs_f64()
    );
    for (f, counted) in &ran.counts.0 {
        let ms = |quantile| counted.took.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "  {f}: {} ok, {} fail, {} info; p50 {:.1} ms, p99 {:.1} ms, longest {:.0} ms",
            counted.ok,
            counted.fail,
            counted.info,
            ms(0.5),
            ms(0.99),
            counted.took.max() as f64 / 1e3
        );
    }
    if let Some(healed) = &ran.healed {
        match healed {
            Ok(took) => println!(
                "whole at most {:.1} s after the last fault",
                took.as_secs_f64()
            ),
            Err(waits) => println!("{waits}"),
        }
    }
    for found in &ran.found {
        println!("{} ({:.1} s)", describe(found), ran.judging.as_secs_f64());
        if !found.lines.is_empty() {
            println!("  what shows it, in history.jsonl:");
            show(&store.join("history.jsonl"), &found.lines);
        }
    }
    for crash in &ran.crashes {
        println!("{} ended by itself ({}):", crash.member, crash.status);
        crash
            .last_lines
            .iter()
            .for_each(|line| println!("    {line}"));
    }
    let promise = ran.promise().name();
    println!("verdict: {} ({promise})", conclusion.name());
    conclusion
        .reasons()
        .iter()
        .for_each(|reason| println!("  {reason}"));
    println!("store: {}", store.display());
    println!("repeat: {}", about.repeat);
}

/// Those lines of the file, as far as they fit a screen.
fn show(history: &Path, lines: &[u64]) {
    let Ok(file) = File::open(history) else {
        return;
    };
    let shown = &lines[..lines.len().min(LINES_SHOWN)];
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let Ok(line) = line else { return };
        if shown.contains(&number) {
            let line: String = line.chars().take(LINE_CHARACTERS).collect();
            println!("    {number}: {line}");
        }
        if shown.last().is_none_or(|last| number >= *last) {
            break;
        }
    }
    if lines.len() > shown.len() {
        println!(
            "    and {} more; results.json names them",
            lines.len() - shown.len()
        );
    }
}

fn line_of(applied: &Applied) -> String {
    let why = match applied.outcome.why() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    format!(
        "{:6.1} to {:5.1} s  {}{why}: {} {}",
        applied.began_ns as f64 / 1e9,
        applied.ended_ns as f64 / 1e9,
        applied.outcome.name(),
        applied.kind.name(),
        applied.what
    )
}

fn describe(found: &Found) -> String {
    let verdict = match &found.verdict {
        Verdict::Holds => "holds".to_string(),
        Verdict::Unknown(why) => format!("unknown: {why}"),
        Verdict::Violated(findings) => {
            let first = findings.first().map_or("", |first| first.text.as_str());
            let name = findings.first().map_or("", |first| first.name);
            format!(
                "VIOLATED, {} findings, first {name}: {first}",
                findings.len()
            )
        }
    };
    let figures: Vec<String> = found
        .figures
        .iter()
        .map(|(name, figure)| format!("{figure} {name}"))
        .collect();
    format!(
        "{}: {verdict}; {} operations, {} of them unknown; {}",
        found.checker,
        found.operations,
        found.unknown,
        figures.join(", ")
    )
}

pub fn json(about: &About, ran: &Ran, conclusion: &Conclusion) -> Value {
    let functions: serde_json::Map<String, Value> = ran
        .counts
        .0
        .iter()
        .map(|(f, counted)| {
            let figures = json!({
                "ok": counted.ok,
                "fail": counted.fail,
                "info": counted.info,
                "p50_us": counted.took.value_at_quantile(0.5),
                "p99_us": counted.took.value_at_quantile(0.99),
                "max_us": counted.took.max(),
            });
            (f.to_string(), figures)
        })
        .collect();
    let healed = match &ran.healed {
        Some(Ok(took)) => json!({"after_ms": took.as_millis() as u64}),
        Some(Err(waits)) => json!({"not": waits}),
        None => Value::Null,
    };
    json!({
        "verdict": conclusion.name(),
        "exit_code": conclusion.exit_code(),
        "reasons": conclusion.reasons(),
        "promise": ran.promise().name(),
        "workload": about.workload,
        "setting": about.setting,
        "network": about.network,
        "repeat": about.repeat,
        "worked_ms": ran.worked.as_millis() as u64,
        "functions": functions,
        "faults": ran.faults.iter().map(fault_json).collect::<Vec<_>>(),
        "checkers": ran.found.iter().map(found_json).collect::<Vec<_>>(),
        "crashes": ran.crashes.iter().map(|crash| json!({
            "member": crash.member,
            "at_ns": crash.at_ns,
            "status": crash.status,
            "last_lines": crash.last_lines,
        })).collect::<Vec<_>>(),
        "healed": healed,
        "inspected": ran.inspected,
        "traffic": ran.traffic.map(|traffic| json!({
            "packets": traffic.packets,
            "bytes": traffic.bytes,
            "overflowed": traffic.overflowed,
        })),
    })
}

fn fault_json(applied: &Applied) -> Value {
    json!({
        "wanted": applied.wanted,
        "fault": applied.kind.name(),
        "what": applied.what,
        "outcome": applied.outcome.name(),
        "why": applied.outcome.why(),
        "began_ns": applied.began_ns,
        "ended_ns": applied.ended_ns,
        "held_ms": applied.held.as_millis() as u64,
    })
}

fn found_json(found: &Found) -> Value {
    let (verdict, findings) = match &found.verdict {
        Verdict::Holds => ("holds", Vec::new()),
        Verdict::Unknown(why) => ("unknown", vec![json!({"text": why})]),
        Verdict::Violated(findings) => {
            let findings = findings.iter();
            let findings =
                findings.map(|finding| json!({"name": finding.name, "text": finding.text}));
            ("violated", findings.collect())
        }
    };
    let figures: serde_json::Map<String, Value> = found
        .figures
        .iter()
        .map(|(name, figure)| (name.to_string(), json!(figure)))
        .collect();
    json!({
        "checker": found.checker,
        "verdict": verdict,
        "findings": findings,
        "lines": found.lines,
        "operations": found.operations,
        "unknown": found.unknown,
        "figures": figures,
    })
}
