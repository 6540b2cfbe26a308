//! The `Naming` service of a manager: routes, bindings, and streams of their changes without a hole.

use super::tables::{Desk, addresses, binding, limit, nodes, primary, state, unknown_namespace};
use crate::manager::{Group, View};
use futures::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1::naming_event::{Kind, MemberChange, ShardChange};
use understudy_proto::v1::naming_server::Naming;
use understudy_proto::v1::{
    BindRequest, BindResponse, ListBindingsRequest, ListBindingsResponse, LookupRequest,
    LookupResponse, NamingEvent, NamingWatchRequest, NamingWatchResponse, RouteRequest,
    RouteResponse, ShardRoute, UnbindRequest, UnbindResponse,
};
use understudy_proto::{NamespaceId, Revision, ShardId};
use understudy_protocol::tables::{Change, Changed, Command, Namespace, ShardEntry, Tables};

/// A route is a hint that nodes correct: with no leader in that time it is given from this manager's own copy.
const ROUTE_LIMIT: Duration = Duration::from_secs(1);
/// Messages of a watch that wait for a slow caller; beyond it the watch waits.
const WATCH_MESSAGES: usize = 16;

/// The service on a manager's public port.
#[derive(Clone, Debug)]
pub struct NamingServer {
    desk: Arc<Desk>,
}

impl NamingServer {
    pub fn new(group: Group) -> NamingServer {
        NamingServer {
            desk: Arc::new(Desk::new(group)),
        }
    }

    async fn route_view(&self, limit: Duration) -> Result<View, Failure> {
        match self.desk.group.read(limit.min(ROUTE_LIMIT)).await {
            Ok(view) => Ok(view),
            Err(_) => self.desk.group.stale(),
        }
    }

