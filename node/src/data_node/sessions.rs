//! Client sessions: the first node that meets an unknown client id registers it with the managers, once, then knows it.
//!
//! Known clients need no manager. Activity is told with the heartbeats.

use super::{Directory, Managers};
use crate::clock;
use crate::rpc::control::{NodeRequest, NodeResponse};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::REGISTRATIONS_MAX;
use understudy_proto::{ClientId, RequestId, Sequence};
use understudy_protocol::control::NodeControl;
use understudy_protocol::tables::SessionState;

/// How long a registration may take.
const LIMIT: Duration = Duration::from_secs(3);

pub struct Sessions {
    managers: Arc<Managers>,
    directory: Arc<RwLock<Directory>>,
    control: Arc<Mutex<NodeControl>>,
    /// Under which this process asks.
    asker: ClientId,
    asked: AtomicU64,
    /// Registrations under way: one for each client, whoever waits for it.
    asking: Arc<parking_lot::Mutex<HashMap<ClientId, Asking>>>,
}

type Asking = Shared<BoxFuture<'static, Result<(), Failure>>>;

impl Sessions {
    pub fn new(
        managers: Arc<Managers>,
        directory: Arc<RwLock<Directory>>,
        control: Arc<Mutex<NodeControl>>,
    ) -> Sessions {
        let asker = ClientId::from_parts(clock::unix_ms(), rand::random());
        Sessions {
            managers,
            directory,
            control,
            asker,
            asked: AtomicU64::new(0),
            asking: Arc::default(),
        }
    }

    /// What is known here of a client: `Some(Ok)`: it may write; `None`: the managers have to be asked.
    pub fn known(&self, client: ClientId) -> Option<Result<(), Failure>> {
        let open = self.directory.read().session(client)?;
        Some(if open { Ok(()) } else { Err(ended()) })
    }

    /// Notes that the client wrote; goes out with a heartbeat.
    pub fn active(&self, client: ClientId) {
        self.control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .active(client);
    }

    /// Asks the managers when this node does not know the client.
    pub async fn admit(&self, client: ClientId) -> Result<(), Failure> {
        if let Some(known) = self.known(client) {
            return known;
        }
        if !client.is_uuid_v7() {
            return Err(Failure::no(
                Reason::ClientIdRefused,
                "a client id is a UUIDv7 (RFC 9562)",
            )
            .with("table_time_ms", clock::unix_ms().to_string()));
        }
        let asking = self.asking.lock().get(&client).cloned();
        asking.unwrap_or_else(|| self.register(client)).await
    }

    /// Registers the client with the managers; it goes on when whoever asked first gives up.
    fn register(&self, client: ClientId) -> Asking {
        let sequence = Sequence(self.asked.fetch_add(1, Relaxed) + 1);
        let id = RequestId {
            client: self.asker,
            sequence,
        };
        let (managers, directory) = (self.managers.clone(), self.directory.clone());
        let asked = async move {
            let request = NodeRequest::RegisterSession { id, client };
            match managers.ask(&request, LIMIT).await {
                Ok(NodeResponse::Session(session)) if session.state == SessionState::Open => {
                    directory.write().know_session(client);
                    Ok(())
                }
                Ok(NodeResponse::Session(_)) => Err(ended()),
                Ok(NodeResponse::Exit(_)) => {
                    Err(Failure::no(Reason::Internal, "an answer of another kind"))
                }
                // The write itself was not begun.
                Err(failure) => Err(Failure {
                    applied: understudy_proto::failure::Applied::No,
                    ..failure
                }),
            }
        };
        let asked = asked.boxed().shared();
        let mut asking = self.asking.lock();
        if let Some(first) = asking.get(&client) {
            // Somebody began since it was looked up.
            return first.clone();
        }
        if asking.len() >= REGISTRATIONS_MAX {
            let what = "too many new clients wait for the managers; ask again";
            return std::future::ready(Err(Failure::no(Reason::Overloaded, what)))
                .boxed()
                .shared();
        }
        asking.insert(client, asked.clone());
        let (all, waits) = (self.asking.clone(), asked.clone());
        tokio::spawn(async move {
            // Whoever waits gets the result.
            let _ = waits.await;
            all.lock().remove(&client);
        });
        asked
    }
}

fn ended() -> Failure {
    Failure::unknown(
        Reason::RequestExpired,
        "the session of this client id ended; use another id",
    )
}
