//! That a log has every request at most once, and those that were acknowledged at least once: `request` of an id (ok:
//! acknowledged), `seen` or `read` of the ids in the order of a log, or of a copy that follows it.
//!
//! The copy is the key of the operation, in a field of its own or as the first of a pair `[copy ids]`. A request may be
//! sent again under its id. Findings: an id *twice* in one answer; one that is *unexpected*, since nobody had sent it yet
//! or all who did were refused; one that is *missing* from a final read though it was acknowledged before; and ids that
//! were *reordered*: two answers, of one copy or of two, have them in orders that do not go together. A set has no order,
//! and its answers are only judged for the rest.
//!
//! A copy may lag behind until the end. Its last read is a final one when it began after the last acknowledgement; where
//! no copy was read that late, the very last read is taken, and what was acknowledged after it began is not judged.

use super::Checked;
use super::graph::{Edge, Graph, Paths};
use super::models::{argument, unknown_function};
use super::report::{Report, elements};
use crate::history::{NEVER, Operation, Operations, Outcome, Unusable, Value};
use rustc_hash::{FxHashMap, FxHashSet};

const MISSING: &str = "missing";
const TWICE: &str = "twice";
const UNEXPECTED: &str = "unexpected";
const REORDERED: &str = "reordered";

/// Ids are numbered by first appearance.
#[derive(Default)]
struct Request {
    /// The first attempt that did not fail, by its invocation.
    may_be_from: Option<u32>,
    /// The first acknowledgement, with its place in time.
    acknowledged: Option<(u32, u32)>,
    asked_for: bool,
}

struct Read<'a> {
    index: u32,
    copy: Option<&'a Value>,
    ids: Vec<u32>,
    in_order: bool,
}

#[derive(Default)]
struct Log<'a> {
    numbers: FxHashMap<&'a Value, u32>,
    ids: Vec<&'a Value>,
    requests: Vec<Request>,
    reads: Vec<Read<'a>>,
}

pub fn exactly_once(operations: &Operations) -> Result<Checked, Unusable> {
    let mut report = Report::new(&[MISSING, TWICE, UNEXPECTED, REORDERED]);
    let log = Log::of(operations, &mut report)?;
    for read in &log.reads {
        log.find_impossible(read, operations, &mut report);
    }
    let finals = log.final_reads(operations);
    let mut unjudged = 0;
    for read in &finals {
        unjudged += log.find_missing(read, operations, &mut report);
    }
    log.find_reordered(operations, &mut report);
    report.figure(
        "requests",
        log.requests.iter().filter(|r| r.asked_for).count() as u64,
    );
    report.figure("reads", log.reads.len() as u64);
    report.figure("final_reads", finals.len() as u64);
    report.figure("acknowledged_after_the_final_read", unjudged);
    let open = log.reads.is_empty().then(|| "no log was read".to_string());
    Ok(report.checked_unless(open))
}

impl<'a> Log<'a> {
    fn of(operations: &'a Operations, report: &mut Report) -> Result<Log<'a>, Unusable> {
        let mut log = Log::default();
        for (index, operation) in operations.all.iter().enumerate() {
            match operations.name(operation) {
                "request" => {
                    log.on_request(index as u32, argument(operation)?, operation);
                    if operation.outcome == Outcome::Failed {
                        continue;
                    }
                }
                "seen" | "read" => {
                    if operation.outcome != Outcome::Ok || operation.answered.is_nil() {
                        continue;
                    }
                    log.on_read(index as u32, operation)?;
                }
                other => return Err(unknown_function(other, operation, "request, seen, read")),
            }
            report.judged(operation);
        }
        Ok(log)
    }

    fn number(&mut self, id: &'a Value) -> u32 {
        let next = self.ids.len() as u32;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.ids.push(id);
            self.requests.push(Request::default());
        }
        number
    }

    fn on_request(&mut self, index: u32, id: &'a Value, operation: &Operation) {
        let number = self.number(id) as usize;
        let request = &mut self.requests[number];
        request.asked_for = true;
        if operation.outcome == Outcome::Failed {
            return;
        }
        request.may_be_from.get_or_insert(operation.invoked);
        let ended = operation.ended;
        if ended != NEVER && request.acknowledged.is_none_or(|(_, at)| ended < at) {
            request.acknowledged = Some((index, ended));
        }
    }

    fn on_read(&mut self, index: u32, operation: &'a Operation) -> Result<(), Unusable> {
        let answered = &operation.answered;
        let (copy, ids) = match (&operation.key, answered.pair()) {
            (Some(key), _) => (Some(key), answered),
            // Not a list of two ids: the second is a list, and the first is none.
            (None, Some((copy, ids))) if ids.elements().is_some() && copy.elements().is_none() => {
                (Some(copy), ids)
            }
            _ => (None, answered),
        };
        let in_order = !matches!(ids, Value::Set(_));
        let ids = elements(ids, operation)?;
        let ids = ids.iter().map(|id| self.number(id)).collect();
        self.reads.push(Read {
            index,
            copy,
            ids,
            in_order,
        });
        Ok(())
    }

