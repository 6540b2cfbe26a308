//! EDN, as Jepsen writes histories: a collection of maps, or one map after the other.
//!
//! Source of the grammar: github.com/edn-format/edn. What a history does not need is read and dropped; what is no EDN is
//! refused with its line.

use super::event::{Event, Type, Unusable};
use super::text::Text;
use super::value::Value;
use std::io::Read;
use std::sync::Arc;

/// Collections within each other; hostile input must not use up the stack.
const DEPTH_MAX: usize = 200;
/// Bytes of one string, number or name.
pub const TOKEN_BYTES_MAX: usize = 64 << 20;

/// Functions whose names are kept once; a history has a handful.
const NAMES_MAX: usize = 64;

pub struct Edn<R> {
    text: Text<R>,
    /// Strings have no escapes: a backslash is a backslash (`kv-txt`).
    plain_strings: bool,
    /// Discarded values within each other.
    discards: usize,
    token: Vec<u8>,
}

impl<R: Read> Edn<R> {
    pub fn new(input: R) -> Edn<R> {
        Edn {
            text: Text::new(input),
            plain_strings: false,
            discards: 0,
            token: Vec::new(),
        }
    }

    /// The next value; `None` at the end of the input.
    pub fn next_value(&mut self) -> Result<Option<Value>, Unusable> {
        match self.space()? {
            None => Ok(None),
            Some(_) => self.value(0).map(Some),
        }
    }

