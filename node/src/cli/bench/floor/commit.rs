//! RocksDB alone: one thread that writes what waits in one batch and syncs it, as often as it can.
//!
//! As many writes wait each time as the store's clients have requests on the way. Only the bench names RocksDB outside
//! `storage`: it measures what lies below the store, so it must not go through it.

use crate::cli::bench::args::PlanArgs;
use crate::cli::bench::keys::{Keys, value};
use crate::cli::bench::measured::{Latency, Measured, histogram, micros};
use anyhow::Context;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The folder is made inside this one, by default inside the temporary folder, and removed at the end.
pub fn run(inside: Option<&Path>, plan: &PlanArgs) -> anyhow::Result<Measured> {
    let inside = inside.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let folder = Scratch(inside.join(format!("understudy-floor-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, &folder.0).context("RocksDB does not open")?;
    let mut sync = WriteOptions::default();
    sync.set_sync(true);
    let keys = Keys::new(plan);
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let value = value(&mut rng, plan.value_size);
    let mut latency = histogram();
    let mut operations = 0;
    let from = Instant::now() + plan.warm_up();
    let to = from + plan.duration();
    loop {
        let mut batch = WriteBatch::default();
        for _ in 0..plan.workers() {
            batch.put(keys.draw(&mut rng), &value);
        }
        let started = Instant::now();
        db.write_opt(batch, &sync)?;
        let now = Instant::now();
        if now >= to {
            break;
        }
        if now >= from {
            operations += u64::from(plan.workers());
            latency.saturating_record_n(micros(now - started), u64::from(plan.workers()));
        }
    }
    drop(db);
    let seconds = plan.duration().as_secs_f64();
    Ok(Measured {
        name: "rocksdb group commit".to_string(),
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
        server_cpu_us_per_operation: None,
    })
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
