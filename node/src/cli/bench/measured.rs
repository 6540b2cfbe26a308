//! What a load gave: throughput, percentiles, CPU time. One line for people, one document for programs.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The longest latency that is told apart: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        Latency {
            count: histogram.len(),
            mean_us: (histogram.mean() * 10.0).round() / 10.0,
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

/// The result of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub name: String,
    pub clients: u32,
    pub in_flight: u32,
    /// The rate that was asked for; none: a closed loop.
    pub rate: Option<f64>,
    pub seconds: f64,
    pub operations: u64,
    pub per_second: f64,
    pub latency: Latency,
    /// The same for puts and for gets alone, where there were both.
    pub puts: Option<Latency>,
    pub gets: Option<Latency>,
    /// Operations that certainly did not run.
    pub failed: u64,
    /// Writes whose outcome nobody was told.
    pub unknown: u64,
    /// Of all measured server processes together.
    pub server_cpu_us_per_operation: Option<f64>,
}

impl Measured {
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            print!("{}", table(std::slice::from_ref(self)));
        }
        Ok(())
    }
}

/// One line for each.
pub fn table(all: &[Measured]) -> String {
    let mut text = format!(
        "{:<28} {:>11} {:>9} {:>9} {:>9} {:>9} {:>11} {:>7} {:>7}\n",
        "",
        "per second",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "CPU us/op",
        "failed",
        "unknown"
    );
    for measured in all {
        text.push_str(&line(&measured.name, measured, &measured.latency));
        for (name, latency) in [("  puts", &measured.puts), ("  gets", &measured.gets)] {
            if let Some(latency) = latency {
                let blank = percentiles(latency);
                text.push_str(&format!("{name:<28} {:>11} {blank}\n", ""));
            }
        }
    }
    text
}

fn line(name: &str, measured: &Measured, latency: &Latency) -> String {
    let cpu = measured.server_cpu_us_per_operation;
    let cpu = cpu.map_or("-".to_string(), |cpu| format!("{cpu:.1}"));
    format!(
        "{name:<28} {:>11.0} {} {cpu:>11} {:>7} {:>7}\n",
        measured.per_second,
        percentiles(latency),
        measured.failed,
        measured.unknown
    )
}

fn percentiles(latency: &Latency) -> String {
    let ms = |us: u64| us as f64 / 1_000.0;
    format!(
        "{:>9.2} {:>9.2} {:>9.2} {:>9.2}",
        ms(latency.p50_us),
        ms(latency.p99_us),
        ms(latency.p999_us),
        ms(latency.max_us)
    )
}

/// Latencies to a thousandth, up to an hour: `saturating_record` cuts off what is longer.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order")
}

pub fn micros(elapsed: Duration) -> u64 {
    elapsed.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_all_sizes_are_told_as_they_were() {
        let mut histogram = histogram();
        for ms in [1, 20, 150, 30_000] {
            histogram.saturating_record(micros(Duration::from_millis(ms)));
        }
        let latency = Latency::of(&histogram);
        for (told, was) in [
            (latency.p50_us, 20_000),
            (latency.p99_us, 30_000_000),
            (latency.max_us, 30_000_000),
        ] {
            assert!(told.abs_diff(was) <= was / 1_000, "{told} for {was}");
        }
    }
}
