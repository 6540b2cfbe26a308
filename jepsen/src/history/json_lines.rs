//! Our own format: one JSON object a line with `process`, `type`, `f`, `value`, and where they apply `key` and `time`
//! (nanoseconds). The names and their meanings are those of Jepsen's EDN.

use super::edn::TOKEN_BYTES_MAX;
use super::event::{Event, Type, Unusable};
use super::text::Text;
use super::value::Value;
use serde::Deserialize;
use std::io::Read;
use std::sync::Arc;

pub struct JsonLines<R> {
    text: Text<R>,
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Fields {
    process: serde_json::Value,
    r#type: String,
    f: String,
    #[serde(default)]
    key: Option<serde_json::Value>,
    #[serde(default)]
    value: serde_json::Value,
    #[serde(default)]
    time: Option<i64>,
}

impl<R: Read> JsonLines<R> {
    pub fn new(input: R) -> JsonLines<R> {
        JsonLines {
            text: Text::new(input),
            line: Vec::new(),
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>, Unusable> {
        while self.text.peek()?.is_some() {
            let number = self.text.line();
            self.line.clear();
            self.text
                .take_until(|byte| byte == b'\n', &mut self.line, TOKEN_BYTES_MAX)?;
            self.text.take()?;
            if self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Some(event) = event(&self.line, number)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// `None`: not of a client.
fn event(line: &[u8], number: u64) -> Result<Option<Event>, Unusable> {
    let fields: Fields =
        serde_json::from_slice(line).map_err(|error| Unusable::at(number, error.to_string()))?;
    let Some(process) = fields.process.as_i64() else {
        return match fields.process {
            serde_json::Value::Null => Ok(None),
            serde_json::Value::String(name) if name == "nemesis" => Ok(None),
            other => {
                let what = format!("process {other} is no whole number");
                Err(Unusable::at(number, what))
            }
        };
    };
    let Some(kind) = Type::parse(&fields.r#type) else {
        let what = format!("type '{}' is none of invoke, ok, fail, info", fields.r#type);
        return Err(Unusable::at(number, what));
    };
    Ok(Some(Event {
        process,
        kind,
        f: Arc::from(fields.f),
        key: fields.key.map(from_json),
        value: from_json(fields.value),
        time_ns: fields.time,
        line: number,
    }))
}

fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(yes) => Value::Bool(yes),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(float)) if !number.is_u64() => Value::Float(float.to_bits()),
            _ => Value::Symbol(number.to_string().into()),
        },
        serde_json::Value::String(text) => Value::Text(text.into()),
        serde_json::Value::Array(elements) => {
            Value::List(elements.into_iter().map(from_json).collect())
        }
        serde_json::Value::Object(fields) => {
            let text = |(key, value): (String, _)| (Value::Text(key.into()), from_json(value));
            Value::map(fields.into_iter().map(text).collect())
        }
    }
}

impl<R: Read> Iterator for JsonLines<R> {
    type Item = Result<Event, Unusable>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_bad_ones_refused() {
        let text = r#"{"process":1,"type":"invoke","f":"write","key":"x","value":3,"time":5,"more":[]}

{"process":"nemesis","type":"info","f":"kill"}
{"process":1,"type":"ok","f":"write","key":"x"}"#;
        let events: Vec<Event> = JsonLines::new(text.as_bytes())
            .map(Result::unwrap)
            .collect();
        assert_eq!(events.len(), 2);
        assert_eq!(
            (events[0].value.clone(), events[0].time_ns),
            (Value::Int(3), Some(5))
        );
        assert_eq!(events[1].line, 4);
        for bad in [
            "{",
            "[]",
            r#"{"process":1,"type":"maybe","f":"x"}"#,
            r#"{"process":1}"#,
        ] {
            assert_eq!(event(bad.as_bytes(), 3).unwrap_err().line, 3, "{bad}");
        }
    }
}
