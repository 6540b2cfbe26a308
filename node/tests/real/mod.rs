//! A cluster of real processes for one test, on free ports and in a folder that goes with it.

use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use understudy_node::cli::cluster_processes::{LocalCluster, Shape};

/// Until all are ready; a slow machine needs a part of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processes come first: they end before their folder goes.
pub async fn cluster(managers: u16, nodes: u16, node_flags: &[&str]) -> (LocalCluster, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let shape = Shape {
        port_base: 0,
        node_flags: node_flags.iter().map(ToString::to_string).collect(),
        executable: Some(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))),
        ..Shape::new(managers, nodes, folder.path())
    };
    let mut cluster = LocalCluster::start(&shape).unwrap();
    cluster.wait_ready(PATIENCE).await.unwrap();
    (cluster, folder)
}
