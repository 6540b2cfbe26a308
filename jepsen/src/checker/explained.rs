//! Every value that is there was written by somebody, and not by a step that certainly failed; what was appended once is
//! there once.
//!
//! Workloads write each value and append each piece under a text of its own, so each can be traced back to its step.

use crate::history::{History, Kind, Line};
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

/// A step fails for certain when every attempt under its request id did: the same id may be sent again later, and then
/// that one decides, or leaves it open.
fn written(history: &History) -> Written {
    let mut written = Written::default();
    let mut texts_of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut open: BTreeMap<u64, &Line> = BTreeMap::new();
    for line in history.lines() {
        if line.kind == Kind::Invoke {
            open.insert(line.client, line);
        } else {
            open.remove(&line.client);
            ended(&mut written, &mut texts_of, line, line.kind == Kind::Failed);
        }
    }
    // Steps that never ended are open for ever.
    for line in open.into_values() {
        ended(&mut written, &mut texts_of, line, false);
    }
    written
}

fn ended<'a>(
    written: &mut Written,
    texts_of: &mut BTreeMap<&'a str, Vec<String>>,
    line: &'a Line,
    failed: bool,
) {
    let id = line.request.as_deref();
    if let (Step::Again, Some(id)) = (&line.step, id) {
        note(written, texts_of.get(id).map_or(&[], Vec::as_slice), failed);
        return;
    }
    let texts = texts(&line.step);
    note(written, &texts, failed);
    // The wrong content under a known id is not what a repetition sends.
    if let (Step::Update { .. }, Some(id)) = (&line.step, id) {
        texts_of.insert(id, texts);
    }
}

fn note(written: &mut Written, texts: &[String], failed: bool) {
    for text in texts {
        let slot = written.failed.entry(text.clone()).or_insert(failed);
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
                request: Some("c:1".to_string()),
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
    }

    #[test]
    fn a_repetition_after_a_certain_failure_decides() {
        let is = |kind| {
            let mut history = history(Kind::Failed);
            for kind in [Kind::Invoke, kind] {
                let last = history.lines()[0].clone();
                let step = Step::Again;
                history.push(Line { kind, step, ..last });
            }
            values_are_explained(&history, &["[1.1]".to_string()])
        };
        assert!(is(Kind::Ok).is_ok());
        assert!(is(Kind::Unknown).is_ok());
        assert!(is(Kind::Failed).is_err());
    }
}
