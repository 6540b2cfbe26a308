//! The demo's data: the world's airports, from the table that is built in or another CSV with the same columns.
//!
//! Built in so that the demo needs no network; source, version and licence stand beside the file in `node/demo`.

use crate::cli::bulk;
use anyhow::{Context, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use understudy_client::Namespace;

const BUILT_IN: &[u8] = include_bytes!("../../../demo/airports.csv.gz");

/// One row. Numbers stay text: the demo stores them and compares them, it does not calculate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Airport {
    pub icao: String,
    pub iata: String,
    pub name: String,
    pub city: String,
    pub subd: String,
    pub country: String,
    pub elevation: String,
    pub lat: String,
    pub lon: String,
    pub tz: String,
}

impl Airport {
    /// The object's key and its plain value.
    pub fn row(&self) -> anyhow::Result<(Bytes, Bytes)> {
        Ok((
            Bytes::from(self.icao.clone()),
            serde_json::to_vec(self)?.into(),
        ))
    }
}

/// The rows of a file, or of the table that is built in. A key that stands twice is an error.
pub fn read(file: Option<&Path>) -> anyhow::Result<Vec<Airport>> {
    let airports = match file {
        None => parse(GzDecoder::new(BUILT_IN)).context("the built-in airports")?,
        Some(path) => {
            let name = || format!("the airports in {}", path.display());
            parse(File::open(path).with_context(name)?).with_context(name)?
        }
    };
    let mut keys: Vec<&str> = airports
        .iter()
        .map(|airport| airport.icao.as_str())
        .collect();
    keys.sort_unstable();
    let twice = keys.windows(2).find(|two| two[0] == two[1]);
    ensure!(twice.is_none(), "airport {:?} stands twice", twice);
    ensure!(!airports.is_empty(), "there is no airport");
    Ok(airports)
}

fn parse(table: impl Read) -> anyhow::Result<Vec<Airport>> {
    let mut reader = csv::Reader::from_reader(table);
    let rows: Result<Vec<Airport>, csv::Error> = reader.deserialize().collect();
    Ok(rows?)
}

/// Loads the airports under their ICAO codes.
pub async fn import(namespace: &Namespace, airports: &[Airport]) -> anyhow::Result<u64> {
    let rows: anyhow::Result<Vec<(Bytes, Bytes)>> = airports.iter().map(Airport::row).collect();
    bulk::load(namespace, rows?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_airports_are_whole() {
        let airports = read(None).expect("the built-in table is valid");
        assert_eq!(airports.len(), 28_298);
        let with_iata = airports.iter().filter(|airport| !airport.iata.is_empty());
        assert_eq!(with_iata.count(), 7_884);
        let frankfurt = airports.iter().find(|airport| airport.iata == "FRA");
        assert_eq!(frankfurt.expect("it is there").icao, "EDDF");
    }
}
