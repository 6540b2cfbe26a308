//! Asking a data node what its copy of a shard is, at any manager: for a person who may force a promotion.

use super::group::Group;
use super::network::Lane;
use bytes::Bytes;
use std::time::Duration;
use understudy_proto::failure::Failure;
use understudy_proto::limits::INTERNAL_MESSAGE_BYTES_MAX;
use understudy_proto::v1::ControlRequest;
use understudy_proto::v1::replica_client::ReplicaClient;
use understudy_protocol::control::describe::{DescribeAnswer, DescribeRequest};
use understudy_protocol::control::message;

impl Group {
    /// # Errors
    /// Why there is no answer, in words.
    pub async fn describe(
        &self,
        asked: &DescribeRequest,
        limit: Duration,
    ) -> Result<DescribeAnswer, String> {
        let to = asked.to;
        let known = self.view().look(|tables| {
            let node = tables.node(to.node).filter(|node| node.process() == to)?;
            let cluster = tables.cluster()?;
            let address = node.internal.seen_from("", &node.site).to_string();
            Some((address, Bytes::copy_from_slice(&cluster.to_bytes())))
        });
        let (address, cluster_id) = known.ok_or("its node has another process or store now")?;
        let channel = self.links().channel(&address, Lane::Calls)?;
        let mut client = ReplicaClient::new(channel)
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        let request = ControlRequest {
            cluster_id,
            payload: message::encode(asked).into(),
        };
        match tokio::time::timeout(limit, client.describe(request)).await {
            Ok(Ok(response)) => message::decode(&response.into_inner().payload),
            Ok(Err(status)) => Err(Failure::from_status(&status)
                .map_or_else(|| status.message().to_string(), |failure| failure.message)),
            Err(_) => Err("no answer in time".to_string()),
        }
    }
}
