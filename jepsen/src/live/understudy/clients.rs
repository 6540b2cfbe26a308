//! Understudy's clients for the workloads: an operation of the history becomes a call, and what it says becomes an outcome.
//!
//! The three questions of its errors decide: what may have run is `info`, what certainly did not is `fail`. A read changes
//! nothing, so one without an answer is `fail`.

use super::logs::Logs;
use crate::history::Value;
use crate::live::system::{Client, Done, Op};
use crate::live::workload::{
    ELEMENT_PREFIX, Shape, account_key, list_key, object_key, register_key,
};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use understudy_client::proto::failure::Applied;
use understudy_client::{
    Error, Found, Namespace, Object, OpResult, Outcome, Pair, ReadLevel, RequestId, Write, Written,
};

const COUNTER_KEY: &str = "counter";
/// How long an add of unknown outcome is asked for again: longer than most faults last.
const INSIST: Duration = Duration::from_secs(30);
/// A set is large, and is read over all shards.
const SCAN_LIMIT: Duration = Duration::from_secs(10);

pub fn client(
    shape: Shape,
    client: understudy_client::Client,
    namespace: Namespace,
    level: ReadLevel,
    logs: Arc<Logs>,
) -> Box<dyn Client> {
    Box::new(Worker {
        logs,
        shape,
        namespace,
        level,
        _client: client,
    })
}

struct Worker {
    shape: Shape,
    namespace: Namespace,
    level: ReadLevel,
    logs: Arc<Logs>,
    /// Its connections live as long as this.
    _client: understudy_client::Client,
}

impl Client for Worker {
    fn invoke<'a>(&'a mut self, op: &'a Op) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let done = match self.shape {
                Shape::Register => self.register(op).await,
                Shape::Set => self.set(op).await,
                Shape::Counter => self.counter(op).await,
                Shape::Bank => self.bank(op).await,
                Shape::Append => self.append(op).await,
                Shape::Sessions => self.session(op).await,
                Shape::Log => self.log(op).await,
            };
            done.unwrap_or_else(|done| done)
        })
    }
}

/// Both are what came of it; the second one early.
type Step = Result<Done, Done>;

impl Worker {
    async fn register(&self, op: &Op) -> Step {
        let key = register_key(op.key.as_ref().unwrap_or(&Value::Nil));
        match op.f {
            "read" => {
                let found = self.read(op, vec![key]).await?;
                let value = found.objects.iter().flatten().next().and_then(number);
                Ok(answered(value.map_or(Value::Nil, Value::Int), &found))
            }
            "write" => {
                let write = self.namespace.put(key, op.value.to_string());
                self.written(op, write.send().await)?;
                Ok(Done::ok(op.value.clone()))
            }
            "cas" => {
                let Some((old, new)) = op.value.pair() else {
                    return Err(Done::fail(op, "a cas is a pair"));
                };
                let write = self.namespace.put(key.clone(), new.to_string());
                let write = match old {
                    Value::Nil => write.if_absent(key),
                    old => write.if_value(key, old.to_string()),
                };
                self.written(op, write.send().await)?;
                Ok(Done::ok(op.value.clone()))
            }
            _ => Err(unknown_function(op)),
        }
    }

    /// An element is a key, so that the set is spread over all shards.
    async fn set(&self, op: &Op) -> Step {
        match op.f {
            "add" => {
                let key = format!("{ELEMENT_PREFIX}{}", op.value);
                self.written(op, self.namespace.put(key, "").send().await)?;
                Ok(Done::ok(op.value.clone()))
            }
            "read" => {
                let scan = self.namespace.scan().prefix(ELEMENT_PREFIX).keys_only();
                let scan = scan.level(self.level).deadline(SCAN_LIMIT);
                let objects: Result<Vec<Object>, Error> = scan.objects().try_collect().await;
                let objects = objects.map_err(|error| Done::fail(op, error.to_string()))?;
                let mut elements = Vec::with_capacity(objects.len());
                for object in objects {
                    let name = String::from_utf8_lossy(&object.key).into_owned();
                    let number = name.strip_prefix(ELEMENT_PREFIX);
                    let number = number.and_then(|number| number.parse().ok());
                    // What nobody can have added is for the checker to find.
                    elements.push(number.map_or(Value::text(&name), Value::Int));
                }
                Ok(Done::ok(Value::List(elements)))
            }
            _ => Err(unknown_function(op)),
        }
    }

    /// An add is asked for under the same id until its outcome is known.
    async fn counter(&self, op: &Op) -> Step {
        match op.f {
            "add" => {
                let Some(delta) = op.value.as_int() else {
                    return Err(Done::fail(op, "an add is a number"));
                };
                let id = self.namespace.session().next_request_id();
                let add = || self.namespace.add(COUNTER_KEY, "", delta);
                self.insist(op, id, add).await
            }
            "read" => {
                let found = self.read(op, vec![COUNTER_KEY.to_string()]).await?;
                let object = found.objects.iter().flatten().next();
                let count = object.and_then(|object| object.counter("")).unwrap_or(0);
                Ok(answered(Value::Int(count), &found))
            }
            _ => Err(unknown_function(op)),
        }
    }

