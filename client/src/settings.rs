//! Every setting of a client, with its unit, default and reason.
//!
//! Plain data, passed down by value; nothing reads the environment or a file.

use crate::retry::Backoff;
use std::time::Duration;
use understudy_proto::limits;

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transport {
    /// One pipelined stream per node: what waits goes out together. The default.
    #[default]
    Stream,
    /// One unary call per request: for proxies that cannot carry long streams, and for comparison.
    Unary,
}

/// The settings of a [`Client`](crate::Client).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The caller's site. Servers of the same site hand out their inside addresses, and reads of level `Any` prefer
    /// copies there. Writes tell it: where a namespace wants it, its primaries go where most updates come from. Empty: none.
    pub site: String,
    /// How long a call may take over all its attempts, when it does not say itself. 10 s; at most 10 min.
    pub deadline: Duration,
    /// How long one attempt may take before the next copy is asked under the same id. 1 s: longer than a healthy write
    /// takes anywhere, as short as a lease, so a frozen primary costs one of these and not the deadline. Writes that
    /// ask for `copies` wait as long as their deadline.
    pub attempt_timeout: Duration,
    /// How long a connection may take to be made. 500 ms.
    pub connect_timeout: Duration,
    /// How often an open connection is tested with an HTTP/2 ping. 1 s.
    pub keepalive_interval: Duration,
    /// How long the answer to such a ping may take before the connection counts as broken. 1 s.
    pub keepalive_timeout: Duration,
    /// The wait between two walks over all copies: 10 ms, doubling to 500 ms, half of it random.
    pub backoff: Backoff,
    /// How requests travel.
    pub transport: Transport,
    /// Requests of one node that are sent and not answered; beyond it callers wait. 1,024.
    pub in_flight_max: usize,
    /// Bytes of such requests: a large one counts for several. 32 MiB.
    pub in_flight_bytes_max: usize,
    /// Requests in one message. 1,024, which is also the servers' bound.
    pub batch_max: usize,
    /// Bytes of one message; a larger request goes alone. 1 MiB.
    pub batch_bytes_max: usize,
    /// Follow the changes of the routes in use, so that a failover is learned at once. True.
    pub watch_routes: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            site: String::new(),
            deadline: Duration::from_millis(limits::DEADLINE_MS_DEFAULT),
            attempt_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(1),
            backoff: Backoff {
                first: Duration::from_millis(10),
                max: Duration::from_millis(500),
            },
            transport: Transport::Stream,
            in_flight_max: 1_024,
            in_flight_bytes_max: 32 * 1024 * 1024,
            batch_max: limits::STREAM_BATCH_MAX,
            batch_bytes_max: 1024 * 1024,
            watch_routes: true,
        }
    }
}

impl Settings {
    /// The same settings with every bound brought into the range that works.
    pub fn bounded(mut self) -> Settings {
        self.deadline = self
            .deadline
            .min(Duration::from_millis(limits::DEADLINE_MS_MAX));
        self.in_flight_max = self.in_flight_max.clamp(1, limits::STREAM_IN_FLIGHT_MAX);
        self.in_flight_bytes_max = self.in_flight_bytes_max.max(self.in_flight_max);
        self.batch_max = self.batch_max.clamp(1, limits::STREAM_BATCH_MAX);
        self.batch_bytes_max = self.batch_bytes_max.min(limits::REQUEST_BYTES_MAX);
        self
    }
}
