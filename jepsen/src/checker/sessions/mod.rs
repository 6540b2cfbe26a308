//! What a session (a process) may count on, on registers by key: `write` and `read`, with a key and a value, whatever other
//! sessions see. What is written to a key is unique; nil is what was there before all writes.
//!
//! - *read your writes*: a read sees the session's last write to the key, or something newer;
//! - *monotonic reads*: and nothing older than the session saw there before;
//! - *monotonic writes*: a later write of the session is newer than an earlier one;
//! - *writes follow reads*: and newer than what the session saw there before.
//!
//! Each key is judged by itself. Which of two values is newer can be told in two ways:
//!
//! **With versions**, where answers are pairs `[value version]` and versions can be compared (numbers, or lists such as
//! `[epoch version]`): each answer is judged by the greatest version that its session had met in that key. Two values
//! under one version are a finding, too. This is done for keys of which every value that somebody met has a version
//! somewhere.
//!
//! **Without versions**, a session that keeps all four puts what it meets into an order, and the sessions must agree on
//! one: where values must each be newer than the other, some session was let down. Versions that some values have count
//! first, then writes: a finding is `monotonic-writes` when the writes of sessions contradict versions,
//! `writes-follow-reads` when writes alone contradict each other, otherwise `read-your-writes` or `monotonic-reads` when
//! reads of the one kind contradict them, and `session-order` when it takes both. A contradiction is told once, however
//! many operations take part.
//!
//! A value that nobody wrote is a value like others: it may have been there at first. What a write of unknown outcome did
//! is not known to its session, so the session may not count on it.
//!
//! Source: Terry et al., "Session Guarantees for Weakly Consistent Replicated Data" (PDIS 1994).

mod by_order;

use super::Checked;
use super::models::{keyed, unknown_function};
use super::report::Report;
use crate::history::{Operation, Operations, Outcome, Unusable, Value};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

const READ_YOUR_WRITES: &str = "read-your-writes";
const MONOTONIC_READS: &str = "monotonic-reads";
const MONOTONIC_WRITES: &str = "monotonic-writes";
const WRITES_FOLLOW_READS: &str = "writes-follow-reads";
const SESSION_ORDER: &str = "session-order";
const ONE_VERSION_TWICE: &str = "one-version-twice";

const FINDINGS: &[&str] = &[
    ONE_VERSION_TWICE,
    READ_YOUR_WRITES,
    MONOTONIC_READS,
    MONOTONIC_WRITES,
    WRITES_FOLLOW_READS,
    SESSION_ORDER,
];

/// An operation that told its session something.
struct Met {
    index: u32,
    process: i64,
    writes: bool,
    /// By number within its key; 0 is nil.
    value: usize,
}

/// What was met in one key, by invocation: the order that each session saw, since it does one thing at a time.
#[derive(Default)]
struct Key {
    met: Vec<Met>,
    numbers: FxHashMap<Value, usize>,
    values: Vec<Value>,
    /// Of each value; nil has none.
    versions: Vec<Option<Value>>,
    /// Lines of the writes, by value.
    written: FxHashMap<usize, u64>,
}

pub fn sessions(operations: &Operations) -> Result<Checked, Unusable> {
    let mut report = Report::new(FINDINGS);
    let mut keys: BTreeMap<Value, Key> = BTreeMap::new();
    for (index, operation) in operations.all.iter().enumerate() {
        let writes = match operations.name(operation) {
            "write" => true,
            "read" => false,
            other => return Err(unknown_function(other, operation, "write, read")),
        };
        let (key, asked, answered) = keyed(operation)?;
        let key = keys.entry(key).or_default();
        if operation.outcome == Outcome::Failed {
            continue;
        }
        if writes {
            report.judged(operation);
            key.on_write(index as u32, operation, asked, answered, &mut report)?;
        } else if operation.outcome == Outcome::Ok {
            report.judged(operation);
            key.on_read(index as u32, operation, answered, &mut report);
        }
    }
    let mut by_version = 0;
    for (name, key) in &keys {
        find_shared_versions(name, key, &mut report);
        if key.has_versions() {
            by_version += 1;
            judge_by_version(name, key, operations, &mut report);
        } else {
            by_order::judge(name, key, operations, &mut report);
        }
    }
    report.figure("keys", keys.len() as u64);
    report.figure("keys_by_version", by_version);
    Ok(report.checked())
}

