//! Directed graphs of what must be before what: their strongly connected components, and short cycles in them.
//!
//! Nothing here recurses: a chain may be as long as a history. An edge has a kind, one bit, and every question is asked
//! about the edges whose kinds are in a mask. Source of the components: Tarjan, "Depth-first search and linear graph
//! algorithms" (SIAM J. Comput. 1972).

use std::collections::VecDeque;

/// A set of kinds of edges.
pub(super) type Mask = u8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Edge {
    pub from: u32,
    pub to: u32,
    /// One bit.
    pub kind: Mask,
    /// What the edge is about (a key, say): the graph only carries it.
    pub about: u32,
}

/// The edges, by the node that they leave; those of one node by kind, so that a search prefers lower bits.
#[derive(Debug)]
pub(super) struct Graph {
    /// For each node its first edge; one more at the end.
    starts: Vec<u32>,
    edges: Vec<Edge>,
}

impl Graph {
    /// Edges from a node to itself say nothing about an order and are left out.
    pub fn new(nodes: usize, edges: &[Edge]) -> Graph {
        let mut starts = vec![0_u32; nodes + 1];
        let between = || edges.iter().filter(|edge| edge.from != edge.to);
        for edge in between() {
            starts[edge.from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let mut sorted = vec![
            Edge {
                from: 0,
                to: 0,
                kind: 0,
                about: 0
            };
            starts[nodes] as usize
        ];
        for edge in between() {
            let place = &mut next[edge.from as usize];
            sorted[*place as usize] = *edge;
            *place += 1;
        }
        for node in 0..nodes {
            let own = starts[node] as usize..starts[node + 1] as usize;
            sorted[own].sort_by_key(|edge| edge.kind);
        }
        Graph {
            starts,
            edges: sorted,
        }
    }

    pub fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    pub fn out(&self, node: u32) -> &[Edge] {
        let node = node as usize;
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }

    /// The graph of some nodes, numbered by their places in `nodes`. `place` is room for a number per node of this graph;
    /// what it holds for other nodes must be no place in `nodes`, or `of` tells them apart.
    pub fn part(&self, nodes: &[u32], of: &Components, place: &mut [u32]) -> Graph {
        for (number, node) in nodes.iter().enumerate() {
            place[*node as usize] = number as u32;
        }
        let mut edges = Vec::new();
        for node in nodes {
            let same = |edge: &&Edge| of.number[edge.to as usize] == of.number[*node as usize];
            edges.extend(self.out(*node).iter().filter(same).map(|edge| Edge {
                from: place[edge.from as usize],
                to: place[edge.to as usize],
                ..*edge
            }));
        }
        Graph::new(nodes.len(), &edges)
    }

    /// Which nodes reach each other over edges of the mask.
    pub fn components(&self, mask: Mask) -> Components {
        const UNSEEN: u32 = u32::MAX;
        let nodes = self.nodes();
        let mut components = Components {
            number: vec![UNSEEN; nodes],
            count: 0,
        };
        // When a node was first seen, and the earliest node on the stack that is known to be reached from it.
        let mut seen_at = vec![UNSEEN; nodes];
        let mut earliest = vec![0_u32; nodes];
        let mut seen = 0;
        let mut stack: Vec<u32> = Vec::new();
        // Nodes whose edges are being followed, with the next edge of each.
        let mut path: Vec<(u32, u32)> = Vec::new();
        for root in 0..nodes as u32 {
            if seen_at[root as usize] != UNSEEN {
                continue;
            }
            path.push((root, self.starts[root as usize]));
            while let Some((node, next)) = path.last_mut() {
                let at = *node as usize;
                if seen_at[at] == UNSEEN {
                    (seen_at[at], earliest[at]) = (seen, seen);
                    seen += 1;
                    stack.push(*node);
                }
                if *next < self.starts[at + 1] {
                    let edge = self.edges[*next as usize];
                    *next += 1;
                    let to = edge.to as usize;
                    if edge.kind & mask == 0 || components.number[to] != UNSEEN {
                        continue;
                    }
                    if seen_at[to] == UNSEEN {
                        path.push((edge.to, self.starts[to]));
                    } else {
                        earliest[at] = earliest[at].min(seen_at[to]);
                    }
                    continue;
                }
                path.pop();
                if let Some((before, _)) = path.last() {
                    let before = *before as usize;
                    earliest[before] = earliest[before].min(earliest[at]);
                }
                if earliest[at] == seen_at[at] {
                    while let Some(member) = stack.pop() {
                        components.number[member as usize] = components.count;
                        if member as usize == at {
                            break;
                        }
                    }
                    components.count += 1;
                }
            }
        }
        components
    }
}

/// Sets of nodes that reach each other.
#[derive(Debug)]
pub(super) struct Components {
    /// Of each node. An edge leads to its own number or to a lower one.
    pub number: Vec<u32>,
    pub count: u32,
}

impl Components {
    /// Those of more than one node, each with its nodes in order.
    pub fn cyclic(&self) -> Vec<Vec<u32>> {
        let mut sizes = vec![0_u32; self.count as usize];
        for number in &self.number {
            sizes[*number as usize] += 1;
        }
        let mut place = vec![u32::MAX; self.count as usize];
        let mut sets: Vec<Vec<u32>> = Vec::new();
        for (node, number) in self.number.iter().enumerate() {
            let number = *number as usize;
            if sizes[number] < 2 {
                continue;
            }
            if place[number] == u32::MAX {
                place[number] = sets.len() as u32;
                sets.push(Vec::with_capacity(sizes[number] as usize));
            }
            sets[place[number] as usize].push(node as u32);
        }
        sets
    }

    pub fn together(&self, edge: &Edge) -> bool {
        self.number[edge.from as usize] == self.number[edge.to as usize]
    }
}

/// Looks for shortest paths; keeps its room from one search to the next.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The search in which a node was last reached, its distance in that, and the edge that led to it.
    reached: Vec<(u32, u32, Option<Edge>)>,
    search: u32,
    queue: VecDeque<(u32, u32)>,
}

/// What a search for a path is limited to.
pub(super) struct Limits<'a> {
    pub mask: Mask,
    /// Nodes that it may go through.
    pub within: &'a dyn Fn(u32) -> bool,
    /// Whether a node counts towards the length: nodes that only join edges do not.
    pub counts: &'a dyn Fn(u32) -> bool,
    /// Paths that are longer are of no interest.
    pub length_max: u32,
}

