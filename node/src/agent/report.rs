//! Telling the managers that a process ended: at once, to all of them, and again until it is in their tables or does not
//! matter any more.
//!
//! Whichever manager takes it passes it to the one that leads. It names the launch and nothing else, so that a report that comes
//! late or twice can only be about that one start.

use crate::agent::Launch;
use crate::channels::Channels;
use crate::rpc::control::{ExitKnown, NodeRequest, NodeResponse};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::ControlRequest;
use understudy_proto::v1::heartbeat_client::HeartbeatClient;
use understudy_protocol::control::message::{self, ExitReport};
use understudy_protocol::tables::LaunchId;

const CALL_LIMIT: Duration = Duration::from_secs(1);
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// A process whose launch no manager knows may have been about to register; after so long it was not.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);
/// No lease is longer: after so long without a manager the report ends no wait any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// Clones share the connections.
#[derive(Clone, Debug)]
pub struct Reporter {
    channels: Channels,
    managers: Arc<Vec<String>>,
    /// How many reports no manager has taken yet.
    untold: watch::Sender<usize>,
}

/// Counts one report as untold until it is dropped.
struct Untold(watch::Sender<usize>);

impl Untold {
    fn new(count: &watch::Sender<usize>) -> Untold {
        count.send_modify(|count| *count += 1);
        Untold(count.clone())
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Reporter {
    /// Without managers nothing is told: then the agent only starts processes.
    pub fn new(channels: Channels, managers: Vec<String>) -> Reporter {
        Reporter {
            channels,
            managers: Arc::new(managers),
            untold: watch::Sender::new(0),
        }
    }

    /// The process of that launch was seen to end.
    pub fn ended(&self, launch: Launch) {
        if self.managers.is_empty() {
            return;
        }
        let reporter = self.clone();
        let untold = Untold::new(&self.untold);
        tokio::spawn(async move { reporter.tell_until_known(launch, untold).await });
    }

    /// Returns when a manager took each report, at the latest after so long.
    pub async fn all_told(&self, limit: Duration) {
        let mut untold = self.untold.subscribe();
        let told = timeout(limit, untold.wait_for(|count| *count == 0)).await;
        if told.is_err() {
            tracing::warn!("no manager took the last reports in time");
        }
    }

    async fn tell_until_known(&self, launch: Launch, untold: Untold) {
        let mut untold = Some(untold);
        let began = Instant::now();
        let mut pause = PAUSE_FIRST;
        let mut seen = false;
        while began.elapsed() < PATIENCE {
            let known = self.tell(&launch).await;
            if known.is_some() {
                drop(untold.take());
            }
            match known {
                Some(ExitKnown::Ended) => {
                    let ms = began.elapsed().as_millis();
                    return tracing::info!(
                        launch = launch.0,
                        ms,
                        "the managers know that it ended"
                    );
                }
                Some(ExitKnown::NotYet) => seen = true,
                // A later process of the node registered: that ends it too.
                Some(ExitKnown::Unknown) if seen || began.elapsed() >= UNKNOWN_PATIENCE => return,
                Some(ExitKnown::Unknown) | None => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
        tracing::warn!(launch = launch.0, "no manager took the report of its end");
    }

    /// The first answer counts: the managers that are down are not waited for.
    async fn tell(&self, launch: &Launch) -> Option<ExitKnown> {
        let asked = self.managers.iter().map(|m| self.tell_one(m, launch));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut known = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(ExitKnown::Unknown) => known = known.or(Some(ExitKnown::Unknown)),
                Ok(other) => return Some(other),
                Err(why) => tracing::debug!(why, "a manager does not take the report of an exit"),
            }
        }
        known
    }

    async fn tell_one(&self, manager: &str, launch: &Launch) -> Result<ExitKnown, String> {
        let channel = self.channels.get(manager)?;
        let mut client =
            HeartbeatClient::new(channel).max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        let report = ExitReport {
            launch: LaunchId(launch.0.clone()),
            process: None,
        };
        let request = ControlRequest {
            // An agent belongs to a machine and to no cluster; the launch is drawn and unique.
            cluster_id: Default::default(),
            payload: message::encode(&NodeRequest::Exit(report)).into(),
        };
        let response = timeout(CALL_LIMIT, client.request(request)).await;
        let response = response.map_err(|_| format!("{manager}: no answer in time"))?;
        let response = response.map_err(|status| format!("{manager}: {}", status.message()))?;
        match message::decode(&response.into_inner().payload)? {
            NodeResponse::Exit(known) => Ok(known),
            other => Err(format!("{manager}: an answer of another kind: {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::dial_plain;

    #[tokio::test]
    async fn a_report_that_nobody_takes_is_waited_for_and_only_so_long() {
        let limit = Duration::from_millis(100);
        let nobody = Reporter::new(Channels::new(dial_plain()), Vec::new());
        nobody.ended(Launch::draw());
        timeout(limit, nobody.all_told(PATIENCE)).await.unwrap();
        // A port that nothing listens on.
        let managers = vec!["127.0.0.1:1".to_string()];
        let reporter = Reporter::new(Channels::new(dial_plain()), managers);
        reporter.ended(Launch::draw());
        let began = Instant::now();
        reporter.all_told(limit).await;
        assert!(began.elapsed() >= limit);
        drop(Untold::new(&nobody.untold));
        timeout(limit, nobody.all_told(PATIENCE)).await.unwrap();
    }
}