impl Key {
    fn on_write(
        &mut self,
        index: u32,
        operation: &Operation,
        asked: Value,
        answered: Value,
        report: &mut Report,
    ) -> Result<(), Unusable> {
        let (_, version) = with_version(answered);
        let value = self.number(with_version(asked).0);
        if let Some(before) = self.written.insert(value, operation.line) {
            let what = format!(
                "{} was written in line {before} before: what is written must be unique",
                self.values[value]
            );
            return Err(Unusable::at(operation.line, what));
        }
        if operation.outcome == Outcome::Ok {
            self.note(index, operation, true, value, version, report);
        }
        Ok(())
    }

    fn on_read(&mut self, index: u32, operation: &Operation, answered: Value, report: &mut Report) {
        let (value, version) = with_version(answered);
        let value = self.number(value);
        self.note(index, operation, false, value, version, report);
    }

    /// What nobody met needs none: a write whose answer was lost tells no version.
    fn has_versions(&self) -> bool {
        let mut met = self.met.iter();
        met.all(|met| met.value == 0 || self.versions[met.value].is_some())
    }

    fn number(&mut self, value: Value) -> usize {
        if self.values.is_empty() {
            self.add(Value::Nil);
        }
        match self.numbers.get(&value) {
            Some(number) => *number,
            None => self.add(value),
        }
    }

    fn add(&mut self, value: Value) -> usize {
        let number = self.values.len();
        self.numbers.insert(value.clone(), number);
        self.values.push(value);
        self.versions.push(None);
        number
    }

    fn note(
        &mut self,
        index: u32,
        operation: &Operation,
        writes: bool,
        value: usize,
        version: Option<Value>,
        report: &mut Report,
    ) {
        self.met.push(Met {
            index,
            process: operation.process,
            writes,
            value,
        });
        // That nothing is there has no version that says more.
        let Some(version) = version.filter(|_| value != 0) else {
            return;
        };
        match &self.versions[value] {
            None => self.versions[value] = Some(version),
            Some(known) if *known == version => {}
            Some(known) => report.found(ONE_VERSION_TWICE, &[index], || {
                format!(
                    "{} has version {version} in line {} and had {known} before",
                    self.values[value], operation.end_line
                )
            }),
        }
    }
}

/// A pair whose second part is a number, or a list of numbers, tells a version.
fn with_version(told: Value) -> (Value, Option<Value>) {
    let is_version = |version: &Value| match version {
        Value::Int(_) => true,
        Value::List(parts) => parts.iter().all(|part| part.as_int().is_some()),
        _ => false,
    };
    match told {
        Value::List(parts) if parts.len() == 2 && is_version(&parts[1]) => {
            let mut parts = parts.into_iter();
            (parts.next().unwrap_or_default(), parts.next())
        }
        told => (told, None),
    }
}

