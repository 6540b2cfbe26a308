//! `understudy session`: client ids for `--request-id`. A client makes its id itself; the first request registers it.

use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::Rows;
use super::show::yes;
use clap::Subcommand;
use serde_json::json;
use understudy_client::ClientId;

/// Client ids for --request-id.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a client id and print it; nobody is asked for it
    New {
        #[command(flatten)]
        client: ClientFlags,
    },
    /// List the client ids that the cluster knows
    List {
        /// At most so many (10,000 at the most)
        #[arg(long, short = 'l', value_name = "NUMBER", default_value_t = 1_000)]
        limit: u32,
        /// Ask any manager, which may be behind
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// End a client id for ever: nothing runs under it any more
    Close {
        /// The client id
        client_id: ClientId,
        #[command(flatten)]
        client: ClientFlags,
    },
}

pub async fn run(args: Args) -> Ended {
    match args.verb {
        Verb::New { client } => new(&client.connect().await?),
        Verb::List {
            limit,
            stale,
            client,
        } => list(&client.connect().await?, limit, stale).await,
        Verb::Close { client_id, client } => close(&client.connect().await?, client_id).await,
    }
}

fn new(context: &Context) -> Ended {
    let id = context.client.new_session().client_id().to_string();
    context.output.print(&json!({ "client_id": id }), || {
        let mut rows = Rows::new([]);
        rows.row([id.clone()]);
        rows
    })?;
    Ok(Exit::Done)
}

async fn list(context: &Context, limit: u32, stale: bool) -> Ended {
    let cluster = context.client.cluster();
    let cluster = if stale { cluster.stale() } else { cluster };
    let sessions = cluster.sessions(limit).await;
    let sessions = sessions.map_err(|error| Trouble::of("listing the sessions", &error))?;
    let id =
        |bytes: &[u8]| ClientId::from_slice(bytes).map_or("-".to_string(), |id| id.to_string());
    let each = sessions.sessions.iter().map(|session| {
        json!({
            "client_id": id(&session.client_id),
            "closed": session.closed,
            "last_active_ms": session.last_active_ms,
        })
    });
    let document = json!({
        "sessions": each.collect::<Vec<_>>(),
        "total": sessions.total,
        "table_time_ms": sessions.table_time_ms,
        "registration_floor_ms": sessions.registration_floor_ms,
    });
    context.output.print(&document, || {
        let mut rows = Rows::new(["CLIENT ID", "CLOSED", "LAST ACTIVE"]);
        for session in &sessions.sessions {
            let ago = sessions
                .table_time_ms
                .saturating_sub(session.last_active_ms)
                / 1_000;
            rows.row([
                id(&session.client_id),
                yes(session.closed),
                format!("{ago} s ago"),
            ]);
        }
        rows
    })?;
    if sessions.total > sessions.sessions.len() as u64 {
        eprintln!(
            "{} of {} are shown; raise --limit",
            sessions.sessions.len(),
            sessions.total
        );
    }
    Ok(Exit::Done)
}

async fn close(context: &Context, id: ClientId) -> Ended {
    let closed = context.client.cluster().close_session(id).await;
    let closed = closed.map_err(|error| Trouble::of(format!("closing session {id}"), &error))?;
    let document =
        json!({ "client_id": id.to_string(), "closed": true, "revision": closed.revision });
    context.output.print(&document, || {
        Rows::facts([
            ("closed", id.to_string()),
            ("revision", closed.revision.to_string()),
        ])
    })?;
    Ok(Exit::Done)
}
