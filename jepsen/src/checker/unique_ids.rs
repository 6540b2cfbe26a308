//! That no id is given out twice: `generate`, answered with an id.
//!
//! Only answers count: an id that went to nobody may be given to somebody else. Source: jepsen.checker/unique-ids,
//! github.com/jepsen-io/jepsen.

use super::Checked;
use super::models::unknown_function;
use super::report::Report;
use crate::history::{Operations, Outcome, Unusable, Value};
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

const DUPLICATED: &str = "duplicated";

pub fn unique_ids(operations: &Operations) -> Result<Checked, Unusable> {
    let mut report = Report::new(&[DUPLICATED]);
    let mut given: FxHashMap<&Value, u32> = FxHashMap::default();
    let mut attempts = 0;
    for (index, operation) in operations.all.iter().enumerate() {
        let name = operations.name(operation);
        if name != "generate" {
            return Err(unknown_function(name, operation, "generate"));
        }
        attempts += 1;
        if operation.outcome != Outcome::Ok {
            continue;
        }
        report.judged(operation);
        let id = &operation.answered;
        if id.is_nil() {
            return Err(Unusable::at(operation.end_line, "an answer without an id"));
        }
        match given.entry(id) {
            Entry::Vacant(first) => {
                first.insert(index as u32);
            }
            Entry::Occupied(first) => {
                let first = *first.get();
                report.found(DUPLICATED, &[first, index as u32], || {
                    let before = operations.all[first as usize].end_line;
                    let again = operation.end_line;
                    format!("{id} was given out in line {before} and again in line {again}")
                });
            }
        }
    }
    report.figure("attempts", attempts);
    report.figure("ids", given.len() as u64);
    Ok(report.checked())
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::{figure, names, told};
    use super::unique_ids;

    const ONE: &str = "0 invoke generate nil
                       0 ok generate 5
                       1 invoke generate nil
                       1 info generate 5\n";

    #[test]
    fn an_id_may_be_given_once() {
        let checked = unique_ids(&told(ONE)).unwrap();
        assert_eq!(names(&checked), [""; 0]);
        assert_eq!(figure(&checked, "attempts"), 2);
        let again = ONE.to_string() + "2 invoke generate nil\n2 ok generate 5";
        assert_eq!(names(&unique_ids(&told(&again)).unwrap()), ["duplicated"]);
    }

    #[test]
    fn an_answer_without_an_id_is_refused_with_its_line() {
        let line = |text| unique_ids(&told(text)).unwrap_err().line;
        assert_eq!(line("0 invoke generate nil\n0 ok generate nil"), 2);
        assert_eq!(line("0 invoke read nil"), 1);
    }
}
