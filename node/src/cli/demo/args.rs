//! The flags of `understudy demo`.

use crate::cli::client::OutputFlag;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// Three managers and three nodes, real data, and two processes killed under load.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What flights, seats and clients are drawn by; printed. By default another one each time.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Flights, between airports with an IATA code.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub flights: u32,
    /// Seats of each flight.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub seats: u32,
    /// Clients at the same time, each with one request after the other: three of four reserve seats, the fourth writes notes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=2_000))]
    pub clients: u32,
    /// Requests that all clients together send each second.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Seconds of load; it lasts longer where the faults take longer.
    #[arg(long, default_value_t = 24, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(4..=3_600))]
    pub duration: u32,
    /// Another CSV of airports, with the columns of the built-in one.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// The first port; every further process takes the next ten. 0: free ports.
    #[arg(long, default_value_t = 7420)]
    pub port_base: u16,
    /// Where the new folder for the data is made. By default where this machine keeps temporary files.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Leave the data where they are, and say where.
    #[arg(long)]
    pub keep: bool,
    /// Also write a page for the browser.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, short = 'o', value_name = "HOW", default_value = "table")]
    pub output: OutputFlag,
}

impl Args {
    pub fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.duration))
    }

    /// With everything that may take its time in between.
    pub fn longest_load(&self) -> Duration {
        self.duration() * 2 + Duration::from_secs(90)
    }

    pub fn is_json(&self) -> bool {
        self.output == OutputFlag::Json
    }

    pub fn shows_progress(&self) -> bool {
        !self.is_json() && std::io::stderr().is_terminal()
    }

    /// What to type to get the same flights, seats and clients again.
    pub fn repeat(&self) -> String {
        let mut command = format!(
            "understudy demo --seed {} --flights {} --seats {} --clients {} --rate {} --duration {}",
            self.seed.unwrap_or_default(),
            self.flights,
            self.seats,
            self.clients,
            self.rate,
            self.duration
        );
        if let Some(data) = &self.data {
            command.push_str(&format!(" --data {}", data.display()));
        }
        command
    }
}
