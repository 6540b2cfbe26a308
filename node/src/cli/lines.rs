//! The JSON lines that `txn` and `import` read: operations, conditions and whole objects. docs/cli.md is their contract.
//!
//! ```text
//! {"op": "put", "key": "a", "value": "1"}            {"if": "absent", "key": "a"}
//! {"op": "add", "key": "a", "name": "n", "delta": 2} {"if": "value", "key": "a", "value": "1"}
//! {"key": "a", "value": "1"}                         {"key": "a", "components": [{"name": "n", "value": "1"}]}
//! ```
//!
//! A field that does not exist is an error naming the nearest; nothing of such a line is used.

use super::bytes::from_json;
use super::show::pair_from_json;
use bytes::Bytes;
use serde_json::{Map, Value};
use understudy_client::v1::{self, op, precondition};

/// One line, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Op(v1::Op),
    Condition(v1::Precondition),
    /// An object as `export` prints it: what makes it so, whatever was there before.
    Object(Vec<v1::Op>),
}

/// Reads a line; the error says what is wrong with it.
pub fn parse(text: &str) -> Result<Line, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let Value::Object(map) = value else {
        return Err("has to be an object, {...}".to_string());
    };
    let mut fields = Fields(map);
    let line = if let Some(kind) = fields.optional("op") {
        Line::Op(op(text_of("op", &kind)?, &mut fields)?)
    } else if let Some(kind) = fields.optional("if") {
        Line::Condition(condition(text_of("if", &kind)?, &mut fields)?)
    } else {
        Line::Object(object(&mut fields)?)
    };
    fields.nothing_left(line.fields())?;
    Ok(line)
}

impl Line {
    /// For the nearest name of a field that does not exist.
    fn fields(&self) -> &'static [&'static str] {
        match self {
            Line::Op(_) => &["op", "key", "name", "value", "delta"],
            Line::Condition(_) => &["if", "key", "name", "value", "pair"],
            Line::Object(_) => &["key", "value", "components", "pair", "op", "if"],
        }
    }
}

fn op(kind: String, fields: &mut Fields) -> Result<v1::Op, String> {
    let key = fields.bytes("key")?;
    Ok(wire(match kind.as_str() {
        "put" => op::Kind::Put(op::Put {
            key,
            value: fields.bytes("value")?,
        }),
        "delete" => op::Kind::Delete(op::Delete { key }),
        "set" => op::Kind::SetComponent(op::SetComponent {
            key,
            name: fields.name()?,
            value: fields.bytes("value")?,
        }),
        "remove" => op::Kind::RemoveComponent(op::RemoveComponent {
            key,
            name: fields.name()?,
        }),
        "add" => op::Kind::Add(op::Add {
            key,
            name: fields.name()?,
            delta: fields.number("delta")?,
        }),
        "append" => op::Kind::Append(op::Append {
            key,
            name: fields.name()?,
            data: fields.bytes("value")?,
        }),
        "get" => op::Kind::Get(op::Get { key }),
        other => {
            let known = ["put", "delete", "set", "remove", "add", "append", "get"];
            return Err(unknown("op", other, &known));
        }
    }))
}

fn condition(kind: String, fields: &mut Fields) -> Result<v1::Precondition, String> {
    let key = fields.bytes("key")?;
    let kind = match kind.as_str() {
        "absent" => precondition::Kind::Absent(true),
        "present" => precondition::Kind::Absent(false),
        "pair" => precondition::Kind::Pair(pair_from_json(&fields.needed("pair")?)?),
        "value" => precondition::Kind::Component(precondition::ComponentValue {
            name: fields.name()?,
            value: Some(v1::Value {
                kind: Some(held(&fields.needed("value")?)?),
            }),
        }),
        other => {
            return Err(unknown(
                "if",
                other,
                &["absent", "present", "pair", "value"],
            ));
        }
    };
    Ok(v1::Precondition {
        key,
        kind: Some(kind),
    })
}

fn object(fields: &mut Fields) -> Result<Vec<v1::Op>, String> {
    let key = fields.bytes("key")?;
    fields.optional("pair");
    let value = fields.optional("value");
    let components = fields.optional("components");
    match (value, components) {
        (Some(value), None) => Ok(component_ops(&key, Bytes::new(), &value, true)?),
        (None, Some(Value::Array(components))) => {
            let mut ops = vec![wire(op::Kind::Delete(op::Delete { key: key.clone() }))];
            for component in components {
                let Value::Object(map) = component else {
                    return Err("components have to be objects with name and value".to_string());
                };
                let mut fields = Fields(map);
                fields.optional("pair");
                let (name, value) = (fields.bytes("name")?, fields.needed("value")?);
                fields.nothing_left(&["name", "value", "pair"])?;
                ops.extend(component_ops(&key, name, &value, false)?);
            }
            Ok(ops)
        }
        (None, Some(_)) => Err("components has to be a list".to_string()),
        (Some(_), Some(_)) => Err("an object has a value or components, not both".to_string()),
        (None, None) => Err("there is no field op, if, value or components".to_string()),
    }
}

/// `whole`: the component is all there is of the object.
fn component_ops(
    key: &Bytes,
    name: Bytes,
    value: &Value,
    whole: bool,
) -> Result<Vec<v1::Op>, String> {
    let key = key.clone();
    Ok(match held(value)? {
        v1::value::Kind::Data(value) if whole => vec![wire(op::Kind::Put(op::Put { key, value }))],
        v1::value::Kind::Data(value) => vec![wire(op::Kind::SetComponent(op::SetComponent {
            key,
            name,
            value,
        }))],
        v1::value::Kind::Counter(delta) => {
            let delete = wire(op::Kind::Delete(op::Delete { key: key.clone() }));
            let add = wire(op::Kind::Add(op::Add { key, name, delta }));
            if whole { vec![delete, add] } else { vec![add] }
        }
    })
}