    /// What no log may show, whatever others show.
    fn find_impossible(&self, read: &Read, operations: &Operations, report: &mut Report) {
        let operation = &operations.all[read.index as usize];
        let mut before = FxHashSet::default();
        for number in &read.ids {
            let id = self.ids[*number as usize];
            if !before.insert(*number) {
                report.found(TWICE, &[read.index], || {
                    format!("{} shows {id} more than once", described(read, operation))
                });
                continue;
            }
            let request = &self.requests[*number as usize];
            if request
                .may_be_from
                .is_none_or(|from| operation.ended < from)
            {
                let why = match (request.may_be_from, request.asked_for) {
                    (Some(_), _) => "was requested only later",
                    (None, true) => "was refused",
                    (None, false) => "was never requested",
                };
                report.found(UNEXPECTED, &[read.index], || {
                    format!("{} shows {id}, which {why}", described(read, operation))
                });
            }
        }
    }

    fn final_reads(&self, operations: &Operations) -> Vec<&Read<'a>> {
        let acknowledged = self.requests.iter().filter_map(|r| r.acknowledged);
        let last = acknowledged.map(|(_, at)| at).max();
        let late = |read: &Read| {
            let began = operations.all[read.index as usize].invoked;
            last.is_none_or(|last| last < began)
        };
        let mut of_copies: FxHashMap<Option<&Value>, &Read> = FxHashMap::default();
        for read in self.reads.iter().filter(|read| late(read)) {
            of_copies.insert(read.copy, read);
        }
        let mut finals: Vec<&Read> = of_copies.into_values().collect();
        finals.sort_by_key(|read| read.index);
        if finals.is_empty() {
            finals.extend(self.reads.last());
        }
        finals
    }

    /// Gives how many requests were acknowledged too late to be judged by this read.
    fn find_missing(&self, read: &Read, operations: &Operations, report: &mut Report) -> u64 {
        let operation = &operations.all[read.index as usize];
        let there: FxHashSet<u32> = read.ids.iter().copied().collect();
        let mut too_late = 0;
        for (number, request) in self.requests.iter().enumerate() {
            let Some((by, at)) = request.acknowledged else {
                continue;
            };
            if at > operation.invoked {
                too_late += 1;
            } else if !there.contains(&(number as u32)) {
                report.found(MISSING, &[by, read.index], || {
                    format!(
                        "{} was acknowledged in line {} and is missing from {}",
                        self.ids[number],
                        operations.all[by as usize].end_line,
                        described(read, operation)
                    )
                });
            }
        }
        too_late
    }

    /// The orders of all answers go together when no ids are before each other. That is looked for over all answers at
    /// once: three can contradict each other of which any two do not.
    fn find_reordered(&self, operations: &Operations, report: &mut Report) {
        let mut edges = Vec::new();
        let mut known: FxHashSet<(u32, u32)> = FxHashSet::default();
        let mut shown_in = vec![0_u32; self.ids.len()];
        for (place, read) in self.reads.iter().enumerate().filter(|(_, r)| r.in_order) {
            let mut before = None;
            for number in &read.ids {
                // An id that is there twice has the place of the first.
                if std::mem::replace(&mut shown_in[*number as usize], place as u32 + 1)
                    == place as u32 + 1
                {
                    continue;
                }
                if let Some(from) = before.replace(*number)
                    && known.insert((from, *number))
                {
                    edges.push(Edge {
                        from,
                        to: *number,
                        kind: 1,
                        about: place as u32,
                    });
                }
            }
        }
        let graph = Graph::new(self.ids.len(), &edges);
        for cycle in Paths::default().cycles(&graph, 1) {
            let mut reads: Vec<u32> = cycle.iter().map(|edge| edge.about).collect();
            reads.sort_unstable();
            reads.dedup();
            let shown: Vec<u32> = reads
                .iter()
                .map(|r| self.reads[*r as usize].index)
                .collect();
            report.found(REORDERED, &shown, || self.told(&cycle, operations));
        }
    }

    /// A chain of neighbours in one answer is told by its ends.
    fn told(&self, cycle: &[Edge], operations: &Operations) -> String {
        let mut parts: Vec<Edge> = Vec::new();
        for edge in cycle {
            match parts.last_mut() {
                Some(last) if last.about == edge.about => last.to = edge.to,
                _ => parts.push(*edge),
            }
        }
        let parts = parts.iter().map(|part| {
            let read = &self.reads[part.about as usize];
            let (from, to) = (self.ids[part.from as usize], self.ids[part.to as usize]);
            let operation = &operations.all[read.index as usize];
            format!("{} shows {from} before {to}", described(read, operation))
        });
        parts.collect::<Vec<_>>().join("; ")
    }
}

