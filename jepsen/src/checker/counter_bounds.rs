//! Whether every `read` of a counter lies between what it must at least and may at most have been; `add` of a number, also
//! of a negative one. The counter begins at 0.
//!
//! An add surely counts when it ended before the read began. It may count when it began before the read ended and did not
//! fail. The least is what surely counts and, of the rest, all that is negative; the most likewise with all that is
//! positive. Reads are judged one by one: that two of them contradict each other only a search for an order can tell.
//!
//! Source: jepsen.checker/counter, github.com/jepsen-io/jepsen. There, an add below zero that begins during a read does not
//! yet lower the least for it; here it does.

use super::Checked;
use super::models::{argument, unknown_function};
use super::report::Report;
use crate::history::{NEVER, Operation, Operations, Outcome, Unusable, Value};

const TOO_LOW: &str = "too-low";
const TOO_HIGH: &str = "too-high";

struct Read {
    index: u32,
    saw: i128,
    least: i128,
    most: i128,
}

/// What changes the sums, or is judged by them.
#[derive(Clone, Copy)]
enum Event {
    AddBegins(i128),
    AddEnds(i128),
    ReadBegins(usize),
    ReadEnds(usize),
}

/// With its place in the history.
type Timed = (u32, Event);

/// Of adds: what surely counts now, and what may count. Those below zero apart.
#[derive(Default)]
struct Sums {
    sure_up: i128,
    sure_down: i128,
    may_up: i128,
    may_down: i128,
}

pub fn counter_bounds(operations: &Operations) -> Result<Checked, Unusable> {
    let mut report = Report::new(&[TOO_LOW, TOO_HIGH]);
    let (mut reads, events) = read_and_added(operations, &mut report)?;
    let mut sums = Sums::default();
    for (_, event) in events {
        match event {
            Event::AddBegins(by) if by < 0 => sums.may_down += by,
            Event::AddBegins(by) => sums.may_up += by,
            Event::AddEnds(by) if by < 0 => sums.sure_down += by,
            Event::AddEnds(by) => sums.sure_up += by,
            Event::ReadBegins(read) => {
                reads[read].least = sums.sure_up;
                reads[read].most = sums.sure_down;
            }
            Event::ReadEnds(read) => {
                reads[read].least += sums.may_down;
                reads[read].most += sums.may_up;
            }
        }
    }
    for read in &reads {
        judge(read, &operations.all[read.index as usize], &mut report);
    }
    report.figure("reads", reads.len() as u64);
    let widest = reads.iter().map(|read| read.most - read.least).max();
    let widest = u64::try_from(widest.unwrap_or(0)).unwrap_or(u64::MAX);
    report.figure("widest_bounds", widest);
    Ok(report.checked())
}

fn judge(read: &Read, operation: &Operation, report: &mut Report) {
    let Read {
        index,
        saw,
        least,
        most,
    } = *read;
    if saw < least {
        report.found(TOO_LOW, &[index], || {
            format!(
                "the read of line {} saw {saw}; it was {least} at least (and {most} at most)",
                operation.line
            )
        });
    }
    if saw > most {
        report.found(TOO_HIGH, &[index], || {
            format!(
                "the read of line {} saw {saw}; it was {most} at most (and {least} at least)",
                operation.line
            )
        });
    }
}

/// The reads that tell something, and what happened in the order of time.
fn read_and_added(
    operations: &Operations,
    report: &mut Report,
) -> Result<(Vec<Read>, Vec<Timed>), Unusable> {
    let (mut reads, mut events) = (Vec::new(), Vec::new());
    for (index, operation) in operations.all.iter().enumerate() {
        match operations.name(operation) {
            "add" => {
                let by = number(argument(operation)?, operation)?;
                if operation.outcome == Outcome::Failed {
                    continue;
                }
                events.push((operation.invoked, Event::AddBegins(by)));
                if operation.ended != NEVER {
                    events.push((operation.ended, Event::AddEnds(by)));
                }
            }
            "read" => {
                if operation.outcome != Outcome::Ok || operation.answered.is_nil() {
                    continue;
                }
                events.push((operation.invoked, Event::ReadBegins(reads.len())));
                events.push((operation.ended, Event::ReadEnds(reads.len())));
                reads.push(Read {
                    index: index as u32,
                    saw: number(&operation.answered, operation)?,
                    least: 0,
                    most: 0,
                });
            }
            other => return Err(unknown_function(other, operation, "add, read")),
        }
        report.judged(operation);
    }
    events.sort_unstable_by_key(|(at, _)| *at);
    Ok((reads, events))
}

/// Sums of these are wide enough for any history.
fn number(value: &Value, operation: &Operation) -> Result<i128, Unusable> {
    let number = value.as_int().map(i128::from);
    number.ok_or_else(|| Unusable::at(operation.line, format!("'{value}' is no whole number")))
}

#[cfg(test)]
mod tests {
    use super::super::Checked;
    use super::super::report::testing::{figure, names, told};
    use super::counter_bounds;

    fn check(text: &str) -> Checked {
        counter_bounds(&told(text)).unwrap()
    }

    /// 5 surely, 2 perhaps, 100 certainly not; then a read.
    fn read_of(saw: i64) -> Vec<&'static str> {
        names(&check(&format!(
            "0 invoke add 5
             0 ok add 5
             1 invoke add 2
             1 info add 2
             2 invoke add 100
             2 fail add 100
             3 invoke read nil
             3 ok read {saw}"
        )))
    }

    #[test]
    fn a_read_sees_what_is_sure_and_perhaps_what_is_not() {
        let found: Vec<_> = [4, 5, 6, 7, 8].map(read_of).to_vec();
        let none: &[&str] = &[];
        assert_eq!(found, [&["too-low"], none, none, none, &["too-high"]]);
    }

    #[test]
    fn what_happens_during_the_read_may_count() {
        let read_of = |saw: i64| {
            let text = format!(
                "0 invoke add 1
                 3 invoke read nil
                 0 ok add 1
                 1 invoke add -3
                 1 ok add -3
                 3 ok read {saw}
                 2 invoke add 9
                 2 ok add 9"
            );
            names(&check(&text))
        };
        assert_eq!(read_of(-4), ["too-low"]);
        for saw in -3..=1 {
            assert_eq!(read_of(saw), [""; 0]);
        }
        assert_eq!(read_of(2), ["too-high"]);
    }

    #[test]
    fn negative_adds_that_ended_lower_the_most() {
        let text = "0 invoke add -3
                    0 ok add -3
                    1 invoke read nil
                    1 ok read 0
                    2 invoke read nil
                    2 info read nil";
        let checked = check(text);
        assert_eq!(names(&checked), ["too-high"]);
        assert_eq!((checked.operations, figure(&checked, "reads")), (2, 1));
    }

    #[test]
    fn what_is_no_counter_is_refused_with_its_line() {
        let line = |text| counter_bounds(&told(text)).unwrap_err().line;
        assert_eq!(line("0 invoke add 1\n1 invoke add :a"), 2);
        assert_eq!(line("0 invoke reset 1"), 1);
    }
}
