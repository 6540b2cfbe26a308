//! The paths that a Rust source names, and which of them break a rule.
//!
//! Comments and strings are left out, `use` trees are unfolded, `super` and `self` are resolved from where the file stands.
//! It reads words, not Rust: a name that a macro puts together is not seen.

use super::{Ban, Neighbours};
use std::fmt;
use std::path::Path;

pub struct SourceFile {
    /// From the root of the checkout.
    pub path: String,
    pub text: String,
}

pub struct Breach {
    place: String,
    what: String,
    because: &'static str,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}.", self.place, self.what, self.because)
    }
}

/// A path in a source, and the line it begins on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub line: usize,
    pub segments: Vec<String>,
}

/// Every source of our crates that is compiled into what ships, the simulator and the examples.
pub fn source_files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in [
        "proto/src",
        "node/protocol/src",
        "node/src",
        "client/src",
        "client/examples",
        "jepsen/src",
    ] {
        collect(&root, folder, &mut files);
    }
    files
}

fn collect(root: &Path, folder: &str, files: &mut Vec<SourceFile>) {
    for entry in std::fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, files);
        } else if path.ends_with(".rs") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            files.push(SourceFile { path, text });
        }
    }
}

pub fn is_in(file: &str, folder: &str) -> bool {
    file == folder
        || file
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
}

pub fn breaches_of_ban(ban: &Ban, files: &[SourceFile]) -> Vec<Breach> {
    let mut needed = vec![false; ban.except.len()];
    let mut breaches = Vec::new();
    for file in files
        .iter()
        .filter(|file| ban.within.iter().any(|within| is_in(&file.path, within)))
    {
        for named in named_in(file) {
            let Some(name) = ban.names.iter().find(|name| names(&named.segments, name)) else {
                continue;
            };
            match ban
                .except
                .iter()
                .position(|(path, _)| is_in(&file.path, path))
            {
                Some(exception) => needed[exception] = true,
                None => breaches.push(breach(file, &named, name, ban.because)),
            }
        }
    }
    let unused = ban.except.iter().zip(needed).filter(|(_, needed)| !needed);
    breaches.extend(unused.map(|((path, _), _)| no_longer_needed(path, &ban.names.join(", "))));
    breaches
}

pub fn breaches_of_neighbours(rule: &Neighbours, files: &[SourceFile]) -> Vec<Breach> {
    let modules = modules(files);
    let own = rule
        .folder
        .trim_start_matches("node/src/")
        .trim_end_matches(".rs");
    let mut needed = vec![false; rule.except.len()];
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| is_in(&file.path, rule.folder)) {
        for named in named_in(file) {
            let [root, module, ..] = named.segments.as_slice() else {
                continue;
            };
            let other = root == "crate" && module != own && modules.contains(module);
            if !other || rule.may_use.contains(&module.as_str()) {
                continue;
            }
            let excepted = |(path, allowed, _): &(&str, &str, &str)| {
                is_in(&file.path, path) && module == allowed
            };
            match rule.except.iter().position(excepted) {
                Some(exception) => needed[exception] = true,
                None => breaches.push(breach(
                    file,
                    &named,
                    &format!("crate::{module}"),
                    rule.because,
                )),
            }
        }
    }
    let unused = rule.except.iter().zip(needed).filter(|(_, needed)| !needed);
    breaches.extend(unused.map(|((path, module, _), _)| no_longer_needed(path, module)));
    breaches
}

fn breach(file: &SourceFile, named: &Named, name: &str, because: &'static str) -> Breach {
    Breach {
        place: format!("{}:{}", file.path, named.line),
        what: format!("names `{name}`"),
        because,
    }
}

fn no_longer_needed(path: &str, what: &str) -> Breach {
    Breach {
        place: path.to_string(),
        what: format!("is excepted for {what} and does not need it"),
        because: "take the exception away, so that nobody uses it by mistake",
    }
}

