//! Operations: an invocation and what came of it.
//!
//! The order of the lines is the order in time. What never ended, or ended with `info`, is unknown: it may take effect at
//! any time after its invocation, once or never. What failed did not take effect.

use super::event::{Event, Type, Unusable};
use super::value::Value;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Where an operation of unknown outcome ends.
pub const NEVER: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Ok,
    Failed,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub process: i64,
    /// Index into [`Operations::names`].
    pub f: u16,
    pub outcome: Outcome,
    /// Its place among the events.
    pub invoked: u32,
    /// The place of its end; [`NEVER`] unless it is known that it took effect.
    pub ended: u32,
    pub key: Option<Value>,
    /// What was asked for.
    pub asked: Value,
    /// What was answered; nil unless `Ok` (an `info` line may tell something, and that binds nothing).
    pub answered: Value,
    pub line: u64,
    /// 0: it never ended.
    pub end_line: u64,
    pub time_ns: Option<i64>,
    pub end_time_ns: Option<i64>,
}

/// All operations of a history, by invocation.
#[derive(Default, Debug)]
pub struct Operations {
    pub all: Vec<Operation>,
    /// Functions.
    pub names: Vec<Arc<str>>,
    /// How many events there were.
    pub events: u32,
}

impl Operations {
    pub fn collect(
        events: impl Iterator<Item = Result<Event, Unusable>>,
    ) -> Result<Operations, Unusable> {
        let mut operations = Operations::default();
        let mut open: FxHashMap<i64, usize> = FxHashMap::default();
        for event in events {
            operations.add(event?, &mut open)?;
        }
        Ok(operations)
    }

    pub fn name(&self, operation: &Operation) -> &str {
        &self.names[operation.f as usize]
    }

    fn add(&mut self, event: Event, open: &mut FxHashMap<i64, usize>) -> Result<(), Unusable> {
        let at = self.events;
        if at == NEVER - 1 {
            return Err(Unusable::at(event.line, "more than 4,294,967,294 events"));
        }
        self.events += 1;
        let f = self.number_of(&event)?;
        let process = event.process;
        if event.kind == Type::Invoke {
            if let Some(earlier) = open.insert(process, self.all.len()) {
                let what = format!(
                    "process {process} invokes an operation while that of line {} is open",
                    self.all[earlier].line
                );
                return Err(Unusable::at(event.line, what));
            }
            self.all.push(Operation {
                process,
                f,
                outcome: Outcome::Unknown,
                invoked: at,
                ended: NEVER,
                key: event.key,
                asked: event.value,
                answered: Value::Nil,
                line: event.line,
                end_line: 0,
                time_ns: event.time_ns,
                end_time_ns: None,
            });
            return Ok(());
        }
        let Some(index) = open.remove(&process) else {
            // Jepsen writes `info` lines for what its harness does in a client's name.
            if event.kind == Type::Info {
                return Ok(());
            }
            let what = format!("process {process} ends an operation that it did not invoke");
            return Err(Unusable::at(event.line, what));
        };
        let operation = &mut self.all[index];
        if operation.f != f {
            let what = format!(
                "process {process} ends a {} where line {} invoked a {}",
                event.f, operation.line, self.names[operation.f as usize]
            );
            return Err(Unusable::at(event.line, what));
        }
        if operation.key.is_some() && event.key.is_some() && operation.key != event.key {
            let what = format!("another key than line {} names", operation.line);
            return Err(Unusable::at(event.line, what));
        }
        operation.end_line = event.line;
        operation.end_time_ns = event.time_ns;
        match event.kind {
            Type::Ok => {
                operation.outcome = Outcome::Ok;
                operation.ended = at;
                operation.answered = event.value;
            }
            Type::Fail => operation.outcome = Outcome::Failed,
            Type::Info | Type::Invoke => {}
        }
        Ok(())
    }

    fn number_of(&mut self, event: &Event) -> Result<u16, Unusable> {
        if let Some(found) = self.names.iter().position(|name| *name == event.f) {
            return Ok(found as u16);
        }
        if self.names.len() >= 1_000 {
            return Err(Unusable::at(
                event.line,
                "more than 1,000 different functions",
            ));
        }
        self.names.push(event.f.clone());
        Ok((self.names.len() - 1) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::{Format, read_from};
    use super::*;
    use std::io::Cursor;

    fn operations(text: &'static str) -> Result<Operations, Unusable> {
        Operations::collect(read_from(Cursor::new(text), Some(Format::Edn)).unwrap().1)
    }

    #[test]
    fn ends_belong_to_the_open_invocation_of_their_process() {
        let read = operations(
            "{:process 0 :type :invoke :f :write :value 1}
             {:process 1 :type :invoke :f :read :value nil}
             {:process 1 :type :ok :f :read :value 1}
             {:process 0 :type :info :f :write :value :timed-out}
             {:process 2 :type :info :f :log :value 1}
             {:process 1 :type :invoke :f :write :value 2}
             {:process 1 :type :fail :f :write :value 2}
             {:process 3 :type :invoke :f :read}",
        )
        .unwrap();
        let outcomes: Vec<Outcome> = read.all.iter().map(|o| o.outcome).collect();
        let unknown = Outcome::Unknown;
        assert_eq!(outcomes, [unknown, Outcome::Ok, Outcome::Failed, unknown]);
        assert_eq!((read.all[1].invoked, read.all[1].ended), (1, 2));
        assert_eq!((read.all[0].ended, read.all[0].end_line), (NEVER, 4));
    }

    #[test]
    fn an_order_that_no_process_can_have_is_refused_with_its_line() {
        for (text, line) in [
            ("{:process 0 :type :ok :f :read}", 1),
            (
                "{:process 0 :type :invoke :f :read}\n{:process 0 :type :invoke :f :read}",
                2,
            ),
            (
                "{:process 0 :type :invoke :f :read}\n{:process 0 :type :ok :f :write}",
                2,
            ),
        ] {
            assert_eq!(operations(text).unwrap_err().line, line);
        }
    }
}
