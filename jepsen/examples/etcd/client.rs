//! A client of one etcd member: each operation of a workload becomes one transaction, and its answer an outcome.
//!
//! What may have happened is `info`, what certainly did not is `fail`. Nothing is sent twice, for a write that is asked for again
//! may happen twice.

use crate::wire::{
    Asked, Compare, Expected, KeyValue, Put, Range, Step, TXN, Target, Txn, TxnDone, ask,
};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Status};
use understudy_jepsen::history::Value;
use understudy_jepsen::live::system::{Client, Done, Op};
use understudy_jepsen::live::workload::{ELEMENT_PREFIX, Shape, list_key, register_key};

/// A few elections, so that one is waited for, and a client is not idle for a whole fault.
const OPERATION_LIMIT: Duration = Duration::from_secs(3);

pub struct EtcdClient {
    pub channel: Channel,
    pub shape: Shape,
    /// Reads are answered from what the member has.
    pub serializable: bool,
}

impl Client for EtcdClient {
    fn invoke<'a>(&'a mut self, op: &'a Op) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let done = match (self.shape, op.f) {
                (Shape::Register, "read") => self.read_register(op).await,
                (Shape::Register, "write") => self.write_register(op).await,
                (Shape::Register, "cas") => self.cas(op).await,
                (Shape::Set, "add") => self.add(op).await,
                (Shape::Set, "read") => self.read_set(op).await,
                (Shape::Append, "txn") => self.append(op).await,
                _ => Err(Done::fail(op, "this client has no such function")),
            };
            done.unwrap_or_else(|done| done)
        })
    }
}

/// Both are what came of it; the second one early.
type Outcome = Result<Done, Done>;

impl EtcdClient {
    async fn read_register(&self, op: &Op) -> Outcome {
        let found = self.read(op, vec![only(key_of(op))]).await?;
        let value = found.iter().flatten().next();
        Ok(Done::ok(
            value.map_or(Value::Nil, |found| number(&found.value)),
        ))
    }

    async fn write_register(&self, op: &Op) -> Outcome {
        let step = put(key_of(op), op.value.to_string());
        self.write(op, Vec::new(), vec![step]).await?;
        Ok(Done::ok(op.value.clone()))
    }

    async fn cas(&self, op: &Op) -> Outcome {
        let Some((old, new)) = op.value.pair() else {
            return Err(Done::fail(op, "a cas is a pair"));
        };
        let if_old = match old {
            Value::Nil => unchanged(key_of(op), 0),
            old => Compare {
                target: Target::Value.into(),
                key: key_of(op).into_bytes(),
                expected: Some(Expected::Value(old.to_string().into_bytes())),
            },
        };
        let step = put(key_of(op), new.to_string());
        self.write(op, vec![if_old], vec![step]).await?;
        Ok(Done::ok(op.value.clone()))
    }

    async fn add(&self, op: &Op) -> Outcome {
        let step = put(format!("{ELEMENT_PREFIX}{}", op.value), String::new());
        self.write(op, Vec::new(), vec![step]).await?;
        Ok(Done::ok(op.value.clone()))
    }

    async fn read_set(&self, op: &Op) -> Outcome {
        let range = Range {
            key: ELEMENT_PREFIX.as_bytes().to_vec(),
            end: after_all_with(ELEMENT_PREFIX),
            serializable: self.serializable,
        };
        let found = self.read(op, vec![range]).await?;
        let elements = found.iter().flatten();
        let elements = elements.map(|found| number(&found.key[ELEMENT_PREFIX.len()..]));
        Ok(Done::ok(Value::List(elements.collect())))
    }

