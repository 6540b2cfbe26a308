//! Where the command line meets the server roles: the one place that names both.

use crate::config::{ManagerConfig, NodeConfig};
use crate::process::{Process, RoleError};

/// Runs a manager until the word to stop.
pub async fn manager(_config: ManagerConfig, _process: Process) -> Result<(), RoleError> {
    Err(RoleError::Failed(
        "the manager is not part of this build".to_string(),
    ))
}

/// Runs a data node until the word to stop.
pub async fn node(_config: NodeConfig, _process: Process) -> Result<(), RoleError> {
    Err(RoleError::Failed(
        "the data node is not part of this build".to_string(),
    ))
}
