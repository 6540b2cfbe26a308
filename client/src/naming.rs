//! The naming table: routes, and the bindings of applications that look services up.
//!
//! Any manager answers; where only nodes were named, the first call asks them where the managers are. Changes bear a
//! request id and are retried under it.

use crate::anywhere::{self, Call, Idempotent};
use crate::check;
use crate::client::Shared;
use crate::error::Error;
use crate::object::wire_request_id;
use crate::retry::Ledger;
use crate::server::trouble_of;
use crate::session::Session;
use futures::{Stream, stream};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Response, Status};
use understudy_proto::RequestId;
use understudy_proto::failure::Reason;
use understudy_proto::v1::{self, naming_client::NamingClient};

/// When a binding may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindWhen {
    /// In any case.
    Always,
    /// Only when there is none of that name.
    Absent,
    /// Only when the binding's revision is this.
    Revision(u64),
}

/// The naming table.
#[derive(Clone, Debug)]
pub struct Naming {
    shared: Arc<Shared>,
    session: Session,
}

impl Naming {
    pub(crate) fn new(shared: Arc<Shared>, session: Session) -> Naming {
        Naming { shared, session }
    }

    /// Where a namespace's shards are, as the managers know it now.
    pub async fn route(&self, namespace: &str) -> Result<v1::RouteResponse, Error> {
        check::name("namespace", namespace).map_err(Error::Invalid)?;
        let request = v1::RouteRequest {
            namespace: namespace.to_string(),
            site: self.shared.settings.site.clone(),
            revision: 0,
        };
        self.call(Idempotent::Read, move |mut naming| {
            let request = request.clone();
            async move { naming.route(request).await }
        })
        .await
    }

    /// The binding of a name.
    pub async fn lookup(&self, name: &str) -> Result<v1::LookupResponse, Error> {
        check::name("name", name).map_err(Error::Invalid)?;
        let request = v1::LookupRequest {
            name: name.to_string(),
            stale: false,
        };
        self.call(Idempotent::Read, move |mut naming| {
            let request = request.clone();
            async move { naming.lookup(request).await }
        })
        .await
    }

    /// Binds a name to endpoints, or renews the binding. `lease`: how long it lasts after the last renewal; `None`: it
    /// does not end by itself. Gives the binding's revision.
    pub async fn bind<E: Into<String>>(
        &self,
        name: &str,
        endpoints: impl IntoIterator<Item = E>,
        lease: Option<Duration>,
        when: BindWhen,
    ) -> Result<u64, Error> {
        check::name("name", name).map_err(Error::Invalid)?;
        let binding = v1::Binding {
            name: name.to_string(),
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            lease_ms: lease.map_or(0, |lease| lease.as_millis() as u64),
            revision: 0,
        };
        let expected_revision = match when {
            BindWhen::Always => None,
            BindWhen::Absent => Some(0),
            BindWhen::Revision(revision) => Some(revision),
        };
        let answer = self.command(|id| {
            let request = v1::BindRequest {
                request_id: Some(wire_request_id(id)),
                binding: Some(binding),
                expected_revision,
            };
            move |mut naming: NamingClient<Channel>| {
                let request = request.clone();
                async move { naming.bind(request).await }
            }
        });
        Ok(answer.await?.revision)
    }

    /// Removes a binding. Gives the table's revision.
    pub async fn unbind(&self, name: &str) -> Result<u64, Error> {
        check::name("name", name).map_err(Error::Invalid)?;
        let name = name.to_string();
        let answer = self.command(|id| {
            let request = v1::UnbindRequest {
                request_id: Some(wire_request_id(id)),
                name,
            };
            move |mut naming: NamingClient<Channel>| {
                let request = request.clone();
                async move { naming.unbind(request).await }
            }
        });
        Ok(answer.await?.revision)
    }

    /// All bindings whose names start so.
    pub async fn list(&self, prefix: &str) -> Result<v1::ListBindingsResponse, Error> {
        let request = v1::ListBindingsRequest {
            prefix: prefix.to_string(),
            stale: false,
        };
        self.call(Idempotent::Read, move |mut naming| {
            let request = request.clone();
            async move { naming.list_bindings(request).await }
        })
        .await
    }

    /// The changes of the tables.
    pub fn watch(&self) -> NamingWatch {
        NamingWatch {
            naming: self.clone(),
            request: v1::NamingWatchRequest::default(),
            open: None,
            resuming: false,
            ready: VecDeque::new(),
            failures: 0,
        }
    }

    async fn command<T, F, R>(&self, ask: impl FnOnce(RequestId) -> F) -> Result<T, Error>
    where
        F: Fn(NamingClient<Channel>) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let id = self.session.next_request_id();
        let answer = self.call(Idempotent::WithId(id), ask(id)).await;
        settle(&self.session, id, &answer);
        answer
    }

    async fn call<T, F, R>(&self, kind: Idempotent, ask: F) -> Result<T, Error>
    where
        F: Fn(NamingClient<Channel>) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.shared.deadline(None);
        let servers = self.shared.find_managers(deadline).await;
        let call = Call::new(servers, deadline, kind);
        anywhere::call(&self.shared, call, |channel| {
            ask(NamingClient::new(channel))
        })
        .await
    }
}

