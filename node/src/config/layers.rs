//! Default, file, environment, flags: each later layer wins, and every value remembers where it came from.
//!
//! A key that does not exist is an error naming the nearest one that does. All problems of all layers are told at once.

use super::section::{Described, Section, described};
use super::{AgentConfig, ClientConfig, ManagerConfig, NodeConfig, Problem};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Every environment variable of ours begins so.
const PREFIX: &str = "UNDERSTUDY_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value that somebody wrote as text.
#[derive(Clone, Debug)]
pub struct Given {
    pub key: String,
    pub text: String,
    /// The flag as it was written, `--data-dir`.
    pub flag: String,
}

/// What is laid over the defaults, in this order.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub file: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
    pub flags: Vec<Given>,
}

impl Layers {
    /// The process's own environment.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<Given>) -> Layers {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Layers {
            file,
            environment: environment.collect(),
            flags,
        }
    }
}

/// The settings, and where each one came from.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    pub config: C,
    /// In the order of the file: key, value, source.
    pub values: Vec<(String, Value, Source)>,
}

/// Lays the layers over the defaults. Does not validate the result.
pub fn load<C: Section + Default + DeserializeOwned>(
    layers: &Layers,
) -> Result<Loaded<C>, Vec<Problem>> {
    let known = described::<C>();
    let mut problems = Vec::new();
    let mut values: BTreeMap<String, (Value, Source)> = BTreeMap::new();
    for each in &known {
        values.insert(each.key.clone(), (each.default.clone(), Source::Default));
    }
    problems.extend(mistyped(&layers.environment));
    let file = layers.file.as_deref().map(|path| read_file(path, &known));
    let environment = from_environment(&layers.environment, &known);
    let flags = from_flags(&layers.flags, &known);
    for layer in file.into_iter().chain([environment, flags]) {
        for found in layer {
            match found {
                Ok((key, value, source)) => {
                    values.insert(key, (value, source));
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let config = assemble(&values)?;
    let values = known.iter().filter_map(|each| {
        let (value, source) = values.remove(&each.key)?;
        Some((each.key.clone(), value, source))
    });
    Ok(Loaded {
        config,
        values: values.collect(),
    })
}

type Found = Result<(String, Value, Source), Problem>;

fn read_file(path: &Path, known: &[Described]) -> Vec<Found> {
    let problem = |message: String| {
        vec![Err(Problem {
            key: path.display().to_string(),
            message,
        })]
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return problem(format!("cannot be read: {error}")),
    };
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => return problem(syntax(&text, &error)),
    };
    let mut flat = Vec::new();
    flatten("", table, known, &mut flat);
    let source = Source::File(path.to_path_buf());
    flat.into_iter()
        .map(|(key, value)| {
            let each = find(&key, known)?;
            let value = same_type(&key, value, &each.default)?;
            Ok((key, value, source.clone()))
        })
        .collect()
}

/// One line: where and what.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..at]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1;
    format!(
        "line {line}: {}",
        error.message().lines().collect::<Vec<_>>().join("; ")
    )
}

/// Tables become keys with dots, down to what is a setting.
fn flatten(prefix: &str, table: Table, known: &[Described], out: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = super::section::join(prefix, &name);
        let is_setting = known.iter().any(|each| each.key == key);
        match value {
            Value::Table(inner) if !is_setting => flatten(&key, inner, known, out),
            value => out.push((key, value)),
        }
    }
}

fn from_environment(environment: &[(String, String)], known: &[Described]) -> Vec<Found> {
    let mut found = Vec::new();
    for each in known {
        let name = variable(&each.key);
        for (_, text) in environment.iter().filter(|(given, _)| *given == name) {
            let value = parse(&name, text, &each.default);
            found.push(
                value.map(|value| (each.key.clone(), value, Source::Environment(name.clone()))),
            );
        }
    }
    found
}

/// Variables that look like one of ours. Those of other roles and of other programs are not looked at.
fn mistyped(environment: &[(String, String)]) -> Vec<Problem> {
    let of_roles = [
        described::<ManagerConfig>(),
        described::<NodeConfig>(),
        described::<ClientConfig>(),
        described::<AgentConfig>(),
    ];
    let settings = of_roles.iter().flatten().map(|each| variable(&each.key));
    let files = ["UNDERSTUDY_CONFIG", "UNDERSTUDY_CLIENT_CONFIG"].map(str::to_string);
    let known: BTreeSet<String> = settings.chain(files).collect();
    let given = environment.iter().map(|(name, _)| name);
    let strange = given.filter(|name| name.starts_with(PREFIX) && !known.contains(*name));
    let problems = strange.filter_map(|name| {
        let near = |known: &&String| strsim::damerau_levenshtein(known, name) <= 2;
        let nearest = known.iter().find(near)?;
        Some(Problem {
            key: name.clone(),
            message: format!("there is no such variable; the nearest is '{nearest}'"),
        })
    });
    problems.collect()
}

fn from_flags(flags: &[Given], known: &[Described]) -> Vec<Found> {
    let found = flags.iter().map(|given| {
        let each = find(&given.key, known)?;
        let value = parse(&given.flag, &given.text, &each.default)?;
        Ok((given.key.clone(), value, Source::Flag(given.flag.clone())))
    });
    found.collect()
}

/// `UNDERSTUDY_RAFT_HEARTBEAT_MS`.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn find<'a>(key: &str, known: &'a [Described]) -> Result<&'a Described, Problem> {
    if let Some(each) = known.iter().find(|each| each.key == key) {
        return Ok(each);
    }
    let nearest = known
        .iter()
        .map(|each| (strsim::damerau_levenshtein(&each.key, key), &each.key))
        .min();
    let message = match nearest {
        Some((distance, nearest)) if distance <= nearest.len().max(key.len()) / 2 => {
            format!("there is no such setting; the nearest is '{nearest}'")
        }
        _ => "there is no such setting; `understudy config default` lists all".to_string(),
    };
    Err(Problem {
        key: key.to_string(),
        message,
    })
}

