//! The order of the elements of each key: that of its longest read. All other reads must have seen a beginning of it.
//!
//! Of a read, it is enough to know how long a beginning it saw. A read that fits into no order is kept as it is.

use super::transactions::{NONE, Step, Transactions};
use crate::checker::report::Report;
use crate::history::{Outcome, Value};
use rustc_hash::FxHashSet;

pub(super) const DUPLICATE_ELEMENTS: &str = "duplicate-elements";
pub(super) const INCOMPATIBLE_ORDER: &str = "incompatible-order";

#[derive(Default, Debug)]
pub(super) struct Order<'a> {
    /// The longest read.
    longest: &'a [Value],
    /// The transaction that made it.
    pub reader: u32,
    /// Its elements up to the first that it repeats; [`NONE`] for what nobody appended.
    pub elements: Vec<u32>,
    /// No read contradicts it or itself: what no read saw comes after all of it.
    pub certain: bool,
}

impl<'a> Order<'a> {
    pub fn value(&self, at: usize) -> &'a Value {
        &self.longest[at]
    }
}

#[derive(Debug)]
pub(super) struct Read<'a> {
    pub reader: u32,
    pub key: u32,
    pub list: &'a [Value],
    /// How many elements of the order it saw; `None` when what it saw is not a beginning of that.
    pub length: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Versions<'a> {
    /// By key.
    pub orders: Vec<Order<'a>>,
    /// Of transactions that certainly committed.
    pub reads: Vec<Read<'a>>,
    /// By element: whether some read saw it.
    pub seen: Vec<bool>,
    /// By transaction.
    pub committed: Vec<bool>,
}

impl<'a> Versions<'a> {
    pub fn of(transactions: &Transactions<'a>, report: &mut Report) -> Versions<'a> {
        let mut versions = Versions {
            orders: longest_reads(transactions),
            reads: Vec::new(),
            seen: vec![false; transactions.elements.len()],
            committed: Vec::new(),
        };
        versions.put_in_order(transactions, report);
        versions.measure_reads(transactions, report);
        versions.committed = committed(transactions, &versions.seen);
        versions
    }

    /// The element that a read saw last.
    pub fn last_element(&self, read: &Read<'a>, transactions: &Transactions<'a>) -> u32 {
        match (read.length, read.list.last()) {
            (_, None) => NONE,
            (Some(length), _) => self.orders[read.key as usize].elements[length - 1],
            (None, Some(value)) => transactions.element(read.key, value),
        }
    }

    fn put_in_order(&mut self, transactions: &Transactions<'a>, report: &mut Report) {
        let mut strangers: FxHashSet<&Value> = FxHashSet::default();
        for (key, order) in self.orders.iter_mut().enumerate() {
            strangers.clear();
            order.elements.reserve_exact(order.longest.len());
            for value in order.longest {
                let element = transactions.element(key as u32, value);
                // Each element belongs to one key, so only this order can have marked it.
                let is_new = match element {
                    NONE => strangers.insert(value),
                    _ => !std::mem::replace(&mut self.seen[element as usize], true),
                };
                if !is_new {
                    order.certain = false;
                    tell_duplicate(transactions, order.reader, key as u32, value, report);
                    break;
                }
                order.elements.push(element);
            }
        }
    }

    fn measure_reads(&mut self, transactions: &Transactions<'a>, report: &mut Report) {
        for read in reads(transactions) {
            let order = &mut self.orders[read.key as usize];
            let fits = order.longest.starts_with(read.list);
            let length = read.list.len();
            if fits && length <= order.elements.len() {
                let length = Some(length);
                self.reads.push(Read { length, ..read });
                continue;
            }
            order.certain = false;
            if !fits {
                let longest = order.reader;
                judge_misfit(transactions, &read, longest, report);
            }
            for value in read.list {
                let element = transactions.element(read.key, value);
                if element != NONE {
                    self.seen[element as usize] = true;
                }
            }
            self.reads.push(read);
        }
    }
}

fn reads<'a, 't>(transactions: &'t Transactions<'a>) -> impl Iterator<Item = Read<'a>> + 't {
    let numbers = 0..transactions.len() as u32;
    numbers.flat_map(move |reader| {
        let steps = transactions.steps(reader).iter();
        steps.filter_map(move |step| match *step {
            Step::Append(_) => None,
            Step::Read { key, list } => Some(Read {
                reader,
                key,
                list,
                length: None,
            }),
        })
    })
}

fn longest_reads<'a>(transactions: &Transactions<'a>) -> Vec<Order<'a>> {
    let mut orders: Vec<Order> = Vec::new();
    orders.resize_with(transactions.keys.len(), || Order {
        longest: &[],
        reader: NONE,
        elements: Vec::new(),
        certain: true,
    });
    for read in reads(transactions) {
        let order = &mut orders[read.key as usize];
        if order.reader == NONE || read.list.len() > order.longest.len() {
            (order.longest, order.reader) = (read.list, read.reader);
        }
    }
    orders
}

fn judge_misfit(transactions: &Transactions, read: &Read, longest: u32, report: &mut Report) {
    let mut before: FxHashSet<&Value> = FxHashSet::default();
    if let Some(value) = read.list.iter().find(|value| !before.insert(value)) {
        tell_duplicate(transactions, read.reader, read.key, value, report);
        return;
    }
    report.found(INCOMPATIBLE_ORDER, &[read.reader, longest], || {
        format!(
            "{} and {} saw lists of key {} of which none is the beginning of the other",
            transactions.name(read.reader),
            transactions.name(longest),
            transactions.keys[read.key as usize]
        )
    });
}

fn tell_duplicate(
    transactions: &Transactions,
    reader: u32,
    key: u32,
    value: &Value,
    report: &mut Report,
) {
    report.found(DUPLICATE_ELEMENTS, &[reader], || {
        format!(
            "{} saw {value} more than once in the list of key {}",
            transactions.name(reader),
            transactions.keys[key as usize]
        )
    });
}

/// What is unknown happened when somebody saw a part of it.
fn committed(transactions: &Transactions, seen: &[bool]) -> Vec<bool> {
    let numbers = 0..transactions.len() as u32;
    let of = |number: u32| match transactions.outcome(number) {
        Outcome::Ok => true,
        Outcome::Failed => false,
        Outcome::Unknown => transactions.steps(number).iter().any(|step| match step {
            Step::Append(element) => seen[*element as usize],
            Step::Read { .. } => false,
        }),
    };
    numbers.map(of).collect()
}