/// The modules at the root of understudy-node.
fn modules(files: &[SourceFile]) -> Vec<String> {
    let first = |file: &SourceFile| {
        let rest = file.path.strip_prefix("node/src/")?;
        let name = rest.split('/').next()?.trim_end_matches(".rs");
        (!["lib", "main"].contains(&name)).then(|| name.to_string())
    };
    files.iter().filter_map(first).collect()
}

/// `std::time` is meant from the beginning of a path, `HashMap` anywhere in it.
fn names(segments: &[String], name: &str) -> bool {
    let wanted: Vec<&str> = name.split("::").collect();
    let same = |found: &[String]| found.iter().zip(&wanted).all(|(a, b)| a == b);
    match name.starts_with(char::is_uppercase) {
        true => segments.windows(wanted.len()).any(same),
        false => segments.len() >= wanted.len() && same(&segments[..wanted.len()]),
    }
}

/// All paths of two names and more, and every `use`.
pub fn named_in(file: &SourceFile) -> Vec<Named> {
    let here = module_of(&file.path);
    let mut found = read(&file.text);
    for named in &mut found {
        resolve(&mut named.segments, &here);
    }
    found
}

/// `node/src/rpc/scan.rs` is `crate::rpc::scan`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("src/").map_or("", |(_, inside)| inside);
    let inside = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let names = inside
        .split('/')
        .filter(|name| !["lib", "main", ""].contains(name));
    ["crate"]
        .into_iter()
        .chain(names)
        .map(str::to_string)
        .collect()
}

fn resolve(segments: &mut Vec<String>, here: &[String]) {
    let mut base = match segments[0].as_str() {
        "self" | "super" => here.to_vec(),
        _ => return,
    };
    let steps = segments
        .iter()
        .take_while(|name| ["self", "super"].contains(&name.as_str()))
        .count();
    for step in segments.drain(..steps) {
        if step == "super" && base.len() > 1 {
            base.pop();
        }
    }
    segments.splice(0..0, base);
}

/// The words and marks of a source, each with its line.
type Token = (usize, String);

fn read(text: &str) -> Vec<Named> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = is_word(&tokens[at].1)
            && (at == 0 || !["::", "."].contains(&tokens[at - 1].1.as_str()));
        if !starts {
            at += 1;
            continue;
        }
        let in_use = tokens[at].1 == "use";
        if in_use {
            at += 1;
            if tokens.get(at).is_some_and(|(_, mark)| mark == "::") {
                at += 1;
            }
        }
        let mut paths = Vec::new();
        path(&tokens, &mut at, &[], &mut paths);
        found.extend(
            paths
                .into_iter()
                .filter(|named| in_use || named.segments.len() > 1),
        );
    }
    found
}

