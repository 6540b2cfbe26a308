//! What a checker writes down while it goes through a history, and the result that this gives.
//!
//! A broken system gives as many findings as it has operations. The first of each name are kept with their text, all are
//! counted.

use super::{Checked, Finding, Verdict};
use crate::history::{Operation, Outcome, Unusable, Value};

/// Findings of one name that are kept: enough to see a pattern, few enough to read.
pub(super) const KEPT_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct Report {
    /// What a checker can find, the gravest first.
    names: &'static [&'static str],
    /// How many of each were found.
    counts: Vec<u64>,
    kept: Vec<Vec<Finding>>,
    operations: usize,
    unknown: usize,
    figures: Vec<(&'static str, u64)>,
}

impl Report {
    pub fn new(names: &'static [&'static str]) -> Report {
        Report {
            names,
            counts: vec![0; names.len()],
            kept: vec![Vec::new(); names.len()],
            operations: 0,
            unknown: 0,
            figures: Vec::new(),
        }
    }

    /// The operation takes part in the judgement.
    pub fn judged(&mut self, operation: &Operation) {
        self.operations += 1;
        self.unknown += usize::from(operation.outcome == Outcome::Unknown);
    }

    /// `text` is only made for a finding that is kept.
    pub fn found(&mut self, name: &str, operations: &[u32], text: impl FnOnce() -> String) {
        let place = self.names.iter().position(|known| *known == name);
        let place = place.expect("a checker lists what it can find");
        self.counts[place] += 1;
        if self.kept[place].len() < KEPT_MAX {
            self.kept[place].push(Finding {
                name: self.names[place],
                text: text(),
                operations: operations.to_vec(),
            });
        }
    }

    pub fn figure(&mut self, name: &'static str, figure: u64) {
        self.figures.push((name, figure));
    }

    /// The result of a check that can always tell.
    pub fn checked(self) -> Checked {
        self.checked_unless(None)
    }

    /// Where nothing was found, `open` may say why that means little.
    pub fn checked_unless(self, open: Option<String>) -> Checked {
        let findings: Vec<Finding> = self.kept.into_iter().flatten().collect();
        let counts = self.names.iter().copied().zip(self.counts);
        let mut figures: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        figures.extend(self.figures);
        let verdict = match open {
            _ if !findings.is_empty() => Verdict::Violated(findings),
            Some(why) => Verdict::Unknown(why),
            None => Verdict::Holds,
        };
        Checked {
            verdict,
            operations: self.operations,
            unknown: self.unknown,
            figures,
        }
    }
}

/// What an `ok` read saw; `None` where it does not tell.
pub(super) fn seen(operation: &Operation) -> Result<Option<&[Value]>, Unusable> {
    if operation.outcome != Outcome::Ok || operation.answered.is_nil() {
        return Ok(None);
    }
    elements(&operation.answered, operation).map(Some)
}

pub(super) fn elements<'a>(
    value: &'a Value,
    operation: &Operation,
) -> Result<&'a [Value], Unusable> {
    value.elements().ok_or_else(|| {
        let what = format!("'{value}' is no set or list");
        Unusable::at(operation.end_line.max(operation.line), what)
    })
}

/// For tests of checkers.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::history::{Format, Operations, read};
    use std::io::Cursor;

    pub fn history(text: &str) -> Operations {
        let input = Cursor::new(text.to_string());
        let (_, events) = read::read_from(input, Some(Format::Edn)).unwrap();
        Operations::collect(events).unwrap()
    }

    /// One line for each event, `process type f value`, as the tests write them; the value is EDN.
    pub fn told(text: &str) -> Operations {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let maps = lines.map(|line| {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap_or("nil").to_string();
            let (process, kind, f, value) = (word(), word(), word(), word());
            format!("{{:process {process} :type :{kind} :f :{f} :value {value}}}\n")
        });
        history(&maps.collect::<String>())
    }

    pub fn names(checked: &Checked) -> Vec<&'static str> {
        match &checked.verdict {
            Verdict::Violated(findings) => findings.iter().map(|finding| finding.name).collect(),
            Verdict::Holds => Vec::new(),
            Verdict::Unknown(why) => panic!("cannot be told: {why}"),
        }
    }

    pub fn figure(checked: &Checked, name: &str) -> u64 {
        let found = checked.figures.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, figure)| *figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_come_first_and_all_are_counted() {
        let mut report = Report::new(&["grave", "light"]);
        for number in 0..30 {
            report.found("light", &[number], || number.to_string());
        }
        report.found("grave", &[7], || "this".to_string());
        let checked = report.checked();
        assert_eq!(testing::figure(&checked, "light"), 30);
        let names = testing::names(&checked);
        assert_eq!((names[0], names.len()), ("grave", 1 + KEPT_MAX));
    }

    #[test]
    fn a_reason_for_doubt_counts_only_where_nothing_was_found() {
        let doubt = || Some("nobody looked".to_string());
        let mut report = Report::new(&["grave"]);
        let nothing = Report::new(&["grave"]).checked_unless(doubt());
        assert!(matches!(nothing.verdict, Verdict::Unknown(_)));
        report.found("grave", &[], String::new);
        assert_eq!(testing::names(&report.checked_unless(doubt())), ["grave"]);
    }
}
