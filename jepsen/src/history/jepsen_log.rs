//! The log lines of an old Jepsen: `INFO  jepsen.util - 4 :invoke :write 3`, fields apart by tabs or spaces.
//!
//! Lines of other loggers, and of the nemesis, are gone past.

use super::edn::{Edn, TOKEN_BYTES_MAX};
use super::event::{Event, Type, Unusable};
use super::text::Text;
use super::value::Value;
use std::io::Read;
use std::sync::Arc;

/// What stands before the fields of an event.
pub const LOGGER: &str = "jepsen.util";

pub struct JepsenLog<R> {
    text: Text<R>,
    line: Vec<u8>,
}

impl<R: Read> JepsenLog<R> {
    pub fn new(input: R) -> JepsenLog<R> {
        JepsenLog {
            text: Text::new(input),
            line: Vec::new(),
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>, Unusable> {
        while self.text.peek()?.is_some() {
            let number = self.text.line();
            self.line.clear();
            self.text
                .take_until(|byte| byte == b'\n', &mut self.line, TOKEN_BYTES_MAX)?;
            self.text.take()?;
            let Ok(line) = std::str::from_utf8(&self.line) else {
                return Err(Unusable::at(number, "bytes that are no UTF-8"));
            };
            if let Some(event) = event(line, number)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// `None`: no line about an operation of a client.
fn event(line: &str, number: u64) -> Result<Option<Event>, Unusable> {
    let Some((before, fields)) = line.split_once(" - ") else {
        return Ok(None);
    };
    if !before.trim_end().ends_with(LOGGER) {
        return Ok(None);
    }
    let (process, rest) = word(fields);
    let Ok(process) = process.parse() else {
        return Ok(None);
    };
    let (kind, rest) = word(rest);
    let (f, value) = word(rest);
    let Some(kind) = kind.strip_prefix(':') else {
        return Ok(None);
    };
    let Some(kind) = Type::parse(kind) else {
        let what = format!("'{kind}' is none of :invoke, :ok, :fail, :info");
        return Err(Unusable::at(number, what));
    };
    let Some(f) = f.strip_prefix(':') else {
        return Err(Unusable::at(number, "a function like :read is due here"));
    };
    let value = Edn::new(value.as_bytes())
        .next_value()
        .map_err(|unusable| Unusable::at(number, unusable.what))?;
    Ok(Some(Event {
        process,
        kind,
        f: Arc::from(f),
        key: None,
        value: value.unwrap_or(Value::Nil),
        time_ns: None,
        line: number,
    }))
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text.split_at(end)
}

impl<R: Read> Iterator for JepsenLog<R> {
    type Item = Result<Event, Unusable>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tabs_and_spaces_separate_and_other_lines_are_gone_past() {
        let text = "INFO  jepsen.util - 4\t:invoke\t:cas\t[3 0]\n\
                    INFO  jepsen.core - Everything is fine\n\
                    INFO  jepsen.util - :nemesis\t:info\t:start\tnil\n\
                    junk\n\
                    INFO  jepsen.util - 4   :info   :cas   :timed-out\r\n";
        let events: Vec<Event> = JepsenLog::new(text.as_bytes())
            .map(Result::unwrap)
            .collect();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].value.to_string(), "[3 0]");
        assert_eq!((events[1].kind, events[1].line), (Type::Info, 5));
    }

    #[test]
    fn a_broken_line_is_refused() {
        for text in [
            "INFO  jepsen.util - 4\t:begin\t:read\tnil",
            "INFO  jepsen.util - 4\t:invoke\tread\tnil",
            "INFO  jepsen.util - 4\t:invoke\t:read\t[3",
        ] {
            assert_eq!(event(text, 7).unwrap_err().line, 7);
        }
    }
}
