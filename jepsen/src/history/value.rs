//! A value in a history: whatever EDN or JSON can say, compared by what it says.
//!
//! A list and a vector with the same elements are equal, as they are in Clojure, and so are sets and maps whatever their
//! order. Numbers that fit into no `i64` keep their text.

use std::fmt;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Value {
    #[default]
    Nil,
    Bool(bool),
    Int(i64),
    /// The bits of a float: two are equal when they are the same number.
    Float(u64),
    Text(Box<str>),
    /// Without the colon.
    Keyword(Box<str>),
    /// A symbol, or a number that only its text holds.
    Symbol(Box<str>),
    Char(char),
    /// A list or a vector.
    List(Vec<Value>),
    /// Sorted, each once.
    Set(Vec<Value>),
    /// Sorted by key.
    Map(Vec<(Value, Value)>),
    Tagged(Box<(String, Value)>),
}

impl Value {
    pub fn set(mut elements: Vec<Value>) -> Value {
        elements.sort();
        elements.dedup();
        Value::Set(elements)
    }

    pub fn map(mut pairs: Vec<(Value, Value)>) -> Value {
        pairs.sort();
        Value::Map(pairs)
    }

    pub fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    pub fn is_nil(&self) -> bool {
        *self == Value::Nil
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements of a list, of a set, or of what a tag is about.
    pub fn elements(&self) -> Option<&[Value]> {
        match self {
            Value::List(elements) | Value::Set(elements) => Some(elements),
            Value::Tagged(tagged) => tagged.1.elements(),
            _ => None,
        }
    }

    /// A pair, in whatever brackets.
    pub fn pair(&self) -> Option<(&Value, &Value)> {
        match self.elements()? {
            [first, second] => Some((first, second)),
            _ => None,
        }
    }

    /// The name that a keyword, a symbol or a string gives.
    pub fn name(&self) -> Option<&str> {
        match self {
            Value::Keyword(name) | Value::Symbol(name) | Value::Text(name) => Some(name),
            _ => None,
        }
    }

    /// What a map has under the keyword or the string.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Value::Map(pairs) = self else {
            return None;
        };
        let found = pairs
            .iter()
            .find(|(key, _)| !matches!(key, Value::Symbol(_)) && key.name() == Some(name));
        found.map(|(_, value)| value)
    }

    /// Bytes that it takes, roughly.
    pub fn size(&self) -> usize {
        let own = size_of::<Value>();
        own + match self {
            Value::Text(text) | Value::Keyword(text) | Value::Symbol(text) => text.len(),
            Value::List(elements) | Value::Set(elements) => elements.iter().map(Value::size).sum(),
            Value::Map(pairs) => pairs.iter().map(|(k, v)| k.size() + v.size()).sum(),
            Value::Tagged(tagged) => tagged.0.len() + tagged.1.size(),
            _ => 0,
        }
    }
}

/// As EDN.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil => f.write_str("nil"),
            Value::Bool(yes) => write!(f, "{yes}"),
            Value::Int(number) => write!(f, "{number}"),
            Value::Float(bits) => float(f64::from_bits(*bits), f),
            Value::Text(text) => quoted(text, f),
            Value::Keyword(name) => write!(f, ":{name}"),
            Value::Symbol(name) => f.write_str(name),
            Value::Char(c) => character(*c, f),
            Value::List(elements) => between("[", elements, "]", f),
            Value::Set(elements) => between("#{", elements, "}", f),
            Value::Map(pairs) => {
                f.write_str("{")?;
                for (index, (key, value)) in pairs.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{key} {value}")?;
                }
                f.write_str("}")
            }
            Value::Tagged(tagged) => write!(f, "#{} {}", tagged.0, tagged.1),
        }
    }
}

fn float(number: f64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if number.is_finite() {
        write!(f, "{number:?}")
    } else if number.is_nan() {
        f.write_str("##NaN")
    } else {
        f.write_str(if number > 0.0 { "##Inf" } else { "##-Inf" })
    }
}

fn character(c: char, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match c {
        '\n' => f.write_str("\\newline"),
        '\r' => f.write_str("\\return"),
        '\t' => f.write_str("\\tab"),
        ' ' => f.write_str("\\space"),
        c => write!(f, "\\{c}"),
    }
}

fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

fn between(open: &str, elements: &[Value], close: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(open)?;
    for (index, element) in elements.iter().enumerate() {
        let space = if index > 0 { " " } else { "" };
        write!(f, "{space}{element}")?;
    }
    f.write_str(close)
}
