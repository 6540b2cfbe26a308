//! Which transaction must be before which, as a graph.
//!
//! Of writes: who appended the next element (`ww`). From a write to a read that saw it last (`wr`). From a read to the
//! write of the next element that it did not see (`rw`). Within a process, and between what ended and what began later.
//!
//! The graph stays as large as the history. Where many nodes would each lead to many, nodes that are no transactions stand
//! between them. For real time they are *barriers*: what ended leads to the next barrier, that to the one after it, and
//! what begins is reached from the last one:
//!
//! ```text
//!     T1 ended     T2 ended
//!         \           \
//!       barrier ---> barrier ---> …
//!            \            \
//!          T3 begins    T4 begins
//! ```

use super::Consistency;
use super::transactions::{NONE, Transactions};
use super::versions::{Order, Versions};
use crate::checker::graph::{Edge, Graph, Mask};
use crate::history::{NEVER, Outcome};
use rustc_hash::FxHashMap;

pub(super) const WW: Mask = 1;
pub(super) const WR: Mask = 1 << 1;
pub(super) const RW: Mask = 1 << 2;
pub(super) const PROCESS: Mask = 1 << 3;
pub(super) const REALTIME: Mask = 1 << 4;
/// From a node that is no transaction. Every search follows it: what led to that node decides.
pub(super) const LINK: Mask = 1 << 5;

pub(super) struct Dependencies {
    /// Transactions have their numbers, and after them come the nodes in between.
    pub graph: Graph,
    pub consistency: Consistency,
}

struct Builder<'a> {
    transactions: &'a Transactions<'a>,
    versions: &'a Versions<'a>,
    edges: Vec<Edge>,
    nodes: u32,
}

impl Dependencies {
    pub fn of(
        transactions: &Transactions,
        versions: &Versions,
        consistency: Consistency,
    ) -> Dependencies {
        let mut builder = Builder {
            transactions,
            versions,
            edges: Vec::new(),
            nodes: transactions.len() as u32,
        };
        let mut ends = builder.add_orders();
        builder.add_reads(&mut ends);
        builder.add_unseen(&ends);
        if consistency == Consistency::StrictSerializable {
            builder.add_processes();
            builder.add_real_time();
        }
        let graph = Graph::new(builder.nodes as usize, &builder.edges);
        Dependencies { graph, consistency }
    }
}

/// Of a key: where its order leads from each length on, and who saw the end of it.
struct End {
    /// For each length the transaction that appended the next element; [`NONE`] at the end.
    next: Vec<u32>,
    /// The one that appended the last element.
    last: u32,
    /// Transactions that saw all of it.
    readers: Vec<u32>,
}

