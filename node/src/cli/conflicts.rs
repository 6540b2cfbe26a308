//! `understudy conflicts`: what failovers cut off and could not apply again, both sides of each, and a person's decision.
//!
//! A decision is a write under a request id of its own. It runs only while the conflict and its objects are as they were shown,
//! and takes the conflict away together with whatever it writes.

use super::bytes::{to_json, to_text};
use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::lines::{Line, parse};
use super::output::Rows;
use super::show::{
    change_text, object_json, object_text, or_dash, outcome_text, pair_json, record_json,
};
use super::write::{WriteFlags, send_all, told};
use clap::Subcommand;
use serde_json::{Value, json};
use std::io::BufRead;
use std::path::PathBuf;
use understudy_client::proto::NodeId;
use understudy_client::v1::get_outcome_response::found::Where;
use understudy_client::v1::op::Kind;
use understudy_client::{
    Conflict, ConflictId, ConflictSummary, Level, Outcome, RequestId, Standing, Write, Written, v1,
};

/// What failovers cut off and a person has to decide.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the conflicts of the namespace that nobody resolved yet
    List {
        /// At most so many
        #[arg(long, short = 'l', value_name = "NUMBER", default_value_t = 1_000)]
        limit: usize,
        /// Only of this shard of the namespace (index)
        #[arg(long, value_name = "INDEX")]
        shard: Option<u32>,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Show both sides of a conflict
    Show {
        /// SHARD/CLIENT:SEQ@EPOCH.VERSION, as `list` prints it
        id: ConflictId,
        #[command(flatten)]
        client: ClientFlags,
    },
    /// Decide a conflict
    Resolve(Box<Resolve>),
}

