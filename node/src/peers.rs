//! Outgoing messages between data nodes: one ordered stream to each other node, fed by all shard threads.
//!
//! A stream that breaks is opened again after a pause; what was on it, and what gathers beyond the bound, is lost. The
//! protocol expects that: whoever waits asks again.

use crate::channels::Channels;
use crate::data_node::Directory;
use crate::rpc::peer_wire;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::peer_message::Kind;
use understudy_proto::v1::replication_client::ReplicationClient;
use understudy_proto::{ClusterId, NodeId, ProcessId, ShardId, v1};
use understudy_protocol::object::Object;
use understudy_protocol::shard::message::Message;

/// Bytes that wait for one peer; beyond it further messages are dropped.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one batch, unless a single message is larger.
const BATCH_BYTES: usize = 1024 * 1024;
/// Before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// The ways to all other nodes.
pub struct Peers {
    me: ProcessId,
    cluster: ClusterId,
    directory: Arc<RwLock<Directory>>,
    channels: Channels,
    runtime: tokio::runtime::Handle,
    lanes: Mutex<HashMap<NodeId, Arc<Lane>>>,
    sent: Sent,
}

/// Bytes of messages that were handed to the streams, by what brings a copy up to date.
#[derive(Default, Debug)]
pub struct Sent {
    pub records: AtomicU64,
    pub deltas: AtomicU64,
    pub full_copies: AtomicU64,
}

#[derive(Default)]
struct Lane {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: Vec<(ShardId, Message)>,
    bytes: usize,
}

impl Peers {
    pub fn new(
        me: ProcessId,
        cluster: ClusterId,
        directory: Arc<RwLock<Directory>>,
        channels: Channels,
        runtime: tokio::runtime::Handle,
    ) -> Peers {
        Peers {
            me,
            cluster,
            directory,
            channels,
            runtime,
            lanes: Mutex::default(),
            sent: Sent::default(),
        }
    }

    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    fn count(&self, message: &v1::PeerMessage) {
        let counter = match message.kind {
            Some(Kind::Records(_)) => &self.sent.records,
            Some(Kind::Delta(_)) => &self.sent.deltas,
            Some(Kind::Chunk(_)) => &self.sent.full_copies,
            _ => return,
        };
        counter.fetch_add(message.encoded_len() as u64, Relaxed);
    }

    /// Puts a message on the way. Never waits.
    pub fn send(self: &Arc<Self>, to: NodeId, shard: ShardId, message: Message) {
        let lane = self.lane(to);
        let size = weight(&message);
        let mut waiting = lane.waiting.lock();
        if waiting.bytes + size > WAITING_BYTES_MAX && !waiting.messages.is_empty() {
            return;
        }
        waiting.bytes += size;
        waiting.messages.push((shard, message));
        if waiting.messages.len() == 1 {
            lane.arrived.notify_one();
        }
    }

    fn lane(self: &Arc<Self>, to: NodeId) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let start = || {
            let lane = Arc::new(Lane::default());
            self.runtime.spawn(self.clone().run(to, lane.clone()));
            lane
        };
        lanes.entry(to).or_insert_with(start).clone()
    }

    async fn run(self: Arc<Self>, to: NodeId, lane: Arc<Lane>) {
        loop {
            if let Err(why) = self.stream(to, &lane).await {
                tracing::debug!(%to, %why, "the stream to a node broke");
            }
            tokio::time::sleep(PAUSE).await;
            *lane.waiting.lock() = Waiting::default();
        }
    }

    /// One stream, until it breaks.
    async fn stream(&self, to: NodeId, lane: &Lane) -> Result<(), String> {
        let address = self
            .directory
            .read()
            .internal_address(to)
            .ok_or("its address is not known")?;
        let channel = self.channels.get(&address)?;
        let mut client = ReplicationClient::new(channel)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        let (batches, stream) = mpsc::channel(4);
        let delivery = client.deliver(ReceiverStream::new(stream));
        tokio::pin!(delivery);
        loop {
            tokio::select! {
                ended = &mut delivery => return Err(match ended {
                    Ok(_) => "the node closed it".to_string(),
                    Err(status) => status.message().to_string(),
                }),
                permit = batches.reserve() => {
                    let permit = permit.map_err(|_| "closed")?;
                    tokio::select! {
                        ended = &mut delivery => return Err(match ended {
                            Ok(_) => "the node closed it".to_string(),
                            Err(status) => status.message().to_string(),
                        }),
                        messages = lane.take() => permit.send(self.batch(to, messages)),
                    }
                }
            }
        }
    }

    fn batch(&self, to: NodeId, messages: Vec<(ShardId, Message)>) -> v1::PeerBatch {
        v1::PeerBatch {
            cluster_id: Bytes::copy_from_slice(&self.cluster.to_bytes()),
            from_node: self.me.node.0,
            from_store: Bytes::copy_from_slice(&self.me.store.to_bytes()),
            from_incarnation: self.me.incarnation.0,
            to_node: to.0,
            messages: messages
                .into_iter()
                .map(|(shard, message)| peer_wire::encode(shard, message))
                .inspect(|message| self.count(message))
                .collect(),
        }
    }
}

impl Lane {
    /// What gathered, up to the size of a batch; waits for the first.
    async fn take(&self) -> Vec<(ShardId, Message)> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut waiting = self.waiting.lock();
                if !waiting.messages.is_empty() {
                    return waiting.take_batch();
                }
            }
            arrived.await;
        }
    }
}

impl Waiting {
    fn take_batch(&mut self) -> Vec<(ShardId, Message)> {
        if self.bytes <= BATCH_BYTES {
            self.bytes = 0;
            return std::mem::take(&mut self.messages);
        }
        let mut bytes = 0;
        let mut count = 0;
        for (_, message) in &self.messages {
            let size = weight(message);
            if count > 0 && bytes + size > BATCH_BYTES {
                break;
            }
            bytes += size;
            count += 1;
        }
        self.bytes -= bytes;
        let rest = self.messages.split_off(count);
        std::mem::replace(&mut self.messages, rest)
    }
}

fn weight(message: &Message) -> usize {
    64 + match message {
        Message::Records(records) => records.records.iter().map(|r| r.size() + 8).sum(),
        Message::CopyChunk(chunk) => {
            let objects = chunk.objects.iter();
            let bytes: usize = objects.map(|(key, o)| key.len() + object_weight(o)).sum();
            bytes + chunk.dedup.len() * 64
        }
        Message::Delta(chunk) => {
            let objects = chunk.objects.iter();
            let bytes: usize = objects
                .map(|(key, o)| key.len() + o.as_ref().map_or(0, object_weight))
                .sum();
            bytes + chunk.dedup.len() * 64
        }
        Message::Submit(submit) => {
            let orphans = submit.orphans.iter();
            orphans
                .map(|o| o.record.bytes.len() + 24 * o.epoch_starts.len() + 8)
                .sum()
        }
        Message::Submitted(submitted) => submitted.fates.len() * 48,
        Message::Scrubbed(scrubbed) => {
            let entries = scrubbed.entries.iter();
            entries.map(|entry| entry.key.len() + 40).sum()
        }
        _ => 0,
    }
}

fn object_weight(object: &Object) -> usize {
    let components = object.components.iter();
    components.map(|c| c.name.len() + c.value.size() + 24).sum()
}
