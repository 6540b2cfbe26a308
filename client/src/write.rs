//! One write: operations and preconditions on objects of one shard, gathered by a builder and sent under one id.
//!
//! Await it, or call `send`. It retries safely until its deadline; what comes back is an outcome, an error that certainly
//! changed nothing, or *outcome unknown* with the id to ask again under.

use crate::check;
use crate::conflicts::ConflictId;
use crate::drive::{Errand, Way};
use crate::error::{Error, Trouble};
use crate::namespace::Namespace;
use crate::object::{Value, Written, wire_pair, wire_request_id, wire_value};
use crate::retry::{Ledger, Walk, Wanted};
use crate::session::Session;
use bytes::Bytes;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::{self, op, precondition, stream_answer, stream_item};
use understudy_proto::{Pair, RequestId, limits};

/// A write that is being put together. All its keys are in one shard.
#[derive(Clone, Debug)]
#[must_use = "a write does nothing until it is awaited"]
pub struct Write {
    namespace: Namespace,
    ops: Vec<v1::Op>,
    preconditions: Vec<v1::Precondition>,
    copies: u32,
    deadline: Option<Duration>,
    request_id: Option<RequestId>,
    resolves: Option<(ConflictId, Pair)>,
}

impl Write {
    pub(crate) fn new(namespace: Namespace) -> Write {
        Write {
            namespace,
            ops: Vec::with_capacity(1),
            preconditions: Vec::new(),
            copies: 0,
            deadline: None,
            request_id: None,
            resolves: None,
        }
    }

    /// Replaces the whole object by one plain value.
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Write {
        let (key, value) = (key.into(), value.into());
        self.op(op::Kind::Put(op::Put { key, value }))
    }

    /// Removes the object; removing what is absent is no error.
    pub fn delete(self, key: impl Into<Bytes>) -> Write {
        self.op(op::Kind::Delete(op::Delete { key: key.into() }))
    }

