//! What happened, line by line: always hashed, kept as text only when somebody wants to read it.
//!
//! The hash of a run stands for all its lines: the same seed must give the same one.

use std::collections::VecDeque;
use std::fmt::{Arguments, Write};

/// What becomes of the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    Nothing,
    /// The newest ones, to show what led to a failure.
    Last(usize),
    /// All, printed as they come.
    Print,
}

#[derive(Debug)]
pub struct Trace {
    keep: Keep,
    hash: u64,
    buffer: String,
    last: VecDeque<String>,
}

// FNV-1a, 64 bits: enough to tell two traces apart, and the same on every machine.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    pub fn new(keep: Keep) -> Trace {
        Trace {
            keep,
            hash: OFFSET,
            buffer: String::new(),
            last: VecDeque::new(),
        }
    }

    /// One line at a time in microseconds.
    pub fn line(&mut self, now_us: u64, line: Arguments<'_>) {
        self.buffer.clear();
        let (ms, us) = (now_us / 1_000, now_us % 1_000);
        let _ = write!(self.buffer, "{ms:>6}.{us:03} {line}");
        for byte in self.buffer.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        match self.keep {
            Keep::Nothing => {}
            Keep::Print => println!("{}", self.buffer),
            Keep::Last(count) => {
                if self.last.len() >= count {
                    self.last.pop_front();
                }
                self.last.push_back(self.buffer.clone());
            }
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
