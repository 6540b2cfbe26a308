//! A history from a file or from standard input, in a format that is named or guessed from the content, packed or not.

use super::edn::EdnEvents;
use super::event::{Event, Unusable};
use super::jepsen_log::{self, JepsenLog};
use super::json_lines::JsonLines;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// What a guess looks at.
const LOOK_BYTES: u64 = 64 << 10;
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// Maps in EDN, as Jepsen writes them: in one collection or one after the other
    Edn,
    /// Log lines of an old Jepsen: INFO  jepsen.util - 4 :invoke :write 3
    JepsenLog,
    /// One EDN map a line with :key and :value, strings without escapes (porcupine's kv tests)
    KvTxt,
    /// Our own: one JSON object a line with process, type, f, value, and key and time where they apply
    Jsonl,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Edn => "edn",
            Format::JepsenLog => "jepsen-log",
            Format::KvTxt => "kv-txt",
            Format::Jsonl => "jsonl",
        }
    }
}

pub type Events = Box<dyn Iterator<Item = Result<Event, Unusable>>>;

/// The events of `path` (`-`: standard input), and the format they are in.
pub fn read(path: &Path, format: Option<Format>) -> Result<(Format, Events), Unusable> {
    if path == Path::new("-") {
        return read_from(std::io::stdin(), format);
    }
    match File::open(path) {
        Ok(file) => read_from(file, format),
        Err(error) => Err(Unusable::at(0, format!("{}: {error}", path.display()))),
    }
}

pub fn read_from(
    input: impl Read + 'static,
    format: Option<Format>,
) -> Result<(Format, Events), Unusable> {
    let (begin, input) = look(input)?;
    if begin.starts_with(&GZIP) {
        return plain(flate2::read::MultiGzDecoder::new(input), format);
    }
    plain(input, format)
}

fn plain(input: impl Read + 'static, format: Option<Format>) -> Result<(Format, Events), Unusable> {
    let (begin, mut input) = look(input)?;
    if begin.starts_with(&BYTE_ORDER_MARK) {
        let skipped = input.read_exact(&mut [0; BYTE_ORDER_MARK.len()]);
        skipped.map_err(|error| Unusable::at(0, format!("cannot be read: {error}")))?;
    }
    let begin = begin.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(&begin);
    let format = format.map_or_else(|| guess(begin), Ok)?;
    let events: Events = match format {
        Format::Edn => Box::new(EdnEvents::new(input)),
        Format::JepsenLog => Box::new(JepsenLog::new(input)),
        Format::KvTxt => Box::new(EdnEvents::kv_txt(input)),
        Format::Jsonl => Box::new(JsonLines::new(input)),
    };
    Ok((format, events))
}

/// The beginning of an input, and the input from its beginning.
fn look<R: Read>(mut input: R) -> Result<(Vec<u8>, impl Read + use<R>), Unusable> {
    let mut begin = Vec::new();
    let taken = input.by_ref().take(LOOK_BYTES).read_to_end(&mut begin);
    taken.map_err(|error| Unusable::at(0, format!("cannot be read: {error}")))?;
    Ok((begin.clone(), Cursor::new(begin).chain(input)))
}

fn guess(begin: &[u8]) -> Result<Format, Unusable> {
    let text = String::from_utf8_lossy(begin);
    let text = text.trim_start();
    if text
        .strip_prefix('{')
        .is_some_and(|rest| rest.trim_start().starts_with('"'))
    {
        return Ok(Format::Jsonl);
    }
    if text.starts_with(['{', '[', '(', ';', '#']) {
        return Ok(if is_kv_txt(text) {
            Format::KvTxt
        } else {
            Format::Edn
        });
    }
    if text.is_empty() || text.contains(jepsen_log::LOGGER) {
        return Ok(Format::JepsenLog);
    }
    let what = "this is none of the formats edn, jepsen-log, kv-txt, jsonl (plain or gzip); name it with --format if it is";
    Err(Unusable::at(1, what))
}

/// Whether the first map has a field for the key.
fn is_kv_txt(text: &str) -> bool {
    let first = EdnEvents::kv_txt(Cursor::new(text.as_bytes().to_vec())).next();
    matches!(first, Some(Ok(event)) if event.key.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn formats_are_guessed_packed_or_not() {
        for (text, format) in [
            ("", Format::JepsenLog),
            (
                "\u{feff}{ \"process\":0,\"type\":\"invoke\",\"f\":\"read\"}",
                Format::Jsonl,
            ),
            (
                "WARN other - x\nINFO  jepsen.util - 1 :invoke :read nil\n",
                Format::JepsenLog,
            ),
            ("; why\n[{:process 0 :type :invoke :f :read}]", Format::Edn),
            (
                "{:process 0, :type :invoke, :f :get, :key \"0\", :value nil}",
                Format::KvTxt,
            ),
            (
                "\n {\"process\":0,\"type\":\"invoke\",\"f\":\"read\"}",
                Format::Jsonl,
            ),
        ] {
            let (found, events) = read_from(Cursor::new(text), None).unwrap();
            assert_eq!(found, format, "{text}");
            let count = events.map(Result::unwrap).count();
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            packed.write_all(text.as_bytes()).unwrap();
            let (found, events) = read_from(Cursor::new(packed.finish().unwrap()), None).unwrap();
            assert_eq!((found, events.map(Result::unwrap).count()), (format, count));
        }
    }

    #[test]
    fn what_is_no_history_is_refused() {
        assert!(read_from(Cursor::new("hello"), None).is_err());
        assert!(read(Path::new("/nonexistent/history"), None).is_err());
        let truncated = read_from(Cursor::new(&[0x1f, 0x8b, 8, 0, 0][..]), None);
        assert!(truncated.is_err());
    }
}
