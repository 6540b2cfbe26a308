//! The `Agent` service: what processes there are, and wishes about them, from managers and from people.

use super::supervisor::{Supervisor, Wish};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::NAME_BYTES_MAX;
use understudy_proto::v1::agent_server::Agent;
use understudy_proto::v1::{
    ListProcessesRequest, ListProcessesResponse, ProcessRequest, ProcessResponse,
};

const GRACE_MS_MAX: u64 = 600_000;
const LAUNCH_BYTES: usize = 32;

#[derive(Clone, Debug)]
pub struct AgentServer {
    supervisors: Arc<BTreeMap<String, Supervisor>>,
}

impl AgentServer {
    pub fn new(supervisors: Arc<BTreeMap<String, Supervisor>>) -> AgentServer {
        AgentServer { supervisors }
    }

    fn check(request: &ProcessRequest) -> Result<(), Failure> {
        if request.name.len() > NAME_BYTES_MAX {
            return Err(Failure::field("name", "name has more than 255 bytes"));
        }
        let launch = request.launch_id.len();
        if launch != 0 && launch != LAUNCH_BYTES {
            return Err(Failure::field("launch_id", "launch_id has 32 digits"));
        }
        if request.grace_ms > GRACE_MS_MAX {
            let why = "grace_ms is more than 600,000";
            return Err(Failure::field("grace_ms", why));
        }
        Ok(())
    }

    fn find(&self, request: &ProcessRequest) -> Result<&Supervisor, Failure> {
        AgentServer::check(request)?;
        let found = match (request.name.as_str(), request.launch_id.as_str()) {
            ("", "") => return Err(Failure::field("name", "name or launch_id is needed")),
            ("", launch) => {
                let mut all = self.supervisors.values();
                all.find(|supervisor| supervisor.is_launch(launch))
            }
            (name, _) => self.supervisors.get(name),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.supervisors.keys().map(String::as_str).collect();
            let why = match request.name.as_str() {
                "" => "the last start of no process here has that launch id".to_string(),
                name => format!(
                    "there is no process '{name}' here; there are {}",
                    names.join(", ")
                ),
            };
            Failure::no(Reason::NotFound, why)
        })
    }

    async fn wish(
        &self,
        request: Request<ProcessRequest>,
        wish: impl FnOnce(&ProcessRequest) -> Wish,
    ) -> Result<Response<ProcessResponse>, Status> {
        let request = request.into_inner();
        let supervisor = self.find(&request)?;
        supervisor.ask(wish(&request)).await?;
        let process = Some(supervisor.status());
        Ok(Response::new(ProcessResponse { process }))
    }
}

fn launch(request: &ProcessRequest) -> Option<String> {
    Some(request.launch_id.clone()).filter(|launch| !launch.is_empty())
}

fn grace(request: &ProcessRequest) -> Option<Duration> {
    (request.grace_ms > 0).then(|| Duration::from_millis(request.grace_ms))
}

#[tonic::async_trait]
impl Agent for AgentServer {
    async fn list(
        &self,
        _: Request<ListProcessesRequest>,
    ) -> Result<Response<ListProcessesResponse>, Status> {
        let processes = self.supervisors.values().map(Supervisor::status);
        Ok(Response::new(ListProcessesResponse {
            processes: processes.collect(),
        }))
    }

    async fn start(
        &self,
        request: Request<ProcessRequest>,
    ) -> Result<Response<ProcessResponse>, Status> {
        self.wish(request, |request| Wish::Start {
            launch: launch(request),
        })
        .await
    }

    async fn stop(
        &self,
        request: Request<ProcessRequest>,
    ) -> Result<Response<ProcessResponse>, Status> {
        self.wish(request, |request| Wish::Stop {
            launch: launch(request),
            grace: grace(request),
            remember: true,
        })
        .await
    }

    async fn restart(
        &self,
        request: Request<ProcessRequest>,
    ) -> Result<Response<ProcessResponse>, Status> {
        self.wish(request, |request| Wish::Restart {
            launch: launch(request),
            grace: grace(request),
        })
        .await
    }
}
