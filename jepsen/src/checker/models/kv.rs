//! Strings by key with get, put and append, each key `""` at first (the model of porcupine's kv tests).
//!
//! A state is a chain of the pieces that it was put together from. What a get answered tells which chains can still lead
//! to it: only the beginnings of that text, unless a put is to come.

use super::{Numbers, calls_of, happened, keyed, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{NEVER, Operations, Unusable, Value};
use rustc_hash::FxHashMap;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Get(u32),
    Put(u32),
    Append(u32),
}

/// A text that is put together: what it was before, and the piece at its end.
struct Node {
    /// [`NEVER`]: nothing.
    before: u32,
    piece: u32,
    length: usize,
}

pub struct Kv {
    classes: Vec<Kind>,
    texts: Vec<Arc<str>>,
    nodes: Vec<Node>,
    by_parts: FxHashMap<(u32, u32), u32>,
    /// By (node, text): whether the text begins with what the node is.
    begins: FxHashMap<(u32, u32), bool>,
    grown: usize,
}

/// All operations of the part are of one key.
pub fn kv(operations: &Operations, part: &[u32]) -> Result<(Kv, Vec<Call>), Unusable> {
    let mut numbers: Numbers<Arc<str>> = Numbers::default();
    let mut texts = Vec::new();
    let mut number = |value: &Value, line: u64| {
        let Value::Text(text) = value else {
            return Err(Unusable::at(line, format!("'{value}' is no string")));
        };
        let text: Arc<str> = Arc::from(&**text);
        let number = numbers.of(text.clone());
        if number as usize == texts.len() {
            texts.push(text);
        }
        Ok(number)
    };
    number(&Value::text(""), 0)?;
    let calls = calls_of(operations, part, |name, operation| {
        let (_, asked, answered) = keyed(operation)?;
        let (line, end_line) = (operation.line, operation.end_line);
        match name {
            "get" if !happened(operation) => Ok(None),
            "get" => Ok(Some(Kind::Get(number(&answered, end_line)?))),
            "put" => Ok(Some(Kind::Put(number(&asked, line)?))),
            "append" => Ok(Some(Kind::Append(number(&asked, line)?))),
            _ => Err(unknown_function(name, operation, "get, put, append")),
        }
    })?;
    let mut kv = Kv {
        classes: calls.classes,
        texts,
        nodes: Vec::new(),
        by_parts: FxHashMap::default(),
        begins: FxHashMap::default(),
        grown: 0,
    };
    kv.node(NEVER, 0);
    Ok((kv, calls.calls))
}

impl Kv {
    fn node(&mut self, before: u32, piece: u32) -> u32 {
        if let Some(node) = self.by_parts.get(&(before, piece)) {
            return *node;
        }
        let own = self.texts[piece as usize].len();
        let length = own
            + self
                .nodes
                .get(before as usize)
                .map_or(0, |node| node.length);
        let number = self.nodes.len() as u32;
        self.nodes.push(Node {
            before,
            piece,
            length,
        });
        self.by_parts.insert((before, piece), number);
        self.grown += size_of::<Node>() + 2 * size_of::<((u32, u32), u32)>();
        number
    }

    /// Whether the text begins with what the node is. Walks back to an ancestor for which that is known.
    fn begins_with(&mut self, text: u32, node: u32) -> bool {
        let whole = self.texts[text as usize].clone();
        let whole = whole.as_bytes();
        let (mut at, mut walked) = (node, Vec::new());
        let yes = loop {
            if at == NEVER {
                break true;
            }
            if let Some(known) = self.begins.get(&(at, text)) {
                break *known;
            }
            walked.push(at);
            let Node {
                before,
                piece,
                length,
            } = self.nodes[at as usize];
            let piece = self.texts[piece as usize].as_bytes();
            if length > whole.len() || whole[length - piece.len()..length] != *piece {
                break false;
            }
            at = before;
        };
        // What is a beginning has only beginnings before it; what is none tells of the node that was asked for alone.
        let known = if yes {
            &walked[..]
        } else {
            &walked[..walked.len().min(1)]
        };
        for node in known {
            self.begins.insert((*node, text), yes);
        }
        self.grown += known.len() * 2 * size_of::<((u32, u32), bool)>();
        yes
    }
}

impl Model for Kv {
    fn start(&self) -> State {
        0
    }

    fn step(&mut self, state: State, class: Class) -> Option<State> {
        match self.classes[class as usize] {
            Kind::Get(text) => {
                let long = self.nodes[state as usize].length == self.texts[text as usize].len();
                (long && self.begins_with(text, state)).then_some(state)
            }
            Kind::Put(piece) => Some(self.node(NEVER, piece)),
            Kind::Append(piece) => Some(self.node(state, piece)),
        }
    }

    fn reads(&self, class: Class) -> bool {
        matches!(self.classes[class as usize], Kind::Get(_))
    }

    fn left_for_certain(&mut self, class: Class) -> Option<State> {
        match self.classes[class as usize] {
            Kind::Get(text) | Kind::Put(text) => Some(self.node(NEVER, text)),
            Kind::Append(_) => None,
        }
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn leads_to(&mut self, state: State, read: Class) -> bool {
        match self.classes[read as usize] {
            Kind::Get(text) => self.begins_with(text, state),
            _ => true,
        }
    }

    fn resets(&self, class: Class) -> bool {
        matches!(self.classes[class as usize], Kind::Put(_))
    }

    fn grown(&mut self) -> usize {
        std::mem::take(&mut self.grown)
    }
}
