//! A load that a fault must not disturb: clients that write without pause, and no write may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;
use understudy_client::Client;

const CLIENTS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that write without pause, each its own keys.
pub struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    clients: JoinSet<Result<u64, String>>,
}

impl Load {
    pub fn start(client: &Client, namespace: &str) -> Load {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let namespace = client.namespace(namespace);
            let (stop, count) = (stop.clone(), count.clone());
            clients.spawn(async move {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{number}/{written}");
                    let done = namespace.put(key.clone(), key).send().await;
                    done.map_err(|failure| format!("write {written}: {failure}"))?;
                    written += 1;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(written)
            });
        }
        Load {
            stop,
            count,
            clients,
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub async fn some_more(&self, writes: u64) {
        let wanted = self.count() + writes;
        let began = Instant::now();
        while self.count() < wanted {
            assert!(began.elapsed() < PATIENCE, "writes are acknowledged");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The writes; fails when one of them did.
    pub async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = 0;
        while let Some(ended) = self.clients.join_next().await {
            all += ended.unwrap().expect("no write fails");
        }
        all
    }
}
