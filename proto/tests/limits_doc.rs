//! Compares docs/limits.md with the constants in `limits.rs`, both ways, by name and value.

use std::collections::BTreeMap;

const CODE: &str = include_str!("../src/limits.rs");
const DOC: &str = include_str!("../../docs/limits.md");

/// The product of an expression like `4 * 1024` or `2 * OTHER_LIMIT`.
fn value(expression: &str, known: &BTreeMap<String, u64>) -> u64 {
    let factor = |factor: &str| {
        let factor = factor.trim();
        let digits = factor.replace('_', "");
        let number = digits.parse().ok().or_else(|| known.get(factor).copied());
        number.unwrap_or_else(|| panic!("'{factor}' is no number in '{expression}'"))
    };
    expression.split('*').map(factor).product()
}

/// `pub const NAME: type = expression;`, one a line.
fn in_code() -> BTreeMap<String, u64> {
    let mut limits = BTreeMap::new();
    for line in CODE.lines() {
        let Some(constant) = line.strip_prefix("pub const ") else {
            continue;
        };
        let (name, rest) = constant.split_once(':').expect("a type");
        let (_, expression) = rest.split_once('=').expect("a value on the same line");
        let limit = value(expression.trim_end_matches(';'), &limits);
        limits.insert(name.to_string(), limit);
    }
    limits
}

/// Rows of tables: | `NAME` | value | words |
fn in_doc() -> BTreeMap<String, u64> {
    let mut limits = BTreeMap::new();
    for line in DOC.lines() {
        let Some(row) = line.strip_prefix("| `") else {
            continue;
        };
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap_or_default().trim_end_matches('`');
        let limit = value(cells.next().unwrap_or_default(), &BTreeMap::new());
        let words = cells.next().unwrap_or_default();
        assert!(!words.is_empty(), "{name} has no words");
        let twice = limits.insert(name.to_string(), limit);
        assert_eq!(twice, None, "{name} stands there twice");
    }
    limits
}

#[test]
fn the_page_and_the_code_name_the_same_limits_with_the_same_values() {
    let (code, doc) = (in_code(), in_doc());
    assert!(code.len() > 20, "the constants were not found");
    assert_eq!(doc, code, "left: docs/limits.md, right: limits.rs");
}
