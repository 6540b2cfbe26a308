//! Loads many objects: rows of one shard travel together in large transactions, several at once.
//!
//! For the demo's data and the bench's first fill. Each transaction is sent under one request id until it is answered, so
//! a failover in between loads nothing twice.

use anyhow::Context;
use bytes::Bytes;
use std::time::Duration;
use tokio::task::JoinSet;
use understudy_client::{Namespace, Written};
use understudy_proto::shard_of_key::shard_index;

/// Of one transaction. Half the limit of operations; the bytes keep a record well below its own limit.
const ROWS_MAX: usize = 500;
const BYTES_MAX: usize = 512 * 1024;
/// Transactions on their way at once.
const IN_FLIGHT: usize = 16;
/// Of one transaction, over all its attempts.
const DEADLINE: Duration = Duration::from_secs(60);

/// Puts every row; later rows of the same key win. Gives how many rows there were.
pub async fn load(
    namespace: &Namespace,
    rows: impl IntoIterator<Item = (Bytes, Bytes)>,
) -> anyhow::Result<u64> {
    let shards = namespace.route().await?.shard_count();
    let mut waiting: Vec<Batch> = (0..shards).map(|_| Batch::default()).collect();
    let mut sending = JoinSet::new();
    let mut count = 0;
    for (key, value) in rows {
        let batch = &mut waiting[shard_index(&key, shards) as usize];
        batch.push(key, value);
        count += 1;
        if batch.full() {
            send(namespace, std::mem::take(batch), &mut sending).await?;
        }
    }
    for batch in waiting.into_iter().filter(|batch| !batch.rows.is_empty()) {
        send(namespace, batch, &mut sending).await?;
    }
    while let Some(sent) = sending.join_next().await {
        check(sent?)?;
    }
    Ok(count)
}

#[derive(Default)]
struct Batch {
    rows: Vec<(Bytes, Bytes)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.rows.push((key, value));
    }

    fn full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.bytes >= BYTES_MAX
    }
}

type Answer = Result<Written, understudy_client::Error>;

async fn send(
    namespace: &Namespace,
    batch: Batch,
    sending: &mut JoinSet<Answer>,
) -> anyhow::Result<()> {
    if sending.len() >= IN_FLIGHT
        && let Some(sent) = sending.join_next().await
    {
        check(sent?)?;
    }
    let mut write = namespace.transaction().deadline(DEADLINE);
    for (key, value) in batch.rows {
        write = write.put(key, value);
    }
    sending.spawn(write.send());
    Ok(())
}

fn check(answer: Answer) -> anyhow::Result<()> {
    let written = answer.context("loading")?;
    anyhow::ensure!(
        written.applied(),
        "loading: a transaction came to {:?}",
        written.outcome
    );
    Ok(())
}
