//! `understudy get`: reads objects. One plain value is printed as it is, so that a shell can use it.

use super::bytes::{Encoding, to_json, to_text};
use super::client::{ClientFlags, Context};
use super::exit::{Ended, Exit, Trouble};
use super::output::{Output, Rows, print_raw};
use super::show::{held_text, object_json, pair_json};
use super::write::named;
use bytes::Bytes;
use clap::ValueEnum;
use futures::future::try_join_all;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::Duration;
use understudy_client::{Found, Object, Pair, ReadLevel, Value as Held};

/// Read objects.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The objects' keys
    #[arg(required = true)]
    keys: Vec<String>,
    /// Print only this component
    #[arg(long, short = 'c', value_name = "NAME")]
    component: Option<String>,
    /// Print a value as it is, without a line end
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    read: ReadFlags,
    /// How the keys on the command line are written
    #[arg(long, value_enum, default_value_t)]
    encoding: Encoding,
    #[command(flatten)]
    client: ClientFlags,
}

/// How fresh a read is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Read")]
pub struct ReadFlags {
    /// primary: linearizable; any: any copy as it is; bounded: at most --staleness-ms old; session: see --token
    #[arg(long, value_enum, default_value = "primary")]
    level: Level,
    /// With level bounded: how old the answer may be
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    staleness_ms: u64,
    /// With level session: what the answer must have reached
    #[arg(long, value_name = "EPOCH.VERSION")]
    token: Option<Pair>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Primary,
    Any,
    Session,
    Bounded,
}

impl ReadFlags {
    pub fn level(&self) -> ReadLevel {
        match self.level {
            Level::Primary => ReadLevel::Primary,
            Level::Any => ReadLevel::Any,
            Level::Session => ReadLevel::Session,
            Level::Bounded => ReadLevel::Bounded(Duration::from_millis(self.staleness_ms)),
        }
    }
}

pub async fn run(args: Args) -> Ended {
    if args.read.token.is_some() && args.read.level != Level::Session {
        return Err(Trouble::usage(
            "--token goes with --level session",
            "add it, or leave --token out",
        ));
    }
    let keys = args
        .keys
        .iter()
        .map(|key| args.encoding.decode("the key", key));
    let keys = keys.collect::<Result<Vec<Bytes>, Trouble>>()?;
    let context = args.client.connect().await?;
    let answers = try_join_all(keys.iter().map(|key| args.get(&context, key))).await?;
    let found: Vec<Option<Object>> = answers.iter().map(object_of).collect();
    if context.output.is_json() {
        args.print_json(context.output, &keys, &answers)?;
    } else {
        args.print(&found)?;
    }
    let absent: Vec<String> = missing(&args, &keys, &found);
    for name in &absent {
        eprintln!("{name} is absent");
    }
    Ok(if absent.is_empty() {
        Exit::Done
    } else {
        Exit::NotFound
    })
}

/// Each read asks for one object.
fn object_of(answer: &Found) -> Option<Object> {
    answer.objects.first().cloned().flatten()
}

fn missing(args: &Args, keys: &[Bytes], found: &[Option<Object>]) -> Vec<String> {
    let pairs = keys.iter().zip(found).filter_map(|(key, object)| {
        let key = to_text(key);
        match (object, &args.component) {
            (None, _) => Some(format!("'{key}'")),
            (Some(object), Some(name)) if object.component(name).is_none() => {
                Some(format!("component '{name}' of '{key}'"))
            }
            _ => None,
        }
    });
    pairs.collect()
}

impl Args {
    async fn get(&self, context: &Context, key: &Bytes) -> Result<Found, Trouble> {
        let read = context
            .namespace()
            .read([key.clone()])
            .level(self.read.level());
        let read = match self.read.token {
            Some(token) => read.token(token),
            None => read,
        };
        read.await
            .map_err(|error| Trouble::of(named("read", key), &error))
    }

    /// With each object what the answering copy had reached, and how old it was at most.
    fn print_json(&self, output: Output, keys: &[Bytes], answers: &[Found]) -> Result<(), Trouble> {
        let objects = keys.iter().zip(answers).map(|(key, answer)| {
            let mut document = match object_of(answer) {
                Some(object) => self.document(&object),
                None => json!({ "key": to_json(key), "absent": true }),
            };
            document["read"] = json!({
                "token": pair_json(answer.token),
                "node_id": answer.node.0,
                "age_ms": answer.age.map(|age| age.as_millis() as u64),
            });
            document
        });
        let document = json!({ "objects": objects.collect::<Vec<Value>>() });
        output.print(&document, || Rows::new([]))
    }

    fn print(&self, found: &[Option<Object>]) -> Result<(), Trouble> {
        match found {
            [Some(object)] => self.print_one(object),
            [None] => Ok(()),
            _ => print_raw(self.rows(found.iter().flatten()).into_text().as_bytes()),
        }
    }

    fn document(&self, object: &Object) -> Value {
        object_json(&self.chosen(object))
    }

    /// The object with only the component that was asked for.
    fn chosen(&self, object: &Object) -> Object {
        let mut object = object.clone();
        if let Some(name) = &self.component {
            object
                .components
                .retain(|component| component.name == name.as_bytes());
        }
        object
    }

    fn print_one(&self, object: &Object) -> Result<(), Trouble> {
        let chosen = self.chosen(object);
        let [component] = chosen.components.as_slice() else {
            return print_raw(self.rows([object]).into_text().as_bytes());
        };
        let plain = component.name.is_empty() || self.component.is_some();
        match &component.value {
            Held::Data(data) if plain => self.print_value(data),
            Held::Counter(counter) if plain => self.print_value(counter.to_string().as_bytes()),
            _ => print_raw(self.rows([object]).into_text().as_bytes()),
        }
    }

    /// With a line end, unless that would spoil bytes that are no text.
    fn print_value(&self, data: &[u8]) -> Result<(), Trouble> {
        let text = std::str::from_utf8(data).is_ok();
        if !text && !self.raw && std::io::stdout().is_terminal() {
            return print_raw(format!("{}\n", to_text(data)).as_bytes());
        }
        print_raw(data)?;
        if self.raw || !text {
            return Ok(());
        }
        print_raw(b"\n")
    }

    fn rows<'a>(&self, objects: impl IntoIterator<Item = &'a Object>) -> Rows {
        let mut rows = Rows::new(["KEY", "COMPONENT", "VALUE", "PAIR"]);
        for object in objects {
            for component in self.chosen(object).components {
                let name = to_text(&component.name);
                let pair = component.pair.to_string();
                let name = super::show::or_dash(name);
                rows.row([
                    to_text(&object.key),
                    name,
                    held_text(&component.value),
                    pair,
                ]);
            }
        }
        rows
    }
}
