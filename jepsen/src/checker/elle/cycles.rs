//! Cycles of dependencies, and their names: which edges a cycle has says what went wrong.
//!
//! A cycle of `ww` alone is G0, one that has `wr` as well G1c, one with a single `rw` G-single, one with several G2-item;
//! one that needs the order within a process or real time has that added to its name. Cycles lie within strongly
//! connected components: those of the edges of values first, then those that time adds. In each, one cycle of each of the
//! four is looked for that was not found without time, as short as can be found with bounded effort. That there is a cycle
//! is never missed; that one of them is a G-single may be, in a component so large that the effort ends, and then a G2-item
//! is told.

use super::Consistency;
use super::dependencies::{Dependencies, LINK, PROCESS, REALTIME, RW, WR, WW};
use super::transactions::Transactions;
use crate::checker::graph::{Components, Edge, Graph, Limits, Mask, Paths};
use crate::checker::report::Report;

/// Edges that one search may look at: some tenths of a second.
const SEARCH_EDGES_MAX: u64 = 10_000_000;
/// And all of them together: the total is some seconds.
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
    let mut place = vec![0; whole.nodes()];
    // For each node, the shapes that were found in a component that it is in: bits by place in `SHAPES`.
    let mut known = vec![0_u8; whole.nodes()];
    let (mut left, mut given_up, mut found) = (ALL_EDGES_MAX, 0, 0);
    for order in orders {
        let components = whole.components(WW | WR | RW | LINK | order);
        found = 0;
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
            let mut shapes = nodes
                .iter()
                .fold(0, |all, node| all | known[*node as usize]);
            for cycle in search.cycles(*order, &mut shapes) {
                let named = search.told(&cycle);
                let of: Vec<u32> = named.iter().map(|(number, _)| *number).collect();
                report.found(name(&cycle), &of, || sentence(&named, transactions));
            }
            for node in &nodes {
                known[*node as usize] |= shapes;
            }
        }
    }
    report.figure("cyclic_components", found);
    report.figure("searches_given_up", given_up);
}

impl Search<'_> {
    /// A cycle of each shape that is not known yet and is there.
    fn cycles(&mut self, order: Mask, known: &mut u8) -> Vec<Vec<Edge>> {
        let mut cycles = Vec::new();
        for (shape, (first, rest)) in SHAPES.into_iter().enumerate() {
            // A cycle with several `rw` mostly goes a longer way round than one with a single `rw`, and is less grave.
            let enough = if shape == 3 { 0b1100 } else { 1 << shape };
            if *known & enough != 0 {
                continue;
            }
            if let Some(cycle) = self.cycle(first, rest | order | LINK) {
                *known |= 1 << shape;
                cycles.push(cycle);
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
        // Edges of the rest lead to their own number or to a lower one, which tells where there is no way back.
        let numbers_are_shared = rest & first != 0;
        let numbers = match numbers_are_shared {
            true => together,
            false => self.graph.components(rest),
        };
        let several = first == RW && rest & RW != 0;
        let mut budget = SEARCH_EDGES_MAX.min(*self.left);
        if numbers_are_shared {
            // The first candidate has a way back. A search may come past an edge again on a shorter way.
            budget = budget.max(4 * self.graph.edges().len() as u64);
        }
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
        *self.left = self.left.saturating_sub(before - budget);
        best
    }

    /// Edges with which a cycle may begin, those first that go back least.
    fn candidates(&self, first: Mask, rest: Mask, numbers: &Components) -> Vec<Edge> {
        let number = |node: u32| numbers.number[node as usize];
        let mut candidates: Vec<(u32, Edge)> = Vec::new();
        for edge in self.graph.edges() {
            if edge.kind != first {
                continue;
            }
            let Some(back) = number(edge.to).checked_sub(number(edge.from)) else {
                continue;
            };
            if rest & first != 0 && back > 0 {
                continue;
            }
            // A graver kind of edge between the same two makes a graver cycle, which is told as that.
            let mut alike = self.graph.out(edge.from).iter();
            if alike
                .any(|other| other.to == edge.to && other.kind < first && other.kind & rest != 0)
            {
                continue;
            }
            candidates.push((back.max(edge.to.abs_diff(edge.from)), *edge));
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

fn sentence(named: &[(u32, Edge)], transactions: &Transactions) -> String {
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
    text + &format!("T{}", named[0].0)
}