    fn managers(&self) -> Vec<String> {
        let managers = self.desk.group.managers().into_iter();
        managers
            .map(|manager| manager.node.public_address)
            .filter(|address| !address.is_empty())
            .collect()
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Naming for NamingServer {
    async fn route(
        &self,
        request: Request<RouteRequest>,
    ) -> Result<Response<RouteResponse>, Status> {
        let view = self.route_view(limit(&request)).await?;
        let asked = request.into_inner();
        let route = view.look(|tables| whole_route(tables, &asked));
        let mut route = route.ok_or_else(|| unknown_namespace(&asked.namespace))?;
        route.managers = self.managers();
        Ok(Response::new(route))
    }

    type WatchRoutesStream = Streamed<RouteResponse>;

    async fn watch_routes(
        &self,
        request: Request<RouteRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let view = self.route_view(limit(&request)).await?;
        let (items, stream) = mpsc::channel(WATCH_MESSAGES);
        tokio::spawn(watch_routes(
            view,
            self.managers(),
            request.into_inner(),
            items,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lookup(
        &self,
        request: Request<LookupRequest>,
    ) -> Result<Response<LookupResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let view = self.desk.view(asked.stale, limit).await?;
        let (found, revision) = view.look(|tables| {
            let found = tables
                .binding(&asked.name)
                .map(|found| binding(&asked.name, found));
            (found, tables.revision())
        });
        let missing = || {
            Failure::no(
                Reason::NotFound,
                format!("nothing is bound to {}", asked.name),
            )
        };
        Ok(Response::new(LookupResponse {
            binding: Some(found.ok_or_else(missing)?),
            revision: revision.0,
        }))
    }

    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<BindResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let binding = asked
            .binding
            .ok_or_else(|| Failure::field("binding", "binding is missing"))?;
        let command = Command::Bind {
            name: binding.name,
            endpoints: binding.endpoints,
            lease_ms: (binding.lease_ms > 0).then_some(binding.lease_ms),
            revision: asked.expected_revision.map(Revision),
        };
        let revision = self.desk.done(asked.request_id, command, limit).await?;
        Ok(Response::new(BindResponse { revision }))
    }

    async fn unbind(
        &self,
        request: Request<UnbindRequest>,
    ) -> Result<Response<UnbindResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let command = Command::Unbind {
            name: asked.name,
            revision: None,
        };
        let revision = self.desk.done(asked.request_id, command, limit).await?;
        Ok(Response::new(UnbindResponse { revision }))
    }

    async fn list_bindings(
        &self,
        request: Request<ListBindingsRequest>,
    ) -> Result<Response<ListBindingsResponse>, Status> {
        let limit = limit(&request);
        let asked = request.into_inner();
        let view = self.desk.view(asked.stale, limit).await?;
        Ok(Response::new(view.look(|tables| {
            ListBindingsResponse {
                bindings: tables
                    .bindings(&asked.prefix)
                    .map(|(name, row)| binding(name, row))
                    .collect(),
                revision: tables.revision().0,
            }
        })))
    }

    type WatchStream = Streamed<NamingWatchResponse>;

    async fn watch(
        &self,
        request: Request<NamingWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let view = self.desk.view(false, limit(&request)).await?;
        let (items, stream) = mpsc::channel(WATCH_MESSAGES);
        let watch = Watch::new(request.into_inner(), &view);
        tokio::spawn(watch.run(view, items));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn shard_route(index: u32, shard: ShardId, entry: &ShardEntry) -> ShardRoute {
    ShardRoute {
        index,
        shard: shard.0,
        epoch: entry.epoch.0,
        primary: primary(entry),
        secondaries: nodes(&entry.secondaries),
    }
}

fn whole_route(tables: &Tables, asked: &RouteRequest) -> Option<RouteResponse> {
    let namespace = tables.namespace_by_name(&asked.namespace)?;
    Some(route_of(tables, namespace, asked, namespace.shard_ids()))
}

fn route_of(
    tables: &Tables,
    namespace: &Namespace,
    asked: &RouteRequest,
    shards: impl Iterator<Item = ShardId>,
) -> RouteResponse {
    let mut named = BTreeSet::new();
    let mut routes = Vec::new();
    for shard in shards {
        if let Some(entry) = tables.shard(shard) {
            let index = (shard.0 - namespace.first_shard.0) as u32;
            routes.push(shard_route(index, shard, entry));
            named.extend(entry.copies().map(|copy| copy.node));
        }
    }
    RouteResponse {
        namespace_id: namespace.id.0,
        namespace: namespace.name.clone(),
        revision: tables.revision().0,
        shard_count: namespace.shards,
        shards: routes,
        nodes: addresses(tables, &named, &asked.site),
        managers: Vec::new(),
    }
}

/// The shards of the namespace that changed after a revision, by themselves or because a node did. `None`: all may
/// have.
fn changed_route(
    tables: &Tables,
    namespace: &Namespace,
    asked: &RouteRequest,
    known: Revision,
) -> Option<RouteResponse> {
    let mut shards = BTreeSet::new();
    let mut moved = BTreeSet::new();
    for change in tables.changes_after(known).ok()? {
        match &change.what {
            Changed::Shard(shard, entry) if entry.namespace == namespace.id => {
                shards.insert(*shard);
            }
            Changed::Node(node) => {
                moved.insert(node.id);
            }
            _ => {}
        }
    }
    let touched = |shard: &ShardId| {
        let entry = tables.shard(*shard);
        entry.is_some_and(|entry| entry.copies().any(|copy| moved.contains(&copy.node)))
    };
    if !moved.is_empty() {
        shards.extend(namespace.shard_ids().filter(touched));
    }
    Some(route_of(tables, namespace, asked, shards.into_iter()))
}

async fn watch_routes(
    view: View,
    managers: Vec<String>,
    asked: RouteRequest,
    items: mpsc::Sender<Result<RouteResponse, Status>>,
) {
    let mut revisions = view.revisions();
    let mut known: Option<(NamespaceId, Revision)> = None;
    loop {
        revisions.borrow_and_update();
        let next = view.look(|tables| {
            let namespace = tables.namespace_by_name(&asked.namespace)?;
            let since = known.filter(|(id, _)| *id == namespace.id);
            let partial =
                since.and_then(|(_, revision)| changed_route(tables, namespace, &asked, revision));
            let route = partial.or_else(|| whole_route(tables, &asked))?;
            Some((namespace.id, tables.revision(), since.is_none(), route))
        });
        let Some((namespace, revision, first, mut route)) = next else {
            let _ = items
                .send(Err(unknown_namespace(&asked.namespace).into()))
                .await;
            return;
        };
        known = Some((namespace, revision));
        // A caller that has this revision waits for a newer one.
        let wanted = if first {
            revision.0 > asked.revision
        } else {
            !route.shards.is_empty()
        };
        route.managers = managers.clone();
        if wanted && items.send(Ok(route)).await.is_err() {
            return;
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            () = items.closed() => return,
        }
    }
}

/// One `Watch`: where it stands, and what it passes on.
struct Watch {
    asked: NamingWatchRequest,
    known: Revision,
    /// For the events of namespaces that are gone.
    names: BTreeMap<NamespaceId, (String, ShardId)>,
}

impl Watch {
    fn new(asked: NamingWatchRequest, view: &View) -> Watch {
        view.look(|tables| Watch {
            known: asked.after_revision.map_or(tables.revision(), Revision),
            asked,
            names: tables.namespaces().map(named).collect(),
        })
    }

    async fn run(mut self, view: View, items: mpsc::Sender<Result<NamingWatchResponse, Status>>) {
        let mut revisions = view.revisions();
        loop {
            revisions.borrow_and_update();
            let changes = view.look(|tables| {
                let changes = tables.changes_after(self.known);
                changes.map(|changes| changes.cloned().collect::<Vec<Change>>())
            });
            let changes = match changes {
                Ok(changes) => changes,
                Err(compacted) => {
                    let why = "the changes after that revision are no longer kept: read, then watch from there";
                    let failure = Failure::no(Reason::Compacted, why)
                        .with("first", compacted.first.to_string());
                    let _ = items.send(Err(failure.into())).await;
                    return;
                }
            };
            for of_one_revision in changes.chunk_by(|a, b| a.revision == b.revision) {
                let Some(response) = self.response(of_one_revision) else {
                    continue;
                };
                if items.send(Ok(response)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = items.closed() => return,
            }
        }
    }

    fn response(&mut self, changes: &[Change]) -> Option<NamingWatchResponse> {
        let revision = changes.first()?.revision;
        self.known = revision;
        let events: Vec<NamingEvent> = changes
            .iter()
            .filter_map(|change| self.event(&change.what))
            .map(|kind| NamingEvent { kind: Some(kind) })
            .collect();
        (!events.is_empty()).then_some(NamingWatchResponse {
            revision: revision.0,
            events,
        })
    }

    fn event(&mut self, what: &Changed) -> Option<Kind> {
        let all = self.asked.all_tables;
        match what {
            Changed::Bound(name, row) => {
                self.is_below(name).then(|| Kind::Bound(binding(name, row)))
            }
            Changed::Unbound(name) => self.is_below(name).then(|| Kind::Unbound(name.clone())),
            Changed::Namespace(row) => {
                self.names.extend([named(row)]);
                all.then(|| Kind::Namespace(row.name.clone()))
            }
            Changed::NamespaceDeleted(id) => {
                let name = self.names.remove(id).map(|(name, _)| name);
                name.filter(|_| all).map(Kind::Namespace)
            }
            Changed::Shard(shard, entry) => all.then(|| Kind::Shard(self.shard(*shard, entry))),
            Changed::Node(node) => all.then(|| {
                Kind::Member(MemberChange {
                    node: node.id.0,
                    name: node.name.clone(),
                    state: state(node.state).to_string(),
                })
            }),
            Changed::Settings(_) | Changed::ShardDeleted(_) | Changed::Session(..) => None,
        }
    }

    fn shard(&self, shard: ShardId, entry: &ShardEntry) -> ShardChange {
        let (namespace, first) = self
            .names
            .get(&entry.namespace)
            .cloned()
            .unwrap_or_default();
        ShardChange {
            shard: shard.0,
            namespace,
            index: shard.0.saturating_sub(first.0) as u32,
            epoch: entry.epoch.0,
            primary: primary(entry),
            secondaries: nodes(&entry.secondaries),
            joining: nodes(&entry.joining),
        }
    }

    /// `a/b` has `a/b` and `a/b/c`, not `a/bc`.
    fn is_below(&self, name: &str) -> bool {
        let prefix = &self.asked.prefix;
        prefix.is_empty()
            || name
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn named(namespace: &Namespace) -> (NamespaceId, (String, ShardId)) {
    (
        namespace.id,
        (namespace.name.clone(), namespace.first_shard),
    )
}
