//! A page that shows why a history is wrong: each process a lane, time downwards by events, what shows the violation
//! marked. It needs no network and no script.

use super::{Model, line_of};
use crate::checker::Finding;
use crate::history::{NEVER, Operation, Operations, Outcome};
use std::fmt::Write;
use std::path::Path;

/// Operations beside those of the finding that are drawn: as many as a person looks through.
const AROUND_MAX: usize = 400;
const LANE: u32 = 190;
const ROW: u32 = 18;
const TOP: u32 = 30;

pub fn page(path: &Path, model: Model, operations: &Operations, findings: &[Finding]) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title>\n<style>{STYLE}</style>\n\
         <h1>{0}</h1>\n<p>Model {1}: {2}. Time runs downwards, one row for each event; a bar with a torn end has an unknown \
         outcome and may take effect at any time after it began.</p>\n",
        escaped(&path.display().to_string()),
        model.name(),
        model.words().1,
    );
    for finding in findings {
        let text = escaped(&finding.text);
        let _ = write!(page, "<h2>{}</h2>\n<p>{text}</p>\n<ul>\n", finding.name);
        for number in &finding.operations {
            let line = line_of(operations, &operations.all[*number as usize]);
            let _ = writeln!(page, "<li><code>{}</code>", escaped(&line));
        }
        page += "</ul>\n";
        draw(operations, finding, &mut page);
    }
    page += "</html>\n";
    page
}

/// What is drawn of a finding: its operations, and those that overlap the time from its first to its last.
fn chosen<'a>(operations: &'a Operations, finding: &Finding) -> Vec<(&'a Operation, bool)> {
    let of = |number: &u32| &operations.all[*number as usize];
    let from = finding
        .operations
        .iter()
        .map(|n| of(n).invoked)
        .min()
        .unwrap_or(0);
    let known = finding
        .operations
        .iter()
        .map(of)
        .filter(|o| o.ended != NEVER);
    let until = known.map(|o| o.ended).max().unwrap_or(from);
    let mut chosen: Vec<(&Operation, bool)> =
        finding.operations.iter().map(|n| (of(n), true)).collect();
    let around = operations
        .all
        .iter()
        .enumerate()
        .filter(|(number, operation)| {
            let overlaps = operation.invoked <= until && operation.ended >= from;
            overlaps
                && operation.outcome != Outcome::Failed
                && !finding.operations.contains(&(*number as u32))
        });
    // Of many, those that began last before the end say most.
    let mut around: Vec<&Operation> = around.map(|(_, operation)| operation).collect();
    around.sort_by_key(|operation| std::cmp::Reverse(operation.invoked));
    chosen.extend(
        around
            .into_iter()
            .take(AROUND_MAX)
            .map(|operation| (operation, false)),
    );
    chosen.sort_by_key(|(operation, _)| operation.invoked);
    chosen
}

fn draw(operations: &Operations, finding: &Finding, page: &mut String) {
    let chosen = chosen(operations, finding);
    let mut events: Vec<u32> = chosen
        .iter()
        .flat_map(|(operation, _)| [operation.invoked, operation.ended])
        .filter(|at| *at != NEVER)
        .collect();
    events.sort_unstable();
    events.dedup();
    let row = |at: u32| TOP + ROW * events.partition_point(|event| *event < at) as u32;
    let bottom = row(NEVER) + ROW;
    let mut processes: Vec<i64> = chosen
        .iter()
        .map(|(operation, _)| operation.process)
        .collect();
    processes.sort_unstable();
    processes.dedup();
    let width = LANE * processes.len() as u32;
    let _ = writeln!(
        page,
        "<div class=\"scroll\"><svg width=\"{width}\" height=\"{}\">",
        bottom + 20
    );
    for (lane, process) in processes.iter().enumerate() {
        let x = LANE * lane as u32;
        let _ = writeln!(
            page,
            "<text class=\"process\" x=\"{}\" y=\"18\">process {process}</text>\
             <line x1=\"{1}\" y1=\"{TOP}\" x2=\"{1}\" y2=\"{bottom}\"/>",
            x + 8,
            x + 4,
        );
    }
    for (operation, marked) in chosen {
        let lane = processes.partition_point(|process| *process < operation.process) as u32;
        let begin = row(operation.invoked);
        let end = if operation.ended == NEVER {
            bottom
        } else {
            row(operation.ended) + ROW
        };
        let known = operation.outcome == Outcome::Ok;
        let class = match (marked, known) {
            (true, _) => "shown",
            (false, true) => "ok",
            (false, false) => "unknown",
        };
        let torn = if known { "" } else { " torn" };
        let title = escaped(&line_of(operations, operation));
        let _ = writeln!(
            page,
            "<g><title>{title}</title><rect class=\"{class}{torn}\" x=\"{}\" y=\"{begin}\" width=\"{}\" height=\"{}\" rx=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{}</text></g>",
            LANE * lane + 6,
            LANE - 12,
            (end - begin).max(ROW) - 3,
            LANE * lane + 11,
            begin + 12,
            escaped(&label(operations, operation)),
        );
    }
    *page += "</svg></div>\n";
}

/// What fits into a bar.
fn label(operations: &Operations, operation: &Operation) -> String {
    let shown = match operation.outcome {
        Outcome::Ok if !operation.answered.is_nil() => &operation.answered,
        _ => &operation.asked,
    };
    let key = operation
        .key
        .as_ref()
        .map_or(String::new(), |key| format!("{key} "));
    let text = format!("{} {key}{shown}", operations.name(operation));
    match text.char_indices().nth(26) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            // Control characters have no place in a page.
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

const STYLE: &str = "\
body{font:14px system-ui,sans-serif;margin:1.5em;color:#222;background:#fff}\
h1{font-size:1.3em}h2{font-size:1.1em}code{font-size:13px}\
.scroll{overflow:auto;max-height:85vh;border:1px solid #ccc}\
svg text{font:12px ui-monospace,monospace}svg .process{font-weight:bold}\
line{stroke:#ddd}rect{stroke:#888;fill:#dfe9f5}rect.unknown{fill:#f3efdc}\
rect.shown{fill:#f5c6c0;stroke:#a11;stroke-width:2}rect.torn{stroke-dasharray:4 3}";
