//! `understudy config`: the settings of a role, merged (`show`), checked (`check`), or all with their meaning (`default`).

use super::client::wrong_settings;
use super::exit::{Ended, Exit, Trouble};
use super::output::{Output, Rows, print_raw};
use crate::config::{
    AgentConfig, ClientConfig, Layers, Loaded, ManagerConfig, NodeConfig, Problem, Section,
    described, load,
};
use clap::{Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Show, check or make the settings of a role.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what holds, each value with where it comes from
    Show {
        #[arg(value_enum)]
        role: Role,
        #[command(flatten)]
        file: FileFlag,
        /// How to print
        #[arg(long, short = 'o', value_name = "HOW", default_value = "table")]
        output: super::client::OutputFlag,
    },
    /// Tell everything that is wrong with a file, and with what the environment lays over it
    Check {
        #[arg(value_enum)]
        role: Role,
        #[command(flatten)]
        file: FileFlag,
    },
    /// Print a file with every setting, its meaning and its default
    Default {
        #[arg(value_enum)]
        role: Role,
    },
}

#[derive(Debug, clap::Args)]
struct FileFlag {
    /// The TOML file
    #[arg(long, value_name = "FILE", id = "config-file")]
    config: Option<PathBuf>,
    /// The same, without the flag
    #[arg(value_name = "FILE", conflicts_with = "config-file", id = "file")]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Manager,
    Node,
    Client,
    Agent,
}

pub fn run(args: Args) -> Ended {
    match args.verb {
        Verb::Show { role, file, output } => {
            let output = match output {
                super::client::OutputFlag::Json => Output::Json,
                super::client::OutputFlag::Table => Output::Table,
            };
            match role {
                Role::Manager => show(&merged::<ManagerConfig>(file)?, output),
                Role::Node => show(&merged::<NodeConfig>(file)?, output),
                Role::Client => show(&merged::<ClientConfig>(file)?, output),
                Role::Agent => show(&merged::<AgentConfig>(file)?, output),
            }
        }
        Verb::Check { role, file } => match role {
            Role::Manager => check(&merged::<ManagerConfig>(file)?.config.validate()),
            Role::Node => check(&merged::<NodeConfig>(file)?.config.validate()),
            Role::Client => check(&merged::<ClientConfig>(file)?.config.validate()),
            Role::Agent => check(&merged::<AgentConfig>(file)?.config.validate()),
        },
        Verb::Default { role } => {
            let text = match role {
                Role::Manager => default_file::<ManagerConfig>("manager"),
                Role::Node => default_file::<NodeConfig>("node"),
                Role::Client => default_file::<ClientConfig>("client"),
                Role::Agent => default_file::<AgentConfig>("agent"),
            };
            print_raw(text.as_bytes())?;
            Ok(Exit::Done)
        }
    }
}

fn merged<C: Section + Default + DeserializeOwned>(file: FileFlag) -> Result<Loaded<C>, Trouble> {
    let layers = Layers::from_process(file.config.or(file.file), Vec::new());
    load(&layers).map_err(|problems| wrong_settings(&problems))
}

/// Every value with its source. Also what `--print-config` prints.
pub fn show<C>(loaded: &Loaded<C>, output: Output) -> Ended {
    let document = loaded.values.iter().map(|(key, value, source)| {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        (
            key.clone(),
            json!({ "value": value, "source": source.to_string() }),
        )
    });
    let document = Value::Object(document.collect::<Map<_, _>>());
    output.print(&document, || {
        let mut rows = Rows::new(["SETTING", "VALUE", "SOURCE"]);
        for (key, value, source) in &loaded.values {
            rows.row([key.clone(), value.to_string(), source.to_string()]);
        }
        rows
    })?;
    Ok(Exit::Done)
}

fn check(problems: &[Problem]) -> Ended {
    if problems.is_empty() {
        print_raw(b"nothing is wrong\n")?;
        return Ok(Exit::Done);
    }
    Err(wrong_settings(problems))
}

/// A file that changes nothing: every setting with its default, as a comment above it what it means.
fn default_file<C: Section + Default>(role: &str) -> String {
    let mut text = format!(
        "# Settings of {} {role} of Understudy. Every line shows its default.\n",
        if role == "agent" { "an" } else { "a" }
    );
    let mut section = String::new();
    for each in described::<C>() {
        let (inside, name) = each.key.rsplit_once('.').unwrap_or(("", &each.key));
        if inside != section {
            section = inside.to_string();
            let _ = write!(text, "\n[{section}]\n");
        }
        let _ = write!(
            text,
            "\n{}\n{name} = {}\n",
            comment(&each.about),
            each.default
        );
    }
    text
}

/// Wrapped at 100 columns.
fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_string()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_back<C: Section + Default + DeserializeOwned + PartialEq + std::fmt::Debug>() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.toml");
        std::fs::write(&path, default_file::<C>("x")).unwrap();
        let layers = Layers {
            file: Some(path),
            ..Layers::default()
        };
        assert_eq!(load::<C>(&layers).unwrap().config, C::default());
    }

    #[test]
    fn the_default_file_changes_nothing() {
        reads_back::<ManagerConfig>();
        reads_back::<NodeConfig>();
        reads_back::<ClientConfig>();
        reads_back::<AgentConfig>();
    }
}
