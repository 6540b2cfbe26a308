//! `understudy import`: loads objects or operations from JSON lines, many at once, those of one key in their order.
//!
//! A wrong line is told with its number and the rest still loads. When the cluster can no longer be reached, or an
//! outcome is unknown, no further lines are begun and the summary says where to go on.

use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble, one_line};
use super::lines::{Line, parse};
use super::output::{Progress, Rows};
use super::txn::open;
use serde_json::json;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use tokio::sync::mpsc;
use understudy_client::{Namespace, Outcome, RequestId, Sequence, Write, check, v1};

/// Load objects or operations from JSON lines.
///
/// A line is an object as `export` prints it, {"key": "a", "value": "1"}, or an operation of `txn`. Each line is one
/// request. With --request-id the first line runs under that id, the second under the next number, and so on: a
/// repeated import then runs no line twice.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the lines are; `-` or nothing reads standard input
    file: Option<PathBuf>,
    /// The id of the first line
    #[arg(long, value_name = "CLIENT:SEQ")]
    request_id: Option<RequestId>,
    /// Lines in flight at once
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    parallel: u16,
    #[command(flatten)]
    client: ClientFlags,
}

/// A longer line fits no request, and is not even held.
const LINE_BYTES_MAX: usize = 8 * understudy_proto::limits::REQUEST_BYTES_MAX;
/// Wrong lines that are told one by one; the others are only counted.
const TOLD_MAX: u64 = 1_000;

pub async fn run(args: Args) -> Ended {
    let input = open(args.file.as_deref())?;
    let context = args.client.connect().await?;
    // A namespace that does not exist is told once, and not for every line.
    let namespace = context.namespace();
    namespace
        .route()
        .await
        .map_err(|error| Trouble::of("the import", &error))?;
    let mut tally = Tally::default();
    load(&args, &namespace, input, &mut tally).await;
    tally.tell(&context)
}

async fn load(
    args: &Args,
    namespace: &Namespace,
    input: Box<dyn BufRead + Send>,
    tally: &mut Tally,
) {
    let (told, mut results) = mpsc::channel(1_024);
    let (to_lanes, lanes) = lanes(usize::from(args.parallel), namespace, &told);
    let (read, mut lines) = mpsc::channel(1_024);
    std::thread::spawn(move || read_lines(input, &read));
    drop(told);
    let mut to_lanes = Some(to_lanes);
    let mut progress = Progress::new();
    loop {
        tokio::select! {
            Some(done) = results.recv() => {
                tally.note(done);
                if tally.stop.is_some() {
                    to_lanes = None;
                }
            }
            line = lines.recv(), if to_lanes.is_some() => match (line, &to_lanes) {
                (Some(line), Some(to_lanes)) => give(args, to_lanes, line, tally).await,
                _ => to_lanes = None,
            },
            else => break,
        }
        progress.tell(|| format!("{} lines loaded, {} failed", tally.loaded, tally.failed));
    }
    for lane in lanes {
        // A lane only ends with its channel.
        let _ = lane.await;
    }
}

/// A line on its way.
#[derive(Debug)]
struct Job {
    number: u64,
    ops: Vec<v1::Op>,
    id: Option<RequestId>,
}

/// What became of it: the exit status and a word, or that it had run before.
#[derive(Debug)]
struct Done {
    number: u64,
    result: Result<bool, Trouble>,
}

type ToLanes = Vec<mpsc::Sender<Job>>;

/// Each lane sends one line after the other; a key always takes the same lane, so its lines keep their order.
fn lanes(
    count: usize,
    namespace: &Namespace,
    told: &mpsc::Sender<Done>,
) -> (ToLanes, Vec<tokio::task::JoinHandle<()>>) {
    let lane = |_| {
        let (sender, mut jobs) = mpsc::channel::<Job>(4);
        let (namespace, told) = (namespace.clone(), told.clone());
        let task = tokio::spawn(async move {
            while let Some(job) = jobs.recv().await {
                let number = job.number;
                let result = send(&namespace, job).await;
                if told.send(Done { number, result }).await.is_err() {
                    return;
                }
            }
        });
        (sender, task)
    };
    (0..count).map(lane).unzip()
}

async fn send(namespace: &Namespace, job: Job) -> Result<bool, Trouble> {
    let write: Write = namespace.transaction().wire(job.ops, []);
    let write = match job.id {
        Some(id) => write.request_id(id),
        None => write,
    };
    let what = format!("line {}", job.number);
    let written = write.await.map_err(|error| Trouble::of(&what, &error))?;
    match written.outcome {
        Outcome::Applied(_) => Ok(written.duplicate),
        Outcome::ConditionFailed { .. } | Outcome::Failed { .. } => {
            let why = "the operation cannot run on the object as it is";
            Err(Trouble::new(Exit::Failed, what, why, ""))
        }
    }
}

async fn give(args: &Args, lanes: &ToLanes, line: NumberedLine, tally: &mut Tally) {
    tally.lines = line.number;
    let job = match job(args, line) {
        Ok(Some(job)) => job,
        Ok(None) => return,
        Err(done) => return tally.note(done),
    };
    let key = job.ops.first().and_then(check::op_key);
    let lane = key.map_or(0, |key| {
        understudy_proto::shard_of_key::shard_index(key, lanes.len() as u32)
    });
    // A lane only ends when its sender is dropped.
    let _ = lanes[lane as usize].send(job).await;
}

