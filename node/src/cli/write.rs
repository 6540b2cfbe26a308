//! What every write shares: its request id, its conditions and copies, and how its outcome is told.

use super::client::Context;
use super::exit::{Ended, Exit, Trouble};
use super::output::{Output, Rows};
use super::show::{failed_text, result_text, written_json, written_rows};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use understudy_client::{Error, Outcome, Pair, RequestId, Write, Written};

/// The flags of every write.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Write")]
pub struct WriteFlags {
    /// Run under this id: repeating a command under the same id runs it at most once
    #[arg(long, value_name = "CLIENT:SEQ")]
    pub request_id: Option<RequestId>,
    /// Answer only when so many secondaries have it on disk too
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub copies: u32,
}

/// When the write is to run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Condition")]
pub struct ConditionFlags {
    /// Only when the object is absent
    #[arg(long, conflicts_with_all = ["if_present", "if_pair", "if_value"])]
    pub if_absent: bool,
    /// Only when the object is present
    #[arg(long)]
    pub if_present: bool,
    /// Only when the object was last written by this record
    #[arg(long, value_name = "EPOCH.VERSION")]
    pub if_pair: Option<Pair>,
    /// Only when the object's plain value is this
    #[arg(long, value_name = "VALUE")]
    pub if_value: Option<String>,
}

impl WriteFlags {
    pub fn apply(&self, write: Write) -> Write {
        let write = write.copies(self.copies);
        match self.request_id {
            Some(id) => write.request_id(id),
            None => write,
        }
    }
}

impl ConditionFlags {
    pub fn apply(&self, mut write: Write, key: &Bytes) -> Write {
        if self.if_absent {
            write = write.if_absent(key.clone());
        }
        if self.if_present {
            write = write.if_present(key.clone());
        }
        if let Some(pair) = self.if_pair {
            write = write.if_pair(key.clone(), pair);
        }
        if let Some(value) = &self.if_value {
            write = write.if_value(key.clone(), value.clone());
        }
        write
    }
}

/// Sends it and tells what came of it. `what`: as in "the put of 'apple'".
pub async fn send(context: &Context, write: Write, flags: &WriteFlags, what: &str) -> Ended {
    match flags.apply(write).await {
        Ok(written) => told(context.output, &written),
        Err(error) => Err(failed(context.output, what, &error)),
    }
}

/// Like [`send`], with the result of every operation in the table.
pub async fn send_all(context: &Context, write: Write, flags: &WriteFlags, what: &str) -> Ended {
    let written = match flags.apply(write).await {
        Ok(written) => written,
        Err(error) => return Err(failed(context.output, what, &error)),
    };
    let exit = told(context.output, &written)?;
    if context.output == Output::Table && !written.results().is_empty() {
        let mut rows = Rows::new(["OPERATION", "RESULT"]);
        for (index, result) in written.results().iter().enumerate() {
            rows.row([index.to_string(), result_text(result)]);
        }
        super::output::print_raw(rows.into_text().as_bytes())?;
    }
    Ok(exit)
}

pub fn told(output: Output, written: &Written) -> Ended {
    output.print(&written_json(written), || written_rows(written))?;
    Ok(exit_of(written))
}

pub fn exit_of(written: &Written) -> Exit {
    match &written.outcome {
        Outcome::Applied(_) => Exit::Done,
        Outcome::ConditionFailed { index } => {
            eprintln!("condition {index} did not hold; nothing was changed");
            Exit::ConditionNotMet
        }
        Outcome::Failed { index, why } => {
            let why = failed_text(*why);
            eprintln!(
                "operation {index} cannot run on the object as it is ({why}); nothing was changed"
            );
            Exit::Failed
        }
    }
}

/// A program that reads JSON learns of an unknown outcome there too.
fn failed(output: Output, what: &str, error: &Error) -> Trouble {
    let trouble = Trouble::of(what, error);
    if trouble.exit == Exit::Unknown && output.is_json() {
        let id = error.request_id().map(|id| id.to_string());
        let document = json!({ "outcome": "unknown", "request_id": id, "why": trouble.why });
        if let Err(trouble) = output.print(&document, || Rows::new([])) {
            return trouble;
        }
    }
    trouble
}

/// What a shell command calls a write in an error.
pub fn named(verb: &str, key: &Bytes) -> String {
    let key = super::bytes::to_text(key);
    let short: String = key.chars().take(60).collect();
    let dots = if short.len() < key.len() { "..." } else { "" };
    format!("the {verb} of '{short}{dots}'")
}