    /// etcd cannot append: the lists are read, and written on condition that nobody else wrote them meanwhile.
    async fn append(&self, op: &Op) -> Outcome {
        let steps = op.value.elements().unwrap_or_default();
        let steps: Option<Vec<_>> = steps.iter().map(step_of).collect();
        let steps = steps.ok_or_else(|| Done::fail(op, "a strange step"))?;
        let mut lists: BTreeMap<String, List> = BTreeMap::new();
        for (_, list, _) in &steps {
            lists.insert(list_key(list), List::default());
        }
        let ranges = lists.keys().cloned().map(only).collect();
        let found = self.read(op, ranges).await?;
        for (list, found) in lists.values_mut().zip(&found) {
            *list = found.first().map(List::of).unwrap_or_default();
        }
        let mut done = Vec::new();
        for (name, number, value) in steps {
            let list = lists.entry(list_key(number)).or_default();
            let value = match name {
                "append" => {
                    list.appended = true;
                    list.elements.push(value.clone());
                    value.clone()
                }
                _ => list.value(),
            };
            done.push(Value::List(vec![
                Value::Keyword(name.into()),
                number.clone(),
                value,
            ]));
        }
        let appended =
            |(key, list): (&String, &List)| list.appended.then(|| put(key.clone(), list.text()));
        let puts: Vec<Step> = lists.iter().filter_map(appended).collect();
        // What only reads is done: all of it was read at one moment.
        if !puts.is_empty() {
            let read = lists
                .iter()
                .map(|(key, list)| unchanged(key.clone(), list.mod_revision));
            self.write(op, read.collect(), puts).await?;
        }
        Ok(Done::ok(Value::List(done)))
    }

    /// What is there, range by range, at one moment. A read changes nothing, so without an answer it failed.
    async fn read(&self, op: &Op, mut ranges: Vec<Range>) -> Result<Vec<Vec<KeyValue>>, Done> {
        for range in &mut ranges {
            range.serializable = self.serializable;
        }
        let steps = ranges.into_iter().map(|range| Step {
            asked: Some(Asked::Range(range)),
        });
        let done = self.send(Vec::new(), steps.collect()).await;
        let done = done.map_err(|refused| Done::fail(op, refused.why()))?;
        let ranged = done.answers.into_iter();
        Ok(ranged
            .map(|answer| answer.ranged.unwrap_or_default().found)
            .collect())
    }

    async fn write(&self, op: &Op, compare: Vec<Compare>, steps: Vec<Step>) -> Result<(), Done> {
        match self.send(compare, steps).await {
            Ok(done) if done.succeeded => Ok(()),
            Ok(_) => Err(Done::fail(op, "the condition did not hold")),
            Err(refused) => Err(refused.of_a_write(op)),
        }
    }

    async fn send(&self, compare: Vec<Compare>, steps: Vec<Step>) -> Result<TxnDone, Refused> {
        let asked = ask(&self.channel, TXN, Txn { compare, steps });
        match timeout(OPERATION_LIMIT, asked).await {
            Ok(answer) => answer.map_err(Refused::Status),
            Err(_) => Err(Refused::Silent),
        }
    }
}

/// Why there is no answer.
enum Refused {
    Silent,
    Status(Status),
}

impl Refused {
    fn why(&self) -> String {
        match self {
            Refused::Silent => "no answer in time".to_string(),
            Refused::Status(status) => format!("{:?}: {}", status.code(), status.message()),
        }
    }

    /// Only these say that nothing was done and nothing will be: whatever else etcd says, it may say it after it handed the write to
    /// its log.
    fn of_a_write(&self, op: &Op) -> Done {
        let certain = match self {
            Refused::Silent => false,
            Refused::Status(status) => {
                let nobody_was_reached =
                    std::error::Error::source(status).is_some_and(is_of_connecting);
                let never_in_the_log = status.message() == "raft proposal dropped";
                let refused = [
                    Code::InvalidArgument,
                    Code::ResourceExhausted,
                    Code::Unimplemented,
                ];
                nobody_was_reached || never_in_the_log || refused.contains(&status.code())
            }
        };
        match certain {
            true => Done::fail(op, self.why()),
            false => Done::info(op, self.why()),
        }
    }
}

/// Whether it was not even sent.
fn is_of_connecting(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<ConnectError>() || error.source().is_some_and(is_of_connecting)
}

#[derive(Default)]
struct List {
    /// 0: there is none yet.
    mod_revision: i64,
    elements: Vec<Value>,
    appended: bool,
}

impl List {
    fn of(found: &KeyValue) -> List {
        List {
            mod_revision: found.mod_revision,
            elements: found
                .value
                .split(|byte| *byte == b' ')
                .map(number)
                .collect(),
            appended: false,
        }
    }