    /// Goes past white space, commas, comments and `#_` with what it discards. Gives the byte that follows.
    fn space(&mut self) -> Result<Option<u8>, Unusable> {
        loop {
            match self.text.peek()? {
                Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | 0x0c) => self.text.skip(),
                Some(b';') => while !matches!(self.text.take()?, None | Some(b'\n')) {},
                Some(b'#') if self.text.second()? == Some(b'_') => {
                    self.text.skip();
                    self.text.skip();
                    self.discards += 1;
                    self.value(self.discards)?;
                    self.discards -= 1;
                }
                other => return Ok(other),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Unusable> {
        if depth > DEPTH_MAX {
            return self.text.wrong(format!(
                "more than {DEPTH_MAX} collections within each other"
            ));
        }
        let Some(byte) = self.space()? else {
            return self.text.wrong("the input ends where a value is due");
        };
        match byte {
            b'"' => self.string(),
            b':' => {
                self.text.skip();
                Ok(Value::Keyword(self.token()?.into()))
            }
            b'[' => self.collection(b']', depth).map(Value::List),
            b'(' => self.collection(b')', depth).map(Value::List),
            b'{' => {
                let elements = self.collection(b'}', depth)?;
                self.pairs(elements)
            }
            b'#' => {
                self.text.skip();
                self.dispatched(depth)
            }
            b'\\' => self.character(),
            b']' | b')' | b'}' => self
                .text
                .wrong(format!("'{}' closes nothing", byte as char)),
            _ => {
                let token = self.token()?;
                atom(token).map_or_else(|what| self.text.wrong(what), Ok)
            }
        }
    }

    /// What follows a `#`.
    fn dispatched(&mut self, depth: usize) -> Result<Value, Unusable> {
        match self.text.peek()? {
            Some(b'{') => self.collection(b'}', depth).map(Value::set),
            Some(b'#') => {
                self.text.skip();
                let number = match self.token()? {
                    "Inf" => f64::INFINITY,
                    "-Inf" => f64::NEG_INFINITY,
                    "NaN" => f64::NAN,
                    other => {
                        let what = format!("##{other} is no value");
                        return self.text.wrong(what);
                    }
                };
                Ok(Value::Float(number.to_bits()))
            }
            _ => {
                let tag = self.token()?.to_string();
                let value = self.value(depth + 1)?;
                Ok(Value::Tagged(Box::new((tag, value))))
            }
        }
    }

    fn collection(&mut self, close: u8, depth: usize) -> Result<Vec<Value>, Unusable> {
        let from = self.text.line();
        self.text.skip();
        let mut elements = Vec::new();
        loop {
            match self.element(close)? {
                None => {
                    let what = format!("a collection that line {from} opens is not closed");
                    return self.text.wrong(what);
                }
                Some(false) => return Ok(elements),
                Some(true) => elements.push(self.value(depth + 1)?),
            }
        }
    }

    /// Whether an element comes (and not `close`, which is taken); discarded ones are gone past.
    fn element(&mut self, close: u8) -> Result<Option<bool>, Unusable> {
        match self.space()? {
            None => Ok(None),
            Some(byte) if byte == close => {
                self.text.skip();
                Ok(Some(false))
            }
            Some(_) => Ok(Some(true)),
        }
    }

    fn pairs(&mut self, elements: Vec<Value>) -> Result<Value, Unusable> {
        if elements.len() % 2 == 1 {
            return self.text.wrong("a map with a key and no value");
        }
        let mut elements = elements.into_iter();
        let mut pairs = Vec::with_capacity(elements.len() / 2);
        while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
            pairs.push((key, value));
        }
        Ok(Value::map(pairs))
    }

    fn string(&mut self) -> Result<Value, Unusable> {
        let from = self.text.line();
        self.text.skip();
        self.token.clear();
        let plain = self.plain_strings;
        loop {
            let stop = |byte| byte == b'"' || (byte == b'\\' && !plain);
            self.text
                .take_until(stop, &mut self.token, TOKEN_BYTES_MAX)?;
            match self.text.take()? {
                None => {
                    let what = format!("a string that line {from} opens is not closed");
                    return self.text.wrong(what);
                }
                Some(b'"') => break,
                Some(_) => self.escape()?,
            }
        }
        Ok(Value::Text(self.utf8()?.into()))
    }

    fn escape(&mut self) -> Result<(), Unusable> {
        let c = match self.text.take()? {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(byte @ (b'"' | b'\\' | b'/' | b'\'')) => byte as char,
            Some(b'u') => self.four_digits()?,
            _ => return self.text.wrong("an escape that EDN does not have"),
        };
        let mut bytes = [0; 4];
        self.token
            .extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        Ok(())
    }

    /// `\uXXXX`; half of a surrogate pair becomes the replacement character.
    fn four_digits(&mut self) -> Result<char, Unusable> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self
                .text
                .take()?
                .and_then(|byte| (byte as char).to_digit(16));
            let Some(digit) = digit else {
                return self.text.wrong("\\u without four hexadecimal digits");
            };
            code = code * 16 + digit;
        }
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn character(&mut self) -> Result<Value, Unusable> {
        self.text.skip();
        self.token.clear();
        // The first byte may be a delimiter: `\(` is a character.
        if let Some(byte) = self.text.take()? {
            self.token.push(byte);
        }
        self.text
            .take_until(ends_token, &mut self.token, TOKEN_BYTES_MAX)?;
        let name = self.utf8()?;
        let c = match name {
            "newline" => Some('\n'),
            "return" => Some('\r'),
            "space" => Some(' '),
            "tab" => Some('\t'),
            "formfeed" => Some('\u{c}'),
            "backspace" => Some('\u{8}'),
            _ if name.chars().count() == 1 => name.chars().next(),
            _ => name
                .strip_prefix('u')
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
        };
        match c {
            Some(c) => Ok(Value::Char(c)),
            None => {
                let what = format!("\\{name} is no character");
                self.text.wrong(what)
            }
        }
    }

    /// A keyword's name, a symbol, a number, a tag.
    fn token(&mut self) -> Result<&str, Unusable> {
        self.token.clear();
        self.text
            .take_until(ends_token, &mut self.token, TOKEN_BYTES_MAX)?;
        if self.token.is_empty() {
            return self.text.wrong("a name is missing");
        }
        self.utf8()
    }

    fn utf8(&self) -> Result<&str, Unusable> {
        match std::str::from_utf8(&self.token) {
            Ok(text) => Ok(text),
            Err(_) => self.text.wrong("bytes that are no UTF-8"),
        }
    }
}

fn ends_token(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t'
            | b'\n'
            | b'\r'
            | b','
            | 0x0c
            | b'"'
            | b'('
            | b')'
            | b'['
            | b']'
            | b'{'
            | b'}'
            | b';'
    )
}

fn atom(token: &str) -> Result<Value, String> {
    match token {
        "nil" => return Ok(Value::Nil),
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let digits = token.strip_prefix(['+', '-']).unwrap_or(token);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Value::Symbol(token.into()));
    }
    if let Ok(number) = token.strip_suffix('N').unwrap_or(token).parse() {
        return Ok(Value::Int(number));
    }
    let whole = digits
        .trim_end_matches('N')
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    if !whole && let Ok(number) = token.strip_suffix('M').unwrap_or(token).parse::<f64>() {
        return Ok(Value::Float(number.to_bits()));
    }
    // Larger than 64 bits, or a ratio, or in another base: the text tells numbers of one kind apart.
    if digits
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'/')
    {
        return Ok(Value::Symbol(token.into()));
    }
    Err(format!("'{token}' is no number"))
}