    /// Answers bear the version of what they are about.
    async fn session(&self, op: &Op) -> Step {
        let key = register_key(op.key.as_ref().unwrap_or(&Value::Nil));
        match op.f {
            "read" => {
                let found = self.read(op, vec![key]).await?;
                let value = found.objects.iter().flatten().next();
                let value = value.and_then(|object| Some(versioned(number(object)?, object.pair)));
                Ok(answered(value.unwrap_or_default(), &found))
            }
            "write" => {
                let write = self.namespace.put(key, op.value.to_string());
                let written = self.written(op, write.send().await)?;
                let value = op.value.as_int().unwrap_or_default();
                Ok(Done::ok(versioned(value, written.pair)))
            }
            _ => Err(unknown_function(op)),
        }
    }

    async fn log(&self, op: &Op) -> Step {
        match op.f {
            "request" => {
                let Some(number) = op.value.as_int() else {
                    return Err(Done::fail(op, "a request is a number"));
                };
                let id = self.namespace.session().next_request_id();
                self.logs.note(id, number);
                let key = object_key(number);
                let write = || self.namespace.put(key.clone(), number.to_string());
                self.insist(op, id, write).await
            }
            "read" => Ok(self.logs.read(op, &self.namespace).await),
            _ => Err(unknown_function(op)),
        }
    }

    async fn bank(&self, op: &Op) -> Step {
        match op.f {
            "open" => {
                let Value::Map(accounts) = &op.value else {
                    return Err(Done::fail(op, "accounts are a map"));
                };
                let mut write = self.namespace.transaction();
                for (account, balance) in accounts {
                    write = write.put(account_key(account), balance.to_string());
                }
                self.written(op, write.send().await)?;
                Ok(Done::ok(op.value.clone()))
            }
            "transfer" => self.transfer(op).await,
            "read" => {
                let Value::List(accounts) = &op.value else {
                    return Err(Done::fail(op, "accounts are a list"));
                };
                let keys = accounts.iter().map(account_key).collect();
                let found = self.read(op, keys).await?;
                let balance = |object: &Option<Object>| {
                    let balance = object.as_ref().and_then(number);
                    balance.map_or(Value::Nil, Value::Int)
                };
                let balances = found.objects.iter().map(balance);
                let pairs = accounts.iter().cloned().zip(balances).collect();
                Ok(answered(Value::map(pairs), &found))
            }
            _ => Err(unknown_function(op)),
        }
    }

    /// Reads both accounts, and writes both under the condition that nobody else did meanwhile.
    async fn transfer(&self, op: &Op) -> Step {
        let field = |name| op.value.get(name).cloned().unwrap_or_default();
        let (from, to) = (account_key(&field("from")), account_key(&field("to")));
        let amount = field("amount").as_int().unwrap_or(0);
        let found = self.namespace.read([from.clone(), to.clone()]).send().await;
        let found = found.map_err(|error| Done::fail(op, error.to_string()))?;
        let [Some(from_now), Some(to_now)] = found.objects.as_slice() else {
            return Err(Done::fail(op, "no such account"));
        };
        let (Some(had), Some(has)) = (number(from_now), number(to_now)) else {
            return Err(Done::fail(op, "an account holds no number"));
        };
        if had < amount {
            return Err(Done::fail(op, "not enough money"));
        }
        let write = self
            .namespace
            .transaction()
            .if_pair(from.clone(), from_now.pair)
            .if_pair(to.clone(), to_now.pair)
            .put(from, (had - amount).to_string())
            .put(to, (has + amount).to_string());
        self.written(op, write.send().await)?;
        Ok(Done::ok(op.value.clone()))
    }

    /// Steps on lists of one shard, as one request.
    async fn append(&self, op: &Op) -> Step {
        let steps = op.value.elements().unwrap_or(&[]);
        let mut write = self.namespace.transaction();
        let mut keys = Vec::new();
        let mut writes = false;
        for step in steps {
            let (name, key, value) =
                step_of(step).ok_or_else(|| Done::fail(op, "a strange step"))?;
            let key = list_key(key);
            keys.push(key.clone());
            if name == "append" {
                writes = true;
                write = write.append(key, "", format!("{value} "));
            } else {
                write = write.read(key);
            }
        }
        if !writes {
            let found = self.read(op, keys).await?;
            let lists: Vec<Value> = found
                .objects
                .iter()
                .map(|object| list(object.as_ref()))
                .collect();
            return Ok(answered(filled(steps, &lists), &found));
        }
        let written = self.written(op, write.send().await)?;
        let lists: Vec<Value> = written
            .results()
            .iter()
            .map(|result| match result {
                OpResult::Object(object) => list(object.as_ref()),
                _ => Value::Nil,
            })
            .collect();
        Ok(Done::ok(filled(steps, &lists)))
    }

