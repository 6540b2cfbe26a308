//! What must not be and needs no cycle to be seen: reads of what nobody wrote, of what was taken back, of what was not yet
//! finished, and transactions that contradict themselves or overwrite each other unseen.

use super::transactions::{NONE, Step, Transactions};
use super::versions::{Order, Read, Versions};
use crate::checker::report::Report;
use crate::history::{Outcome, Value};
use rustc_hash::FxHashMap;

/// A read of an element that nobody appended.
pub(super) const UNWRITTEN: &str = "unwritten";
/// A transaction that does not see its own earlier steps as they were, or sees later ones.
pub(super) const INTERNAL: &str = "internal";
/// A read of an element of a transaction that failed.
pub(super) const G1A: &str = "G1a";
/// An append after an element of a transaction that failed.
pub(super) const DIRTY_UPDATE: &str = "dirty-update";
/// A read between two appends of another transaction.
pub(super) const G1B: &str = "G1b";
/// Two transactions that saw the same version and both appended to it.
pub(super) const LOST_UPDATE: &str = "lost-update";

pub(super) fn find(transactions: &Transactions, versions: &Versions, report: &mut Report) {
    find_internal(transactions, report);
    let orders = versions.orders.iter().enumerate();
    let first_failed: Vec<Option<usize>> = orders
        .map(|(key, order)| find_in_order(key as u32, order, transactions, report))
        .collect();
    for read in &versions.reads {
        match read.length {
            Some(length) => {
                let order = &versions.orders[read.key as usize];
                let failed = first_failed[read.key as usize].filter(|at| *at < length);
                if let Some(at) = failed {
                    tell_aborted(transactions, read, order.elements[at], report);
                }
            }
            None => find_in_misfit(read, transactions, report),
        }
        let last = versions.last_element(read, transactions);
        if last != NONE {
            find_intermediate(transactions, read, last, report);
        }
    }
    find_lost_updates(transactions, versions, report);
}

/// What the longest read of a key shows. Gives the place of the first element whose transaction failed.
fn find_in_order(
    key: u32,
    order: &Order,
    transactions: &Transactions,
    report: &mut Report,
) -> Option<usize> {
    let mut first_failed = None;
    // The last failed element after which no append of a committed transaction was seen yet.
    let mut below = None;
    for (at, element) in order.elements.iter().enumerate() {
        if *element == NONE {
            tell_unwritten(transactions, order.reader, key, order.value(at), report);
        } else if transactions.has_failed(*element) {
            first_failed.get_or_insert(at);
            below = Some(*element);
        } else if let Some(failed) = below.take() {
            tell_dirty(transactions, failed, *element, report);
        }
    }
    first_failed
}

fn find_in_misfit(read: &Read, transactions: &Transactions, report: &mut Report) {
    let mut told_aborted = false;
    for value in read.list {
        let element = transactions.element(read.key, value);
        if element == NONE {
            tell_unwritten(transactions, read.reader, read.key, value, report);
        } else if transactions.has_failed(element) && !told_aborted {
            told_aborted = true;
            tell_aborted(transactions, read, element, report);
        }
    }
}

fn find_intermediate(transactions: &Transactions, read: &Read, last: u32, report: &mut Report) {
    let element = &transactions.elements[last as usize];
    // What failed is worse than unfinished, and is told as that.
    if element.is_last || element.writer == read.reader || transactions.has_failed(last) {
        return;
    }
    report.found(G1B, &[read.reader, element.writer], || {
        format!(
            "{} saw key {} up to {}, after which {} appended more to it",
            transactions.name(read.reader),
            transactions.keys[read.key as usize],
            element.value,
            transactions.name(element.writer)
        )
    });
}

/// What a transaction knows of a key by its own steps.
#[derive(Default)]
struct Known<'a> {
    /// What it read last.
    base: Option<&'a [Value]>,
    /// What it appended since then, or at all when it read nothing.
    appended: Vec<&'a Value>,
}

