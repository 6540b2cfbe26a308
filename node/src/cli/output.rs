//! What verbs print: a table for people or JSON for programs, on standard output and nowhere else.
//!
//! A command prints one JSON document; a stream prints one a line, flushed one by one. Tables have a heading on a
//! terminal, and neither colour nor borders anywhere.

use super::exit::Trouble;
use comfy_table::{Table, presets};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// What `-o` chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Table,
    Json,
}

impl Output {
    pub fn is_json(self) -> bool {
        self == Output::Json
    }

    /// Prints one document, or the table that says the same.
    pub fn print(self, document: &Value, table: impl FnOnce() -> Rows) -> Result<(), Trouble> {
        let mut out = io::stdout().lock();
        match self {
            Output::Json => writeln!(out, "{document:#}")?,
            Output::Table => write!(out, "{}", table().into_text())?,
        }
        Ok(out.flush()?)
    }

    /// Prints one line of a stream.
    pub fn line(self, document: &Value, text: impl FnOnce() -> String) -> Result<(), Trouble> {
        let mut out = io::stdout().lock();
        match self {
            Output::Json => writeln!(out, "{document}")?,
            Output::Table => writeln!(out, "{}", text())?,
        }
        Ok(out.flush()?)
    }
}

/// A table that is being put together.
#[derive(Debug)]
pub struct Rows {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    pub fn new(heading: impl IntoIterator<Item = &'static str>) -> Rows {
        Rows {
            heading: heading.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Name and value, one a line.
    pub fn facts(facts: impl IntoIterator<Item = (&'static str, String)>) -> Rows {
        let mut rows = Rows::new([]);
        for (name, value) in facts {
            rows.row([name.to_string(), value]);
        }
        rows
    }

    /// Columns two spaces apart, no spaces at the end of a line.
    pub fn into_text(self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if !self.heading.is_empty() {
            table.set_header(self.heading.clone());
        }
        for row in self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes bytes as they are.
pub fn print_raw(bytes: &[u8]) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// A word on standard error about long work; nothing where nobody looks.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    last: std::time::Instant,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            shown: false,
            last: std::time::Instant::now(),
        }
    }

    /// At most ten times a second, and only on a terminal.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.last.elapsed().as_millis() < 100 || !io::stderr().is_terminal() {
            return;
        }
        self.last = std::time::Instant::now();
        self.shown = true;
        let _ = write!(io::stderr(), "\r{}\x1b[K", text());
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
