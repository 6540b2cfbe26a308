//! What clients saw, as one JSON line each: invoked, and later ok, failed or unknown.
//!
//! *Unknown* is never reported as failed: whether it took effect is open for ever. The order of the lines is the order
//! in time. Every world that runs a workload writes these, and every checker of histories reads them.

use crate::workload::Step;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Invoke,
    Ok,
    Failed,
    Unknown,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Line {
    pub index: u64,
    /// Since the start of the run.
    pub time_us: u64,
    pub client: u64,
    pub kind: Kind,
    /// The request id of an update.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<String>,
    pub step: Step,
    /// What came of it, with an `ok`; why not, with the others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<String>,
    /// (epoch, version) that the answer named.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pair: Option<String>,
}

/// The lines of one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: Vec<Line>,
}

impl History {
    /// Adds the line and gives it its index.
    pub fn push(&mut self, mut line: Line) {
        line.index = self.lines.len() as u64;
        self.lines.push(line);
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.lines.iter().filter(|line| line.kind == kind).count()
    }

    /// One JSON document a line.
    pub fn to_json_lines(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text += &serde_json::to_string(line).expect("a line holds nothing that JSON cannot");
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_survives_its_lines() {
        let mut history = History::default();
        history.push(Line {
            index: 9,
            time_us: 12,
            client: 1,
            kind: Kind::Ok,
            request: Some("c:1".to_string()),
            step: Step::Again,
            result: None,
            pair: Some("1.2".to_string()),
        });
        let text = history.to_json_lines();
        let line: Line = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line, history.lines()[0]);
        assert_eq!(line.index, 0);
    }
}
