//! That all copies hold the same at the end: `final-read` of each copy, a map, a list or any other value.
//!
//! The copy is named by the key of the operation, by what it asks for, or else by its process; where both are told, the
//! answer is a pair `[copy content]`. The last answer of each copy counts. What other functions did does not matter here,
//! so they are gone past. A copy that never answered leaves the question open.

use super::Checked;
use super::report::Report;
use crate::history::{Operation, Operations, Outcome, Unusable, Value};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

const DIVERGED: &str = "diverged";

/// Entries of a difference that are told.
const TOLD_MAX: usize = 5;

struct Copy<'a> {
    index: u32,
    content: &'a Value,
}

pub fn convergence(operations: &Operations) -> Result<Checked, Unusable> {
    let mut report = Report::new(&[DIVERGED]);
    let mut copies: BTreeMap<Value, Option<Copy>> = BTreeMap::new();
    for (index, operation) in operations.all.iter().enumerate() {
        if operations.name(operation) != "final-read" {
            continue;
        }
        let (name, content) = name_and_content(operation);
        let copy = copies.entry(name).or_default();
        if operation.outcome == Outcome::Ok {
            report.judged(operation);
            *copy = Some(Copy {
                index: index as u32,
                content,
            });
        }
    }
    let silent = copies.values().filter(|copy| copy.is_none()).count();
    let told: Vec<(&Value, &Copy)> = copies
        .iter()
        .filter_map(|(name, copy)| copy.as_ref().map(|copy| (name, copy)))
        .collect();
    let contents = compare(&told, operations, &mut report);
    report.figure("copies", copies.len() as u64);
    report.figure("contents", contents as u64);
    let open = match (told.len(), silent) {
        (0 | 1, _) => Some("fewer than two copies were read at the end".to_string()),
        (_, 0) => None,
        _ => Some(format!("copies that were not read at the end: {silent}")),
    };
    Ok(report.checked_unless(open))
}

fn name_and_content(operation: &Operation) -> (Value, &Value) {
    let answered = &operation.answered;
    if let Some(key) = &operation.key {
        return (key.clone(), answered);
    }
    // A harness that has no field for the key writes a pair: first with nothing in it.
    let (name, in_pair) = match (&operation.asked, operation.asked.pair()) {
        (_, Some((name, Value::Nil))) => (name.clone(), true),
        (Value::Nil, _) => (Value::Int(operation.process), false),
        (name, _) => (name.clone(), true),
    };
    match answered.pair() {
        Some((same, content)) if in_pair && *same == name => (name, content),
        _ => (name, answered),
    }
}

/// Finds the copies that differ from what most hold. Gives how many different contents there are.
fn compare(copies: &[(&Value, &Copy)], operations: &Operations, report: &mut Report) -> usize {
    let mut holders: FxHashMap<&Value, usize> = FxHashMap::default();
    for (_, copy) in copies {
        *holders.entry(copy.content).or_default() += 1;
    }
    // Of contents that equally many hold, that of the first copy: the result must not depend on the order of a hash map.
    let mut most: Option<&(&Value, &Copy)> = None;
    for copy in copies {
        if most.is_none_or(|most| holders[copy.1.content] > holders[most.1.content]) {
            most = Some(copy);
        }
    }
    let Some((most_name, most)) = most else {
        return 0;
    };
    for (name, copy) in copies.iter().filter(|(_, c)| c.content != most.content) {
        report.found(DIVERGED, &[most.index, copy.index], || {
            let line = operations.all[copy.index as usize].end_line;
            let difference = difference(most.content, copy.content);
            format!(
                "copy {name} (line {line}) does not hold what copy {most_name} holds: {difference}"
            )
        });
    }
    holders.len()
}