/// `None`: an empty line.
fn job(args: &Args, line: NumberedLine) -> Result<Option<Job>, Done> {
    let number = line.number;
    let wrong = |why: String| Done {
        number,
        result: Err(Trouble::new(
            Exit::Failed,
            format!("line {number}: {why}"),
            "",
            "",
        )),
    };
    let text = line.text.map_err(wrong)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let ops = match parse(&text).map_err(wrong)? {
        Line::Op(op) => vec![op],
        Line::Object(ops) => ops,
        Line::Condition(_) => return Err(wrong("a condition belongs into a `txn`".to_string())),
    };
    let id = args.request_id.map(|first| RequestId {
        client: first.client,
        sequence: Sequence(first.sequence.0.saturating_add(number - 1)),
    });
    Ok(Some(Job { number, ops, id }))
}

struct NumberedLine {
    number: u64,
    text: Result<String, String>,
}

/// Reads until the end, or until nobody wants lines any more.
fn read_lines(mut input: Box<dyn BufRead + Send>, lines: &mpsc::Sender<NumberedLine>) {
    for number in 1.. {
        let text = match read_line(&mut input) {
            Ok(None) => return,
            Ok(Some(text)) => text,
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let broken = text
            .as_ref()
            .is_err_and(|why| why.starts_with("cannot be read"));
        if lines.blocking_send(NumberedLine { number, text }).is_err() || broken {
            return;
        }
    }
}

/// `None` at the end; the inner error tells a line that is too long or no text.
fn read_line(input: &mut dyn BufRead) -> io::Result<Option<Result<String, String>>> {
    let mut bytes = Vec::new();
    let read = input
        .take(LINE_BYTES_MAX as u64 + 1)
        .read_until(b'\n', &mut bytes)?;
    if read == 0 {
        return Ok(None);
    }
    if read > LINE_BYTES_MAX {
        skip_line(input)?;
        return Ok(Some(Err(format!("is longer than {LINE_BYTES_MAX} bytes"))));
    }
    let text = String::from_utf8(bytes);
    Ok(Some(text.map_err(|_| {
        "is no UTF-8; write binary as {\"base64\": \"...\"}".to_string()
    })))
}

fn skip_line(input: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// What came of all lines.
#[derive(Default)]
struct Tally {
    lines: u64,
    loaded: u64,
    duplicates: u64,
    failed: u64,
    told: u64,
    /// No further lines are begun; this one is the first whose outcome is not known or that did not run.
    stop: Option<(u64, Exit)>,
}

impl Tally {
    fn note(&mut self, done: Done) {
        let trouble = match done.result {
            Ok(duplicate) => {
                self.loaded += 1;
                self.duplicates += u64::from(duplicate);
                return;
            }
            Err(trouble) => trouble,
        };
        self.failed += 1;
        if matches!(trouble.exit, Exit::Unavailable | Exit::Unknown) {
            let first = self
                .stop
                .map_or(done.number, |(line, _)| line.min(done.number));
            let unknown = matches!(self.stop, Some((_, Exit::Unknown)));
            let exit = if unknown { Exit::Unknown } else { trouble.exit };
            self.stop = Some((first, exit));
        }
        self.told += 1;
        if self.told <= TOLD_MAX {
            eprintln!("{}", one_line(&trouble.to_string()));
        }
    }

    fn tell(self, context: &Context) -> Ended {
        if self.told > TOLD_MAX {
            eprintln!("error: {} more lines failed", self.told - TOLD_MAX);
        }
        if let Some((line, _)) = self.stop {
            eprintln!(
                "error: no lines were begun after trouble at line {line}; mend it and load from there again"
            );
        }
        let document = json!({
            "lines": self.lines,
            "loaded": self.loaded,
            "duplicates": self.duplicates,
            "failed": self.failed,
            "go_on_at_line": self.stop.map(|(line, _)| line),
        });
        context.output.print(&document, || {
            let mut rows = Rows::new(["LINES", "LOADED", "DUPLICATES", "FAILED"]);
            rows.row(
                [self.lines, self.loaded, self.duplicates, self.failed].map(|n| n.to_string()),
            );
            rows
        })?;
        Ok(match (self.stop, self.failed) {
            (Some((_, exit)), _) => exit,
            (None, 0) => Exit::Done,
            (None, _) => Exit::Failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &[u8]) -> Vec<Result<String, String>> {
        let mut input = io::BufReader::new(text);
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        lines
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_costs_only_itself() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 5];
        text.extend(b"\nnext\n\xff\nlast");
        let lines = read_all(&text);
        assert_eq!(lines.len(), 4);
        assert!(lines[0].as_ref().unwrap_err().contains("longer"));
        assert_eq!(lines[1].as_deref(), Ok("next\n"));
        assert!(lines[2].as_ref().unwrap_err().contains("UTF-8"));
        assert_eq!(lines[3].as_deref(), Ok("last"));
    }

    #[test]
    fn lines_get_the_numbers_after_the_first_id() {
        let first: RequestId = "00000000-0000-0000-0000-000000000001:10".parse().unwrap();
        let args = Args {
            file: None,
            request_id: Some(first),
            parallel: 1,
            client: ClientFlags::default(),
        };
        let line = |number, text: &str| NumberedLine {
            number,
            text: Ok(text.to_string()),
        };
        let third = job(&args, line(3, r#"{"key": "a", "value": "1"}"#))
            .unwrap()
            .unwrap();
        assert_eq!(third.id.unwrap().sequence, Sequence(12));
        assert!(job(&args, line(4, " ")).unwrap().is_none());
        let wrong = job(&args, line(5, r#"{"if": "absent", "key": "a"}"#)).unwrap_err();
        assert!(wrong.result.unwrap_err().to_string().contains("line 5"));
    }
}