fn same_type(key: &str, value: Value, like: &Value) -> Result<Value, Problem> {
    let strings = |value: &Value| match value {
        Value::Array(list) => list.iter().all(Value::is_str),
        Value::Table(map) => map.values().all(Value::is_str),
        Value::Integer(number) => *number >= 0,
        _ => true,
    };
    if value.same_type(like) && strings(&value) {
        return Ok(value);
    }
    Err(Problem {
        key: key.to_string(),
        message: format!("is {value}, has to be {}", kind(like)),
    })
}

/// Text from the environment or a flag, read as the type of the default.
fn parse(key: &str, text: &str, like: &Value) -> Result<Value, Problem> {
    let wrong = || Problem {
        key: key.to_string(),
        message: format!("is '{text}', has to be {}", kind(like)),
    };
    let parts = || {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    Ok(match like {
        Value::Integer(_) => {
            let number: u64 = text.trim().replace('_', "").parse().map_err(|_| wrong())?;
            Value::Integer(i64::try_from(number).map_err(|_| wrong())?)
        }
        Value::Boolean(_) => match text.trim() {
            "true" | "1" | "yes" => Value::Boolean(true),
            "false" | "0" | "no" => Value::Boolean(false),
            _ => return Err(wrong()),
        },
        Value::Array(_) => Value::Array(
            parts()
                .map(|part| Value::String(part.to_string()))
                .collect(),
        ),
        Value::Table(_) => {
            let pairs = parts().map(|part| {
                let (name, value) = part.split_once('=').ok_or_else(wrong)?;
                Ok((
                    name.trim().to_string(),
                    Value::String(value.trim().to_string()),
                ))
            });
            Value::Table(pairs.collect::<Result<Table, Problem>>()?)
        }
        _ => Value::String(text.to_string()),
    })
}

fn kind(like: &Value) -> &'static str {
    match like {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of texts",
        Value::Table(_) => "a table of texts (name=value,name=value in a flag)",
        _ => "a text",
    }
}

fn assemble<C: DeserializeOwned>(
    values: &BTreeMap<String, (Value, Source)>,
) -> Result<C, Vec<Problem>> {
    let mut whole = Table::new();
    for (key, (value, _)) in values {
        let mut at = &mut whole;
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let inner = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
            at = inner
                .as_table_mut()
                .expect("a key is a section or a setting, never both");
        }
        at.insert(last.to_string(), value.clone());
    }
    whole.try_into().map_err(|error: toml::de::Error| {
        vec![Problem {
            key: "config".to_string(),
            message: error.message().to_string(),
        }]
    })
}
