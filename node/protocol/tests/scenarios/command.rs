//! The words of a command: names of copies, options, requests. Whatever is not understood is refused with a sentence.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::str::FromStr;
use understudy_proto::{ClientId, NamespaceId, NodeId, Pair, RequestId, Sequence};
use understudy_protocol::conflict::conflict_key;
use understudy_protocol::request::{Op, Precondition, Request};

pub type Parsed<T> = Result<T, String>;

/// The words after a command's name: those that stand alone, and the options `name=value`.
pub struct Words<'a> {
    alone: std::vec::IntoIter<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub fn new(text: &'a str) -> Words<'a> {
        let mut alone = Vec::new();
        let mut options = BTreeMap::new();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(options.insert(name, value)),
                None => alone.push(word),
            }
        }
        Words {
            alone: alone.into_iter(),
            options,
        }
    }

    pub fn next(&mut self, what: &str) -> Parsed<&'a str> {
        self.alone
            .next()
            .ok_or_else(|| format!("{what} is missing"))
    }

    pub fn next_node(&mut self) -> Parsed<NodeId> {
        node(self.next("a copy, such as n1,")?)
    }

    pub fn all_nodes(&mut self) -> Parsed<Vec<NodeId>> {
        self.alone.by_ref().map(node).collect()
    }

    pub fn next_number(&mut self) -> Parsed<Option<usize>> {
        self.alone.next().map(number).transpose()
    }

    pub fn option(&mut self, name: &str) -> Option<&'a str> {
        self.options.remove(name)
    }

    pub fn number_option<T: FromStr>(&mut self, name: &str) -> Parsed<Option<T>> {
        self.option(name).map(number).transpose()
    }

    pub fn pairs_option(&mut self, name: &str) -> Parsed<Vec<Pair>> {
        let listed = self.option(name).unwrap_or_default();
        listed
            .split(',')
            .filter(|part| !part.is_empty())
            .map(pair)
            .collect()
    }

    pub fn nodes_option(&mut self, name: &str) -> Parsed<Vec<NodeId>> {
        let listed = self.option(name).unwrap_or_default();
        listed
            .split(',')
            .filter(|part| !part.is_empty())
            .map(node)
            .collect()
    }

    /// Nothing is left over.
    pub fn finish(mut self) -> Parsed<()> {
        match (self.alone.next(), self.options.pop_first()) {
            (None, None) => Ok(()),
            (Some(word), _) => Err(format!("'{word}' is not understood here")),
            (None, Some((name, _))) => Err(format!("the option '{name}=' is not understood here")),
        }
    }
}

/// `n3`.
pub fn node(text: &str) -> Parsed<NodeId> {
    let digits = text
        .strip_prefix('n')
        .and_then(|digits| digits.parse().ok());
    digits
        .map(NodeId)
        .ok_or_else(|| format!("'{text}' is no copy, such as n1"))
}

/// `n1->n2`.
pub fn link(text: &str) -> Parsed<(NodeId, NodeId)> {
    let (from, to) = text
        .split_once("->")
        .ok_or_else(|| format!("'{text}' is no link, such as n1->n2"))?;
    Ok((node(from)?, node(to)?))
}

pub fn number<T: FromStr>(text: &str) -> Parsed<T> {
    text.parse().map_err(|_| format!("'{text}' is no number"))
}

pub fn pair(text: &str) -> Parsed<Pair> {
    text.parse()
        .map_err(|error| format!("{error}, such as 1.2"))
}

/// `c1:5`: the fifth request of client 1.
fn request_id(text: &str) -> Parsed<RequestId> {
    let wrong = || format!("'{text}' is no request id, such as c1:5");
    let (client, sequence) = text
        .strip_prefix('c')
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(wrong)?;
    Ok(RequestId {
        client: ClientId(client.parse().map_err(|_| wrong())?),
        sequence: Sequence(sequence.parse().map_err(|_| wrong())?),
    })
}

