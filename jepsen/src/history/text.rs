//! Bytes of an input one after the other, with the line they stand in. Inputs are read as streams, however long they are.

use super::event::Unusable;
use std::io::Read;

const CHUNK: usize = 1 << 16;

pub struct Text<R> {
    input: R,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    line: u64,
}

impl<R: Read> Text<R> {
    pub fn new(input: R) -> Text<R> {
        Text {
            input,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            at: 0,
            end: 0,
            line: 1,
        }
    }

    /// That of the next byte, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    pub fn wrong<T>(&self, what: impl Into<String>) -> Result<T, Unusable> {
        Err(Unusable::at(self.line, what))
    }

    /// `None` at the end of the input.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<u8>, Unusable> {
        if self.at == self.end {
            return self.refill();
        }
        Ok(Some(self.buffer[self.at]))
    }

    #[cold]
    fn refill(&mut self) -> Result<Option<u8>, Unusable> {
        loop {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    (self.at, self.end) = (0, read);
                    return Ok(Some(self.buffer[0]));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return self.wrong(format!("cannot be read: {error}")),
            }
        }
    }

    /// Goes past the byte that was peeked.
    #[inline]
    pub fn skip(&mut self) {
        if self.buffer[self.at] == b'\n' {
            self.line += 1;
        }
        self.at += 1;
    }

    /// The byte after the one that was peeked.
    pub fn second(&mut self) -> Result<Option<u8>, Unusable> {
        if self.at + 1 == self.end {
            let first = self.buffer[self.at];
            self.at = self.end;
            // What comes next is read behind it.
            let read = match self.input.read(&mut self.buffer[1..]) {
                Ok(read) => read,
                Err(error) => return self.wrong(format!("cannot be read: {error}")),
            };
            self.buffer[0] = first;
            (self.at, self.end) = (0, read + 1);
        }
        Ok(self.buffer[self.at..self.end].get(1).copied())
    }

    #[inline]
    pub fn take(&mut self) -> Result<Option<u8>, Unusable> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.skip();
        }
        Ok(byte)
    }

    /// Appends what comes until a byte for which `stop` holds, or the end.
    #[inline]
    pub fn take_until(
        &mut self,
        stop: impl Fn(u8) -> bool,
        into: &mut Vec<u8>,
        most: usize,
    ) -> Result<(), Unusable> {
        while self.peek()?.is_some() {
            let ready = &self.buffer[self.at..self.end];
            let length = ready.iter().position(|byte| stop(*byte));
            let taken = &ready[..length.unwrap_or(ready.len())];
            if into.len() + taken.len() > most {
                return self.wrong(format!("a text of more than {most} bytes"));
            }
            into.extend_from_slice(taken);
            self.line += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.at += taken.len();
            if length.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }
}