impl Builder<'_> {
    fn edge(&mut self, from: u32, to: u32, kind: Mask, about: u32) {
        if from != to {
            let edge = Edge {
                from,
                to,
                kind,
                about,
            };
            self.edges.push(edge);
        }
    }

    fn node(&mut self) -> u32 {
        self.nodes += 1;
        self.nodes - 1
    }

    fn add_orders(&mut self) -> Vec<End> {
        let mut ends = Vec::with_capacity(self.versions.orders.len());
        for (key, order) in self.versions.orders.iter().enumerate() {
            let writers = self.writers(order);
            let mut last = NONE;
            for writer in writers.iter().copied().filter(|writer| *writer != NONE) {
                if last != NONE {
                    self.edge(last, writer, WW, key as u32);
                }
                last = writer;
            }
            ends.push(End {
                next: next(&writers),
                last,
                readers: Vec::new(),
            });
        }
        ends
    }

    /// Who appended each element; nobody where it is no part of any order, since its transaction failed or is unknown.
    fn writers(&self, order: &Order) -> Vec<u32> {
        let of = |element: &u32| match *element {
            NONE => NONE,
            element if self.transactions.has_failed(element) => NONE,
            element => self.transactions.elements[element as usize].writer,
        };
        order.elements.iter().map(of).collect()
    }

    fn add_reads(&mut self, ends: &mut [End]) {
        let versions = self.versions;
        for read in &versions.reads {
            let last = versions.last_element(read, self.transactions);
            if last != NONE && !self.transactions.has_failed(last) {
                let writer = self.transactions.elements[last as usize].writer;
                // What follows its own append follows as `ww`.
                if writer == read.reader {
                    continue;
                }
                self.edge(writer, read.reader, WR, read.key);
            }
            let Some(length) = read.length else {
                continue;
            };
            let end = &mut ends[read.key as usize];
            match end.next[length] {
                NONE => end.readers.push(read.reader),
                next => self.edge(read.reader, next, RW, read.key),
            }
        }
    }

    /// A committed element that no read saw comes after all that were seen.
    fn add_unseen(&mut self, ends: &[End]) {
        let mut writers: Vec<Vec<u32>> = vec![Vec::new(); ends.len()];
        let unseen = self.transactions.elements.iter().zip(&self.versions.seen);
        for (element, _) in unseen.filter(|(_, seen)| !**seen) {
            let key = element.key as usize;
            let known = self.versions.committed[element.writer as usize];
            if known && self.versions.orders[key].certain {
                writers[key].push(element.writer);
            }
        }
        for (key, (mut writers, end)) in writers.into_iter().zip(ends).enumerate() {
            writers.sort_unstable();
            writers.dedup();
            for writer in &writers {
                if end.last != NONE {
                    self.edge(end.last, *writer, WW, key as u32);
                }
            }
            self.add_readers_of_end(&end.readers, &writers, key as u32);
        }
    }

    /// From each reader to each writer, save from one to itself. A chain of nodes leads to the writers up to a place, and
    /// another one to those from a place on.
    fn add_readers_of_end(&mut self, readers: &[u32], writers: &[u32], key: u32) {
        if readers.is_empty() || writers.is_empty() {
            return;
        }
        let (up_to, from) = (self.nodes, self.nodes + writers.len() as u32);
        for (place, writer) in writers.iter().enumerate() {
            let up_to = self.node();
            self.edge(up_to, *writer, LINK, key);
            if place > 0 {
                self.edge(up_to, up_to - 1, LINK, key);
            }
        }
        for (place, writer) in writers.iter().enumerate() {
            let from = self.node();
            self.edge(from, *writer, LINK, key);
            if place + 1 < writers.len() {
                self.edge(from, from + 1, LINK, key);
            }
        }
        let last = writers.len() as u32 - 1;
        for reader in readers {
            match writers.binary_search(reader) {
                Err(_) => self.edge(*reader, up_to + last, RW, key),
                Ok(own) => {
                    let own = own as u32;
                    if own > 0 {
                        self.edge(*reader, up_to + own - 1, RW, key);
                    }
                    if own < last {
                        self.edge(*reader, from + own + 1, RW, key);
                    }
                }
            }
        }
    }

    fn add_processes(&mut self) {
        let mut before: FxHashMap<i64, u32> = FxHashMap::default();
        for (number, operation) in self.transactions.operations.all.iter().enumerate() {
            let number = number as u32;
            if !self.versions.committed[number as usize] {
                continue;
            }
            if let Some(before) = before.get(&operation.process) {
                self.edge(*before, number, PROCESS, NONE);
            }
            // One of unknown outcome may take effect after all that its process does later.
            if operation.outcome == Outcome::Ok {
                before.insert(operation.process, number);
            }
        }
    }

    fn add_real_time(&mut self) {
        let operations = self.transactions.operations;
        // By place in the history: what begins or ends there.
        let mut events: Vec<(u32, bool)> = vec![(NONE, false); operations.events as usize];
        for (number, operation) in operations.all.iter().enumerate() {
            if self.versions.committed[number] {
                events[operation.invoked as usize] = (number as u32, false);
                if operation.ended != NEVER {
                    events[operation.ended as usize] = (number as u32, true);
                }
            }
        }
        let mut ended: Vec<u32> = Vec::new();
        let mut barrier = NONE;
        for (number, ends) in events {
            if number == NONE {
                continue;
            }
            if ends {
                ended.push(number);
                continue;
            }
            if !ended.is_empty() {
                let next = self.node();
                for before in ended.drain(..) {
                    self.edge(before, next, REALTIME, NONE);
                }
                if barrier != NONE {
                    self.edge(barrier, next, LINK, NONE);
                }
                barrier = next;
            }
            if barrier != NONE {
                self.edge(barrier, number, LINK, NONE);
            }
        }
    }
}

/// For each length of a list, who appended the next element that counts.
fn next(writers: &[u32]) -> Vec<u32> {
    let mut next = vec![NONE; writers.len() + 1];
    for at in (0..writers.len()).rev() {
        next[at] = match writers[at] {
            NONE => next[at + 1],
            writer => writer,
        };
    }
    next
}
