//! Keys and values are any bytes: how they are written on a command line, in JSON, and in a table.
//!
//! JSON: text is a string, everything else `{"base64": "..."}`; on the way in also `{"hex": "..."}`. A table shows what
//! is no plain text as `base64:...`.

use super::exit::Trouble;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Value, json};

/// How the keys and values on this command line are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    #[default]
    Text,
    Hex,
    Base64,
}

impl Encoding {
    pub fn decode(self, what: &str, text: &str) -> Result<Bytes, Trouble> {
        let decoded = match self {
            Encoding::Text => Ok(text.as_bytes().to_vec()),
            Encoding::Hex => from_hex(text),
            Encoding::Base64 => from_base64(text),
        };
        let decoded =
            decoded.map_err(|why| Trouble::usage(format!("{what} '{text}' {why}"), "correct it"));
        Ok(Bytes::from(decoded?))
    }
}

/// Text stays text.
pub fn to_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// A string, `{"text": ..}`, `{"base64": ..}` or `{"hex": ..}`.
pub fn from_json(value: &Value) -> Result<Bytes, String> {
    let wrong =
        || format!("{value} has to be a text, {{\"base64\": \"...\"}} or {{\"hex\": \"...\"}}");
    match value {
        Value::String(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Value::Object(map) if map.len() == 1 => {
            let (kind, text) = map.iter().next().ok_or_else(wrong)?;
            let text = text.as_str().ok_or_else(wrong)?;
            let decoded = match kind.as_str() {
                "text" => Ok(text.as_bytes().to_vec()),
                "base64" => from_base64(text),
                "hex" => from_hex(text),
                _ => return Err(wrong()),
            };
            decoded
                .map(Bytes::from)
                .map_err(|why| format!("'{text}' {why}"))
        }
        _ => Err(wrong()),
    }
}

/// For people.
pub fn to_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_string(),
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => format!("base64:{}", STANDARD.encode(bytes)),
    }
}

fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text.trim())
        .map_err(|error| format!("is no base64: {error}"))
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.trim().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if !digits.len().is_multiple_of(2) {
        return Err("is no hex: it has an odd number of digits".to_string());
    }
    let pairs = digits
        .chunks_exact(2)
        .map(|pair| match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => Ok((high * 16 + low) as u8),
            _ => Err("is no hex".to_string()),
        });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_json() {
        for bytes in [
            &b""[..],
            b"a",
            b"line\n\0",
            b"\xff\xfe\x00",
            "gr\u{fc}n".as_bytes(),
        ] {
            assert_eq!(from_json(&to_json(bytes)).unwrap(), bytes);
        }
        assert_eq!(to_json(b"\xff"), json!({"base64": "/w=="}));
        assert_eq!(
            from_json(&json!({"hex": "00fF"})).unwrap(),
            &b"\x00\xff"[..]
        );
        assert_eq!(from_json(&json!({"text": "x"})).unwrap(), &b"x"[..]);
        for wrong in [
            json!(5),
            json!({"hex": "0"}),
            json!({"hex": "zz"}),
            json!({"base64": "?"}),
            json!({"a": "b"}),
        ] {
            assert!(from_json(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_table_shows_one_line() {
        assert_eq!(to_text(b"plain"), "plain");
        assert_eq!(to_text(b"two\nlines"), "two\\nlines");
        assert_eq!(to_text(b"\xff"), "base64:/w==");
    }
}
