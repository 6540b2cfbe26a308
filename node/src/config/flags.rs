//! One flag for each setting of a role, made from the descriptions, so that no flag can be forgotten or differ.

use super::layers::Given;
use super::section::{Described, Section, described};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use std::marker::PhantomData;
use toml::Value;

/// The flags that were given, for a role with the settings `C`.
pub struct SettingFlags<C> {
    pub given: Vec<Given>,
    role: PhantomData<fn() -> C>,
}

impl<C> Clone for SettingFlags<C> {
    fn clone(&self) -> Self {
        SettingFlags {
            given: self.given.clone(),
            role: PhantomData,
        }
    }
}

impl<C> std::fmt::Debug for SettingFlags<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.given).finish()
    }
}

impl<C: Section + Default> Args for SettingFlags<C> {
    fn augment_args(command: Command) -> Command {
        let flags = described::<C>().into_iter().map(flag);
        flags.fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<C: Section + Default> FromArgMatches for SettingFlags<C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Vec::new();
        for each in described::<C>() {
            let Some(texts) = matches.get_many::<String>(&each.key) else {
                continue;
            };
            let texts: Vec<&str> = texts.map(String::as_str).collect();
            let flag = format!("--{}", name(&each.key));
            let text = texts.join(",");
            given.push(Given {
                key: each.key,
                text,
                flag,
            });
        }
        Ok(SettingFlags {
            given,
            role: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `--raft-heartbeat-ms`.
pub(super) fn name(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

fn flag(each: Described) -> Arg {
    let heading = match each.key.split_once('.') {
        Some((section, _)) => format!("Settings [{section}]"),
        None => "Settings".to_string(),
    };
    let arg = Arg::new(each.key.clone())
        .long(name(&each.key))
        .help(help(&each))
        .help_heading(heading);
    match each.default {
        Value::Boolean(_) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL"),
        Value::Array(_) | Value::Table(_) => arg.action(ArgAction::Append).value_name("LIST"),
        Value::Integer(_) => arg.value_name("NUMBER"),
        _ => arg.value_name("TEXT"),
    }
}

fn help(each: &Described) -> String {
    match &each.default {
        Value::String(text) if text.is_empty() => each.about.clone(),
        Value::Array(list) if list.is_empty() => each.about.clone(),
        Value::Table(map) if map.is_empty() => each.about.clone(),
        default => format!("{} [default: {default}]", each.about),
    }
}
