//! `understudy naming`: names that applications bind to endpoints, so that others find them.

use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::{Output, Rows};
use clap::Subcommand;
use serde_json::{Value, json};
use std::time::Duration;
use understudy_client::v1::{Binding, naming_event::Kind};
use understudy_client::{BindWhen, Error, NamingEvent};

/// Names that applications bind to endpoints.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the bindings
    List {
        /// Only this name and those below it
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Show one binding
    Lookup {
        name: String,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Follow the changes, one a line
    Watch {
        /// Only this name and those below it
        #[arg(default_value = "")]
        prefix: String,
        /// Also changes of shards, members and namespaces
        #[arg(long)]
        all: bool,
        /// Changes after this revision
        #[arg(long, value_name = "REVISION")]
        after: Option<u64>,
        /// End after so many changes
        #[arg(long, short = 'l', value_name = "NUMBER")]
        limit: Option<u64>,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Bind a name to endpoints, or renew the binding
    Bind {
        /// Parts separated by `/`
        name: String,
        /// Where it is reached: any texts, at most 64
        #[arg(required = true, id = "bound-endpoints", value_name = "ENDPOINT")]
        endpoints: Vec<String>,
        /// The binding ends so long after its last renewal; 0: it does not end by itself
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        lease_ms: u64,
        /// Only when there is none of that name
        #[arg(long, conflicts_with = "if_revision")]
        if_absent: bool,
        /// Only when the binding's revision is this
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Remove a binding
    Unbind {
        name: String,
        #[command(flatten)]
        client: ClientFlags,
    },
}

pub async fn run(args: Args) -> Ended {
    match args.verb {
        Verb::List { prefix, client } => list(&client.connect().await?, below(&prefix)).await,
        Verb::Lookup { name, client } => lookup(&client.connect().await?, &name).await,
        Verb::Watch {
            prefix,
            all,
            after,
            limit,
            client,
        } => watch(&client.connect().await?, below(&prefix), all, after, limit).await,
        Verb::Bind {
            name,
            endpoints,
            lease_ms,
            if_absent,
            if_revision,
            client,
        } => {
            let when = match (if_absent, if_revision) {
                (true, _) => BindWhen::Absent,
                (false, Some(revision)) => BindWhen::Revision(revision),
                (false, None) => BindWhen::Always,
            };
            let lease = (lease_ms > 0).then(|| Duration::from_millis(lease_ms));
            bind(&client.connect().await?, &name, endpoints, lease, when).await
        }
        Verb::Unbind { name, client } => unbind(&client.connect().await?, &name).await,
    }
}

/// `svc/` and `svc` mean the same.
fn below(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

fn binding_json(binding: &Binding) -> Value {
    json!({
        "name": binding.name,
        "endpoints": binding.endpoints,
        "lease_ms": binding.lease_ms,
        "revision": binding.revision,
    })
}

fn rows<'a>(bindings: impl IntoIterator<Item = &'a Binding>) -> Rows {
    let mut rows = Rows::new(["NAME", "ENDPOINTS", "LEASE", "REVISION"]);
    for binding in bindings {
        let lease = match binding.lease_ms {
            0 => "-".to_string(),
            lease => format!("{lease} ms"),
        };
        let revision = binding.revision.to_string();
        rows.row([
            binding.name.clone(),
            binding.endpoints.join(" "),
            lease,
            revision,
        ]);
    }
    rows
}

async fn list(context: &Context, prefix: &str) -> Ended {
    let found = context.client.naming().list(prefix).await;
    let found = found.map_err(|error| Trouble::of("listing the bindings", &error))?;
    let bindings: Vec<Value> = found.bindings.iter().map(binding_json).collect();
    let document = json!({ "bindings": bindings, "revision": found.revision });
    context.output.print(&document, || rows(&found.bindings))?;
    Ok(Exit::Done)
}

async fn lookup(context: &Context, name: &str) -> Ended {
    let found = context.client.naming().lookup(name).await;
    let found = found.map_err(|error| Trouble::of(format!("looking up '{name}'"), &error))?;
    let Some(binding) = found.binding else {
        return Err(Trouble::new(
            Exit::NotFound,
            format!("nothing is bound to '{name}'"),
            "",
            "",
        ));
    };
    context
        .output
        .print(&binding_json(&binding), || rows([&binding]))?;
    Ok(Exit::Done)
}

async fn bind(
    context: &Context,
    name: &str,
    endpoints: Vec<String>,
    lease: Option<Duration>,
    when: BindWhen,
) -> Ended {
    let bound = context
        .client
        .naming()
        .bind(name, endpoints, lease, when)
        .await;
    let revision = bound.map_err(|error| conditional(format!("binding '{name}'"), &error, when))?;
    let document = json!({ "name": name, "revision": revision });
    context.output.print(&document, || {
        Rows::facts([
            ("bound", name.to_string()),
            ("revision", revision.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}

/// A refusal of a bind with a condition is the condition's.
fn conditional(what: String, error: &Error, when: BindWhen) -> Trouble {
    let mut trouble = Trouble::of(what, error);
    if when != BindWhen::Always && trouble.exit == Exit::Failed {
        trouble.exit = Exit::ConditionNotMet;
    }
    trouble
}

async fn unbind(context: &Context, name: &str) -> Ended {
    let revision = context.client.naming().unbind(name).await;
    let revision = revision.map_err(|error| Trouble::of(format!("unbinding '{name}'"), &error))?;
    let document = json!({ "name": name, "revision": revision });
    context.output.print(&document, || {
        Rows::facts([
            ("unbound", name.to_string()),
            ("revision", revision.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}

async fn watch(
    context: &Context,
    prefix: &str,
    all: bool,
    after: Option<u64>,
    limit: Option<u64>,
) -> Ended {
    let mut watch = context.client.naming().watch().prefix(prefix);
    if all {
        watch = watch.all_tables();
    }
    if let Some(revision) = after {
        watch = watch.after(revision);
    }
    for _ in 0..limit.unwrap_or(u64::MAX) {
        let event = tokio::select! {
            event = watch.next() => event.map_err(|error| Trouble::of("the watch", &error))?,
            _ = tokio::signal::ctrl_c() => break,
        };
        tell(context.output, &event)?;
    }
    Ok(Exit::Done)
}

fn tell(output: Output, event: &NamingEvent) -> Result<(), Trouble> {
    let (revision, event) = match event {
        NamingEvent::Change { revision, event } => (*revision, event),
        NamingEvent::Gap { first } => {
            let document = json!({ "event": "gap", "first": first });
            return output.line(&document, || {
                "gap  list again, changes may be missing here".to_string()
            });
        }
    };
    let (document, text) = match event {
        Kind::Bound(binding) => (
            json!({ "event": "bound", "binding": binding_json(binding) }),
            format!("bound  {}  {}", binding.name, binding.endpoints.join(" ")),
        ),
        Kind::Unbound(name) => (
            json!({ "event": "unbound", "name": name }),
            format!("unbound  {name}"),
        ),
        Kind::Shard(shard) => (
            json!({
                "event": "shard", "shard_id": shard.shard, "namespace": shard.namespace, "index": shard.index,
                "epoch": shard.epoch, "primary": shard.primary, "secondaries": shard.secondaries,
                "joining": shard.joining,
            }),
            format!(
                "shard  {}/{}  epoch {}  primary {}  secondaries {:?}",
                shard.namespace, shard.index, shard.epoch, shard.primary, shard.secondaries
            ),
        ),
        Kind::Member(member) => (
            json!({ "event": "member", "node": member.node, "name": member.name, "state": member.state }),
            format!("member  {}  {}  {}", member.node, member.name, member.state),
        ),
        Kind::Namespace(name) => (
            json!({ "event": "namespace", "name": name }),
            format!("namespace  {name}"),
        ),
    };
    let mut document = document;
    document["revision"] = json!(revision);
    output.line(&document, || format!("{revision}  {text}"))
}