/// Bytes, or `{"counter": n}`.
fn held(value: &Value) -> Result<v1::value::Kind, String> {
    if let Some(counter) = value.get("counter") {
        let counter = counter.as_i64();
        return counter
            .map(v1::value::Kind::Counter)
            .ok_or_else(|| format!("{value}: a counter is a whole number of 64 bits"));
    }
    from_json(value).map(v1::value::Kind::Data)
}

fn wire(kind: op::Kind) -> v1::Op {
    v1::Op { kind: Some(kind) }
}

fn text_of(field: &str, value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::to_string);
    text.ok_or_else(|| format!("{field} is {value}, has to be a text"))
}

fn unknown(field: &str, given: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .min_by_key(|each| strsim::damerau_levenshtein(each, given));
    let nearest = nearest.copied().unwrap_or_default();
    format!(
        "{field} '{given}' does not exist; the nearest is '{nearest}' (there are {})",
        known.join(", ")
    )
}

/// The fields of a line that are not used yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn optional(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    fn needed(&mut self, name: &str) -> Result<Value, String> {
        self.optional(name).ok_or_else(|| match self.0.is_empty() {
            true => format!("the field '{name}' is missing"),
            false => {
                let left: Vec<&str> = self.0.keys().map(String::as_str).collect();
                format!(
                    "the field '{name}' is missing (there are {})",
                    left.join(", ")
                )
            }
        })
    }

    fn bytes(&mut self, name: &str) -> Result<Bytes, String> {
        let value = self.needed(name)?;
        from_json(&value).map_err(|why| format!("{name}: {why}"))
    }

    /// The component; without one the plain value is meant.
    fn name(&mut self) -> Result<Bytes, String> {
        match self.optional("name") {
            Some(value) => from_json(&value).map_err(|why| format!("name: {why}")),
            None => Ok(Bytes::new()),
        }
    }

    fn number(&mut self, name: &str) -> Result<i64, String> {
        let value = self.needed(name)?;
        let number = value.as_i64();
        number.ok_or_else(|| format!("{name} is {value}, has to be a whole number of 64 bits"))
    }

    fn nothing_left(&self, known: &[&str]) -> Result<(), String> {
        match self.0.keys().next() {
            Some(field) => Err(unknown("the field", field, known)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show::object_json;
    use understudy_client::{Component, Object, Pair, Value as Held};

    fn error(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn operations_and_conditions_are_lines() {
        let line = parse(r#"{"op": "put", "key": "a", "value": {"hex": "00ff"}}"#).unwrap();
        let put = op::Put {
            key: "a".into(),
            value: Bytes::from_static(b"\x00\xff"),
        };
        assert_eq!(line, Line::Op(wire(op::Kind::Put(put))));
        let line = parse(r#"{"op": "add", "key": "a", "delta": -3}"#).unwrap();
        let add = op::Add {
            key: "a".into(),
            name: Bytes::new(),
            delta: -3,
        };
        assert_eq!(line, Line::Op(wire(op::Kind::Add(add))));
        let Line::Condition(condition) =
            parse(r#"{"if": "pair", "key": "a", "pair": "2.9"}"#).unwrap()
        else {
            panic!("a condition");
        };
        let pair = v1::Pair {
            epoch: 2,
            version: 9,
        };
        assert_eq!(condition.kind, Some(precondition::Kind::Pair(pair)));
    }

    #[test]
    fn a_wrong_line_says_what_is_wrong() {
        assert!(error("{").starts_with("no JSON: "));
        assert_eq!(error("[1]"), "has to be an object, {...}");
        assert!(error(r#"{"op": "putt", "key": "a"}"#).contains("the nearest is 'put'"));
        assert!(
            error(r#"{"op": "put", "key": "a", "value": "1", "vale": "2"}"#)
                .contains("the field 'vale' does not exist; the nearest is 'value'")
        );
        assert!(error(r#"{"op": "put", "key": "a"}"#).contains("'value' is missing"));
        assert!(error(r#"{"op": "add", "key": "a", "delta": 1.5}"#).contains("whole number"));
        assert!(error(r#"{"key": "a"}"#).contains("no field op"));
        assert!(error(r#"{"if": "pair", "key": "a", "pair": "2"}"#).contains("EPOCH.VERSION"));
    }

    #[test]
    fn what_export_prints_import_reads() {
        let component = |name: &'static str, value: Held| Component {
            name: name.into(),
            value,
            pair: Pair::new(1, 2),
        };
        let object = |components| Object {
            key: "k".into(),
            pair: Pair::new(1, 2),
            components,
        };
        let plain = object(vec![component("", Held::Data("v".into()))]);
        let counter = object(vec![component("", Held::Counter(5))]);
        let several = object(vec![
            component("a", Held::Data("v".into())),
            component("n", Held::Counter(-5)),
        ]);
        for (object, ops) in [(plain, 1), (counter, 2), (several, 3)] {
            let line = parse(&object_json(&object).to_string()).unwrap();
            let Line::Object(made) = line else {
                panic!("an object")
            };
            assert_eq!(made.len(), ops);
        }
    }
}
