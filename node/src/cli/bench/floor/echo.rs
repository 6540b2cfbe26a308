//! The server of the floor: answers every request at once and does nothing, in a process of its own.
//!
//! It speaks the store's own service with the store's own messages, so what it costs is what tonic, HTTP/2 and the
//! encoding cost. It is no store: it forgets everything.

use crate::cli::bench::args::EchoArgs;
use anyhow::Context;
use futures::{Stream, StreamExt};
use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use understudy_proto::v1::objects_server::{Objects, ObjectsServer};
use understudy_proto::v1::{
    ExecuteRequest, ExecuteResponse, Outcome, ReadRequest, ReadResponse, ScanRequest, ScanResponse,
    StreamAnswer, StreamItem, StreamRequest, StreamResponse, VerifyRequest, VerifyResponse,
    WatchRequest, WatchResponse, outcome, stream_answer,
};

/// The echo server while it runs.
#[derive(Debug)]
pub struct EchoProcess {
    child: Child,
    address: String,
}

impl EchoProcess {
    pub fn start() -> anyhow::Result<EchoProcess> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "echo-server"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("it was piped")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address)?;
        let address = format!("http://{}", address.trim());
        Ok(EchoProcess { child, address })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the process is killed. Its address is the first line that it prints.
pub async fn serve(args: &EchoArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(&args.listen).await?;
    println!("{}", listener.local_addr()?);
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    });
    tonic::transport::Server::builder()
        .add_service(ObjectsServer::new(Echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

#[derive(Debug)]
struct Echo;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Objects for Echo {
    type ExecuteStreamStream = Answers<StreamResponse>;
    type WatchStream = Answers<WatchResponse>;

    async fn execute(
        &self,
        _request: Request<ExecuteRequest>,
    ) -> Result<Response<ExecuteResponse>, Status> {
        Ok(Response::new(done()))
    }

    async fn execute_stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let answers = message?.items.into_iter().map(answer).collect();
            Ok(StreamResponse { answers })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        Err(Status::unimplemented("this is only an echo"))
    }

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        Err(Status::unimplemented("this is only an echo"))
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        Err(Status::unimplemented("this is only an echo"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("this is only an echo"))
    }
}

fn answer(item: StreamItem) -> StreamAnswer {
    StreamAnswer {
        tag: item.tag,
        kind: Some(stream_answer::Kind::Executed(done())),
    }
}

fn done() -> ExecuteResponse {
    ExecuteResponse {
        outcome: Some(Outcome {
            status: outcome::Status::Applied.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
