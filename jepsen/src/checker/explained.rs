//! Every value that is there was written by somebody, and not by a step that certainly failed; what was appended once is
//! there once.
//!
//! Workloads write each value and append each piece under a text of its own, so each can be traced back to its step.

use crate::history::{History, Kind};
use crate::workload::{Operation, Step};
use std::collections::{BTreeMap, BTreeSet};

/// What the steps wrote, by how they ended.
#[derive(Default)]
struct Written {
    /// By text: whether the step certainly failed.
    failed: BTreeMap<String, bool>,
}

/// `values` are those of all objects at the end.
pub fn values_are_explained(history: &History, values: &[String]) -> Result<(), String> {
    let written = written(history);
    for value in values {
        let mut seen = BTreeSet::new();
        for piece in pieces(value) {
            match written.failed.get(piece) {
                None => return Err(format!("{piece} in {value} was never written")),
                Some(true) => return Err(format!("{piece} in {value} is of a step that failed")),
                Some(false) => {}
            }
            if !seen.insert(piece) {
                return Err(format!("{piece} is in {value} more than once"));
            }
        }
    }
    Ok(())
}

fn written(history: &History) -> Written {
    let mut written = Written::default();
    let mut updates = BTreeMap::new();
    for line in history.lines() {
        if matches!(line.step, Step::Update { .. }) {
            updates.insert(line.request.as_deref(), &line.step);
        }
    }
    for line in history.lines().iter().filter(|l| l.kind != Kind::Invoke) {
        // Asked again under its id, an update may take effect after it failed at first.
        let step = match line.step {
            Step::Again => updates.get(&line.request.as_deref()).copied(),
            _ => Some(&line.step),
        };
        if let Some(step) = step {
            note(&mut written, step, line.kind == Kind::Failed);
        }
    }
    // Steps that never ended are open for ever.
    for line in history.lines().iter().filter(|l| l.kind == Kind::Invoke) {
        for text in texts(&line.step) {
            written.failed.entry(text).or_insert(false);
        }
    }
    written
}

fn note(written: &mut Written, step: &Step, failed: bool) {
    for text in texts(step) {
        let slot = written.failed.entry(text).or_insert(failed);
        *slot &= failed;
    }
}

fn texts(step: &Step) -> Vec<String> {
    let operations = match step {
        Step::Update { operations, .. } | Step::Misuse { operations } => operations,
        Step::Read { .. } | Step::Again => return Vec::new(),
    };
    let text = |operation: &Operation| match operation {
        Operation::Put { value, .. } | Operation::Set { value, .. } => Some(value.clone()),
        Operation::Append { data, .. } => Some(data.clone()),
        _ => None,
    };
    operations.iter().filter_map(text).collect()
}

/// A value is a text, then what was appended, each in brackets.
fn pieces(value: &str) -> impl Iterator<Item = &str> {
    let mut pieces: Vec<&str> = Vec::new();
    let mut rest = value;
    while let Some(open) = rest.find('[') {
        if open > 0 {
            pieces.push(&rest[..open]);
        }
        let close = rest[open..]
            .find(']')
            .map_or(rest.len(), |at| open + at + 1);
        pieces.push(&rest[open..close]);
        rest = &rest[close..];
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Line;

    fn history(kind: Kind) -> History {
        let operations = vec![Operation::Append {
            key: "k".to_string(),
            component: String::new(),
            data: "[1.1]".to_string(),
        }];
        let mut history = History::default();
        for kind in [Kind::Invoke, kind] {
            history.push(Line {
                index: 0,
                time_us: 0,
                client: 1,
                kind,
                request: None,
                step: Step::Update {
                    operations: operations.clone(),
                    conditions: Vec::new(),
                    copies: 0,
                },
                result: None,
                pair: None,
            });
        }
        history
    }

    #[test]
    fn a_value_needs_a_step_that_may_have_run_and_counts_once() {
        let is = |kind, value: &str| values_are_explained(&history(kind), &[value.to_string()]);
        assert!(is(Kind::Ok, "[1.1]").is_ok());
        assert!(is(Kind::Unknown, "[1.1]").is_ok());
        assert!(is(Kind::Failed, "[1.1]").is_err());
        assert!(is(Kind::Ok, "[1.1][1.1]").is_err());
        assert!(is(Kind::Ok, "[2.1]").is_err());
        let mut again = history(Kind::Failed);
        let line = again.lines()[1].clone();
        again.push(Line {
            kind: Kind::Ok,
            step: Step::Again,
            ..line
        });
        assert!(values_are_explained(&again, &["[1.1]".to_string()]).is_ok());
    }
}
