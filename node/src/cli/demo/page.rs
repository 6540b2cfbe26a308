//! The demo's result as one page for a browser: no script, no font, no picture from elsewhere.
//!
//! Above, all acknowledgements over time; below, one row for each shard, so that a failover shows as a hole in the rows of
//! the shards that it hit.

use super::report::{
    Report, brought_back_line, conflict_line, cut_off_line, missing_line, thousands,
    two_owners_line, waiting_line,
};
use super::timeline::Series;
use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 160.0;
const ROW: f64 = 12.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #68717d; --line: #d5dae0; --good: #1a7f4b; --bad: #c0392b;
  --mark: #2f6fde; --page: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #39424e; --good: #4cc38a;
  --bad: #ff7b6b; --mark: #6ea3ff; --page: #14181d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1040px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td { padding: .2rem 1.2rem .2rem 0; vertical-align: top; }
td:first-child { color: var(--soft); } code { font-size: .9em; }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
li { margin: .1rem 0; }";

pub fn render(report: &Report) -> String {
    let class = if report.passed { "good" } else { "bad" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>understudy demo, seed {seed}</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>understudy demo</h1>\n<p class=\"verdict {class}\">{verdict}</p>\n",
        seed = report.seed,
        verdict = escape(report.verdict()),
    );
    page.push_str(&figures(report));
    page.push_str("<h2>Acknowledged requests per second</h2>\n");
    page.push_str(&curve(&report.timeline));
    page.push_str("<h2>The same by shard: darker is more, empty is none</h2>\n");
    page.push_str(&rows(&report.timeline, &report.faults.primary.shards));
    page.push_str("<h2>What happened</h2>\n<table>\n");
    for event in &report.timeline.events {
        let at = event.at_ms as f64 / 1000.0;
        let what = escape(&event.what);
        line(
            &mut page,
            &format!("<tr><td>{at:.2} s</td><td>{what}</td></tr>"),
        );
    }
    page.push_str("</table>\n");
    page.push_str(&lists(report));
    let repeat = escape(&report.repeat);
    line(
        &mut page,
        &format!("<p>Repeat with <code>{repeat}</code></p></body></html>"),
    );
    page
}

fn figures(report: &Report) -> String {
    let rows = [
        ("airports imported and read back", report.airports_line()),
        ("requests", thousands(report.requests)),
        ("acknowledged", thousands(report.acknowledged)),
        ("duplicates answered", thousands(report.duplicates_answered)),
        ("failover gap, primary killed", report.primary_line()),
        ("failover gap, manager leader killed", report.leader_line()),
        ("reservations, in_sync", report.reservations_line()),
        ("passengers' notes, lazy", report.notes_line()),
        (
            "notes cut off by the failover",
            cut_off_line(&report.audit.notes),
        ),
        (
            "of these brought back",
            report.audit.notes.brought_back.len().to_string(),
        ),
        (
            "conflicts, for a person",
            report.audit.notes.conflicts.len().to_string(),
        ),
        (
            "acknowledged but missing",
            thousands(report.acknowledged_but_missing),
        ),
        ("seats sold twice", thousands(report.seats_sold_twice)),
        (
            "seats acknowledged to two clients",
            thousands(report.seats_acknowledged_to_two_clients),
        ),
        ("ran twice", report.audit.ran_twice.len().to_string()),
        (
            "never answered, outcome unknown",
            thousands(report.outcome_unknown),
        ),
    ];
    let mut table = String::from("<table>\n");
    for (name, value) in rows {
        let value = escape(&value);
        line(
            &mut table,
            &format!("<tr><td>{name}</td><td>{value}</td></tr>"),
        );
    }
    table.push_str("</table>\n");
    table
}

