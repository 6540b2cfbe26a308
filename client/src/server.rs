//! One server that the client talks to: its channel, its pipe, and the bound on what is in flight there.
//!
//! Channels connect when first used and again after a break; pings notice a server that is frozen. Beyond the bound
//! callers wait their turn (back-pressure), until their deadline.

use crate::error::Trouble;
use crate::pipe::Pipe;
use crate::settings::{Settings, Transport};
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::PUBLIC_MESSAGE_BYTES_MAX;
use understudy_proto::v1::{self, objects_client::ObjectsClient, stream_answer, stream_item};

pub(crate) type ObjectsStub = ObjectsClient<Channel>;

/// Servers that a client keeps a connection to; beyond it those that no request uses are dropped.
const SERVERS_MAX: usize = 1_024;

/// The servers met so far, by address.
#[derive(Debug)]
pub(crate) struct Servers {
    settings: Settings,
    known: RwLock<HashMap<String, Arc<Server>>>,
}

impl Servers {
    pub fn new(settings: Settings) -> Servers {
        Servers {
            settings,
            known: RwLock::default(),
        }
    }

    /// The server at host:port.
    pub fn at(&self, address: &str) -> Result<Arc<Server>, Trouble> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = known.get(address) {
            return Ok(server.clone());
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = known.get(address) {
            return Ok(server.clone());
        }
        let server = Arc::new(Server::new(address, &self.settings)?);
        if known.len() >= SERVERS_MAX {
            // Addresses of servers that moved away; one that is needed again connects again.
            known.retain(|_, server| Arc::strong_count(server) > 1);
        }
        known.insert(address.to_string(), server.clone());
        Ok(server)
    }
}

#[derive(Debug)]
pub(crate) struct Server {
    channel: Channel,
    settings: Settings,
    pipe: Mutex<Option<Arc<Pipe>>>,
    /// One permit for each `unit` bytes of a request, at least one for each request.
    in_flight: Semaphore,
    unit: usize,
}

impl Server {
    fn new(address: &str, settings: &Settings) -> Result<Server, Trouble> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Trouble::NotSent(format!("'{address}' is no address: {error}")))?
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024);
        Ok(Server {
            channel: endpoint.connect_lazy(),
            settings: settings.clone(),
            pipe: Mutex::default(),
            in_flight: Semaphore::new(settings.in_flight_max),
            unit: (settings.in_flight_bytes_max / settings.in_flight_max).max(1),
        })
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for room among what is in flight here, until the deadline. `bytes`: of the request's keys and values.
    pub async fn enter(
        &self,
        bytes: usize,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, Trouble> {
        let weight = (1 + bytes / self.unit).min(self.settings.in_flight_max) as u32;
        if let Ok(permits) = self.in_flight.try_acquire_many(weight) {
            return Ok(permits);
        }
        match timeout_at(deadline, self.in_flight.acquire_many(weight)).await {
            Ok(Ok(permits)) => Ok(permits),
            _ => Err(Trouble::NotSent(
                "too many requests wait for this server".to_string(),
            )),
        }
    }

    /// Asks one question, and waits for its answer until then.
    pub async fn ask(
        &self,
        question: stream_item::Kind,
        bytes: usize,
        until: Instant,
    ) -> Result<stream_answer::Kind, Trouble> {
        match self.settings.transport {
            Transport::Stream => self.pipe().ask(question, bytes, until).await,
            Transport::Unary => self.ask_alone(question, until).await,
        }
    }

    /// The open pipe, or a new one after a break.
    fn pipe(&self) -> Arc<Pipe> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        match pipe.as_ref() {
            Some(open) if !open.closed() => open.clone(),
            _ => {
                let opened = Arc::new(Pipe::open(self.stub(), &self.settings));
                *pipe = Some(opened.clone());
                opened
            }
        }
    }

    async fn ask_alone(
        &self,
        question: stream_item::Kind,
        until: Instant,
    ) -> Result<stream_answer::Kind, Trouble> {
        let mut stub = self.stub();
        let answer = async {
            Ok(match question {
                stream_item::Kind::Execute(request) => {
                    let response = stub.execute(request).await?.into_inner();
                    stream_answer::Kind::Executed(response)
                }
                stream_item::Kind::Read(request) => {
                    let response = stub.read(request).await?.into_inner();
                    stream_answer::Kind::Read(response)
                }
            })
        };
        match timeout_at(until, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(trouble_of(&status)),
            Err(_) => Err(Trouble::Lost("the attempt's time passed".to_string())),
        }
    }

    fn stub(&self) -> ObjectsStub {
        objects(self.channel())
    }
}

/// A stub for objects with the bounds on messages of the public port.
pub(crate) fn objects(channel: Channel) -> ObjectsStub {
    v1::objects_client::ObjectsClient::new(channel)
        .max_decoding_message_size(PUBLIC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PUBLIC_MESSAGE_BYTES_MAX)
}

/// What a status tells. Only our own ErrorInfo, and that no connection was made, say for certain that nothing ran.
pub(crate) fn trouble_of(status: &Status) -> Trouble {
    if let Some(failure) = Failure::from_status(status) {
        return Trouble::Failure(failure);
    }
    if never_connected(status) {
        return Trouble::NotSent(status.message().to_string());
    }
    let text = format!("{}: {}", status.code().description(), status.message());
    if status.code() == Code::Unimplemented {
        // gRPC itself says so when a server has no such method: it is not the right kind of server.
        return Trouble::Failure(Failure::no(Reason::Unimplemented, text));
    }
    Trouble::Lost(text)
}

fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