/// A write as it stands in the file: `n1 c1:5 copies=1 if x absent; put x a`.
pub struct Write {
    pub node: NodeId,
    pub request: Request,
    pub copies: u32,
    pub within_ms: u64,
}

pub fn write(text: &str) -> Parsed<Write> {
    // Options stand before the content, in which everything may stand.
    let head: Vec<&str> = text
        .split_inclusive(' ')
        .enumerate()
        .take_while(|(at, word)| *at < 2 || word.contains('='))
        .map(|(_, word)| word)
        .collect();
    let length: usize = head.iter().map(|word| word.len()).sum();
    let mut words = Words::new(&text[..length]);
    let node = words.next_node()?;
    let id = request_id(words.next("a request id, such as c1:5,")?)?;
    let copies = words.number_option("copies")?.unwrap_or(0);
    let within_ms = words.number_option("within")?.unwrap_or(10_000);
    let answered = words.number_option("answered")?.unwrap_or(0);
    words.finish()?;
    let (mut ops, mut preconditions) = (Vec::new(), Vec::new());
    for clause in text[length..].split(';') {
        let words: Vec<&str> = clause.split_whitespace().collect();
        match words.split_first() {
            Some((&"if", condition)) => preconditions.push(precondition(condition)?),
            _ => ops.push(op(&words)?),
        }
    }
    let request = Request::new(id, NamespaceId(1), ops, preconditions, Sequence(answered));
    Ok(Write {
        node,
        request,
        copies,
        within_ms,
    })
}

fn op(words: &[&str]) -> Parsed<Op> {
    let plain = Bytes::new();
    Ok(match *words {
        ["put", key, value] => Op::Put {
            key: bytes(key),
            value: value_of(value)?,
        },
        ["delete", key] => Op::Delete { key: bytes(key) },
        ["set", key, name, value] => Op::SetComponent {
            key: bytes(key),
            name: bytes(name),
            value: value_of(value)?,
        },
        ["remove", key, name] => Op::RemoveComponent {
            key: bytes(key),
            name: bytes(name),
        },
        ["add", key, delta] => Op::Add {
            key: bytes(key),
            name: plain,
            delta: number(delta)?,
        },
        ["append", key, data] => Op::Append {
            key: bytes(key),
            name: plain,
            data: value_of(data)?,
        },
        ["get", key] => Op::Get { key: bytes(key) },
        ["resolve", conflict] => Op::Delete {
            key: conflict_of(conflict)?,
        },
        _ => return Err(format!("'{}' is no operation", words.join(" "))),
    })
}

fn precondition(words: &[&str]) -> Parsed<Precondition> {
    Ok(match *words {
        [key, "absent"] => Precondition::Absent {
            key: bytes(key),
            absent: true,
        },
        [key, "present"] => Precondition::Absent {
            key: bytes(key),
            absent: false,
        },
        ["conflict", conflict, "at", at] => Precondition::LastPair {
            key: conflict_of(conflict)?,
            pair: pair(at)?,
        },
        [key, "at", at] => Precondition::LastPair {
            key: bytes(key),
            pair: pair(at)?,
        },
        [key, "is", value] => Precondition::ComponentValue {
            key: bytes(key),
            name: Bytes::new(),
            value: understudy_protocol::object::Value::Data(value_of(value)?),
        },
        _ => return Err(format!("'if {}' is no condition", words.join(" "))),
    })
}

/// `c1:2@1.3`: the key of the conflict about the request whose record 1.3 was cut off.
fn conflict_of(text: &str) -> Parsed<Bytes> {
    let wrong = || format!("'{text}' is no conflict, such as c1:2@1.3");
    let (id, cut_off) = text.split_once('@').ok_or_else(wrong)?;
    Ok(conflict_key(request_id(id)?, pair(cut_off)?))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The text itself; `a*300000` is that many times the letter.
fn value_of(text: &str) -> Parsed<Bytes> {
    match text.split_once('*') {
        Some((letter, times)) if letter.len() == 1 => {
            Ok(Bytes::from(letter.repeat(number(times)?)))
        }
        _ => Ok(bytes(text)),
    }
}