/// The newest that a session met in a key, and by which operation.
#[derive(Clone, Copy, Default)]
struct Newest<'a> {
    written: Option<(&'a Value, u32)>,
    seen: Option<(&'a Value, u32)>,
}

fn judge_by_version(name: &Value, key: &Key, operations: &Operations, report: &mut Report) {
    let mut newest: FxHashMap<i64, Newest> = FxHashMap::default();
    for met in &key.met {
        let newest = newest.entry(met.process).or_default();
        // Nil is older than all versions.
        let version = key.versions[met.value].as_ref();
        let guarantees = match met.writes {
            true => [
                (MONOTONIC_WRITES, newest.written, "had written"),
                (WRITES_FOLLOW_READS, newest.seen, "had seen"),
            ],
            false => [
                (READ_YOUR_WRITES, newest.written, "had written"),
                (MONOTONIC_READS, newest.seen, "had seen"),
            ],
        };
        for (guarantee, before, did) in guarantees {
            let Some((older, by)) = before else {
                continue;
            };
            // A read may see the same again; what is written is new.
            let keeps = match met.writes {
                true => version > Some(older),
                false => version >= Some(older),
            };
            if !keeps {
                report.found(guarantee, &[by, met.index], || {
                    let line = |index: u32| operations.all[index as usize].line;
                    let verb = if met.writes { "wrote" } else { "saw" };
                    let version = version.unwrap_or(&Value::Nil);
                    format!(
                        "process {} {did} version {older} of key {name} (line {}) and then {verb} {} of version {version} \
                         (line {})",
                        met.process,
                        line(by),
                        key.values[met.value],
                        line(met.index)
                    )
                });
            }
        }
        let slot = match met.writes {
            true => &mut newest.written,
            false => &mut newest.seen,
        };
        if version > slot.map(|(version, _)| version) {
            *slot = version.map(|version| (version, met.index));
        }
    }
}

fn find_shared_versions(name: &Value, key: &Key, report: &mut Report) {
    let mut of: FxHashMap<&Value, usize> = FxHashMap::default();
    for (number, version) in key.versions.iter().enumerate() {
        let Some(version) = version else { continue };
        let first = *of.entry(version).or_insert(number);
        if first != number {
            let met = key.met.iter();
            let by = met.filter(|met| met.value == first || met.value == number);
            let by: Vec<u32> = by.map(|met| met.index).take(4).collect();
            report.found(ONE_VERSION_TWICE, &by, || {
                let (one, other) = (&key.values[first], &key.values[number]);
                format!("{one} and {other} of key {name} both have version {version}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sessions;
    use crate::checker::report::testing::{figure, names, told};
    use crate::checker::{Checked, Verdict};

    /// Operations one after the other, `process f key asked answered` each.
    fn check(text: &str) -> Checked {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let events = lines.map(|line| {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            let [process, f, key, asked, answered] = words[..] else {
                panic!("{line}")
            };
            format!("{process} invoke {f} [{key} {asked}]\n{process} ok {f} [{key} {answered}]\n")
        });
        sessions(&told(&events.collect::<String>())).unwrap()
    }

    #[test]
    fn sessions_that_see_other_delays_are_fine() {
        let checked = check(
            "0 write x 1 1
             1 read x nil nil
             0 read x nil 1
             2 write x 2 2
             0 read x nil 2
             1 read x nil 1
             1 read x nil 2
             1 write y 1 1
             0 read y nil nil",
        );
        assert_eq!(names(&checked), [""; 0]);
        assert_eq!((checked.operations, figure(&checked, "keys")), (9, 2));
    }

    #[test]
    fn with_versions_each_answer_is_judged() {
        for (text, expected) in [
            ("0 write x 1 [1 5]\n0 read x nil [2 4]", "read-your-writes"),
            ("0 write x 1 [1 5]\n0 read x nil nil", "read-your-writes"),
            (
                "0 read x nil [1 [2 1]]\n0 read x nil [2 [1 9]]",
                "monotonic-reads",
            ),
            ("0 write x 1 [1 5]\n0 write x 2 [2 4]", "monotonic-writes"),
            (
                "0 read x nil [1 5]\n0 write x 2 [2 4]",
                "writes-follow-reads",
            ),
            (
                "0 read x nil [1 5]\n1 read x nil [2 5]",
                "one-version-twice",
            ),
            (
                "0 read x nil [1 5]\n1 read x nil [1 6]",
                "one-version-twice",
            ),
        ] {
            let checked = check(text);
            assert_eq!(names(&checked), [expected], "{text}");
            assert_eq!(figure(&checked, "keys_by_version"), 1);
        }
        let fine = "0 write x 1 [1 [1 5]]\n0 read x nil [1 [1 5]]\n0 read x nil [2 [2 0]]\n0 write x 3 [3 [2 1]]";
        assert_eq!(names(&check(fine)), [""; 0]);
    }

    #[test]
    fn a_write_whose_answer_was_lost_takes_no_versions_away() {
        let text = "0 invoke write [x 1]
                    0 info write [x 1]
                    1 invoke read [x nil]
                    1 ok read [x [2 2]]
                    1 invoke read [x nil]
                    1 ok read [x [3 1]]";
        let checked = sessions(&told(text)).unwrap();
        assert_eq!(names(&checked), ["monotonic-reads"]);
        assert_eq!(figure(&checked, "keys_by_version"), 1);
    }

    #[test]
    fn a_version_that_a_reader_tells_counts_for_the_writer() {
        let text = "0 write x 1 1
                    0 read x nil [2 4]
                    1 read x nil [1 5]";
        assert_eq!(names(&check(text)), ["read-your-writes"]);
    }

    #[test]
    fn without_versions_sessions_must_agree_on_an_order() {
        for (text, expected) in [
            ("0 write x 1 1\n0 read x nil nil", "read-your-writes"),
            (
                "0 read x nil 1\n0 read x nil 2\n0 read x nil 1",
                "monotonic-reads",
            ),
            (
                "0 write x 1 1\n0 write x 2 2\n1 read x nil 2\n1 read x nil 1",
                "monotonic-reads",
            ),
            (
                "0 read x nil 2\n0 write x 1 1\n1 read x nil 1\n1 write x 2 2",
                "writes-follow-reads",
            ),
            (
                "0 write x 1 1\n0 read x nil 2\n1 write x 2 2\n1 read x nil 1",
                "read-your-writes",
            ),
            (
                "0 write x 1 1\n0 read x nil 2\n1 read x nil 2\n1 read x nil 1",
                "session-order",
            ),
        ] {
            assert_eq!(names(&check(text)), [expected], "{text}");
        }
    }

    #[test]
    fn versions_of_some_values_count_first() {
        // Nobody tells the version of 3.
        let text = "1 read x nil 3
                    0 write x 1 [1 5]
                    0 write x 2 [2 4]";
        assert_eq!(names(&check(text)), ["monotonic-writes"]);
    }

    #[test]
    fn the_reasons_are_told() {
        let checked = check("0 write x 1 1\n0 write x 2 2\n1 read x nil 2\n1 read x nil 1");
        let Verdict::Violated(findings) = &checked.verdict else {
            unreachable!("it has a finding")
        };
        assert_eq!(
            findings[0].text,
            "no order of the values of key x goes with this: process 0 wrote 1 and then 2 (line 3); \
             process 1 saw 2 and then 1 (line 7)"
        );
    }

    #[test]
    fn a_write_of_unknown_outcome_binds_nothing() {
        let text = "0 invoke write [x 1]
                    0 info write [x 1]
                    0 invoke read [x nil]
                    0 ok read [x nil]
                    0 invoke write [x 2]
                    0 fail write [x 2]
                    0 invoke read [x nil]
                    0 ok read [x 1]";
        let checked = sessions(&told(text)).unwrap();
        assert_eq!(names(&checked), [""; 0]);
        assert_eq!((checked.operations, checked.unknown), (3, 1));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused_with_its_line() {
        let line = |text| sessions(&told(text)).unwrap_err().line;
        let twice = "0 invoke write [x 1]\n0 ok write [x 1]\n1 invoke write [x 1]";
        assert_eq!(line(twice), 3);
        assert_eq!(line("0 invoke write 1"), 1);
        assert_eq!(line("0 invoke cas [x [1 2]]"), 1);
    }
}