    fn value(&self) -> Value {
        match self.elements.is_empty() {
            true => Value::Nil,
            false => Value::List(self.elements.clone()),
        }
    }

    fn text(&self) -> String {
        let words: Vec<String> = self.elements.iter().map(Value::to_string).collect();
        words.join(" ")
    }
}

fn key_of(op: &Op) -> String {
    register_key(op.key.as_ref().unwrap_or(&Value::Nil))
}

fn only(key: String) -> Range {
    Range {
        key: key.into_bytes(),
        ..Range::default()
    }
}

fn put(key: String, value: String) -> Step {
    Step {
        asked: Some(Asked::Put(Put {
            key: key.into_bytes(),
            value: value.into_bytes(),
        })),
    }
}

/// If nobody wrote it since.
fn unchanged(key: String, mod_revision: i64) -> Compare {
    Compare {
        target: Target::ModRevision.into(),
        key: key.into_bytes(),
        expected: Some(Expected::ModRevision(mod_revision)),
    }
}

/// The first key behind all that begin so. The prefix does not end in the greatest byte.
fn after_all_with(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// What is no number was written by nobody, and is for the checker to find.
fn number(digits: &[u8]) -> Value {
    let text = String::from_utf8_lossy(digits);
    text.parse().map_or(Value::text(&text), Value::Int)
}

/// `[:append k v]`, `[:r k nil]`
fn step_of(step: &Value) -> Option<(&str, &Value, &Value)> {
    match step.elements()? {
        [name, key, value] => Some((name.name()?, key, value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_jepsen::history::event::Type;

    fn client() -> EtcdClient {
        // Nobody listens on port 1 of loopback.
        let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1");
        EtcdClient {
            channel: nobody.connect_lazy(),
            shape: Shape::Register,
            serializable: false,
        }
    }

    fn write() -> Op {
        Op::keyed("write", 1, Value::Int(7))
    }

    #[test]
    fn only_what_cannot_have_happened_failed() {
        let kind = |status: Status| Refused::Status(status).of_a_write(&write()).kind;
        for perhaps in [
            Status::unavailable("etcdserver: request timed out"),
            Status::unavailable(
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            Status::unavailable("etcdserver: leader changed"),
            Status::unavailable("error reading a body from connection"),
            Status::deadline_exceeded("context deadline exceeded"),
            Status::cancelled("operation was canceled"),
            Status::unknown("h2 protocol error"),
        ] {
            assert_eq!(kind(perhaps.clone()), Type::Info, "{perhaps}");
        }
        for never in [
            Status::resource_exhausted("etcdserver: too many requests"),
            Status::invalid_argument("etcdserver: request is too large"),
            Status::unknown("raft proposal dropped"),
        ] {
            assert_eq!(kind(never.clone()), Type::Fail, "{never}");
        }
        assert_eq!(Refused::Silent.of_a_write(&write()).kind, Type::Info);
    }

    #[tokio::test]
    async fn a_write_that_reached_nobody_failed_and_so_does_every_read() {
        let written = client().invoke(&write()).await;
        assert_eq!(written.kind, Type::Fail, "{written:?}");
        let read = client().invoke(&Op::keyed("read", 1, Value::Nil)).await;
        assert_eq!(read.kind, Type::Fail, "{read:?}");
    }

    #[tokio::test]
    async fn a_write_that_was_sent_and_not_answered_is_unknown() {
        // Whoever connects is listened to and then left alone.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
        });
        let channel = tonic::transport::Endpoint::from_shared(at)
            .unwrap()
            .connect_lazy();
        let mut client = EtcdClient {
            channel,
            ..client()
        };
        let written = client.invoke(&write()).await;
        assert_eq!(written.kind, Type::Info, "{written:?}");
    }

    #[test]
    fn lists_come_back_as_they_were_written() {
        let list = List {
            elements: vec![Value::Int(3), Value::Int(12)],
            ..List::default()
        };
        let found = KeyValue {
            value: list.text().into_bytes(),
            mod_revision: 5,
            ..KeyValue::default()
        };
        let again = List::of(&found);
        assert_eq!((again.value(), again.mod_revision), (list.value(), 5));
        assert_eq!(List::default().value(), Value::Nil);
        assert_eq!(after_all_with("e/"), b"e0");
    }
}
