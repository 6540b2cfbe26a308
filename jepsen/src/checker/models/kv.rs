//! Strings by key with get, put and append, each key `""` at first (the model of porcupine's kv tests).
//!
//! Mostly no text that is written begins with another, and nearly every one is written once. Then what a get answered can be
//! taken apart in one way only, and tells for each piece what stood before it: a key is a register of plain values, an
//! append a compare-and-set from what stood before to what stands then.
//!
//! Otherwise a state is a chain of the pieces that it was put together from. What a get answered tells which chains can
//! still lead to it: only the beginnings of that text, unless a put is to come.

use super::register::{Register, Swap};
use super::{Calls, Numbers, Selected, calls_of, happened, keyed, unknown_function};
use crate::checker::linearizable::{Call, Class, Model, State};
use crate::history::{NEVER, Operations, Unusable, Value};
use rustc_hash::{FxHashMap, FxHashSet};
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

/// The operations of one key, made ready.
pub enum Kv {
    Register(Register, Vec<Call>),
    Texts(Texts, Vec<Call>),
}

pub struct Texts {
    classes: Vec<Kind>,
    texts: Vec<Arc<str>>,
    nodes: Vec<Node>,
    by_parts: FxHashMap<(u32, u32), u32>,
    /// By (node, text): whether the text begins with what the node is.
    begins: FxHashMap<(u32, u32), bool>,
    grown: usize,
}

/// All operations of the part are of one key.
pub fn kv(operations: &Operations, part: &[Selected]) -> Result<Kv, Unusable> {
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
    if let Some(register) = taken_apart(&calls, &texts) {
        return Ok(Kv::Register(register, calls.calls));
    }
    let mut kv = Texts {
        classes: calls.classes,
        texts,
        nodes: Vec::new(),
        by_parts: FxHashMap::default(),
        begins: FxHashMap::default(),
        grown: 0,
    };
    kv.node(NEVER, 0);
    Ok(Kv::Texts(kv, calls.calls))
}

/// The state of a key to which nothing was written.
const EMPTY: State = 0;
/// Any that nobody saw, and one in which no key ever is.
const UNSEEN: State = State::MAX - 1;
const IMPOSSIBLE: State = State::MAX - 2;

/// Places that calls can have on average before a key is judged by whole texts instead.
const PLACES_FOR_A_CALL_MAX: usize = 16;

/// The register that the key is when what is read can be taken apart in one way. A state is what somebody saw, down to
/// each piece of it; whatever nobody saw is one state.
fn taken_apart(calls: &Calls<Kind>, texts: &[Arc<str>]) -> Option<Register> {
    let written = Written::of(calls, texts)?;
    let mut seen = Seen::default();
    let mut state_of: FxHashMap<u32, State> = FxHashMap::default();
    let mut gets: Vec<&Call> = calls
        .calls
        .iter()
        .filter(|call| call.ended != NEVER)
        .collect();
    gets.sort_unstable_by_key(|call| call.ended);
    for call in gets {
        if let Kind::Get(text) = calls.classes[call.class as usize]
            && !state_of.contains_key(&text)
        {
            state_of.insert(text, seen.state(&texts[text as usize], &written));
        }
    }
    let mut places = Vec::new();
    // A text that many calls append and that was seen in many places makes a table of all of these for all of those.
    let entries = seen
        .places
        .iter()
        .map(|(text, places)| places.len() * *written.appends.get(text).unwrap_or(&0) as usize);
    if entries.sum::<usize>() > PLACES_FOR_A_CALL_MAX * calls.calls.len() {
        return None;
    }
    let swap = |kind: &Kind| match *kind {
        Kind::Get(text) => Swap::read(*state_of.get(&text).unwrap_or(&IMPOSSIBLE)),
        Kind::Put(text) => Swap::write(*seen.after.get(&(EMPTY, text)).unwrap_or(&UNSEEN)),
        Kind::Append(text) => match seen.places.get(&text).map_or(&[][..], Vec::as_slice) {
            [] => Swap::write(UNSEEN),
            // Only this call can have made what was seen.
            [(before, after)] if written.once(text) => Swap::cas(*before, *after),
            some => {
                places.push(some.to_vec());
                Swap::at_places(places.len() - 1)
            }
        },
    };
    let swaps = calls.classes.iter().map(swap).collect();
    Some(Register::with_places(swaps, places, UNSEEN))
}

/// The texts that were written, none the beginning of another.
struct Written<'a> {
    sorted: Vec<(&'a str, u32)>,
    /// By text: calls that append it, and whether one puts it.
    appends: FxHashMap<u32, u32>,
    puts: FxHashSet<u32>,
}

impl<'a> Written<'a> {
    /// `None`: they are not such.
    fn of(calls: &Calls<Kind>, texts: &'a [Arc<str>]) -> Option<Written<'a>> {
        let mut written = Written {
            sorted: Vec::new(),
            appends: FxHashMap::default(),
            puts: FxHashSet::default(),
        };
        for call in &calls.calls {
            let text = match calls.classes[call.class as usize] {
                Kind::Get(_) => continue,
                Kind::Put(text) => {
                    written.puts.insert(text);
                    text
                }
                Kind::Append(text) => {
                    *written.appends.entry(text).or_default() += 1;
                    text
                }
            };
            written.sorted.push((&*texts[text as usize], text));
        }
        let sorted = &mut written.sorted;
        sorted.sort_unstable();
        sorted.dedup();
        let empty = sorted.first().is_some_and(|(text, _)| text.is_empty());
        let ambiguous = sorted.windows(2).any(|two| two[1].0.starts_with(two[0].0));
        (!empty && !ambiguous).then_some(written)
    }

    /// By one call, which appends it.
    fn once(&self, text: u32) -> bool {
        self.appends.get(&text) == Some(&1) && !self.puts.contains(&text)
    }

    /// The first piece of a text, and the rest.
    fn first<'b>(&self, whole: &'b str) -> Option<(u32, &'b str)> {
        // A piece is not greater than what it begins, and only what it begins lies between them.
        let at = self
            .sorted
            .partition_point(|(text, _)| *text <= whole)
            .checked_sub(1)?;
        let (text, number) = self.sorted[at];
        Some((number, whole.strip_prefix(text)?))
    }
}

/// What was seen, as a tree: states, and the piece that leads from one to the next.
#[derive(Default)]
struct Seen {
    after: FxHashMap<(State, u32), State>,
    /// By text: where it was seen appended.
    places: FxHashMap<u32, Vec<(State, State)>>,
}

impl Seen {
    /// The state in which somebody read this. If it cannot have come about, or not beside what others saw, nobody can have.
    fn state(&mut self, whole: &str, written: &Written<'_>) -> State {
        let (mut state, mut rest) = (EMPTY, whole);
        while !rest.is_empty() {
            let Some((text, after)) = written.first(rest) else {
                return IMPOSSIBLE;
            };
            let appended = written.appends.contains_key(&text);
            if !appended && state != EMPTY {
                return IMPOSSIBLE;
            }
            rest = after;
            if let Some(next) = self.after.get(&(state, text)) {
                state = *next;
                continue;
            }
            let places = self.places.entry(text).or_default();
            if written.once(text) && !places.is_empty() {
                return IMPOSSIBLE;
            }
            let next = self.after.len() as State + 1;
            self.after.insert((state, text), next);
            if appended {
                places.push((state, next));
            }
            state = next;
        }
        state
    }
}

impl Texts {
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

impl Model for Texts {
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