impl Paths {
    /// The edges of a shortest path; none when there is no path within the limits, or when `budget` is used up. That is
    /// how many edges may be looked at.
    pub fn shortest(
        &mut self,
        graph: &Graph,
        from: u32,
        to: u32,
        limits: &Limits,
        budget: &mut u64,
    ) -> Option<Vec<Edge>> {
        self.reached.resize(graph.nodes(), (0, 0, None));
        self.search += 1;
        self.queue.clear();
        self.queue.push_back((from, 0));
        self.reached[from as usize] = (self.search, 0, None);
        while let Some((node, length)) = self.queue.pop_front() {
            if node == to {
                return Some(self.way(to));
            }
            // It was reached on a shorter way after it had been put into the queue.
            if self.reached[node as usize].1 < length {
                continue;
            }
            for edge in graph.out(node) {
                *budget = budget.saturating_sub(1);
                if edge.kind & limits.mask == 0 || !(limits.within)(edge.to) {
                    continue;
                }
                let counts = (limits.counts)(edge.to);
                let length = length + u32::from(counts);
                let (search, known, _) = self.reached[edge.to as usize];
                if length > limits.length_max || (search == self.search && known <= length) {
                    continue;
                }
                self.reached[edge.to as usize] = (self.search, length, Some(*edge));
                // What does not count is as near as the node before: first in, first out would take it too late.
                match counts {
                    true => self.queue.push_back((edge.to, length)),
                    false => self.queue.push_front((edge.to, length)),
                }
            }
            if *budget == 0 {
                return None;
            }
        }
        None
    }

    fn way(&self, to: u32) -> Vec<Edge> {
        let mut way = Vec::new();
        let mut at = to;
        while let Some(edge) = self.reached[at as usize].2 {
            way.push(edge);
            at = edge.from;
        }
        way.reverse();
        way
    }

