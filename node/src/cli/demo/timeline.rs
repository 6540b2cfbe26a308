//! What happened when, shown while it happens when a person looks on.
//!
//! Events and the speed go to standard error, and only when it is a terminal: in a pipe the demo is silent until its
//! result.

use crate::cli::pulse::{BUCKET, Pulse};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often the speed is shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// The longest bar.
const BAR: usize = 50;

/// Something that happened during the load.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub at_ms: u64,
    pub what: String,
}

/// The load over time.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub load_ms: u64,
    pub bucket_ms: u64,
    pub events: Vec<Event>,
    /// Acknowledgements by bucket, and in it by shard.
    pub acknowledged_by_shard: Vec<Vec<u32>>,
}

#[derive(Debug)]
pub struct Timeline {
    shown: bool,
    pulse: Mutex<Option<Arc<Pulse>>>,
    events: Mutex<Vec<Event>>,
    showing: Mutex<Option<JoinHandle<()>>>,
}

impl Timeline {
    pub fn new(shown: bool) -> Timeline {
        Timeline {
            shown,
            pulse: Mutex::default(),
            events: Mutex::default(),
            showing: Mutex::default(),
        }
    }

    /// Outside the load.
    pub fn say(&self, what: &str) {
        if self.shown {
            eprintln!("          {what}");
        }
    }

    /// During the load: also part of the report.
    pub fn event(&self, what: &str) {
        let now = lock(&self.pulse)
            .as_ref()
            .map_or(Duration::ZERO, |pulse| pulse.now());
        if self.shown {
            eprintln!("{:>7.2} s {what}", now.as_secs_f64());
        }
        lock(&self.events).push(Event {
            at_ms: now.as_millis() as u64,
            what: what.to_string(),
        });
    }

    /// The load begins: show its speed.
    pub fn begin(&self, pulse: &Arc<Pulse>) {
        *lock(&self.pulse) = Some(pulse.clone());
        if self.shown {
            *lock(&self.showing) = Some(tokio::spawn(show(pulse.clone())));
        }
    }

    /// The load ended: what happened in it.
    pub fn end(&self, pulse: &Pulse) -> Series {
        if let Some(showing) = lock(&self.showing).take() {
            showing.abort();
        }
        let load = pulse.now();
        let buckets = load.div_duration_f64(BUCKET).ceil() as usize;
        let buckets = 0..buckets.min(pulse.buckets());
        Series {
            load_ms: load.as_millis() as u64,
            bucket_ms: BUCKET.as_millis() as u64,
            events: lock(&self.events).clone(),
            acknowledged_by_shard: buckets.map(|bucket| pulse.bucket(bucket)).collect(),
        }
    }
}

async fn show(pulse: Arc<Pulse>) {
    let mut ticks = tokio::time::interval(SHOW_EVERY);
    ticks.tick().await;
    let mut before = pulse.total();
    let mut fastest = 1.0_f64;
    loop {
        ticks.tick().await;
        let total = pulse.total();
        let speed = (total - before) as f64 / SHOW_EVERY.as_secs_f64();
        before = total;
        fastest = fastest.max(speed);
        let bar = "#".repeat((speed / fastest * BAR as f64).round() as usize);
        let now = pulse.now().as_secs_f64();
        eprintln!("{now:>7.2} s {bar:<BAR$} {speed:>7.0} acknowledged/s");
    }
}

/// Each guarded value is whole between any two calls, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
