//! Cycles of dependencies, and their names: which edges a cycle has says what went wrong.
//!
//! A cycle of `ww` alone is G0, one that has `wr` as well G1c, one with a single `rw` G-single, one with several G2-item;
//! one that needs the order within a process or real time has that added to its name. Cycles lie within strongly
//! connected components. In each of these the simplest form of each of the four is looked for, as short as can be found
//! with bounded effort. That there is a cycle is never missed; that one of them is a G-single may be, in a component so
//! large that the effort ends, and then another cycle is told.

use super::Consistency;
use super::dependencies::{Dependencies, LINK, PROCESS, REALTIME, RW, WR, WW};
use super::transactions::Transactions;
use crate::checker::graph::{Components, Edge, Graph, Limits, Mask, Paths};
use crate::checker::report::Report;

/// Edges that one search may look at: some tenths of a second.
const SEARCH_EDGES_MAX: u64 = 10_000_000;
/// And all of them together, after which only one cycle of each component is told.
const ALL_EDGES_MAX: u64 = 300_000_000;
/// Cycles that are compared before the shortest is told.
const CYCLES_MAX: usize = 32;
/// Steps of a cycle that are told.
const TOLD_MAX: usize = 25;

/// For each of the four, the kind of edge that it must have and those that the rest may have.
const SHAPES: [(Mask, Mask); 4] = [(WW, WW), (WR, WW | WR), (RW, WW | WR), (RW, WW | WR | RW)];

struct Search<'a> {
    graph: Graph,
    /// The nodes of `graph` in the whole one.
    nodes: &'a [u32],
    /// How many of the first nodes are transactions.
    transactions: u32,
    paths: Paths,
    /// Edges that may yet be looked at.
    left: &'a mut u64,
    given_up: &'a mut u64,
}

pub(super) fn find(transactions: &Transactions, dependencies: &Dependencies, report: &mut Report) {
    let whole = &dependencies.graph;
    let orders: &[Mask] = match dependencies.consistency {
        Consistency::Serializable => &[0],
        Consistency::StrictSerializable => &[0, PROCESS, PROCESS | REALTIME],
    };
    let components = whole.components(Mask::MAX);
    let mut place = vec![0; whole.nodes()];
    let (mut left, mut given_up, mut found) = (ALL_EDGES_MAX, 0, 0);
    for nodes in components.cyclic() {
        found += 1;
        let count = transactions.len() as u32;
        let mut search = Search {
            graph: whole.part(&nodes, &components, &mut place),
            nodes: &nodes,
            transactions: nodes.partition_point(|node| *node < count) as u32,
            paths: Paths::default(),
            left: &mut left,
            given_up: &mut given_up,
        };
        for cycle in search.cycles(orders) {
            let named = search.told(&cycle);
            let of: Vec<u32> = named.iter().map(|(number, _)| *number).collect();
            report.found(name(&cycle), &of, || sentence(&named, &cycle, transactions));
        }
    }
    report.figure("cyclic_components", found);
    report.figure("searches_given_up", given_up);
}

