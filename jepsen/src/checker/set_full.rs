//! What became of every element of a set: `add` of elements that are added once, `read` of all of them (nil: unknown).
//!
//! An element is *known* from the end of its add, or of the first read that saw it, whichever is earlier. Of the reads, those
//! that begin last decide. It is *stable* when the last read that saw it began after the last that missed it, *lost* when
//! it is the other way round and the one that missed it began after the element was known. It is *stale* when it is
//! stable, and yet a read that began after it was known missed it: that is no fault of a set that may lag behind, only of a
//! linearizable one. What is neither stable nor lost was never read.
//!
//! Source: jepsen.checker/set-full, github.com/jepsen-io/jepsen. Beyond it, elements that nobody can have added are found.

use super::Checked;
use super::models::{argument, unknown_function};
use super::report::{Report, seen};
use crate::history::{NEVER, Operation, Operations, Outcome, Unusable, Value};
use rustc_hash::FxHashMap;

const LOST: &str = "lost";
const UNEXPECTED: &str = "unexpected";
const DUPLICATED: &str = "duplicated";
const STALE: &str = "stale";

#[derive(Default)]
struct Element {
    /// The adds of it that may have taken effect: when the first was invoked, if there is one.
    may_be_from: Option<u32>,
    /// Whether there was an add at all, perhaps one that failed.
    asked_for: bool,
    /// The operation that made it known, and when.
    known: Option<(u32, u32)>,
    /// Places of the reads that saw it, in the order in which these were invoked.
    in_reads: Vec<u32>,
    /// The first read that saw it more than once.
    twice_in: Option<u32>,
}

struct Set<'a> {
    operations: &'a Operations,
    elements: Vec<(&'a Value, Element)>,
    /// The reads that tell something, by invocation.
    reads: Vec<u32>,
}

/// `linearizable`: stale elements are findings, too.
pub fn set_full(operations: &Operations, linearizable: bool) -> Result<Checked, Unusable> {
    let mut report = Report::new(&[LOST, UNEXPECTED, DUPLICATED, STALE]);
    let set = Set::of(operations, &mut report)?;
    let (mut stable, mut stale, mut never_read, mut stale_ns_max) = (0, 0, 0, 0);
    for (value, element) in &set.elements {
        set.find_impossible(value, element, &mut report);
        match set.fate(element) {
            Fate::NeverRead => never_read += u64::from(element.may_be_from.is_some()),
            Fate::Stable => stable += 1,
            Fate::Stale {
                known_by,
                missed_by,
            } => {
                (stable, stale) = (stable + 1, stale + 1);
                stale_ns_max = stale_ns_max.max(set.time_between(known_by, missed_by));
                if linearizable {
                    report.found(STALE, &[known_by, missed_by], || {
                        format!(
                            "{value} was known from the end of {} on; {} began later and missed it, and it was there again \
                             after that",
                            set.line(known_by),
                            set.line(missed_by)
                        )
                    });
                }
            }
            Fate::Lost {
                known_by,
                missed_by,
            } => {
                report.found(LOST, &[known_by, missed_by], || {
                    format!(
                        "{value} was known from the end of {} on; {} began later and missed it, and no read that began \
                         after that saw it",
                        set.line(known_by),
                        set.line(missed_by)
                    )
                });
            }
        }
    }
    report.figure("stable", stable);
    if !linearizable {
        report.figure("stale", stale);
    }
    report.figure("stale_ms_max", stale_ns_max / 1_000_000);
    report.figure("never_read", never_read);
    let open = (stable == 0).then(|| "no element was read".to_string());
    Ok(report.checked_unless(open))
}

enum Fate {
    Stable,
    Stale { known_by: u32, missed_by: u32 },
    Lost { known_by: u32, missed_by: u32 },
    NeverRead,
}

