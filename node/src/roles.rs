//! Where the command line meets the server roles: the one place that names both.

use crate::config::{ManagerConfig, NodeConfig};
use crate::process::{Process, RoleError};

/// Runs a manager until the word to stop.
pub async fn manager(config: ManagerConfig, process: Process) -> Result<(), RoleError> {
    crate::manager_role::run(config, process).await
}

/// Runs a data node until the word to stop.
pub async fn node(config: NodeConfig, process: Process) -> Result<(), RoleError> {
    crate::data_node::run(config, process).await
}