fn curve(series: &Series) -> String {
    let per_second = 1000.0 / series.bucket_ms as f64;
    let speeds: Vec<f64> = series
        .acknowledged_by_shard
        .iter()
        .map(|shards| f64::from(shards.iter().sum::<u32>()) * per_second)
        .collect();
    let fastest = speeds.iter().copied().fold(1.0, f64::max);
    let step = WIDTH / speeds.len().max(1) as f64;
    let mut points = format!("0,{HEIGHT}");
    for (at, speed) in speeds.iter().enumerate() {
        let x = (at as f64 + 0.5) * step;
        let y = HEIGHT * (1.0 - speed / fastest);
        let _ = write!(points, " {x:.1},{y:.1}"); // writing to a string does not fail
    }
    let _ = write!(points, " {WIDTH},{HEIGHT}");
    format!(
        "<svg viewBox=\"0 -14 {WIDTH} {}\"><polygon points=\"{points}\" fill=\"var(--mark)\" fill-opacity=\".35\" \
         stroke=\"var(--mark)\"/>{}{}<text x=\"2\" y=\"-3\">{}</text></svg>\n",
        HEIGHT + 34.0,
        marks(series, HEIGHT),
        seconds(series, HEIGHT + 14.0),
        thousands(fastest as u64),
    )
}

fn rows(series: &Series, hit: &[u32]) -> String {
    let shards = series.acknowledged_by_shard.first().map_or(0, Vec::len);
    let height = shards as f64 * ROW;
    let most = series.acknowledged_by_shard.iter().flatten().max();
    let most = f64::from(most.copied().unwrap_or(1).max(1));
    let step = WIDTH / series.acknowledged_by_shard.len().max(1) as f64;
    let mut cells = String::new();
    for (at, counts) in series.acknowledged_by_shard.iter().enumerate() {
        for (shard, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let colour = if hit.contains(&(shard as u32)) {
                "bad"
            } else {
                "mark"
            };
            let _ = write!(
                cells,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"var(--{colour})\" \
                 fill-opacity=\"{:.2}\"/>",
                at as f64 * step,
                shard as f64 * ROW,
                step + 0.1,
                ROW - 1.0,
                0.2 + 0.8 * f64::from(*count) / most
            );
        }
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\">{cells}{}{}</svg>\n\
         <p>Red: the shards whose primary was killed.</p>\n",
        height + 20.0,
        marks(series, height),
        seconds(series, height + 14.0)
    )
}

/// A line at each event.
fn marks(series: &Series, height: f64) -> String {
    let x = |at_ms: u64| at_ms as f64 / series.load_ms.max(1) as f64 * WIDTH;
    let mark = |at_ms| {
        let x = x(at_ms);
        format!("<path d=\"M{x:.1} 0V{height}\" stroke=\"var(--soft)\" stroke-dasharray=\"3 3\"/>")
    };
    series
        .events
        .iter()
        .map(|event| mark(event.at_ms))
        .collect()
}

fn seconds(series: &Series, y: f64) -> String {
    let every = (series.load_ms / 12_000).max(1);
    let marks = (0..=series.load_ms / 1000).step_by(every as usize);
    marks
        .map(|second| {
            let x = second as f64 * 1000.0 / series.load_ms.max(1) as f64 * WIDTH;
            format!("<text x=\"{x:.1}\" y=\"{y}\">{second} s</text>")
        })
        .collect()
}

fn lists(report: &Report) -> String {
    let mut lists = String::new();
    let missing: Vec<String> = report.audit.missing.iter().map(missing_line).collect();
    list(&mut lists, "Acknowledged but missing", &missing);
    let notes = &report.audit.notes;
    let conflicts: Vec<String> = notes.conflicts.iter().map(conflict_line).collect();
    list(&mut lists, "Notes in conflict, for a person", &conflicts);
    let waiting: Vec<String> = notes.waiting.iter().map(waiting_line).collect();
    list(&mut lists, "Notes that wait in an orphan log", &waiting);
    let back: Vec<String> = notes.brought_back.iter().map(brought_back_line).collect();
    list(&mut lists, "Notes that were brought back", &back);
    let two: Vec<String> = report
        .audit
        .seats_of_two_clients
        .iter()
        .map(two_owners_line)
        .collect();
    list(&mut lists, "Seats acknowledged to two clients", &two);
    list(
        &mut lists,
        "Seats sold twice",
        &report.audit.seats_sold_twice,
    );
    list(&mut lists, "Ran twice", &report.audit.ran_twice);
    let ran = &report.audit.ran_though_told_not;
    list(
        &mut lists,
        "Ran though the client was told that they did not",
        ran,
    );
    lists
}

fn list(page: &mut String, title: &str, entries: &[String]) {
    if entries.is_empty() {
        return;
    }
    line(page, &format!("<h2>{title}</h2>\n<ul>"));
    for entry in entries {
        line(page, &format!("<li>{}</li>", escape(entry)));
    }
    line(page, "</ul>");
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
