//! The log of a process (standard error, text or JSON) and the metrics that every role has.
//!
//! The only place that touches the global of `tracing`; metrics are handed in by who counts them.

use crate::admin::Admin;
use crate::clock;
use crate::config::LogSettings;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts the log. A second start, in a test, leaves the first as it is.
pub fn start_log(settings: &LogSettings) -> Result<(), String> {
    let filter: Targets = settings
        .level
        .parse()
        .map_err(|error| format!("log.level '{}': {error}", settings.level))?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.format.as_str() {
        "json" => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        _ => registry
            .with(
                fmt::layer()
                    .with_ansi(colour())
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    drop(started);
    Ok(())
}

/// Only on a terminal, and not where NO_COLOR is set (https://no-color.org).
fn colour() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What every role shows: its version, and when it started.
pub fn register_process(admin: &Admin, role: &'static str) {
    let started: Gauge = Gauge::default();
    started.set((clock::unix_ms() / 1_000) as i64);
    admin.register(|registry| {
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("role", role)]);
        registry.register("build", "The version and the role of this process", build);
        registry.register(
            "start_time_seconds",
            "When the process started, seconds since 1970",
            started,
        );
    });
}