impl<'a> Set<'a> {
    fn of(operations: &'a Operations, report: &mut Report) -> Result<Set<'a>, Unusable> {
        let mut set = Set {
            operations,
            elements: Vec::new(),
            reads: Vec::new(),
        };
        let mut places: FxHashMap<&Value, usize> = FxHashMap::default();
        for (index, operation) in operations.all.iter().enumerate() {
            let index = index as u32;
            match operations.name(operation) {
                "add" => set.on_add(index, argument(operation)?, &mut places),
                "read" => {
                    if let Some(seen) = seen(operation)? {
                        set.on_read(index, seen, &mut places);
                    }
                }
                other => return Err(unknown_function(other, operation, "add, read")),
            }
            let is_read = set.reads.last() == Some(&index);
            let adds = operation.outcome != Outcome::Failed && operations.name(operation) == "add";
            if is_read || adds {
                report.judged(operation);
            }
        }
        Ok(set)
    }

    fn element(
        &mut self,
        value: &'a Value,
        places: &mut FxHashMap<&'a Value, usize>,
    ) -> &mut Element {
        let next = self.elements.len();
        let place = *places.entry(value).or_insert(next);
        if place == next {
            self.elements.push((value, Element::default()));
        }
        &mut self.elements[place].1
    }

    fn on_add(&mut self, index: u32, value: &'a Value, places: &mut FxHashMap<&'a Value, usize>) {
        let operation = &self.operations.all[index as usize];
        let element = self.element(value, places);
        element.asked_for = true;
        if operation.outcome == Outcome::Failed {
            return;
        }
        element.may_be_from.get_or_insert(operation.invoked);
        element.note_known(index, operation);
    }

    fn on_read(&mut self, index: u32, seen: &'a [Value], places: &mut FxHashMap<&'a Value, usize>) {
        let operation = &self.operations.all[index as usize];
        let read = self.reads.len() as u32;
        self.reads.push(index);
        for value in seen {
            let element = self.element(value, places);
            element.note_known(index, operation);
            if element.in_reads.last() == Some(&read) {
                element.twice_in.get_or_insert(index);
            } else {
                element.in_reads.push(read);
            }
        }
    }

    /// What must not be, whatever other reads saw.
    fn find_impossible(&self, value: &Value, element: &Element, report: &mut Report) {
        if let Some(read) = element.twice_in {
            report.found(DUPLICATED, &[read], || {
                format!("{} saw {value} more than once", self.line(read))
            });
        }
        // A read that ended before the first add began saw it too early.
        let mut reads = element
            .in_reads
            .iter()
            .map(|read| self.reads[*read as usize]);
        let too_early = reads.find(|read| {
            let ended = self.operations.all[*read as usize].ended;
            element.may_be_from.is_none_or(|from| ended < from)
        });
        if let Some(read) = too_early {
            report.found(UNEXPECTED, &[read], || {
                let why = match (element.may_be_from, element.asked_for) {
                    (Some(_), _) => "was added only later",
                    (None, true) => "was never added: its add failed",
                    (None, false) => "was never added",
                };
                format!("{} saw {value}, which {why}", self.line(read))
            });
        }
    }

    fn fate(&self, element: &Element) -> Fate {
        let present = element.in_reads.last().copied();
        let absent = self.last_absent(element);
        let missed_late = match (element.known, absent) {
            (Some((known_by, known_at)), Some(absent)) => {
                let missed_by = self.reads[absent as usize];
                let began = self.operations.all[missed_by as usize].invoked;
                (known_at < began).then_some((known_by, missed_by))
            }
            _ => None,
        };
        // Reads are numbered by invocation. Nothing is less than any of them.
        match (present > absent, missed_late) {
            (true, None) => Fate::Stable,
            (true, Some((known_by, missed_by))) => Fate::Stale {
                known_by,
                missed_by,
            },
            (false, Some((known_by, missed_by))) => Fate::Lost {
                known_by,
                missed_by,
            },
            (false, None) => Fate::NeverRead,
        }
    }

    /// The read without it that began last: where the reads with it, from the last on, leave the first gap.
    fn last_absent(&self, element: &Element) -> Option<u32> {
        let mut read = self.reads.len() as u32;
        let mut present = element.in_reads.iter().rev();
        while read > 0 {
            read -= 1;
            if present.next() != Some(&read) {
                return Some(read);
            }
        }
        None
    }

    fn line(&self, index: u32) -> String {
        let operation = &self.operations.all[index as usize];
        let name = self.operations.name(operation);
        format!("the {name} of line {}", operation.line)
    }

    fn time_between(&self, known_by: u32, missed_by: u32) -> u64 {
        let known = self.operations.all[known_by as usize].end_time_ns;
        let missed = self.operations.all[missed_by as usize].time_ns;
        let between = known.zip(missed).map(|(known, missed)| missed - known);
        between.map_or(0, |ns| ns.max(0) as u64)
    }
}

impl Element {
    fn note_known(&mut self, index: u32, by: &Operation) {
        if by.ended != NEVER && self.known.is_none_or(|(_, at)| by.ended < at) {
            self.known = Some((index, by.ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::{figure, names, told};
    use super::super::{Checked, Verdict};
    use super::set_full;

    fn check(text: &str, linearizable: bool) -> Checked {
        set_full(&told(text), linearizable).unwrap()
    }

    const ADDED: &str = "0 invoke add 1
                         0 ok add 1
                         1 invoke add 2
                         1 info add 2\n";

    fn with_reads(reads: &[&str]) -> String {
        let read = |seen: &&str| format!("2 invoke read nil\n2 ok read {seen}\n");
        ADDED.to_string() + &reads.iter().map(read).collect::<String>()
    }

    #[test]
    fn elements_that_stay_are_stable() {
        let checked = check(&with_reads(&["[1]", "nil", "#{1 2}", "[2 1]"]), true);
        assert_eq!(names(&checked), [""; 0]);
        assert_eq!(figure(&checked, "stable"), 2);
        assert_eq!((checked.operations, checked.unknown), (5, 1));
    }

    #[test]
    fn what_is_missed_to_the_end_is_lost() {
        assert_eq!(names(&check(&with_reads(&["[2]", "[2]"]), false)), ["lost"]);
        // An add of unknown outcome, once seen, must stay as well.
        let seen_once = with_reads(&["[1 2]", "[1]"]);
        assert_eq!(names(&check(&seen_once, false)), ["lost"]);
        assert_eq!(names(&check(&with_reads(&["[1]", "[1]"]), false)), [""; 0]);
    }

    #[test]
    fn a_gap_is_stale_only_where_the_set_is_linearizable() {
        let gap = with_reads(&["[1]", "[]", "[1]"]);
        assert_eq!(names(&check(&gap, true)), ["stale"]);
        let lagging = check(&gap, false);
        assert_eq!(names(&lagging), [""; 0]);
        assert_eq!(figure(&lagging, "stale"), 1);
    }

    #[test]
    fn a_read_that_began_before_the_add_ended_may_miss_it() {
        let text = "2 invoke read nil
                    0 invoke add 1
                    0 ok add 1
                    2 ok read []
                    2 invoke read nil
                    2 ok read [1]";
        let checked = check(text, true);
        assert_eq!(names(&checked), [""; 0]);
        assert_eq!(figure(&checked, "never_read"), 0);
    }

    #[test]
    fn elements_from_nowhere_and_twice_are_found() {
        let text = with_reads(&["[1 1]", "[1 7]"])
            + "3 invoke add 8
               3 fail add 8
               2 invoke read nil
               2 ok read [1 7 8 9]
               3 invoke add 9
               3 ok add 9";
        let checked = check(&text, false);
        let expected = ["unexpected", "unexpected", "unexpected", "duplicated"];
        assert_eq!(names(&checked), expected);
    }

    #[test]
    fn without_reads_nothing_can_be_told() {
        let checked = check(ADDED, false);
        assert!(matches!(checked.verdict, Verdict::Unknown(_)));
        assert_eq!(figure(&checked, "never_read"), 2);
    }

    #[test]
    fn what_is_no_set_is_refused_with_its_line() {
        let line = |text| set_full(&told(text), false).unwrap_err().line;
        assert_eq!(line("0 invoke remove 1"), 1);
        assert_eq!(line("0 invoke read nil\n0 ok read 5"), 2);
    }
}
