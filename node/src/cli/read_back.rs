//! Reads a whole namespace back as its primaries have it: the request log of every shard, and what failovers cut off.
//!
//! For whoever holds it against what clients were told: the demo, and the tests that break real processes.

use anyhow::{Context, bail, ensure};
use understudy_client::{LogEvent, Namespace};
use understudy_proto::v1::list_orphans_response::Orphan;
use understudy_proto::v1::log_record::Kind;
use understudy_proto::v1::{LogRecord, RequestId as WireRequestId};
use understudy_proto::{ClientId, RequestId, Sequence};

/// As many as one call gives.
const ORPHANS_MAX: u32 = 10_000;

/// What the nodes hold.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Shard by shard, in the order of the log.
    pub log: Vec<LogRecord>,
    /// Of the nodes that run.
    pub orphans: Vec<Orphan>,
}

impl Recorded {
    pub async fn read(namespace: &Namespace, shards: u32) -> anyhow::Result<Recorded> {
        // Orphans first: what moves from there to the log meanwhile is then seen twice rather than never.
        let orphans = namespace.orphans().limit(ORPHANS_MAX).await?;
        ensure!(
            !orphans.more,
            "more than {ORPHANS_MAX} requests wait in orphan logs"
        );
        let mut recorded = Recorded {
            log: Vec::new(),
            orphans: orphans.orphans,
        };
        for shard in 0..shards {
            recorded.read_log(namespace, shard).await?;
        }
        Ok(recorded)
    }

    async fn read_log(&mut self, namespace: &Namespace, shard: u32) -> anyhow::Result<()> {
        let mut log = namespace.request_log(shard);
        loop {
            let event = log
                .next()
                .await
                .with_context(|| format!("the request log of shard {shard}"))?;
            match event {
                Some(LogEvent::Record(record)) => self.log.push(*record),
                Some(LogEvent::Progress { .. }) => {}
                Some(LogEvent::Gap { first_version }) => {
                    bail!("the log of shard {shard} is kept only from version {first_version} on")
                }
                None => return Ok(()),
            }
        }
    }
}

/// The id of a record that a client's request made.
pub fn request_of(record: &LogRecord) -> Option<RequestId> {
    let made = matches!(
        record.kind(),
        Kind::Request | Kind::Conflict | Kind::RecordedAgain | Kind::Discarded
    );
    let WireRequestId {
        client_id,
        sequence,
    } = record.request_id.as_ref().filter(|_| made)?;
    Some(RequestId {
        client: ClientId::from_slice(client_id)?,
        sequence: Sequence(*sequence),
    })
}

/// Whether the record only keeps what a failover cut off, and changes nothing that a client could read.
pub fn is_conflict(record: &LogRecord) -> bool {
    matches!(record.kind(), Kind::Conflict | Kind::Discarded)
}
