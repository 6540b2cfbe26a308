//! `understudy namespace`: namespaces and what holds for the objects in them.

use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::show::or_dash;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use understudy_client::v1::namespace_policy::{
    CutOff as WireCutOff, Forward as WireForward, Mode as WireMode,
};
use understudy_client::v1::{NamespaceInfo, NamespacePolicy};

/// Namespaces and their policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a namespace
    Create {
        name: String,
        /// Shards; fixed for ever [default: 16]
        #[arg(long, value_name = "NUMBER")]
        shards: Option<u32>,
        /// When a write is acknowledged; fixed for ever
        #[arg(long, value_enum, default_value = "lazy")]
        mode: Mode,
        /// One of the same name and policy is no error
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        policy: PolicyFlags,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// List the namespaces
    List {
        /// Ask any manager, which may be behind
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Change what is given, and leave the rest
    Alter {
        name: String,
        #[command(flatten)]
        policy: PolicyFlags,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Delete a namespace and everything in it
    Delete {
        name: String,
        #[command(flatten)]
        client: ClientFlags,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Mode {
    /// When it is on the primary's disk; the copies follow at once
    Lazy,
    /// When it is on the disk of every in-sync copy
    InSync,
}

/// What can be changed later too.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Policy")]
struct PolicyFlags {
    /// Copies of each shard, the primary included: 1 to 7 [default: 3]
    #[arg(long, value_name = "NUMBER")]
    copies: Option<u32>,
    /// Where copies may be, the preferred first [default: anywhere]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sites: Vec<String>,
    /// Mode in_sync: with fewer copies in sync writes are refused
    #[arg(long, value_name = "NUMBER")]
    min_in_sync: Option<u32>,
    /// Outcomes remembered for each client and shard [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    dedup_entries: Option<u32>,
    /// How long they are remembered [default: 24 h]
    #[arg(long, value_name = "NUMBER")]
    dedup_age_ms: Option<u64>,
    /// Log that a primary keeps beyond what its copies need, for each shard [default: 64 MiB]
    #[arg(long, value_name = "NUMBER")]
    log_bytes: Option<u64>,
    /// The same as an age [default: 24 h]
    #[arg(long, value_name = "NUMBER")]
    log_age_ms: Option<u64>,
    /// What becomes of what a failover cut off [default: reapply_if_unchanged]
    #[arg(long, value_enum, value_name = "POLICY")]
    cut_off: Option<CutOff>,
    /// The primary goes to the site where most updates come from [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    primary_near_writers: Option<bool>,
    /// What is sent of an update to the copies; their logs are the same whatever it is [default: components]
    #[arg(long, value_enum, value_name = "FORM")]
    forward: Option<Forward>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Forward {
    /// The request, its outcome, and old and new values of what it changed
    Components,
    /// The request alone: each copy runs it again and compares a checksum
    Operation,
    /// As components, and each written object whole: a copy that has another takes it
    Object,
}

impl Forward {
    fn wire(self) -> WireForward {
        match self {
            Forward::Components => WireForward::Components,
            Forward::Operation => WireForward::Operation,
            Forward::Object => WireForward::Object,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum CutOff {
    /// Applied where everything is as it found it; else a person decides
    ReapplyIfUnchanged,
    /// Discarded; the request log tells what
    Discard,
    /// A person decides, also where it could be applied
    Hold,
}

impl CutOff {
    fn wire(self) -> WireCutOff {
        match self {
            CutOff::ReapplyIfUnchanged => WireCutOff::ReapplyIfUnchanged,
            CutOff::Discard => WireCutOff::Discard,
            CutOff::Hold => WireCutOff::Hold,
        }
    }
}

impl PolicyFlags {
    fn wire(self, mode: WireMode, shards: u32) -> NamespacePolicy {
        NamespacePolicy {
            mode: mode.into(),
            copies: self.copies.unwrap_or(0),
            shards,
            sites: self.sites,
            dedup_entries: self.dedup_entries.unwrap_or(0),
            dedup_age_ms: self.dedup_age_ms.unwrap_or(0),
            log_bytes: self.log_bytes.unwrap_or(0),
            log_age_ms: self.log_age_ms.unwrap_or(0),
            min_in_sync: self.min_in_sync.unwrap_or(0),
            cut_off: self.cut_off.map_or(0, |policy| policy.wire().into()),
            primary_near_writers: self.primary_near_writers,
            forward: self.forward.map_or(0, |form| form.wire().into()),
        }
    }
}

pub async fn run(args: Args) -> Ended {
    match args.verb {
        Verb::Create {
            name,
            shards,
            mode,
            if_not_exists,
            policy,
            client,
        } => {
            let mode = match mode {
                Mode::Lazy => WireMode::Lazy,
                Mode::InSync => WireMode::InSync,
            };
            let policy = policy.wire(mode, shards.unwrap_or(0));
            create(&client.connect().await?, &name, policy, if_not_exists).await
        }
        Verb::List { stale, client } => list(&client.connect().await?, stale).await,
        Verb::Alter {
            name,
            policy,
            client,
        } => {
            let context = client.connect().await?;
            let policy = policy.wire(WireMode::Unspecified, 0);
            let altered = context
                .client
                .cluster()
                .alter_namespace(&name, policy)
                .await;
            told(
                &context,
                altered
                    .map_err(|error| Trouble::of(format!("altering namespace '{name}'"), &error))?,
            )
        }
        Verb::Delete { name, client } => delete(&client.connect().await?, &name).await,
    }
}

async fn create(
    context: &Context,
    name: &str,
    policy: NamespacePolicy,
    if_not_exists: bool,
) -> Ended {
    let created = context
        .client
        .cluster()
        .create_namespace(name, policy, if_not_exists)
        .await;
    told(
        context,
        created.map_err(|error| Trouble::of(format!("creating namespace '{name}'"), &error))?,
    )
}

fn told(context: &Context, info: NamespaceInfo) -> Ended {
    context.output.print(&info_json(&info), || rows([&info]))?;
    Ok(Exit::Done)
}

async fn list(context: &Context, stale: bool) -> Ended {
    let cluster = context.client.cluster();
    let cluster = if stale { cluster.stale() } else { cluster };
    let found = cluster.namespaces().await;
    let found = found.map_err(|error| Trouble::of("listing the namespaces", &error))?;
    let list: Vec<Value> = found.namespaces.iter().map(info_json).collect();
    let document = json!({ "namespaces": list, "revision": found.revision });
    context
        .output
        .print(&document, || rows(&found.namespaces))?;
    Ok(Exit::Done)
}

async fn delete(context: &Context, name: &str) -> Ended {
    let deleted = context.client.cluster().delete_namespace(name).await;
    let deleted =
        deleted.map_err(|error| Trouble::of(format!("deleting namespace '{name}'"), &error))?;
    let document = json!({ "name": name, "deleted": true, "revision": deleted.revision });
    context.output.print(&document, || {
        Rows::facts([
            ("deleted", name.to_string()),
            ("revision", deleted.revision.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}

fn mode_text(mode: WireMode) -> &'static str {
    match mode {
        WireMode::Unspecified | WireMode::Lazy => "lazy",
        WireMode::InSync => "in_sync",
    }
}

fn cut_off_text(policy: WireCutOff) -> &'static str {
    match policy {
        WireCutOff::Unspecified | WireCutOff::ReapplyIfUnchanged => "reapply_if_unchanged",
        WireCutOff::Discard => "discard",
        WireCutOff::Hold => "hold",
    }
}

fn forward_text(form: WireForward) -> &'static str {
    match form {
        WireForward::Unspecified | WireForward::Components => "components",
        WireForward::Operation => "operation",
        WireForward::Object => "object",
    }
}

fn info_json(info: &NamespaceInfo) -> Value {
    let policy = info.policy.clone().unwrap_or_default();
    json!({
        "name": info.name,
        "id": info.id,
        "revision": info.revision,
        "mode": mode_text(policy.mode()),
        "copies": policy.copies,
        "shards": policy.shards,
        "sites": policy.sites,
        "min_in_sync": policy.min_in_sync,
        "dedup_entries": policy.dedup_entries,
        "dedup_age_ms": policy.dedup_age_ms,
        "log_bytes": policy.log_bytes,
        "log_age_ms": policy.log_age_ms,
        "cut_off": cut_off_text(policy.cut_off()),
        "primary_near_writers": policy.primary_near_writers(),
        "forward": forward_text(policy.forward()),
    })
}

fn rows<'a>(infos: impl IntoIterator<Item = &'a NamespaceInfo>) -> Rows {
    let mut rows = Rows::new([
        "NAME", "ID", "MODE", "COPIES", "SHARDS", "SITES", "REVISION",
    ]);
    for info in infos {
        let policy = info.policy.clone().unwrap_or_default();
        rows.row([
            info.name.clone(),
            info.id.to_string(),
            mode_text(policy.mode()).to_string(),
            policy.copies.to_string(),
            policy.shards.to_string(),
            or_dash(policy.sites.join(",")),
            info.revision.to_string(),
        ]);
    }
    rows
}