fn find_internal(transactions: &Transactions, report: &mut Report) {
    let mut keys: FxHashMap<u32, Known> = FxHashMap::default();
    for number in 0..transactions.len() as u32 {
        // Only one that succeeded told what it read, and with a single step none contradicts itself.
        if transactions.outcome(number) != Outcome::Ok || transactions.steps(number).len() < 2 {
            continue;
        }
        keys.clear();
        for step in transactions.steps(number) {
            let (key, wrong) = match *step {
                Step::Append(element) => {
                    let element = &transactions.elements[element as usize];
                    let known = keys.entry(element.key).or_default();
                    known.appended.push(element.value);
                    let base = known.base.unwrap_or(&[]);
                    let wrong = base.contains(element.value);
                    (
                        element.key,
                        wrong.then_some("saw what it appended only later"),
                    )
                }
                Step::Read { key, list } => {
                    let known = keys.entry(key).or_default();
                    let wrong = (!known.explains(list))
                        .then_some("did not see what it had read and appended before");
                    known.base = Some(list);
                    known.appended.clear();
                    (key, wrong)
                }
            };
            if let Some(wrong) = wrong {
                report.found(INTERNAL, &[number], || {
                    let key = transactions.keys[key as usize];
                    format!(
                        "{} {wrong} in the list of key {key}",
                        transactions.name(number)
                    )
                });
            }
        }
    }
}

impl Known<'_> {
    fn explains(&self, list: &[Value]) -> bool {
        let Some(own) = list.len().checked_sub(self.appended.len()) else {
            return false;
        };
        let (before, own) = list.split_at(own);
        own.iter().eq(self.appended.iter().copied()) && self.base.is_none_or(|base| base == before)
    }
}

/// Transactions that first read a key and then append to it: of those that saw one version, one can come first, and the
/// others would have seen what it appended.
fn find_lost_updates(transactions: &Transactions, versions: &Versions, report: &mut Report) {
    // By key and length of what was read: the transactions.
    let mut updates: FxHashMap<(u32, usize), Vec<u32>> = FxHashMap::default();
    let mut reads = versions.reads.as_slice();
    let mut appends: Vec<u32> = Vec::new();
    while let Some(first) = reads.first() {
        let reader = first.reader;
        let own = reads
            .iter()
            .take_while(|read| read.reader == reader)
            .count();
        let (of_reader, rest) = reads.split_at(own);
        reads = rest;
        read_then_appended(transactions, reader, &mut appends);
        for key in &appends {
            // The first read of the key: nothing of its own is in it yet.
            let read = of_reader.iter().find(|read| read.key == *key);
            if let Some(length) = read.and_then(|read| read.length) {
                updates.entry((*key, length)).or_default().push(reader);
            }
        }
    }
    let mut lost: Vec<_> = updates.into_iter().filter(|(_, of)| of.len() > 1).collect();
    lost.sort_unstable();
    for ((key, length), of) in lost {
        report.found(LOST_UPDATE, &of, || {
            let names: Vec<String> = of.iter().map(|number| transactions.name(*number)).collect();
            format!(
                "{} all saw {length} elements in the list of key {}, and all appended to it",
                names.join(", "),
                transactions.keys[key as usize]
            )
        });
    }
}

/// The keys that a transaction read before it appended to them, each once.
fn read_then_appended(transactions: &Transactions, number: u32, keys: &mut Vec<u32>) {
    keys.clear();
    let steps = transactions.steps(number);
    for (at, step) in steps.iter().enumerate() {
        let Step::Append(element) = step else {
            continue;
        };
        let key = transactions.elements[*element as usize].key;
        let first = steps[..at].iter().find(|step| match step {
            Step::Append(other) => transactions.elements[*other as usize].key == key,
            Step::Read { key: read, .. } => *read == key,
        });
        if matches!(first, Some(Step::Read { .. })) && !keys.contains(&key) {
            keys.push(key);
        }
    }
}

fn tell_unwritten(
    transactions: &Transactions,
    reader: u32,
    key: u32,
    value: &Value,
    report: &mut Report,
) {
    report.found(UNWRITTEN, &[reader], || {
        format!(
            "{} saw {value} in the list of key {}, which nobody appended",
            transactions.name(reader),
            transactions.keys[key as usize]
        )
    });
}

fn tell_aborted(transactions: &Transactions, read: &Read, element: u32, report: &mut Report) {
    let element = &transactions.elements[element as usize];
    report.found(G1A, &[read.reader, element.writer], || {
        format!(
            "{} saw {} in the list of key {}, which {} appended, and that failed",
            transactions.name(read.reader),
            element.value,
            transactions.keys[read.key as usize],
            transactions.name(element.writer)
        )
    });
}

fn tell_dirty(transactions: &Transactions, failed: u32, after: u32, report: &mut Report) {
    let failed = &transactions.elements[failed as usize];
    let after = &transactions.elements[after as usize];
    report.found(DIRTY_UPDATE, &[failed.writer, after.writer], || {
        format!(
            "{} appended {} to key {} after {} of {}, which failed",
            transactions.name(after.writer),
            after.value,
            transactions.keys[failed.key as usize],
            failed.value,
            transactions.name(failed.writer)
        )
    });
}
