//! A story's file: text for readers, commands, and under each command, indented, what happens upon it.
//!
//! Knows nothing of replicas. Runs the commands in order, and stops at the first that does not do what the file says.

use super::world::World;
use std::fmt;
use std::path::Path;

/// How far the expected lines stand from the margin.
const INDENT: &str = "    ";

pub struct Script {
    parts: Vec<Part>,
}

enum Part {
    /// A comment or an empty line.
    Text(String),
    Command(Command),
}

struct Command {
    line: usize,
    text: String,
    expected: Vec<String>,
}

impl Script {
    /// `Err`: what to say after the file's name, beginning with the line.
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut parts = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            match (line.strip_prefix(INDENT), parts.last_mut()) {
                (None, _) if line.is_empty() || line.starts_with('#') => {
                    parts.push(Part::Text(line.to_string()));
                }
                (None, _) if line.starts_with(char::is_whitespace) => {
                    return Err(format!(
                        ":{number}: what happens is indented by four spaces"
                    ));
                }
                (None, _) => parts.push(Part::Command(Command {
                    line: number,
                    text: line.to_string(),
                    expected: Vec::new(),
                })),
                (Some(expected), Some(Part::Command(command))) => {
                    command.expected.push(expected.to_string());
                }
                (Some(_), _) => {
                    return Err(format!(":{number}: this follows no command"));
                }
            }
        }
        if !matches!(parts.first(), Some(Part::Text(text)) if text.starts_with('#')) {
            return Err(":1: a story opens with a comment: what it tells".to_string());
        }
        if !parts.iter().any(|part| matches!(part, Part::Command(_))) {
            return Err(":1: the story has no command".to_string());
        }
        Ok(Script { parts })
    }

    /// Runs the commands; with `rewrite` the expected lines become what happened.
    pub fn run(&mut self, path: &Path, world: &mut World, rewrite: bool) -> Result<(), String> {
        for part in &mut self.parts {
            let Part::Command(command) = part else {
                continue;
            };
            let place = Place(path, command);
            let done = world.run(&command.text);
            let happened = world.take_trace();
            std::mem::forget(place);
            let Command { line, text, .. } = command;
            if rewrite {
                command.expected.clone_from(&happened);
            }
            done.map_err(|wrong| format!(":{line}: {text}\n{INDENT}{wrong}"))?;
            if command.expected != happened {
                return Err(mismatch(path, command, &happened, world.violation()));
            }
            if let Some(violation) = world.violation() {
                return Err(format!(":{line}: {text}\n{INDENT}{violation}"));
            }
        }
        Ok(())
    }
}

/// Says where the story was, when a replica panics.
struct Place<'a>(&'a Path, &'a Command);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at {}:{}: {}", self.0.display(), self.1.line, self.1.text);
        }
    }
}

fn mismatch(
    path: &Path,
    command: &Command,
    happened: &[String],
    violation: Option<&str>,
) -> String {
    let mut out = format!(":{}: {}\n", command.line, command.text);
    for (mark, line) in differences(&command.expected, happened) {
        out += &format!("{mark}{INDENT}{line}\n");
    }
    out += "(- stands in the file, + happened)\n";
    if let Some(violation) = violation {
        out += &format!("and {violation}\n");
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    out + "when it is right as it happened: UNDERSTUDY_REWRITE=1 cargo nextest run --cargo-profile ci "
        + &format!("-p understudy-protocol --test scenarios {name}\n")
}

/// The lines of both, in order, each marked as common or as one side's, with as many common ones as there are.
fn differences<'a>(left: &'a [String], right: &'a [String]) -> Vec<(char, &'a str)> {
    let mut common = vec![vec![0; right.len() + 1]; left.len() + 1];
    for l in (0..left.len()).rev() {
        for r in (0..right.len()).rev() {
            common[l][r] = match left[l] == right[r] {
                true => common[l + 1][r + 1] + 1,
                false => common[l + 1][r].max(common[l][r + 1]),
            };
        }
    }
    let (mut l, mut r) = (0, 0);
    let mut out = Vec::new();
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() && left[l] == right[r] {
            out.push((' ', left[l].as_str()));
            (l, r) = (l + 1, r + 1);
        } else if r == right.len() || (l < left.len() && common[l + 1][r] >= common[l][r + 1]) {
            out.push(('-', left[l].as_str()));
            l += 1;
        } else {
            out.push(('+', right[r].as_str()));
            r += 1;
        }
    }
    out
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => writeln!(f, "{text}")?,
                Part::Command(command) => {
                    writeln!(f, "{}", command.text)?;
                    for line in &command.expected {
                        writeln!(f, "{INDENT}{line}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
