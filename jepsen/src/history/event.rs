//! One line of a history, in whatever format it was written: who did what, and whether it began or how it ended.

use super::value::Value;
use std::fmt;
use std::sync::Arc;

/// What a line says about its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Invoke,
    /// It took effect, with the result shown.
    Ok,
    /// It did not take effect and never will.
    Fail,
    /// Whether it took or will take effect is open.
    Info,
}

impl Type {
    pub fn parse(name: &str) -> Option<Type> {
        match name {
            "invoke" => Some(Type::Invoke),
            "ok" => Some(Type::Ok),
            "fail" => Some(Type::Fail),
            "info" => Some(Type::Info),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Type::Invoke => "invoke",
            Type::Ok => "ok",
            Type::Fail => "fail",
            Type::Info => "info",
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub process: i64,
    pub kind: Type,
    /// The function: `read`, `write`, `cas`, …
    pub f: Arc<str>,
    /// The key, where the format has a field for it.
    pub key: Option<Value>,
    pub value: Value,
    /// Nanoseconds since the start, where the history tells.
    pub time_ns: Option<i64>,
    /// Of the file, from 1.
    pub line: u64,
}

/// Why an input cannot be judged, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unusable {
    /// 0 when no line is at fault.
    pub line: u64,
    pub what: String,
}

impl Unusable {
    pub fn at(line: u64, what: impl Into<String>) -> Unusable {
        let what = what.into();
        Unusable { line, what }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}: {}", self.what),
        }
    }
}

impl std::error::Error for Unusable {}