/// The events of a history in EDN.
pub struct EdnEvents<R> {
    edn: Edn<R>,
    /// What ends the collection that holds the maps; `None` while maps follow each other.
    close: Option<u8>,
    begun: bool,
    ended: bool,
    /// Names of functions that were seen, so that each is kept once.
    names: Vec<Arc<str>>,
}

impl<R: Read> EdnEvents<R> {
    pub fn new(input: R) -> EdnEvents<R> {
        EdnEvents {
            edn: Edn::new(input),
            close: None,
            begun: false,
            ended: false,
            names: Vec::new(),
        }
    }

    /// One map a line, strings without escapes.
    pub fn kv_txt(input: R) -> EdnEvents<R> {
        let mut events = EdnEvents::new(input);
        events.edn.plain_strings = true;
        events
    }

    fn next_event(&mut self) -> Result<Option<Event>, Unusable> {
        loop {
            let Some(byte) = self.edn.space()? else {
                return self.at_end();
            };
            if self.ended {
                return self
                    .edn
                    .text
                    .wrong("something follows the collection of operations");
            }
            match byte {
                b'[' | b'(' if !self.begun => {
                    self.close = Some(if byte == b'[' { b']' } else { b')' });
                    self.edn.text.skip();
                    self.begun = true;
                }
                b'{' => {
                    self.begun = true;
                    if let Some(event) = self.event()? {
                        return Ok(Some(event));
                    }
                }
                b'#' => self.tag()?,
                byte if Some(byte) == self.close => {
                    self.edn.text.skip();
                    self.ended = true;
                }
                _ => return self.edn.text.wrong("a map with an operation is due here"),
            }
        }
    }

    fn at_end(&mut self) -> Result<Option<Event>, Unusable> {
        if self.close.is_some() && !self.ended {
            return self
                .edn
                .text
                .wrong("the collection of operations is not closed");
        }
        Ok(None)
    }

    /// `#tag` before a map, or before all of them, is dropped.
    fn tag(&mut self) -> Result<(), Unusable> {
        self.edn.text.skip();
        self.edn.token().map(|_| ())
    }

    /// `None`: no operation of a client.
    fn event(&mut self) -> Result<Option<Event>, Unusable> {
        let line = self.edn.text.line();
        self.edn.text.skip();
        let (mut process, mut kind, mut f) = (None, None, None);
        let (mut key, mut value, mut time_ns) = (None, Value::Nil, None);
        loop {
            match self.edn.element(b'}')? {
                None => {
                    return self
                        .edn
                        .text
                        .wrong(format!("the map that line {line} opens is not closed"));
                }
                Some(false) => break,
                Some(true) => {}
            }
            let name = self.edn.value(1)?;
            if self.edn.space()? == Some(b'}') {
                return self.edn.text.wrong("a map with a key and no value");
            }
            let content = self.edn.value(1)?;
            let Value::Keyword(name) = name else { continue };
            match &*name {
                "process" => process = Some(content),
                "type" => kind = Some(content),
                "f" => f = Some(content),
                "key" => key = Some(content),
                "value" => value = content,
                "time" => time_ns = content.as_int(),
                _ => {}
            }
        }
        let process = match process {
            Some(Value::Int(process)) => process,
            // The nemesis, or whoever else of the harness.
            Some(Value::Keyword(_) | Value::Nil) => return Ok(None),
            Some(other) => {
                let what = format!("process {other} is no whole number");
                return Err(Unusable::at(line, what));
            }
            None => return Err(Unusable::at(line, "an operation without :process")),
        };
        let kind = match kind
            .as_ref()
            .map(|kind| (kind, kind.name().and_then(Type::parse)))
        {
            Some((_, Some(kind))) => kind,
            Some((other, None)) => {
                let what = format!(":type {other} is none of :invoke, :ok, :fail, :info");
                return Err(Unusable::at(line, what));
            }
            None => return Err(Unusable::at(line, "an operation without :type")),
        };
        let Some(f) = f.as_ref().and_then(Value::name).map(|f| self.kept(f)) else {
            return Err(Unusable::at(line, "an operation without :f"));
        };
        Ok(Some(Event {
            process,
            kind,
            f,
            key,
            value,
            time_ns,
            line,
        }))
    }

