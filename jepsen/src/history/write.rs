//! A history as Jepsen writes it, one EDN map a line, so that Knossos and Elle can judge it.

use super::event::Event;
use std::io::{self, Write};

/// With an index, which Elle wants.
pub fn edn_line(event: &Event, index: u64, into: &mut impl Write) -> io::Result<()> {
    let (kind, process, f) = (event.kind.name(), event.process, &event.f);
    write!(
        into,
        "{{:index {index}, :type :{kind}, :process {process}, :f :{f}"
    )?;
    // A register per key is what Jepsen calls independent: the value is a pair.
    match &event.key {
        Some(key) => write!(into, ", :value [{key} {}]", event.value)?,
        None => write!(into, ", :value {}", event.value)?,
    }
    if let Some(time) = event.time_ns {
        write!(into, ", :time {time}")?;
    }
    writeln!(into, "}}")
}
