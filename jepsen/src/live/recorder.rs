//! The history of a run, written down while it happens: our own lines, and Jepsen's EDN.
//!
//! An event gets its place the moment it is told: an invocation before anything of it is sent, an end after its answer came.
//! A thread of its own writes, so that clients wait for nobody's disk.

use super::system::{Done, Op};
use crate::history::event::Type;
use crate::history::{Event, Value, write};
use anyhow::Context;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

/// Events that wait for the disk; beyond it clients wait, which makes a run slower and never wrong.
const WAITING_MAX: usize = 1 << 16;

enum Told {
    Client {
        event: Event,
        note: String,
    },
    Nemesis {
        f: String,
        what: String,
        time_ns: i64,
    },
}

/// Clones write into the same history.
#[derive(Clone)]
pub struct Recorder {
    told: mpsc::SyncSender<Told>,
    began: Instant,
    names: Arc<Names>,
}

/// The functions' names, so that an event does not copy its own.
#[derive(Default)]
struct Names(std::sync::RwLock<Vec<Arc<str>>>);

impl Names {
    fn of(&self, name: &str) -> Arc<str> {
        let known = |names: &Vec<Arc<str>>| names.iter().find(|known| ***known == *name).cloned();
        let read = self
            .0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = known(&read) {
            return found;
        }
        drop(read);
        let mut names = self
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        names.push(Arc::from(name));
        names[names.len() - 1].clone()
    }
}

/// The thread that writes; ends when the last [`Recorder`] is gone.
pub struct Written {
    thread: JoinHandle<anyhow::Result<()>>,
    pub json_lines: PathBuf,
}

/// Into `history.jsonl` and `history.edn` of the folder. Times count from now.
pub fn record(folder: &Path) -> anyhow::Result<(Recorder, Written)> {
    let (told, to_write) = mpsc::sync_channel(WAITING_MAX);
    let json_lines = folder.join("history.jsonl");
    let open = |path: &Path| {
        let file = File::create(path).with_context(|| path.display().to_string());
        file.map(|file| BufWriter::with_capacity(1 << 18, file))
    };
    let mut json = open(&json_lines)?;
    let mut edn = open(&folder.join("history.edn"))?;
    let work = move || {
        let mut line = String::new();
        for (index, told) in (0..).zip(to_write) {
            line.clear();
            json_line(&told, &mut line);
            json.write_all(line.as_bytes())?;
            edn_line(&told, index, &mut edn)?;
        }
        json.flush()?;
        edn.flush()?;
        Ok(())
    };
    let thread = std::thread::Builder::new().name("history".to_string());
    let written = Written {
        thread: thread.spawn(work)?,
        json_lines,
    };
    let recorder = Recorder {
        told,
        began: Instant::now(),
        names: Arc::default(),
    };
    Ok((recorder, written))
}

impl Recorder {
    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn now_ns(&self) -> i64 {
        self.began.elapsed().as_nanos() as i64
    }

    pub fn invoked(&self, process: i64, op: &Op) -> anyhow::Result<()> {
        self.client(process, op, Type::Invoke, op.value.clone(), String::new())
    }

    pub fn ended(&self, process: i64, op: &Op, done: &Done) -> anyhow::Result<()> {
        self.client(
            process,
            op,
            done.kind,
            done.value.clone(),
            done.note.clone(),
        )
    }

    fn client(
        &self,
        process: i64,
        op: &Op,
        kind: Type,
        value: Value,
        note: String,
    ) -> anyhow::Result<()> {
        let event = Event {
            process,
            kind,
            f: self.names.of(op.f),
            key: op.key.clone(),
            value,
            time_ns: Some(self.now_ns()),
            line: 0,
        };
        self.tell(Told::Client { event, note })
    }

    /// What the harness itself did, or met.
    pub fn nemesis(&self, f: &str, what: &str) -> anyhow::Result<()> {
        self.tell(Told::Nemesis {
            f: f.to_string(),
            what: what.to_string(),
            time_ns: self.now_ns(),
        })
    }

    /// A history with a hole is worth nothing, so whoever cannot write ends the run.
    fn tell(&self, told: Told) -> anyhow::Result<()> {
        let sent = self.told.send(told);
        sent.map_err(|_| anyhow::anyhow!("the history cannot be written any more"))
    }
}