impl Search<'_> {
    /// Of each shape at most one: the one that needs least of an order in time.
    fn cycles(&mut self, orders: &[Mask]) -> Vec<Vec<Edge>> {
        let mut cycles: Vec<Vec<Edge>> = Vec::new();
        for (shape, (first, rest)) in SHAPES.into_iter().enumerate() {
            for order in orders {
                let Some(cycle) = self.cycle(first, rest | order | LINK) else {
                    continue;
                };
                // With the last shape a single `rw` is found as well. It is news only if it was not found before.
                let known = cycles.iter().any(|other| name(other) == name(&cycle));
                if !known && (shape < 3 || reads_overtaken(&cycle) > 1 || cycles.is_empty()) {
                    cycles.push(cycle);
                    break;
                }
            }
        }
        cycles
    }

    /// A short cycle of an edge of the kind `first` and others of the mask `rest`.
    fn cycle(&mut self, first: Mask, rest: Mask) -> Option<Vec<Edge>> {
        let together = self.graph.components(first | rest);
        if together.count as usize == self.graph.nodes() {
            return None;
        }
        // Where no path can go back: an edge of the rest leads to its own number or to a lower one.
        let numbers = match rest & first {
            0 => self.graph.components(rest),
            _ => together,
        };
        let several = first == RW && rest & RW != 0;
        let mut budget = SEARCH_EDGES_MAX.min(*self.left);
        let before = budget;
        let (mut best, mut tried): (Option<Vec<Edge>>, _) = (None, 0);
        for edge in self.candidates(first, rest, &numbers) {
            let length = best.as_ref().map_or(u32::MAX, |best| self.length(best));
            // Cycles of two transactions cannot be beaten, unless they are not quite what is looked for.
            let enough = |best: &Vec<Edge>| !several || reads_overtaken(best) > 1;
            if best
                .as_ref()
                .is_some_and(|best| length == 2 && enough(best))
                || tried == CYCLES_MAX
            {
                break;
            }
            if budget == 0 {
                *self.given_up += 1;
                break;
            }
            let good = best.as_ref().is_some_and(enough);
            let own = u32::from(self.counts(edge.to));
            let (from, to) = (
                numbers.number[edge.to as usize],
                numbers.number[edge.from as usize],
            );
            let within = |node: u32| (to..=from).contains(&numbers.number[node as usize]);
            let limits = Limits {
                mask: rest,
                within: &within,
                counts: &|node| node < self.transactions,
                length_max: if good { length - 1 - own } else { u32::MAX },
            };
            let paths = &mut self.paths;
            let Some(path) = paths.shortest(&self.graph, edge.to, edge.from, &limits, &mut budget)
            else {
                continue;
            };
            tried += 1;
            let mut cycle = vec![edge];
            cycle.extend(path);
            if !good || enough(&cycle) {
                best = Some(cycle);
            }
        }
        *self.left -= before - budget;
        best
    }

    /// Edges with which a cycle may begin, those first that go back least.
    fn candidates(&self, first: Mask, rest: Mask, numbers: &Components) -> Vec<Edge> {
        let number = |node: u32| numbers.number[node as usize];
        let mut candidates: Vec<(u32, Edge)> = Vec::new();
        for edge in self.graph.edges() {
            if edge.kind != first || number(edge.to) < number(edge.from) {
                continue;
            }
            // Within one component of the rest, or where all kinds may be used, any way back is a cycle.
            let alike = self.graph.out(edge.from).iter();
            let simpler = |other: &Edge| {
                other.to == edge.to && other.kind < edge.kind && other.kind & rest != 0
            };
            if rest & first != 0 && number(edge.to) != number(edge.from)
                || alike
                    .take_while(|other| other.kind < edge.kind)
                    .any(simpler)
            {
                continue;
            }
            let back = match rest & first {
                0 => number(edge.to) - number(edge.from),
                _ => edge.to.abs_diff(edge.from),
            };
            candidates.push((back, *edge));
        }
        candidates.sort_by_key(|(back, edge)| (*back, edge.from, edge.to));
        candidates.into_iter().map(|(_, edge)| edge).collect()
    }

    fn counts(&self, node: u32) -> bool {
        node < self.transactions
    }

    /// In transactions.
    fn length(&self, cycle: &[Edge]) -> u32 {
        cycle.iter().filter(|edge| self.counts(edge.to)).count() as u32
    }

    /// The transactions of a cycle, each with the edge by which it is left.
    fn told(&self, cycle: &[Edge]) -> Vec<(u32, Edge)> {
        let from = cycle.iter().filter(|edge| self.counts(edge.from));
        from.map(|edge| (self.nodes[edge.from as usize], *edge))
            .collect()
    }
}

fn reads_overtaken(cycle: &[Edge]) -> usize {
    cycle.iter().filter(|edge| edge.kind == RW).count()
}

fn name(cycle: &[Edge]) -> &'static str {
    let has = |kind| cycle.iter().any(|edge| edge.kind == kind);
    let names = match (reads_overtaken(cycle), has(WR)) {
        (0, false) => ["G0", "G0-process", "G0-realtime"],
        (0, true) => ["G1c", "G1c-process", "G1c-realtime"],
        (1, _) => ["G-single", "G-single-process", "G-single-realtime"],
        _ => ["G2-item", "G2-item-process", "G2-item-realtime"],
    };
    match (has(REALTIME), has(PROCESS)) {
        (true, _) => names[2],
        (false, true) => names[1],
        (false, false) => names[0],
    }
}

fn sentence(named: &[(u32, Edge)], cycle: &[Edge], transactions: &Transactions) -> String {
    let mut text = String::new();
    for (number, edge) in named.iter().take(TOLD_MAX) {
        text += &transactions.name(*number);
        text += &match edge.kind {
            PROCESS => " -process-> ".to_string(),
            REALTIME => " -realtime-> ".to_string(),
            kind => {
                let kind = match kind {
                    WW => "ww",
                    WR => "wr",
                    _ => "rw",
                };
                format!(
                    " -{kind}[key {}]-> ",
                    transactions.keys[edge.about as usize]
                )
            }
        };
    }
    if named.len() > TOLD_MAX {
        text += &format!("… ({} more) -> ", named.len() - TOLD_MAX);
    }
    debug_assert_eq!(cycle.first().map(|e| e.from), cycle.last().map(|e| e.to));
    text + &format!("T{}", named[0].0)
}
