//! `understudy txn`: operations and conditions from JSON lines, run as one request: all or nothing, in one shard.

use super::client::ClientFlags;
use super::exit::{Ended, Exit, Trouble};
use super::lines::{Line, parse};
use super::write::{WriteFlags, send_all};
use std::io::BufRead;
use std::path::PathBuf;
use understudy_client::v1;
use understudy_proto::limits::{OPS_PER_REQUEST_MAX, REQUEST_BYTES_MAX};

/// Run several operations as one, all or nothing, from JSON lines.
///
/// One operation or condition a line, for example {"op": "put", "key": "{7}a", "value": "1"} and
/// {"if": "absent", "key": "{7}a"}. All keys have to be in one shard: the part of a key in braces decides it.
/// docs/cli.md lists the lines.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the lines are; `-` or nothing reads standard input
    file: Option<PathBuf>,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    client: ClientFlags,
}

pub async fn run(args: Args) -> Ended {
    let input = open(args.file.as_deref())?;
    let request = read(input)?;
    let context = args.client.connect().await?;
    let write = context
        .namespace()
        .transaction()
        .wire(request.ops, request.conditions);
    send_all(&context, write, &args.write, "the transaction").await
}

/// A file, or standard input.
pub fn open(file: Option<&std::path::Path>) -> Result<Box<dyn BufRead + Send>, Trouble> {
    match file {
        Some(path) if path.as_os_str() != "-" => match std::fs::File::open(path) {
            Ok(file) => Ok(Box::new(std::io::BufReader::new(file))),
            Err(error) => {
                let what = format!("{} cannot be read", path.display());
                Err(Trouble::new(
                    Exit::Usage,
                    what,
                    error.to_string(),
                    "name a file that can",
                ))
            }
        },
        _ => Ok(Box::new(std::io::BufReader::new(std::io::stdin()))),
    }
}

#[derive(Debug, Default)]
struct Request {
    ops: Vec<v1::Op>,
    conditions: Vec<v1::Precondition>,
}

/// The first wrong line ends it: a transaction is all or nothing.
fn read(input: impl BufRead) -> Result<Request, Trouble> {
    let wrong = |number: usize, why: String| {
        Trouble::new(
            Exit::Usage,
            format!("line {number}"),
            why,
            "correct it; nothing was changed",
        )
    };
    let mut request = Request::default();
    let mut bytes = 0;
    for (index, line) in input.lines().enumerate() {
        let number = index + 1;
        let line = line.map_err(|error| wrong(number, error.to_string()))?;
        bytes += line.len();
        // In JSON, binary takes at most six characters a byte; beyond that nothing can fit the request.
        if bytes > 8 * REQUEST_BYTES_MAX || request.ops.len() > OPS_PER_REQUEST_MAX {
            let why =
                format!("a transaction has at most {OPS_PER_REQUEST_MAX} operations and 4 MiB");
            return Err(wrong(number, why));
        }
        if line.trim().is_empty() {
            continue;
        }
        match parse(&line).map_err(|why| wrong(number, why))? {
            Line::Op(op) => request.ops.push(op),
            Line::Condition(condition) => request.conditions.push(condition),
            Line::Object(ops) => request.ops.extend(ops),
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_line_stops_the_whole_transaction() {
        let text = "{\"op\": \"put\", \"key\": \"a\", \"value\": \"1\"}\n\n{\"op\": \"put\"}\n";
        let trouble = read(text.as_bytes()).unwrap_err();
        assert_eq!(trouble.exit, Exit::Usage);
        assert_eq!(
            trouble.to_string(),
            "error: line 3: the field 'key' is missing; correct it; nothing was changed"
        );
    }

    #[test]
    fn operations_keep_their_order_and_conditions_stand_apart() {
        let text = r#"{"op": "get", "key": "a"}
{"if": "present", "key": "a"}
{"op": "delete", "key": "a"}"#;
        let request = read(text.as_bytes()).unwrap();
        assert_eq!((request.ops.len(), request.conditions.len()), (2, 1));
        assert!(matches!(request.ops[0].kind, Some(v1::op::Kind::Get(_))));
    }
}