fn described(read: &Read, operation: &Operation) -> String {
    match read.copy {
        Some(copy) => format!("the read of {copy} in line {}", operation.end_line),
        None => format!("the read of line {}", operation.end_line),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::{figure, history, names, told};
    use super::super::{Checked, Verdict};
    use super::exactly_once;

    fn check(text: &str) -> Checked {
        exactly_once(&told(text)).unwrap()
    }

    const REQUESTS: &str = "0 invoke request 1
                            0 ok request 1
                            1 invoke request 2
                            1 info request 2
                            2 invoke request 3
                            2 fail request 3
                            2 invoke request 4
                            2 ok request 4\n";

    fn then_seen(answers: &[&str]) -> Vec<&'static str> {
        let read = |ids: &&str| format!("3 invoke seen nil\n3 ok seen {ids}\n");
        names(&check(
            &(REQUESTS.to_string() + &answers.iter().map(read).collect::<String>()),
        ))
    }

    #[test]
    fn acknowledged_requests_are_there_once_and_open_ones_may_be() {
        assert_eq!(then_seen(&["[1]", "[1 4]"]), [""; 0]);
        assert_eq!(then_seen(&["[1]", "[1 2 4]"]), [""; 0]);
        assert_eq!(then_seen(&["[:a [1 2 4]]", "[:b [1 2 4]]"]), [""; 0]);
    }

    #[test]
    fn what_is_missing_at_the_end_is_found() {
        assert_eq!(then_seen(&["[1 4]", "[4]"]), ["missing"]);
        // Each copy has a final read.
        let copies = ["[:a [1]]", "[:a [1 4]]", "[:b [1]]"];
        assert_eq!(then_seen(&copies), ["missing"]);
    }

    #[test]
    fn requests_twice_or_from_nowhere_are_found() {
        assert_eq!(then_seen(&["[1 4 1]"]), ["twice"]);
        let nowhere = then_seen(&["[1 4 3 9]"]);
        assert_eq!(nowhere, ["unexpected", "unexpected"]);
        let early = "0 invoke read nil
                     0 ok read [1]
                     0 invoke request 1
                     0 ok request 1
                     0 invoke read nil
                     0 ok read [1]";
        assert_eq!(names(&check(early)), ["unexpected"]);
    }

    #[test]
    fn answers_must_agree_on_one_order() {
        assert_eq!(then_seen(&["[:a [1 2 4]]", "[:b [4 1]]"]), ["reordered"]);
        assert_eq!(then_seen(&["[:a [1 4]]", "[:b #{4 1}]"]), [""; 0]);
        // Any two of these go together.
        let three = history(
            "{:process 0 :type :invoke :f :request :value 1}
             {:process 1 :type :invoke :f :request :value 2}
             {:process 2 :type :invoke :f :request :value 3}
             {:process 3 :type :invoke :f :seen :key :a}
             {:process 3 :type :ok :f :seen :key :a :value [1 2]}
             {:process 3 :type :invoke :f :seen :key :b}
             {:process 3 :type :ok :f :seen :key :b :value [2 3]}
             {:process 3 :type :invoke :f :seen :key :c}
             {:process 3 :type :ok :f :seen :key :c :value [3 1]}",
        );
        let checked = exactly_once(&three).unwrap();
        assert_eq!(names(&checked), ["reordered"]);
        let Verdict::Violated(findings) = &checked.verdict else {
            unreachable!("it has a finding")
        };
        assert_eq!(
            findings[0].text,
            "the read of :a in line 5 shows 1 before 2; the read of :b in line 7 shows 2 before 3; \
             the read of :c in line 9 shows 3 before 1"
        );
    }

    #[test]
    fn what_is_acknowledged_after_the_last_read_began_is_not_judged() {
        let text = "0 invoke read nil
                    1 invoke request 1
                    1 ok request 1
                    0 ok read []";
        let checked = check(text);
        assert_eq!(names(&checked), [""; 0]);
        assert_eq!(figure(&checked, "acknowledged_after_the_final_read"), 1);
        assert!(matches!(check(REQUESTS).verdict, Verdict::Unknown(_)));
    }

    #[test]
    fn a_request_may_be_sent_again_after_it_was_refused() {
        let text = "0 invoke request 1
                    0 fail request 1
                    0 invoke request 1
                    0 ok request 1
                    0 invoke read nil
                    0 ok read [1]";
        assert_eq!(names(&check(text)), [""; 0]);
    }

    #[test]
    fn what_is_no_log_is_refused_with_its_line() {
        let line = |text| exactly_once(&told(text)).unwrap_err().line;
        assert_eq!(line("0 invoke request nil\n0 ok request nil"), 1);
        assert_eq!(line("0 invoke read nil\n0 ok read 1"), 2);
        assert_eq!(line("0 invoke write 1"), 1);
    }
}