impl Written {
    /// Waits until everything is in the files.
    pub fn finish(self) -> anyhow::Result<PathBuf> {
        let ended = self.thread.join();
        let ended = ended.map_err(|_| anyhow::anyhow!("the history's thread panicked"))?;
        ended.context("writing the history")?;
        Ok(self.json_lines)
    }
}

fn json_line(told: &Told, line: &mut String) {
    match told {
        Told::Client { event, note } => {
            line.push_str(&format!(
                "{{\"process\":{},\"type\":\"{}\",\"f\":\"{}\"",
                event.process,
                event.kind.name(),
                event.f
            ));
            if let Some(key) = &event.key {
                line.push_str(",\"key\":");
                json(key, line);
            }
            line.push_str(",\"value\":");
            json(&event.value, line);
            if let Some(time) = event.time_ns {
                line.push_str(&format!(",\"time\":{time}"));
            }
            if !note.is_empty() {
                line.push_str(",\"note\":");
                text(note, line);
            }
        }
        Told::Nemesis { f, what, time_ns } => {
            line.push_str("{\"process\":\"nemesis\",\"type\":\"info\",\"f\":");
            text(f, line);
            line.push_str(",\"value\":");
            text(what, line);
            line.push_str(&format!(",\"time\":{time_ns}"));
        }
    }
    line.push_str("}\n");
}

/// Words of EDN become strings.
fn json(value: &Value, line: &mut String) {
    match value {
        Value::Nil => line.push_str("null"),
        Value::Bool(yes) => line.push_str(if *yes { "true" } else { "false" }),
        Value::Int(number) => line.push_str(&number.to_string()),
        Value::Float(bits) => line.push_str(&f64::from_bits(*bits).to_string()),
        Value::Text(word) | Value::Keyword(word) | Value::Symbol(word) => text(word, line),
        Value::Char(character) => text(&character.to_string(), line),
        Value::List(elements) | Value::Set(elements) => {
            line.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    line.push(',');
                }
                json(element, line);
            }
            line.push(']');
        }
        Value::Map(pairs) => {
            line.push('{');
            for (index, (key, value)) in pairs.iter().enumerate() {
                if index > 0 {
                    line.push(',');
                }
                let name = key.name().map_or_else(|| key.to_string(), str::to_string);
                text(&name, line);
                line.push(':');
                json(value, line);
            }
            line.push('}');
        }
        Value::Tagged(tagged) => json(&tagged.1, line),
    }
}

fn text(word: &str, line: &mut String) {
    line.push_str(&serde_json::Value::from(word).to_string());
}

fn edn_line(told: &Told, index: u64, edn: &mut impl Write) -> std::io::Result<()> {
    match told {
        Told::Client { event, .. } => write::edn_line(event, index, edn),
        Told::Nemesis { f, what, time_ns } => writeln!(
            edn,
            "{{:index {index}, :type :info, :process :nemesis, :f {}, :value {}, :time {time_ns}}}",
            Value::Keyword(f.replace(' ', "-").into()),
            Value::text(what)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Format, Operations, Outcome, read};

    #[test]
    fn what_is_written_is_read_back_from_both_files() {
        let folder = tempfile::tempdir().unwrap();
        let (recorder, written) = record(folder.path()).unwrap();
        let op = Op::keyed(
            "write",
            3,
            Value::List(vec![Value::text("a\"b"), Value::Nil]),
        );
        recorder.invoked(1, &op).unwrap();
        recorder.nemesis("kill", "node-1 \"dies\"").unwrap();
        recorder
            .ended(1, &op, &Done::info(&op, "no answer"))
            .unwrap();
        let read_op = Op::keyed("read", 3, Value::Nil);
        recorder.invoked(2, &read_op).unwrap();
        recorder
            .ended(2, &read_op, &Done::ok(Value::Int(7)))
            .unwrap();
        drop(recorder);
        written.finish().unwrap();
        for (name, format) in [
            ("history.jsonl", Format::Jsonl),
            ("history.edn", Format::Edn),
        ] {
            let (guessed, events) = read(&folder.path().join(name), None).unwrap();
            assert_eq!(guessed, format);
            let operations = Operations::collect(events).unwrap();
            let outcomes: Vec<Outcome> = operations.all.iter().map(|o| o.outcome).collect();
            assert_eq!(outcomes, [Outcome::Unknown, Outcome::Ok], "{name}");
            let (key, asked, _) = crate::checker::models::keyed(&operations.all[0]).unwrap();
            assert_eq!((key, asked), (Value::Int(3), op.value.clone()), "{name}");
        }
    }
}
