//! The clients of the echo: the same number of connections and of requests on the way as the store's clients have, on bare
//! stubs.

use super::echo::EchoProcess;
use crate::cli::bench::args::PlanArgs;
use crate::cli::bench::cpu;
use crate::cli::bench::keys::{Keys, value};
use crate::cli::bench::measured::{Latency, Measured, histogram, micros};
use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{
    ExecuteRequest, Op, RequestId, StreamItem, StreamRequest, op, stream_item,
};

/// When the measurement begins and ends.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

struct Seen {
    latency: Histogram<u64>,
    operations: u64,
}

/// One call for each request.
pub async fn unary(echo: &EchoProcess, plan: &PlanArgs) -> anyhow::Result<Measured> {
    let window = window(plan);
    let mut workers = JoinSet::new();
    for client in 0..plan.clients {
        let channel = connect(echo).await?;
        for worker in 0..plan.in_flight {
            let requests = Requests::new(plan, client * plan.in_flight + worker);
            workers.spawn(call(channel.clone(), requests, window));
        }
    }
    measure("tonic unary echo", echo, plan, window, workers).await
}

/// One stream for each client; what is free to go goes in one message.
pub async fn stream(echo: &EchoProcess, plan: &PlanArgs) -> anyhow::Result<Measured> {
    let window = window(plan);
    let mut workers = JoinSet::new();
    for client in 0..plan.clients {
        let channel = connect(echo).await?;
        let requests = Requests::new(plan, client);
        workers.spawn(pipe(channel, requests, plan.in_flight as usize, window));
    }
    measure("tonic stream echo", echo, plan, window, workers).await
}

async fn measure(
    name: &str,
    echo: &EchoProcess,
    plan: &PlanArgs,
    window: Window,
    mut workers: JoinSet<anyhow::Result<Seen>>,
) -> anyhow::Result<Measured> {
    sleep_until(window.from).await;
    let before = cpu::used(&[echo.pid()])?;
    sleep_until(window.to).await;
    let used = cpu::used(&[echo.pid()])?.saturating_sub(before);
    let mut latency = histogram();
    let mut operations = 0;
    while let Some(seen) = workers.join_next().await {
        let seen = seen??;
        operations += seen.operations;
        // It grows by itself, so adding cannot fail.
        let _ = latency.add(&seen.latency);
    }
    let seconds = plan.duration().as_secs_f64();
    Ok(Measured {
        name: name.to_string(),
        clients: plan.clients,
        in_flight: plan.in_flight,
        rate: None,
        seconds,
        operations,
        per_second: operations as f64 / seconds,
        latency: Latency::of(&latency),
        puts: None,
        gets: None,
        failed: 0,
        unknown: 0,
        server_cpu_us_per_operation: Some(used.as_secs_f64() * 1e6 / operations.max(1) as f64),
    })
}

async fn call(channel: Channel, mut requests: Requests, window: Window) -> anyhow::Result<Seen> {
    let mut stub = ObjectsClient::new(channel);
    let mut seen = Seen::new();
    while Instant::now() < window.to {
        let request = requests.next();
        let started = Instant::now();
        stub.execute(request).await?;
        seen.note(started, window);
    }
    Ok(seen)
}

async fn pipe(
    channel: Channel,
    mut requests: Requests,
    in_flight: usize,
    window: Window,
) -> anyhow::Result<Seen> {
    let mut stub = ObjectsClient::new(channel);
    let (sender, receiver) = mpsc::channel(in_flight);
    let mut seen = Seen::new();
    // The tag of a request is its place here, where the time stands at which it was sent.
    let mut started = vec![Instant::now(); in_flight];
    let batch = |tags: Vec<u64>, requests: &mut Requests, started: &mut [Instant]| {
        let now = Instant::now();
        let item = |tag: u64| {
            started[tag as usize] = now;
            let kind = Some(stream_item::Kind::Execute(requests.next()));
            StreamItem { tag, kind }
        };
        StreamRequest {
            items: tags.into_iter().map(item).collect(),
        }
    };
    let first = batch((0..in_flight as u64).collect(), &mut requests, &mut started);
    sender.send(first).await?;
    let answers = stub.execute_stream(ReceiverStream::new(receiver)).await?;
    let mut answers = answers.into_inner();
    while Instant::now() < window.to {
        let message = answers.message().await?.context("the echo ended")?;
        let tags: Vec<u64> = message.answers.iter().map(|answer| answer.tag).collect();
        for tag in &tags {
            seen.note(started[*tag as usize], window);
        }
        sender
            .send(batch(tags, &mut requests, &mut started))
            .await?;
    }
    Ok(seen)
}

impl Seen {
    fn new() -> Seen {
        Seen {
            latency: histogram(),
            operations: 0,
        }
    }

    fn note(&mut self, started: Instant, window: Window) {
        let now = Instant::now();
        if now >= window.from && now < window.to {
            self.operations += 1;
            self.latency.saturating_record(micros(now - started));
        }
    }
}

/// Puts as the store's clients send them.
struct Requests {
    keys: Keys,
    value: Bytes,
    rng: ChaCha8Rng,
    namespace: String,
    client_id: Bytes,
    sequence: u64,
}

impl Requests {
    fn new(plan: &PlanArgs, number: u32) -> Requests {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed.wrapping_add(u64::from(number)));
        Requests {
            keys: Keys::new(plan),
            value: value(&mut rng, plan.value_size),
            namespace: plan.namespace.clone(),
            client_id: Bytes::copy_from_slice(&u128::from(number).to_be_bytes()),
            sequence: 0,
            rng,
        }
    }

    fn next(&mut self) -> ExecuteRequest {
        self.sequence += 1;
        let put = op::Put {
            key: self.keys.draw(&mut self.rng),
            value: self.value.clone(),
        };
        ExecuteRequest {
            request_id: Some(RequestId {
                client_id: self.client_id.clone(),
                sequence: self.sequence,
            }),
            namespace: self.namespace.clone(),
            shard: Some(0),
            ops: vec![Op {
                kind: Some(op::Kind::Put(put)),
            }],
            deadline_ms: 10_000,
            refuse_forwarding: true,
            ..Default::default()
        }
    }
}

fn window(plan: &PlanArgs) -> Window {
    let from = Instant::now() + Duration::from_millis(50) + plan.warm_up();
    Window {
        from,
        to: from + plan.duration(),
    }
}

async fn connect(echo: &EchoProcess) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(echo.address().to_string())?
        .tcp_nodelay(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024);
    Ok(endpoint.connect().await?)
}