fn difference(one: &Value, other: &Value) -> String {
    let differences: Vec<String> = match (one, other) {
        (Value::Map(one), Value::Map(other)) => of_maps(one, other),
        (Value::Set(one), Value::Set(other)) => of_sets(one, other),
        (Value::List(one), Value::List(other)) => of_lists(one, other),
        _ => vec![format!("{other} instead of {one}")],
    };
    let more = differences.len().saturating_sub(TOLD_MAX);
    let told = differences[..differences.len() - more].join("; ");
    match more {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

fn of_maps(one: &[(Value, Value)], other: &[(Value, Value)]) -> Vec<String> {
    let one: BTreeMap<_, _> = one.iter().map(|(key, value)| (key, value)).collect();
    let other: BTreeMap<_, _> = other.iter().map(|(key, value)| (key, value)).collect();
    let mut found = Vec::new();
    for (key, value) in &one {
        match other.get(key) {
            None => found.push(format!("{key} is missing")),
            Some(theirs) if theirs == value => {}
            Some(theirs) => found.push(format!("{key} is {theirs} instead of {value}")),
        }
    }
    let more = other.keys().filter(|key| !one.contains_key(*key));
    found.extend(more.map(|key| format!("{key} is there in addition")));
    found
}

/// Both are sorted.
fn of_sets(one: &[Value], other: &[Value]) -> Vec<String> {
    let missing = one.iter().filter(|e| other.binary_search(e).is_err());
    let more = other.iter().filter(|e| one.binary_search(e).is_err());
    let missing = missing.map(|element| format!("{element} is missing"));
    let more = more.map(|element| format!("{element} is there in addition"));
    missing.chain(more).collect()
}

fn of_lists(one: &[Value], other: &[Value]) -> Vec<String> {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let at = |list: &[Value]| {
        list.get(same)
            .map_or("the end".to_string(), Value::to_string)
    };
    vec![format!(
        "after {same} equal elements there comes {} instead of {}",
        at(other),
        at(one)
    )]
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::{history, names, told};
    use super::super::{Checked, Verdict};
    use super::convergence;

    fn check(text: &str) -> Checked {
        convergence(&told(text)).unwrap()
    }

    fn text(checked: &Checked) -> &str {
        match &checked.verdict {
            Verdict::Violated(findings) => &findings[0].text,
            Verdict::Holds => "holds",
            Verdict::Unknown(why) => why,
        }
    }

    /// Two copies with a map, then a third.
    fn third(content: &str) -> Checked {
        check(&format!(
            "0 invoke write [1 2]
             0 info write nil
             1 invoke final-read :a
             1 ok final-read [:a {{1 2, 3 4}}]
             2 invoke final-read [:b nil]
             2 ok final-read [:b {{3 4, 1 2}}]
             0 invoke final-read :c
             0 ok final-read [:c {content}]"
        ))
    }

    #[test]
    fn copies_with_the_same_content_have_converged() {
        let same = third("{1 2, 3 4}");
        assert_eq!((text(&same), same.operations), ("holds", 3));
    }

    #[test]
    fn a_copy_that_differs_is_told_with_the_difference() {
        let differs = third("{1 2, 3 5, 6 7}");
        assert_eq!(names(&differs), ["diverged"]);
        assert_eq!(
            text(&differs),
            "copy :c (line 8) does not hold what copy :a holds: 3 is 5 instead of 4; 6 is there in addition"
        );
        assert!(text(&third("{}")).ends_with("1 is missing; 3 is missing"));
    }

    #[test]
    fn lists_are_compared_in_order_and_a_process_may_be_the_copy() {
        let lists = |other: &str| {
            check(&format!(
                "0 invoke final-read nil\n0 ok final-read [1 2]\n1 invoke final-read nil\n1 ok final-read {other}"
            ))
        };
        assert_eq!(text(&lists("[1 2]")), "holds");
        assert_eq!(names(&lists("[2 1]")), ["diverged"]);
        assert!(
            text(&lists("[1]"))
                .ends_with("after 1 equal elements there comes the end instead of 2")
        );
        assert!(text(&lists("#{1 2}")).ends_with("#{1 2} instead of [1 2]"));
    }

    #[test]
    fn the_last_answer_of_a_copy_counts() {
        let checked = history(
            "{:process 0 :type :invoke :f :final-read :key :a}
             {:process 0 :type :ok :f :final-read :key :a :value [1]}
             {:process 0 :type :invoke :f :final-read :key :a}
             {:process 0 :type :ok :f :final-read :key :a :value [1 2]}
             {:process 0 :type :invoke :f :final-read :key :b}
             {:process 0 :type :ok :f :final-read :key :b :value [1 2]}",
        );
        assert_eq!(text(&convergence(&checked).unwrap()), "holds");
    }

    #[test]
    fn a_copy_that_does_not_answer_leaves_it_open() {
        let one = "0 invoke final-read :a\n0 ok final-read 1\n";
        assert!(text(&check(one)).starts_with("fewer than two"));
        let two = format!("{one}0 invoke final-read :b\n0 ok final-read 1\n");
        assert_eq!(text(&check(&two)), "holds");
        let three = format!("{two}0 invoke final-read :c\n0 info final-read nil");
        assert!(text(&check(&three)).ends_with("not read at the end: 1"));
    }
}
