//! `Naming` on a data node: routes from the tables that the node follows. The rest of the service is the managers'.

use crate::data_node::Node;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::v1;
use understudy_proto::v1::naming_server::Naming;

/// How often a watch of routes looks at the tables.
const LOOK: Duration = Duration::from_millis(50);

/// The service on a node's public port.
#[derive(Clone, Debug)]
pub struct RoutesServer {
    node: Arc<Node>,
}

type Out<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

impl RoutesServer {
    pub fn new(node: Arc<Node>) -> RoutesServer {
        RoutesServer { node }
    }
}

fn route(node: &Node, asked: &v1::RouteRequest) -> Result<v1::RouteResponse, Failure> {
    if asked.namespace.is_empty() {
        // Only where the managers are.
        let directory = node.directory.read();
        return Ok(v1::RouteResponse {
            revision: directory.revision.0,
            managers: directory.managers(),
            ..v1::RouteResponse::default()
        });
    }
    let namespace = node.namespace(&asked.namespace)?;
    let directory = node.directory.read();
    let mut response = v1::RouteResponse {
        namespace_id: namespace.id.0,
        namespace: namespace.name.clone(),
        revision: directory.revision.0,
        shard_count: namespace.shards,
        managers: directory.managers(),
        ..v1::RouteResponse::default()
    };
    for (index, shard) in (0..).zip(namespace.shard_ids()) {
        let Some(entry) = directory.shard(shard) else {
            continue;
        };
        response.shards.push(v1::ShardRoute {
            index,
            shard: shard.0,
            epoch: entry.epoch.0,
            primary: entry.primary.map_or(0, |primary| primary.node.0),
            secondaries: entry.secondaries.iter().map(|copy| copy.node.0).collect(),
        });
    }
    response.nodes = directory
        .nodes()
        .map(|member| v1::NodeAddress {
            node: member.id.0,
            name: member.name.clone(),
            site: member.site.clone(),
            address: member
                .public
                .seen_from(&asked.site, &member.site)
                .to_string(),
        })
        .collect();
    Ok(response)
}

fn elsewhere<T>() -> Result<Response<T>, Status> {
    let message = "data nodes answer routes only; ask a manager";
    Err(Failure::no(Reason::Unimplemented, message).into())
}

#[tonic::async_trait]
impl Naming for RoutesServer {
    async fn route(
        &self,
        request: Request<v1::RouteRequest>,
    ) -> Result<Response<v1::RouteResponse>, Status> {
        Ok(Response::new(route(&self.node, &request.into_inner())?))
    }

    type WatchRoutesStream = Out<v1::RouteResponse>;

    async fn watch_routes(
        &self,
        request: Request<v1::RouteRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let asked = request.into_inner();
        self.node.namespace(&asked.namespace)?;
        let (out, stream) = mpsc::channel(2);
        let node = self.node.clone();
        tokio::spawn(async move {
            let mut known = asked.revision;
            let mut shown: Option<v1::RouteResponse> = None;
            while !out.is_closed() {
                let revision = node.directory.read().revision.0;
                if revision > known {
                    known = revision;
                    let answer = route(&node, &asked);
                    let same = match (&answer, &shown) {
                        (Ok(new), Some(old)) => new.shards == old.shards && new.nodes == old.nodes,
                        _ => false,
                    };
                    if !same {
                        shown = answer.as_ref().ok().cloned();
                        let failed = answer.is_err();
                        if out.send(answer.map_err(Status::from)).await.is_err() || failed {
                            return;
                        }
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lookup(
        &self,
        _: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        elsewhere()
    }

    async fn bind(
        &self,
        _: Request<v1::BindRequest>,
    ) -> Result<Response<v1::BindResponse>, Status> {
        elsewhere()
    }

    async fn unbind(
        &self,
        _: Request<v1::UnbindRequest>,
    ) -> Result<Response<v1::UnbindResponse>, Status> {
        elsewhere()
    }

    async fn list_bindings(
        &self,
        _: Request<v1::ListBindingsRequest>,
    ) -> Result<Response<v1::ListBindingsResponse>, Status> {
        elsewhere()
    }

    type WatchStream = Out<v1::NamingWatchResponse>;

    async fn watch(
        &self,
        _: Request<v1::NamingWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        elsewhere()
    }
}