/// Exit status 3: there is no such conflict, or it is resolved. 4: something changed since it was shown; nothing was decided.
#[derive(Debug, clap::Args)]
struct Resolve {
    /// SHARD/CLIENT:SEQ@EPOCH.VERSION, as `list` prints it
    id: ConflictId,
    #[command(flatten)]
    choice: Choice,
    /// Only when everything still is in this state, which `show` printed; without it: as this command finds it
    #[arg(long, value_name = "STATE")]
    shown: Option<String>,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Choice {
    /// Leave what is here, and discard what was cut off
    #[arg(long)]
    keep: bool,
    /// Do what was cut off, on the objects as they are: its puts, deletes, additions, appends
    #[arg(long)]
    take: bool,
    /// Do something else: operations and conditions as in `txn`, from this file (-: standard input)
    #[arg(long, value_name = "FILE")]
    write_lines: Option<PathBuf>,
}

pub async fn run(args: Args) -> Ended {
    match args.verb {
        Verb::List {
            limit,
            shard,
            client,
        } => list(&client.connect().await?, limit, shard).await,
        Verb::Show { id, client } => show(&client.connect().await?, id).await,
        Verb::Resolve(resolve) => {
            let context = resolve.client.connect().await?;
            decide(&context, *resolve).await
        }
    }
}

async fn list(context: &Context, limit: usize, shard: Option<u32>) -> Ended {
    let mut found: Vec<ConflictSummary> = Vec::new();
    let (mut unserved, mut more) = (Vec::new(), false);
    let page = u32::try_from(limit.clamp(1, 1_000)).unwrap_or(1_000);
    let mut pages = context.namespace().conflicts().page_size(page);
    if let Some(index) = shard {
        pages = pages.shard(index);
    }
    while !more {
        let next = pages.next_page().await;
        let next = next.map_err(|error| Trouble::of("listing the conflicts", &error))?;
        let Some(page) = next else { break };
        found.extend(page.conflicts);
        unserved.extend(page.unserved_shards);
        more = found.len() > limit || (found.len() == limit && !page.token.is_empty());
    }
    found.truncate(limit);
    let document = json!({
        "conflicts": found.iter().map(summary_json).collect::<Vec<_>>(),
        "more": more,
        "unserved_shards": unserved,
    });
    context.output.print(&document, || summaries(&found))?;
    for shard in &unserved {
        eprintln!(
            "shard {shard} has no primary at the moment; whether it has conflicts is unknown"
        );
    }
    if more {
        eprintln!("there are more; raise --limit");
    }
    Ok(Exit::Done)
}

fn summary_json(conflict: &ConflictSummary) -> Value {
    json!({
        "id": conflict.id.to_string(),
        "shard": conflict.id.shard,
        "request_id": conflict.id.request_id.to_string(),
        "cut_off": pair_json(conflict.id.cut_off),
        "pair": pair_json(conflict.pair),
        "reason": conflict.reason,
        "keys": conflict.keys.iter().map(|key| to_json(key)).collect::<Vec<_>>(),
        "key_count": conflict.key_count,
        "primary_time_ms": conflict.primary_time_ms,
    })
}

fn summaries(found: &[ConflictSummary]) -> Rows {
    let mut rows = Rows::new(["ID", "REASON", "KEYS"]);
    for conflict in found {
        let mut keys: Vec<String> = conflict.keys.iter().map(|key| to_text(key)).collect();
        let left = conflict.key_count as usize - keys.len().min(conflict.key_count as usize);
        if left > 0 {
            keys.push(format!("and {left} more"));
        }
        rows.row([
            conflict.id.to_string(),
            conflict.reason.clone(),
            or_dash(keys.join(", ")),
        ]);
    }
    rows
}

async fn show(context: &Context, id: ConflictId) -> Ended {
    let conflict = find(context, id).await?;
    let document = json!({
        "id": id.to_string(),
        "shard": id.shard,
        "pair": pair_json(conflict.pair),
        "reason": conflict.reason,
        "cut_off": record_json(&conflict.cut_off),
        "here": conflict.here.iter().map(standing_json).collect::<Vec<_>>(),
        "state": state(&conflict),
    });
    context.output.print(&document, || facts(&conflict))?;
    if !context.output.is_json() {
        super::output::print_raw(sides(&conflict).into_text().as_bytes())?;
    }
    Ok(Exit::Done)
}

async fn find(context: &Context, id: ConflictId) -> Result<Conflict, Trouble> {
    let found = context.namespace().conflict(id).await;
    found.map_err(|error| Trouble::of(format!("the conflict {id}"), &error))
}

/// The conflict's record and each object's, as they are now: what `resolve --shown` compares.
fn state(conflict: &Conflict) -> String {
    let here = conflict.here.iter().map(|here| match &here.object {
        Some(object) => object.pair.to_string(),
        None => "-".to_string(),
    });
    let all: Vec<String> = std::iter::once(conflict.pair.to_string())
        .chain(here)
        .collect();
    all.join(",")
}

fn standing_json(here: &Standing) -> Value {
    json!({
        "key": to_json(&here.key),
        "stood": here.stood.map(pair_json),
        "object": here.object.as_ref().map(object_json),
        "left_out": here.left_out,
    })
}

fn outcome_of(record: &v1::LogRecord) -> Option<Outcome> {
    let outcome = record.outcome.clone()?;
    outcome.try_into().ok()
}

fn facts(conflict: &Conflict) -> Rows {
    let outcome = outcome_of(&conflict.cut_off);
    Rows::facts([
        ("conflict", conflict.id.to_string()),
        ("reason", conflict.reason.clone()),
        ("request", conflict.id.request_id.to_string()),
        (
            "its outcome",
            outcome.as_ref().map_or("-", outcome_text).to_string(),
        ),
        ("cut off", conflict.id.cut_off.to_string()),
        ("conflict since", conflict.pair.to_string()),
        ("state", state(conflict)),
        ("", String::new()),
    ])
}

/// For each object what was cut off, and what is here.
fn sides(conflict: &Conflict) -> Rows {
    let mut rows = Rows::new(["KEY", "CUT OFF", "HERE", "LAST WRITTEN"]);
    let changes = &conflict.cut_off.changes;
    for (change, here) in changes.iter().zip(&conflict.here) {
        let last = here.object.as_ref().map(|object| object.pair.to_string());
        let object = match &here.object {
            None => "absent".to_string(),
            Some(_) if here.left_out => "(too large to show)".to_string(),
            Some(object) => object_text(object),
        };
        rows.row([
            to_text(&here.key),
            match change.components.is_empty() {
                true => "only read".to_string(),
                false => change_text(change),
            },
            object,
            last.unwrap_or_else(|| "-".to_string()),
        ]);
    }
    rows
}

async fn decide(context: &Context, resolve: Resolve) -> Ended {
    let id = resolve.id;
    // Found or not: the shard's primary said so.
    let conflict = find(context, id).await;
    // A decision that was taken under this id is told again, though its conflict is gone. While that is there the servers tell.
    let gone = matches!(&conflict, Err(trouble) if trouble.exit == Exit::NotFound);
    if let Some(request) = resolve.write.request_id.filter(|_| gone)
        && let Some(written) = taken(context, id, request).await?
    {
        return told(context.output, &written);
    }
    let (mut ops, conditions) = resolve.choice.lines()?;
    let conflict = conflict?;
    if resolve.shown.is_some_and(|shown| shown != state(&conflict)) {
        let what = "something changed since it was shown; nothing was decided";
        let todo = format!("look again: understudy conflicts show {id}");
        return Err(Trouble::new(Exit::ConditionNotMet, what, "", todo));
    }
    if resolve.choice.take {
        if !matches!(outcome_of(&conflict.cut_off), Some(Outcome::Applied(_))) {
            let what = "what was cut off changed nothing, there is nothing to take";
            return Err(Trouble::usage(what, "decide with --keep"));
        }
        let cut_off = conflict.cut_off.ops.iter();
        let writes = cut_off.filter(|op| !matches!(op.kind, Some(Kind::Get(_))));
        ops = writes.cloned().collect();
    }
    let write = as_shown(context.namespace().transaction(), &conflict);
    let write = write.wire(ops, conditions).resolve(id, conflict.pair);
    let what = format!("resolving {id}");
    send_all(context, write, &resolve.write, &what).await
}

/// With the condition that each object is as it was shown.
fn as_shown(write: Write, conflict: &Conflict) -> Write {
    conflict
        .here
        .iter()
        .fold(write, |write, here| match &here.object {
            Some(object) => write.if_pair(here.key.clone(), object.pair),
            None => write.if_absent(here.key.clone()),
        })
}

/// What the request came to before, if it ran.
async fn taken(
    context: &Context,
    id: ConflictId,
    request: RequestId,
) -> Result<Option<Written>, Trouble> {
    let namespace = context.namespace();
    let traces = namespace.outcome(request).shard(id.shard).await;
    let traces = traces.map_err(|error| Trouble::of("asking for the request", &error))?;
    if traces.unserved_shards.contains(&id.shard) {
        let what = format!("whether {request} ran cannot be told");
        let why = format!("shard {} has no primary at the moment", id.shard);
        return Err(Trouble::new(Exit::Unavailable, what, why, "try again"));
    }
    let ran = traces.found.into_iter();
    let ran = ran.filter(|trace| trace.place == Where::Log);
    let Some((trace, outcome)) = ran
        .filter_map(|trace| Some((trace.clone(), trace.outcome?)))
        .next()
    else {
        return Ok(None);
    };
    let route = namespace.route().await;
    let route = route.map_err(|error| Trouble::of("finding the shard", &error))?;
    let shard = route.shards.get(id.shard as usize);
    Ok(shard.map(|shard| Written {
        outcome,
        pair: trace.pair,
        shard: shard.shard,
        duplicate: true,
        conflict: false,
        copies_durable: 0,
        level: Level::Primary,
        request_id: request,
        primary: NodeId(trace.node),
    }))
}

impl Choice {
    /// What `--write-lines` says; the other choices have no lines.
    fn lines(&self) -> Result<(Vec<v1::Op>, Vec<v1::Precondition>), Trouble> {
        let Some(file) = &self.write_lines else {
            return Ok((Vec::new(), Vec::new()));
        };
        let cannot = |error: std::io::Error| {
            let what = format!("{} cannot be read: {error}", file.display());
            Trouble::usage(what, "")
        };
        let text = match file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()).map_err(cannot)?,
            false => std::fs::read_to_string(file).map_err(cannot)?,
        };
        let (mut ops, mut conditions) = (Vec::new(), Vec::new());
        for (number, line) in text.as_bytes().lines().enumerate() {
            let line = line.map_err(cannot)?;
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |why| Trouble::usage(format!("line {}: {why}", number + 1), "");
            match parse(&line).map_err(wrong)? {
                Line::Op(op) => ops.push(op),
                Line::Condition(condition) => conditions.push(condition),
                Line::Object(all) => ops.extend(all),
            }
        }
        if ops.is_empty() {
            let what = format!("{} has no operation", file.display());
            return Err(Trouble::usage(what, "to write nothing, decide with --keep"));
        }
        Ok((ops, conditions))
    }
}