    /// A short cycle over edges of the mask within each component: where nodes of a component reach each other.
    pub fn cycles(&mut self, graph: &Graph, mask: Mask) -> Vec<Vec<Edge>> {
        let components = graph.components(mask);
        let mut cycles = Vec::new();
        for nodes in components.cyclic() {
            let number = components.number[nodes[0] as usize];
            let mut best: Option<Vec<Edge>> = None;
            // A few places to begin suffice for a cycle that is easy to read, and one for there being one.
            for start in nodes.iter().take(STARTS_MAX) {
                let first = graph.out(*start).iter();
                for edge in first.filter(|e| e.kind & mask != 0 && components.together(e)) {
                    let limits = Limits {
                        mask,
                        within: &|node| components.number[node as usize] == number,
                        counts: &|_| true,
                        length_max: best.as_ref().map_or(u32::MAX, |best| best.len() as u32 - 2),
                    };
                    let mut budget = u64::MAX;
                    let rest = self.shortest(graph, edge.to, edge.from, &limits, &mut budget);
                    if let Some(rest) = rest {
                        let mut cycle = vec![*edge];
                        cycle.extend(rest);
                        best = Some(cycle);
                    }
                    // Two is as short as a cycle can be.
                    if best.as_ref().is_some_and(|best| best.len() == 2) {
                        break;
                    }
                }
            }
            cycles.extend(best);
        }
        cycles
    }
}

const STARTS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: usize, edges: &[(u32, u32, Mask)]) -> Graph {
        let edge = |(from, to, kind): &(u32, u32, Mask)| Edge {
            from: *from,
            to: *to,
            kind: *kind,
            about: 0,
        };
        Graph::new(nodes, &edges.iter().map(edge).collect::<Vec<_>>())
    }

    #[test]
    fn components_follow_the_mask_and_are_numbered_backwards() {
        let edges = [
            (0, 1, 1),
            (1, 2, 1),
            (2, 0, 2),
            (2, 3, 1),
            (3, 4, 1),
            (4, 3, 1),
            (5, 5, 1),
        ];
        let graph = graph(6, &edges);
        let all = graph.components(3);
        assert_eq!(all.cyclic(), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(graph.components(1).cyclic(), [vec![3, 4]]);
        for edge in graph.edges() {
            assert!(all.number[edge.from as usize] >= all.number[edge.to as usize]);
        }
    }

    #[test]
    fn the_shortest_cycle_is_told() {
        let edges = [(0, 1, 1), (1, 2, 1), (2, 0, 1), (1, 3, 1), (3, 1, 2)];
        let graph = graph(4, &edges);
        let cycles = Paths::default().cycles(&graph, 3);
        let nodes: Vec<u32> = cycles[0].iter().map(|edge| edge.from).collect();
        assert_eq!(nodes, [1, 3]);
        assert_eq!(Paths::default().cycles(&graph, 1)[0].len(), 3);
    }

    #[test]
    fn nodes_that_do_not_count_are_no_detour() {
        let graph = graph(
            6,
            &[
                (0, 1, 1),
                (1, 5, 1),
                (0, 2, 1),
                (2, 3, 1),
                (3, 4, 1),
                (4, 5, 1),
            ],
        );
        let limits = |counts| Limits {
            mask: 1,
            within: &|_| true,
            counts,
            length_max: u32::MAX,
        };
        let mut paths = Paths::default();
        let mut length = |counts| {
            let path = paths.shortest(&graph, 0, 5, &limits(counts), &mut 100);
            path.unwrap().len()
        };
        assert_eq!(length(&|_| true), 2);
        assert_eq!(length(&|node| node < 2 || node == 5), 4);
    }

    #[test]
    fn a_chain_of_a_million_nodes_needs_no_deep_stack() {
        let nodes = 1_000_000;
        let mut edges: Vec<(u32, u32, Mask)> = (1..nodes).map(|to| (to - 1, to, 1)).collect();
        assert_eq!(
            graph(nodes as usize, &edges).components(1).cyclic().len(),
            0
        );
        edges.push((nodes - 1, 0, 1));
        assert_eq!(
            graph(nodes as usize, &edges).components(1).cyclic()[0].len(),
            nodes as usize
        );
    }
}