    fn kept(&mut self, name: &str) -> Arc<str> {
        if let Some(kept) = self.names.iter().find(|kept| &***kept == name) {
            return kept.clone();
        }
        let kept: Arc<str> = name.into();
        if self.names.len() < NAMES_MAX {
            self.names.push(kept.clone());
        }
        kept
    }
}

impl<R: Read> Iterator for EdnEvents<R> {
    type Item = Result<Event, Unusable>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Value, Unusable> {
        Edn::new(text.as_bytes()).next_value().map(Option::unwrap)
    }

    #[test]
    fn what_edn_can_say_is_read_and_written_alike() {
        for text in [
            "nil",
            "true",
            "-12",
            "1.5",
            "\"a \\\"b\\\" \\\\ \\n\"",
            ":a/b",
            "sym",
            "\\newline",
            "\\a",
            "[1 [2 nil] []]",
            "#{1 2}",
            "{:a 1, :b [2]}",
            "#inst \"2026\"",
            "123456789012345678901234567890N",
            "22/7",
            "##Inf",
        ] {
            assert_eq!(one(text).unwrap().to_string(), text);
        }
        assert_eq!(one("(1 2)").unwrap(), one("[1, 2]").unwrap());
        assert_eq!(one("{:b 2 :a 1}").unwrap(), one("{:a 1 :b 2}").unwrap());
        assert_eq!(one("#_ x ; comment\n 5").unwrap(), Value::Int(5));
        assert_eq!(one("[1 #_2]").unwrap(), one("[1]").unwrap());
        assert_eq!(one("{:a 1 #_:b}").unwrap(), one("{:a 1}").unwrap());
        assert_eq!(one("#_ #_ 1 2 3").unwrap(), Value::Int(3));
        assert!(one(&"#_ ".repeat(100_000)).is_err());
        assert_eq!(one("\"\\u0041\"").unwrap(), Value::text("A"));
        assert_eq!(one("5N").unwrap(), Value::Int(5));
    }

    #[test]
    fn what_is_no_edn_is_refused_with_its_line() {
        for (text, line) in [
            ("[1\n2", 2),
            ("\n)", 2),
            ("\"abc", 1),
            ("{:a}", 1),
            ("\n\n\"\\q\"", 3),
            ("1x!", 1),
            ("##Foo", 1),
            ("\\abc", 1),
        ] {
            assert_eq!(one(text).unwrap_err().line, line, "{text}");
        }
        assert!(
            one(&"[".repeat(100_000))
                .unwrap_err()
                .what
                .contains("within each other")
        );
        assert!(Edn::new(&b"\"\xff\""[..]).next_value().is_err());
    }

    fn events(text: &str) -> Result<Vec<Event>, Unusable> {
        EdnEvents::new(text.as_bytes()).collect()
    }

    #[test]
    fn both_layouts_give_the_same_events() {
        let maps = "{:process 0, :type :invoke, :f :read, :value nil, :error {:a \"}\"}}\n {:f :start :process :nemesis :type :info}\n {:value 3 :process 0 :type :ok :f :read :time 5}";
        let bare = events(maps).unwrap();
        assert_eq!(bare.len(), 2);
        assert_eq!((bare[1].line, bare[1].time_ns), (3, Some(5)));
        assert_eq!(events(&format!("[{maps}]")).unwrap(), bare);
        assert_eq!(events(&format!("({maps}) ; end")).unwrap(), bare);
        assert_eq!(events("").unwrap(), []);
        assert_eq!(events("[]").unwrap(), []);
    }

    #[test]
    fn broken_histories_are_refused() {
        for text in [
            "[{:process 0 :type :invoke :f :read}",
            "{:process 0 :type :invoke :f :read",
            "{:process 0 :type :maybe :f :read}",
            "{:process 0 :f :read}",
            "{:type :ok :f :read}",
            "{:process 0 :type :ok}",
            "{:process 0 :type}",
            "[] {:process 0 :type :ok :f :read}",
            "17",
        ] {
            assert!(events(text).is_err(), "{text}");
        }
    }
}