/// One path from `at` on, `{}` unfolded; `at` is behind it afterwards.
fn path(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<Named>) {
    let mut segments = before.to_vec();
    let line = tokens.get(*at).map_or(0, |(line, _)| *line);
    loop {
        match tokens.get(*at).map(|(_, token)| token.as_str()) {
            Some("{") if !segments.is_empty() => {
                *at += 1;
                while tokens.get(*at).is_some_and(|(_, token)| token != "}") {
                    path(tokens, at, &segments, found);
                    while tokens
                        .get(*at)
                        .is_some_and(|(_, token)| token != "," && token != "}")
                    {
                        *at += 1; // as another_name
                    }
                    if tokens.get(*at).is_some_and(|(_, token)| token == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            Some(word) if is_word(word) || word == "*" => {
                segments.push(word.to_string());
                *at += 1;
            }
            _ => {
                *at += usize::from(segments.len() == before.len());
                break;
            }
        }
        if tokens.get(*at).is_none_or(|(_, token)| token != "::") {
            break;
        }
        *at += 1;
    }
    if segments.len() > before.len() {
        found.push(Named { line, segments });
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    let ahead = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let from = at;
        match chars[at] {
            '/' if ahead(at + 1) == '/' => at = until(&chars, at, "\n"),
            '/' if ahead(at + 1) == '*' => at = until(&chars, at + 2, "*/"),
            '"' => at = string_end(&chars, at + 1),
            'r' if raw_quotes(&chars, at).is_some() => {
                let hashes = raw_quotes(&chars, at).unwrap_or(0);
                let end = format!("\"{}", "#".repeat(hashes));
                at = until(&chars, at + hashes + 2, &end);
            }
            '\'' if ahead(at + 1) == '\\' => at = until(&chars, at + 3, "'"),
            '\'' if ahead(at + 2) == '\'' => at += 3,
            c if c.is_alphabetic() || c == '_' => {
                while ahead(at).is_alphanumeric() || ahead(at) == '_' {
                    at += 1;
                }
                tokens.push((line, chars[from..at].iter().collect()));
            }
            ':' if ahead(at + 1) == ':' => {
                at += 2;
                tokens.push((line, "::".to_string()));
            }
            c => {
                at += 1;
                if !c.is_whitespace() {
                    tokens.push((line, c.to_string()));
                }
            }
        }
        line += chars[from..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn until(chars: &[char], from: usize, end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    let rest = chars.get(from..).unwrap_or_default();
    let found = rest.windows(end.len()).position(|window| window == end);
    found.map_or(chars.len(), |position| from + position + end.len())
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// `r"`, `r#"` and so on, at the beginning of a word: how many `#`.
fn raw_quotes(chars: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map_or(' ', |before| chars[before]);
    if (before.is_alphanumeric() && before != 'b') || before == '_' {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.to_string(),
            text: text.to_string(),
        }
    }

    fn all(path: &str, text: &str) -> Vec<String> {
        let named = named_in(&file(path, text));
        named
            .into_iter()
            .map(|named| named.segments.join("::"))
            .collect()
    }

    #[test]
    fn paths_are_read_wherever_they_stand_and_words_in_comments_and_strings_are_not() {
        let text = r##"
            // use std::fs;
            /* std::net::TcpStream */
            use std::{io, time::{Duration, SystemTime as Time}};
            use super::open::Database;
            use rocksdb;
            fn a(c: char) -> &'static str { let _ = c == '"' || c == '\''; tokio::spawn(x); "std::thread" }
            const B: &str = r#"std::process "quoted" "#;
            fn b() { Vec::<crate::shard::Host>::new(); super::super::manager::lead() }
        "##;
        assert_eq!(
            all("node/src/storage/writer.rs", text),
            [
                "std::io",
                "std::time::Duration",
                "std::time::SystemTime",
                "crate::storage::open::Database",
                "rocksdb",
                "tokio::spawn",
                "crate::shard::Host",
                "crate::manager::lead",
            ]
        );
    }

    #[test]
    fn a_breach_is_a_sentence_with_its_place_and_its_reason() {
        let ban = Ban {
            within: &["node/protocol/src"],
            names: &["std::time", "HashMap"],
            because: "time is given from outside",
            except: &[("node/protocol/src/old.rs", "it was needed once")],
        };
        let files = [
            file(
                "node/protocol/src/new.rs",
                "//! New.\nuse std::{fmt, time::Instant};\n",
            ),
            file("node/protocol/src/old.rs", "//! Old.\n"),
            file("node/protocolx/src/a.rs", "use std::time::Instant;"),
        ];
        let told: Vec<String> = breaches_of_ban(&ban, &files)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "node/protocol/src/new.rs:2 names `std::time`: time is given from outside.",
                "node/protocol/src/old.rs is excepted for std::time, HashMap and does not need it: take the exception away, so that nobody uses it by mistake.",
            ]
        );
    }

    #[test]
    fn a_neighbour_that_is_not_allowed_is_seen_through_super_too() {
        let rule = Neighbours {
            folder: "node/src/rpc",
            may_use: &["shard"],
            because: "services do not reach round the shard",
            except: &[],
        };
        let files = [
            file(
                "node/src/rpc/scan.rs",
                "use crate::shard::Host;\nuse super::super::storage::Database;\n",
            ),
            file("node/src/storage/mod.rs", ""),
            file("node/src/shard/mod.rs", ""),
        ];
        let told: Vec<String> = breaches_of_neighbours(&rule, &files)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "node/src/rpc/scan.rs:2 names `crate::storage`: services do not reach round the shard."
            ]
        );
    }
}