    async fn read(&self, op: &Op, keys: Vec<String>) -> Result<Found, Done> {
        // A key that is asked for twice is one object.
        let mut once = keys.clone();
        once.sort();
        once.dedup();
        let found = self
            .namespace
            .read(once.clone())
            .level(self.level)
            .send()
            .await;
        let mut found = found.map_err(|error| {
            if matches!(error, Error::Forked(_)) {
                self.namespace.forget_tokens();
                // What it saw is gone, and it was told: from here on it is another session, so another process.
                return Done::info(op, error.to_string());
            }
            Done::fail(op, error.to_string())
        })?;
        let object = |key: &String| {
            let place = once.iter().position(|known| known == key)?;
            found.objects.get(place)?.clone()
        };
        found.objects = keys.iter().map(object).collect();
        Ok(found)
    }

    /// Asks under one id until it is known what came of it.
    async fn insist(&self, op: &Op, id: RequestId, write: impl Fn() -> Write) -> Step {
        let until = Instant::now() + INSIST;
        let (mut asked, mut perhaps) = (1, false);
        loop {
            let error = match write().request_id(id).send().await {
                Ok(written) => {
                    let duplicate = written.duplicate;
                    self.written(op, Ok(written))?;
                    return Ok(Done {
                        note: format!("asked {asked} times, duplicate: {duplicate}"),
                        ..Done::ok(op.value.clone())
                    });
                }
                Err(error) => error,
            };
            perhaps |= error.applied() == Applied::Unknown;
            let again = matches!(error, Error::OutcomeUnknown { .. } | Error::Unavailable(_));
            if !again || Instant::now() >= until {
                self.namespace.session().forget(id);
                let done = if perhaps { Done::info } else { Done::fail };
                return Err(done(op, error.to_string()));
            }
            asked += 1;
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a write came to when it was not applied for certain.
    fn written(&self, op: &Op, result: Result<Written, Error>) -> Result<Written, Done> {
        match result {
            Err(error) if error.applied() == Applied::Unknown => {
                if let Some(id) = error.request_id() {
                    // Nobody asks again, and one that stays open keeps the servers from forgetting the later ones.
                    self.namespace.session().forget(id);
                }
                Err(Done::info(op, error.to_string()))
            }
            Err(error) => Err(Done::fail(op, error.to_string())),
            // It was applied once and cut off: it may be applied again.
            Ok(written) if written.conflict => {
                Err(Done::info(op, "a conflict that nobody decided"))
            }
            Ok(written) => match written.outcome {
                Outcome::Applied(_) => Ok(written),
                Outcome::ConditionFailed { .. } => {
                    Err(Done::fail(op, "the condition did not hold"))
                }
                Outcome::Failed { why, .. } => Err(Done::fail(op, format!("{why:?}"))),
            },
        }
    }
}

fn answered(value: Value, found: &Found) -> Done {
    Done {
        note: format!("node {} at {}", found.node.0, found.token),
        ..Done::ok(value)
    }
}

fn unknown_function(op: &Op) -> Done {
    Done::fail(op, "this client has no such function")
}

fn versioned(value: i64, pair: Pair) -> Value {
    let version = [pair.epoch.0, pair.version.0].map(|part| Value::Int(part as i64));
    Value::List(vec![Value::Int(value), Value::List(version.to_vec())])
}

/// The plain value of an object, as a number.
fn number(object: &Object) -> Option<i64> {
    let digits: &Bytes = object.value()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[:append k v]`, `[:r k nil]`
fn step_of(step: &Value) -> Option<(&str, &Value, &Value)> {
    match step.elements()? {
        [name, key, value] => Some((name.name()?, key, value)),
        _ => None,
    }
}

/// What was appended, each number with a space behind it. Nil: there is no list.
fn list(object: Option<&Object>) -> Value {
    let Some(data) = object.and_then(|object| object.value()) else {
        return Value::Nil;
    };
    let text = String::from_utf8_lossy(data).into_owned();
    let element = |word: &str| word.parse().map_or(Value::text(word), Value::Int);
    Value::List(text.split_whitespace().map(element).collect())
}

/// The steps, with what the reads among them found.
fn filled(steps: &[Value], lists: &[Value]) -> Value {
    let fill = |(step, found): (&Value, &Value)| match step_of(step) {
        Some(("r", key, _)) => {
            Value::List(vec![Value::Keyword("r".into()), key.clone(), found.clone()])
        }
        _ => step.clone(),
    };
    Value::List(steps.iter().zip(lists).map(fill).collect())
}