    /// Sets one component and leaves the others.
    pub fn set_component(
        self,
        key: impl Into<Bytes>,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Write {
        let (key, name, value) = (key.into(), name.into(), value.into());
        self.op(op::Kind::SetComponent(op::SetComponent {
            key,
            name,
            value,
        }))
    }

    /// Removes one component.
    pub fn remove_component(self, key: impl Into<Bytes>, name: impl Into<Bytes>) -> Write {
        let (key, name) = (key.into(), name.into());
        self.op(op::Kind::RemoveComponent(op::RemoveComponent { key, name }))
    }

    /// Adds to the counter of a component; an absent one counts from 0.
    pub fn add(self, key: impl Into<Bytes>, name: impl Into<Bytes>, delta: i64) -> Write {
        let (key, name) = (key.into(), name.into());
        self.op(op::Kind::Add(op::Add { key, name, delta }))
    }

    /// Appends to the bytes of a component; an absent one is empty.
    pub fn append(
        self,
        key: impl Into<Bytes>,
        name: impl Into<Bytes>,
        data: impl Into<Bytes>,
    ) -> Write {
        let (key, name, data) = (key.into(), name.into(), data.into());
        self.op(op::Kind::Append(op::Append { key, name, data }))
    }

    /// Reads the object as the earlier operations left it.
    pub fn read(self, key: impl Into<Bytes>) -> Write {
        self.op(op::Kind::Get(op::Get { key: key.into() }))
    }

    /// Only when the object's last writer is this record.
    pub fn if_pair(self, key: impl Into<Bytes>, pair: Pair) -> Write {
        self.condition(key, precondition::Kind::Pair(wire_pair(pair)))
    }

    /// Only when the object is absent.
    pub fn if_absent(self, key: impl Into<Bytes>) -> Write {
        self.condition(key, precondition::Kind::Absent(true))
    }

    /// Only when the object is present.
    pub fn if_present(self, key: impl Into<Bytes>) -> Write {
        self.condition(key, precondition::Kind::Absent(false))
    }

    /// Only when the object's plain value is this.
    pub fn if_value(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Write {
        self.if_component(key, Bytes::new(), Value::Data(value.into()))
    }

    /// Only when the component has this value.
    pub fn if_component(
        self,
        key: impl Into<Bytes>,
        name: impl Into<Bytes>,
        value: Value,
    ) -> Write {
        let component = precondition::ComponentValue {
            name: name.into(),
            value: Some(wire_value(value)),
        };
        self.condition(key, precondition::Kind::Component(component))
    }

    /// Operations and preconditions as the wire has them.
    pub fn wire(
        mut self,
        ops: impl IntoIterator<Item = v1::Op>,
        preconditions: impl IntoIterator<Item = v1::Precondition>,
    ) -> Write {
        self.ops.extend(ops);
        self.preconditions.extend(preconditions);
        self
    }

    /// Decides a conflict: what else the write does happens only while the conflict is as it was shown, under this pair, and
    /// takes it away. With no operations everything stays as it is. All keys are in the conflict's shard.
    pub fn resolve(mut self, conflict: ConflictId, shown: Pair) -> Write {
        self.resolves = Some((conflict, shown));
        self
    }

    /// Answer only when so many secondaries made it durable too, or when the deadline passed.
    pub fn copies(mut self, copies: u32) -> Write {
        self.copies = copies;
        self
    }

    /// How long all attempts together may take; by default the setting.
    pub fn deadline(mut self, deadline: Duration) -> Write {
        self.deadline = Some(deadline);
        self
    }

    /// Send under this id: one of [`Session::next_request_id`], or that of a write whose outcome is unknown. The content
    /// must be the same.
    pub fn request_id(mut self, id: RequestId) -> Write {
        self.request_id = Some(id);
        self
    }

    /// Sends it.
    pub async fn send(self) -> Result<Written, Error> {
        let Write {
            namespace,
            ops,
            preconditions,
            copies,
            deadline,
            request_id,
            resolves,
        } = self;
        let shared = namespace.shared();
        let deadline = shared.deadline(deadline);
        check::name("namespace", namespace.name()).map_err(Error::Invalid)?;
        let checked = match resolves {
            Some(_) => check::resolution(&ops, &preconditions),
            None => check::request(&ops, &preconditions),
        };
        let bytes = checked.map_err(Error::Invalid)?;
        let index = {
            let route = namespace.cache().get(shared, deadline).await?;
            let keys = ops.iter().filter_map(check::op_key);
            let mut keys = keys
                .chain(preconditions.iter().map(|condition| &condition.key))
                .peekable();
            let named = resolves.map(|(conflict, _)| conflict.shard);
            let computed = match (named, keys.peek()) {
                (Some(index), None) => index,
                _ => route.shard_of(keys).map_err(Error::Invalid)?.index,
            };
            let index = named.unwrap_or(computed);
            if index != computed || index >= route.shard_count() {
                let why = format!("the keys are not in the conflict's shard {index}");
                return Err(Error::Invalid(Failure::field("shard", why)));
            }
            index
        };
        let mut errand = WriteErrand {
            open: OpenRequest::new(namespace.session(), request_id),
            namespace: &namespace,
            ops,
            preconditions,
            copies,
            bytes,
            resolves,
        };
        let ledger = Ledger::new(Some(errand.open.id), true);
        let replaceable = request_id.is_none() && namespace.session().replaceable();
        let backoff = shared.settings.backoff;
        let walk = Walk::new(ledger, Wanted::Primary, backoff, replaceable);
        let way = Way {
            shared,
            cache: namespace.cache(),
            index,
            deadline,
        };
        let answer = way.run(&mut errand, walk).await;
        errand.open.close(&answer);
        if let Ok(written) = &answer {
            namespace.tokens().raise(index, written.pair);
        }
        answer
    }

    fn op(mut self, kind: op::Kind) -> Write {
        self.ops.push(v1::Op { kind: Some(kind) });
        self
    }

    fn condition(mut self, key: impl Into<Bytes>, kind: precondition::Kind) -> Write {
        self.preconditions.push(v1::Precondition {
            key: key.into(),
            kind: Some(kind),
        });
        self
    }
}

impl IntoFuture for Write {
    type Output = Result<Written, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A request id in use. One that the session gave for this call alone, and whose call was dropped, needs no answer any
/// more; one whose outcome is unknown stays open, for the caller to ask again.
struct OpenRequest<'a> {
    session: &'a Session,
    id: RequestId,
    /// Nobody but this call knows the id.
    own: bool,
}

impl<'a> OpenRequest<'a> {
    fn new(session: &'a Session, chosen: Option<RequestId>) -> OpenRequest<'a> {
        if let Some(id) = chosen {
            session.note_used(id);
        }
        OpenRequest {
            session,
            id: chosen.unwrap_or_else(|| session.next_request_id()),
            own: chosen.is_none(),
        }
    }

    fn close(&mut self, answer: &Result<Written, Error>) {
        match answer {
            Ok(_) => self.session.forget(self.id),
            Err(Error::OutcomeUnknown { .. }) => self.own = false,
            Err(Error::Expired { .. }) => self.session.expire(self.id.client),
            // It certainly did not run; an id that the caller chose may yet be sent again.
            Err(_) => {}
        }
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        if self.own {
            self.session.forget(self.id);
        }
    }
}

struct WriteErrand<'a> {
    open: OpenRequest<'a>,
    namespace: &'a Namespace,
    ops: Vec<v1::Op>,
    preconditions: Vec<v1::Precondition>,
    copies: u32,
    bytes: usize,
    resolves: Option<(ConflictId, Pair)>,
}

impl Errand for WriteErrand<'_> {
    type Answer = Written;

    fn question(&self, index: u32, forward: bool, left: Duration) -> stream_item::Kind {
        stream_item::Kind::Execute(v1::ExecuteRequest {
            request_id: Some(wire_request_id(self.open.id)),
            namespace: self.namespace.name().to_string(),
            shard: Some(index),
            ops: self.ops.clone(),
            preconditions: self.preconditions.clone(),
            copies: self.copies,
            deadline_ms: (left.as_millis() as u32).max(1),
            answered_upto: self.open.session.answered_before(self.open.id),
            refuse_forwarding: !forward,
            resolves: self.resolves.map(|(conflict, shown)| v1::Resolution {
                conflict: Some(conflict.wire()),
                shown: Some(wire_pair(shown)),
            }),
        })
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn attempt_timeout(&self) -> Duration {
        if self.copies > 0 {
            return Duration::from_millis(limits::DEADLINE_MS_MAX);
        }
        self.namespace.shared().settings.attempt_timeout
    }

    fn read(&self, answer: stream_answer::Kind) -> Result<Written, Trouble> {
        match answer {
            stream_answer::Kind::Executed(wire) => {
                Written::from_wire(wire, self.open.id).map_err(Trouble::Failure)
            }
            _ => Err(Trouble::Failure(Failure::unknown(
                Reason::Internal,
                "the answer is to another kind of question",
            ))),
        }
    }

    fn rename(&mut self, table_time_ms: Option<u64>, walk: &mut Walk) {
        let session = self.open.session;
        self.open.id = session.rename(self.open.id.client, table_time_ms);
        walk.renamed(self.open.id);
    }
}
