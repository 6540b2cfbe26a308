//! Connections to other processes, one for each address, opened when first used and kept alive.

use crate::manager::Dial;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// How long a connection may be silent before it is asked, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Clones share the connections.
#[derive(Clone)]
pub struct Channels {
    dial: Dial,
    open: Arc<Mutex<HashMap<String, Channel>>>,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channels({})", self.open.lock().len())
    }
}

impl Channels {
    pub fn new(dial: Dial) -> Channels {
        Channels {
            dial,
            open: Arc::default(),
        }
    }

    /// The connection to `host:port`. An error: that is no address.
    pub fn get(&self, address: &str) -> Result<Channel, String> {
        let mut open = self.open.lock();
        if let Some(channel) = open.get(address) {
            return Ok(channel.clone());
        }
        let channel = (self.dial)(address)?
            .connect_timeout(KEEP_ALIVE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .connect_lazy();
        open.insert(address.to_string(), channel.clone());
        Ok(channel)
    }
}