/// The id of a command that was answered needs no memory; an unknown one stays open.
pub(crate) fn settle<T>(session: &Session, id: RequestId, answer: &Result<T, Error>) {
    match answer {
        Err(Error::OutcomeUnknown { .. }) => {}
        Err(Error::Expired { .. }) => session.expire(id.client),
        _ => session.forget(id),
    }
}

/// Asks the servers that the caller named where the managers are. Nobody who knows: nothing is learned.
pub(crate) async fn learn_managers(shared: &Arc<Shared>, deadline: Instant) {
    for address in shared.seeds() {
        let Ok(server) = shared.servers.at(&address) else {
            continue;
        };
        let until = deadline.min(Instant::now() + shared.settings.attempt_timeout);
        let mut naming = NamingClient::new(server.channel());
        // Of no namespace: only the managers' addresses are wanted.
        let asked = naming.route(v1::RouteRequest::default());
        match timeout_at(until, asked).await {
            Ok(Ok(answer)) => return shared.learn_managers(&answer.get_ref().managers),
            // Of a manager: it is asked for the rest anyway.
            Ok(Err(status)) if trouble_of(&status).reason() == Some(Reason::NamespaceUnknown) => {
                return;
            }
            _ => {}
        }
    }
}

/// One thing that the tables' watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum NamingEvent {
    Change {
        revision: u64,
        event: v1::naming_event::Kind,
    },
    /// Changes may be missing here: list again. What comes next is at or after `first`.
    Gap { first: Option<u64> },
}

/// A watch of the tables; see [`NamingWatch::next`].
#[derive(Debug)]
#[must_use = "a watch does nothing until its next event is asked for"]
pub struct NamingWatch {
    naming: Naming,
    request: v1::NamingWatchRequest,
    open: Option<tonic::Streaming<v1::NamingWatchResponse>>,
    resuming: bool,
    ready: VecDeque<NamingEvent>,
    failures: u32,
}

impl NamingWatch {
    /// Changes after this revision; by default only what comes.
    pub fn after(mut self, revision: u64) -> NamingWatch {
        self.request.after_revision = Some(revision);
        self
    }

    /// Only bindings with this prefix.
    pub fn prefix(mut self, prefix: &str) -> NamingWatch {
        self.request.prefix = prefix.to_string();
        self
    }

    /// Also changes of shard entries, members and namespaces.
    pub fn all_tables(mut self) -> NamingWatch {
        self.request.all_tables = true;
        self
    }

    /// The last revision that was heard: what to give to [`NamingWatch::after`] to go on later.
    pub fn revision(&self) -> Option<u64> {
        self.request.after_revision
    }

    /// The next event; goes on by itself after a break.
    pub async fn next(&mut self) -> Result<NamingEvent, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(open) = self.open.as_mut() else {
                self.begin().await?;
                continue;
            };
            match open.message().await {
                Ok(Some(message)) => self.hear(message),
                Ok(None) => self.open = None,
                Err(status) => {
                    self.open = None;
                    let mut ledger = Ledger::new(None, false);
                    if let Some(error) = ledger.note(trouble_of(&status)) {
                        self.compacted(error)?;
                    }
                }
            }
        }
    }

    /// The same as a stream, which ends at the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<NamingEvent, Error>> + Send {
        stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn begin(&mut self) -> Result<(), Error> {
        if self.failures > 0 {
            let backoff = self.naming.shared.settings.backoff;
            tokio::time::sleep(backoff.after(self.failures, rand::random())).await;
        }
        self.failures += 1;
        let request = self.request.clone();
        let opened = self
            .naming
            .call(Idempotent::Read, move |mut naming| {
                let request = request.clone();
                async move { naming.watch(request).await }
            })
            .await;
        match opened {
            Ok(stream) => self.open = Some(stream),
            Err(error) => return self.compacted(error),
        }
        if self.resuming && self.request.after_revision.is_none() {
            self.ready.push_back(NamingEvent::Gap { first: None });
        }
        self.resuming = true;
        Ok(())
    }

    fn hear(&mut self, message: v1::NamingWatchResponse) {
        self.failures = 0;
        let revision = message.revision;
        if self
            .request
            .after_revision
            .is_some_and(|after| revision <= after)
        {
            return;
        }
        self.request.after_revision = Some(revision);
        let events = message.events.into_iter().filter_map(|event| event.kind);
        self.ready
            .extend(events.map(|event| NamingEvent::Change { revision, event }));
    }

    /// A revision that is no longer kept becomes a gap; what is still kept follows it.
    fn compacted(&mut self, error: Error) -> Result<(), Error> {
        let Error::Compacted(failure) = &error else {
            return Err(error);
        };
        let Some(first) = failure
            .metadata
            .get("first")
            .and_then(|text| text.parse().ok())
        else {
            return Err(error);
        };
        self.request.after_revision = Some(u64::saturating_sub(first, 1));
        self.ready
            .push_back(NamingEvent::Gap { first: Some(first) });
        Ok(())
    }
}
