//! A set that is empty at first: `add` of an element, `read` of all of them.

use super::{Numbers, Selected, argument, calls_of, happened, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{Operations, Unusable, Value};
use rustc_hash::FxHashMap;
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Add(u32),
    /// Sorted.
    Read(Arc<[u32]>),
}

/// A state is a tree of bits, each part of it kept once: equal sets are the same number, and a set shares with the one that
/// it grew from all but the way to the new element.
pub struct Set {
    classes: Vec<Kind>,
    /// Levels of inner nodes above the leaves.
    levels: u32,
    /// The number 0 is for nothing, on every level.
    nodes: Vec<Node>,
    by_content: FxHashMap<Node, u32>,
    /// By pair of nodes: whether the first is a subset of the second.
    within: FxHashMap<(u32, u32), bool>,
    /// By class, for reads: the tree of what was seen; [`NOT_A_SET`] if that cannot be.
    seen: Vec<State>,
    grown: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Node {
    Leaf(u64),
    Inner([u32; CHILDREN]),
}

const CHILDREN: usize = 16;
/// Bits of an element's number that a leaf and an inner node tell apart.
const LEAF_BITS: u32 = 6;
const INNER_BITS: u32 = 4;
const EMPTY: State = 0;
const NOT_A_SET: State = State::MAX - 1;

pub fn set(operations: &Operations, part: &[Selected]) -> Result<(Set, Vec<Call>), Unusable> {
    let mut elements: Numbers<Value> = Numbers::default();
    let calls = calls_of(operations, part, |name, operation| match name {
        "read" if !happened(operation) => Ok(None),
        "read" => {
            let Some(seen) = operation.answered.elements() else {
                let what = format!("'{}' is no set or list", operation.answered);
                return Err(Unusable::at(operation.end_line, what));
            };
            let mut seen: Vec<u32> = seen.iter().map(|e| elements.of(e.clone())).collect();
            seen.sort_unstable();
            Ok(Some(Kind::Read(seen.into())))
        }
        "add" => Ok(Some(Kind::Add(elements.of(argument(operation)?.clone())))),
        _ => Err(unknown_function(name, operation, "add, read")),
    })?;
    let mut levels = 0;
    while elements.len() as u64 > 1 << (LEAF_BITS + levels * INNER_BITS) {
        levels += 1;
    }
    let mut set = Set {
        classes: calls.classes,
        levels,
        nodes: vec![Node::Leaf(0)],
        by_content: FxHashMap::default(),
        within: FxHashMap::default(),
        seen: Vec::new(),
        grown: 0,
    };
    set.seen = (0..set.classes.len())
        .map(|class| set.tree_of(class))
        .collect();
    Ok((set, calls.calls))
}

impl Set {
    fn tree_of(&mut self, class: usize) -> State {
        let Kind::Read(seen) = self.classes[class].clone() else {
            return NOT_A_SET;
        };
        // No set shows an element twice.
        if seen.windows(2).any(|two| two[0] == two[1]) {
            return NOT_A_SET;
        }
        seen.iter().fold(EMPTY, |tree, element| {
            self.with(tree, self.levels, *element)
        })
    }

    /// The tree with one element more.
    fn with(&mut self, node: u32, level: u32, element: u32) -> u32 {
        let content = match (level, self.nodes[node as usize]) {
            (0, Node::Leaf(bits)) => Node::Leaf(bits | 1 << (element % (1 << LEAF_BITS))),
            (_, inner) => {
                let mut children = match inner {
                    Node::Inner(children) => children,
                    // Nothing, on any level.
                    Node::Leaf(_) => [EMPTY; CHILDREN],
                };
                let shift = LEAF_BITS + (level - 1) * INNER_BITS;
                let at = (element >> shift) as usize % CHILDREN;
                children[at] = self.with(children[at], level - 1, element);
                Node::Inner(children)
            }
        };
        if let Some(number) = self.by_content.get(&content) {
            return *number;
        }
        let number = self.nodes.len() as u32;
        self.nodes.push(content);
        self.by_content.insert(content, number);
        self.grown += 3 * size_of::<Node>() + size_of::<u32>();
        number
    }

    fn is_within(&mut self, less: u32, more: u32) -> bool {
        if less == more || less == EMPTY {
            return true;
        }
        if more == EMPTY {
            return false;
        }
        if let Some(known) = self.within.get(&(less, more)) {
            return *known;
        }
        let yes = match (self.nodes[less as usize], self.nodes[more as usize]) {
            (Node::Leaf(less), Node::Leaf(more)) => less & !more == 0,
            (Node::Inner(less), Node::Inner(more)) => {
                (0..CHILDREN).all(|child| self.is_within(less[child], more[child]))
            }
            _ => unreachable!("both are of one level"),
        };
        self.within.insert((less, more), yes);
        self.grown += 2 * size_of::<((u32, u32), bool)>();
        yes
    }
}

impl Model for Set {
    fn start(&self) -> State {
        EMPTY
    }

    fn step(&mut self, state: State, class: Class) -> Option<State> {
        match self.classes[class as usize] {
            Kind::Read(_) => (self.seen[class as usize] == state).then_some(state),
            Kind::Add(element) => Some(self.with(state, self.levels, element)),
        }
    }

    fn reads(&self, class: Class) -> bool {
        matches!(self.classes[class as usize], Kind::Read(_))
    }

    fn left_for_certain(&mut self, class: Class) -> Option<State> {
        Some(self.seen[class as usize]).filter(|seen| *seen != NOT_A_SET)
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    /// Nothing is ever removed.
    fn leads_to(&mut self, state: State, read: Class) -> bool {
        match self.seen[read as usize] {
            NOT_A_SET => false,
            seen => self.is_within(state, seen),
        }
    }

    fn grown(&mut self) -> usize {
        std::mem::take(&mut self.grown)
    }
}
