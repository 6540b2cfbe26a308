//! `understudy bench lag`: how far the other copies are behind an acknowledgement: a write is acknowledged by its primary, and at
//! that moment each secondary is asked itself for a session that saw it. The answer comes when the copy has it.

use super::args::LagArgs;
use super::keys::value;
use super::load;
use super::measured::{Latency, histogram, micros};
use super::start;
use anyhow::Context;
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use understudy_client::{Client, Written};
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{Pair, ReadLevel, ReadRequest};

/// Between two writes that are looked at.
const EVERY: Duration = Duration::from_millis(5);
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Seconds of the measurement of the peak.
const PEAK_SECONDS: f64 = 5.0;

type Objects = ObjectsClient<tonic::transport::Channel>;

#[derive(Debug, Serialize)]
struct Lag {
    /// Of the closed loop with the same clients; none: the rate was given.
    peak_per_second: Option<f64>,
    /// Of the writes that went on meanwhile.
    rate: f64,
    per_second: f64,
    /// From the acknowledgement until a secondary had answered; the way there and back is in it.
    lag: Latency,
    /// The same question when the copy has it already: what of the lag is the way there and back.
    way: Latency,
}

pub async fn run(args: &LagArgs) -> anyhow::Result<()> {
    let mut plan = args.plan.clone();
    let (local, client) = start(&args.cluster, &plan.namespace).await?;
    let endpoints = local.endpoints();
    let mut peak_per_second = None;
    if plan.rate.is_none() {
        let mut peak = plan.clone();
        peak.duration = PEAK_SECONDS;
        let measured = load::run(&endpoints, &[], &peak).await?;
        peak_per_second = Some(measured.per_second);
        plan.rate = Some(measured.per_second / 2.0);
    }
    let begin = Instant::now() + plan.warm_up();
    let end = begin + plan.duration();
    let looked = look(&client, args, begin, end);
    let (measured, looked) = tokio::join!(load::run(&endpoints, &[], &plan), looked);
    let (measured, (lag, way)) = (measured?, looked?);
    drop(local);
    let lag = Lag {
        peak_per_second,
        rate: plan.rate.unwrap_or_default(),
        per_second: measured.per_second,
        lag: Latency::of(&lag),
        way: Latency::of(&way),
    };
    if args.cluster.is_json() {
        println!("{}", serde_json::to_string_pretty(&lag)?);
        return Ok(());
    }
    if let Some(peak) = lag.peak_per_second {
        println!("peak {peak:.0} writes/s; half of it goes on meanwhile");
    }
    println!(
        "{:.0} writes/s of {:.0} that were due",
        lag.per_second, lag.rate
    );
    for (what, latency) in [
        ("from the acknowledgement to a secondary's answer", &lag.lag),
        ("of it the question and the answer", &lag.way),
    ] {
        println!(
            "{what:<50} p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, most {:.2} ms",
            latency.p50_us as f64 / 1e3,
            latency.p99_us as f64 / 1e3,
            latency.p999_us as f64 / 1e3,
            latency.max_us as f64 / 1e3
        );
    }
    Ok(())
}

/// Writes now and then, and looks at every other copy.
async fn look(
    client: &Client,
    args: &LagArgs,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    let name = &args.plan.namespace;
    let namespace = client.namespace(name);
    let shards = client.cluster().shards(Some(name)).await?.shards;
    let mut nodes: BTreeMap<u64, Objects> = BTreeMap::new();
    for node in client.cluster().nodes().await?.nodes {
        let endpoint = format!("http://{}", node.inside_address);
        nodes.insert(node.node, ObjectsClient::connect(endpoint).await?);
    }
    let value = value(&mut ChaCha8Rng::seed_from_u64(3), args.plan.value_size);
    let (mut lag, mut way) = (histogram(), histogram());
    tokio::time::sleep_until(begin).await;
    let mut next = begin;
    for rank in 0u64.. {
        if Instant::now() >= end {
            break;
        }
        let key = format!("look-{}", rank % 997);
        let written = namespace.put(key.clone(), value.clone()).await?;
        let acknowledged = Instant::now();
        let shard =
            understudy_proto::shard_of_key::shard_index(key.as_bytes(), shards.len() as u32);
        let shard = shards.iter().find(|s| s.index == shard);
        let others = shard.context("a shard is missing")?.secondaries.iter();
        let asked = others.filter_map(|node| nodes.get(node)).map(|objects| {
            let question = question(name, &key, &written);
            async {
                ask(objects.clone(), question.clone()).await?;
                let took = acknowledged.elapsed();
                let again = Instant::now();
                ask(objects.clone(), question).await?;
                anyhow::Ok((took, again.elapsed()))
            }
        });
        for (took, again) in futures::future::try_join_all(asked).await? {
            lag.saturating_record(micros(took));
            way.saturating_record(micros(again));
        }
        next = Instant::now().max(next + EVERY);
        tokio::time::sleep_until(next).await;
    }
    Ok((lag, way))
}

fn question(namespace: &str, key: &str, written: &Written) -> ReadRequest {
    ReadRequest {
        namespace: namespace.to_string(),
        keys: vec![key.to_string().into()],
        level: ReadLevel::Session.into(),
        token: Some(Pair {
            epoch: written.pair.epoch.0,
            version: written.pair.version.0,
        }),
        deadline_ms: LOOK_LIMIT.as_millis() as u32,
        refuse_forwarding: true,
        ..ReadRequest::default()
    }
}

async fn ask(mut objects: Objects, question: ReadRequest) -> anyhow::Result<()> {
    objects.read(question).await?;
    Ok(())
}
