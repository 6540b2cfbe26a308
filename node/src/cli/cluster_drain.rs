//! `understudy cluster drain`: says that a node is to be empty, and waits until it is.
//!
//! The wish stays in the tables until it is taken back; the waiting only watches, and may be ended.

use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use understudy_client::v1::NodeInfo;

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's id
    node: u64,
    /// Use it again
    #[arg(long)]
    undo: bool,
    /// Wait until it holds no copy either, not only until it is the primary of nothing
    #[arg(long, conflicts_with = "undo")]
    empty: bool,
    /// How long to wait; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: u64,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    let context = args.client.connect().await?;
    let told = context
        .client
        .cluster()
        .drain_node(args.node, args.undo)
        .await;
    told.map_err(|error| Trouble::of(format!("draining node {}", args.node), &error))?;
    let end = Instant::now() + Duration::from_secs(args.wait);
    loop {
        let node = match look(&context, args.node).await {
            Ok(node) => node,
            // The wish is written; that nobody answers for a moment does not take it back.
            Err(trouble) if trouble.exit == Exit::NotFound || Instant::now() >= end => {
                return Err(trouble);
            }
            Err(_) => {
                sleep(LOOK_EVERY).await;
                continue;
            }
        };
        let left = node.primaries
            + match args.empty {
                true => node.secondaries + node.joining,
                false => 0,
            };
        let late = Instant::now() >= end;
        if args.undo || left == 0 || late {
            tell(&context, &node)?;
            // Without waiting the wish alone was asked for.
            return match args.undo || left == 0 || args.wait == 0 {
                true => Ok(Exit::Done),
                false => Err(waited(&args, &node)),
            };
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                tell(&context, &node)?;
                return Err(waited(&args, &node));
            }
        }
    }
}

async fn look(context: &Context, id: u64) -> Result<NodeInfo, Trouble> {
    let nodes = context.client.cluster().nodes().await;
    let nodes = nodes.map_err(|error| Trouble::of("looking at the nodes", &error))?;
    let node = nodes.nodes.into_iter().find(|node| node.node == id);
    node.ok_or_else(|| {
        Trouble::new(
            Exit::NotFound,
            format!("there is no node {id}"),
            "it was removed meanwhile",
            "list the nodes with `understudy cluster nodes`",
        )
    })
}

fn waited(args: &Args, node: &NodeInfo) -> Trouble {
    let why = match node.primaries {
        0 => "its copies are on their way, or no other node may take them".to_string(),
        left => format!(
            "it is still the primary of {left} shards: each needs a complete copy that is up elsewhere"
        ),
    };
    Trouble::new(
        Exit::Failed,
        format!("node {} is not empty yet", args.node),
        why,
        "the wish stands: look at it with `understudy cluster nodes`, or take it back with --undo",
    )
}

fn tell(context: &Context, node: &NodeInfo) -> Result<(), Trouble> {
    let document = json!({
        "node": node.node,
        "state": node.state,
        "primaries": node.primaries,
        "secondaries": node.secondaries,
        "joining": node.joining,
    });
    context.output.print(&document, || {
        Rows::facts([
            ("node", node.node.to_string()),
            ("state", node.state.clone()),
            ("primaries", node.primaries.to_string()),
            ("secondaries", node.secondaries.to_string()),
            ("joining", node.joining.to_string()),
        ])
    })
}
