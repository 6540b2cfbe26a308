//! Reads the `.proto` files: each field of a message or oneof, and each value of an enum but its zero, has a comment of its own
//! directly above or at the end of its line. Whether the comment is true, only a reader can tell.

use std::fs;
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/understudy/v1");

/// A field or an enum's value, and what is said about it.
struct Field {
    /// Like `NamingEvent.kind.bound`.
    path: String,
    comment: String,
    /// The zero of an enum, which every enum has and which says *not set*.
    zero_of_enum: bool,
}

impl Field {
    /// Words that only repeat the name say nothing.
    fn is_documented(&self) -> bool {
        let letters = |text: &str| {
            let plain = text.chars().filter(|c| c.is_alphanumeric());
            plain.collect::<String>().to_lowercase()
        };
        let name = self.path.rsplit('.').next().unwrap_or_default();
        let said = letters(&self.comment);
        self.zero_of_enum || !(said.is_empty() || said == letters(name))
    }
}

/// The fields of a file. Panics at a line that it does not understand, so that none is passed over.
fn fields(file: &str, text: &str) -> Vec<Field> {
    let mut found = Vec::new();
    let mut blocks: Vec<(&str, &str)> = Vec::new();
    let mut above = "";
    for (number, line) in (1..).zip(text.lines()) {
        let (code, behind) = line.split_once("//").unwrap_or((line, ""));
        let code = code.trim();
        let comment = if behind.is_empty() { above } else { behind };
        above = if code.is_empty() { behind } else { "" };
        let inside = blocks.last().map(|(keyword, _)| *keyword);
        if code.is_empty() || code.ends_with("{}") {
            continue;
        } else if let Some(opened) = code.strip_suffix('{') {
            let (keyword, name) = opened.trim().split_once(' ').unwrap_or((opened, ""));
            blocks.push((keyword, name));
        } else if code == "}" {
            assert!(blocks.pop().is_some(), "{file}:{number}: no block is open");
        } else if let Some(block @ ("message" | "oneof" | "enum")) = inside {
            if code.starts_with("reserved ") || code.starts_with("option ") {
                continue;
            }
            let parts = code
                .strip_suffix(';')
                .and_then(|code| code.split_once(" = "));
            let Some((declared, value)) = parts else {
                panic!("{file}:{number}: '{code}' is no field on one line");
            };
            let name = declared.rsplit(' ').next().unwrap_or_default();
            let outer = blocks.iter().map(|(_, name)| *name).chain([name]);
            found.push(Field {
                path: outer.collect::<Vec<_>>().join("."),
                comment: comment.to_string(),
                zero_of_enum: block == "enum" && value == "0",
            });
        }
    }
    assert!(blocks.is_empty(), "{file}: {blocks:?} is not closed");
    found
}

fn undocumented(file: &str, text: &str) -> Vec<String> {
    let fields = fields(file, text).into_iter();
    fields
        .filter(|field| !field.is_documented())
        .map(|field| format!("{file}: {}", field.path))
        .collect()
}

#[test]
fn every_field_has_a_comment() {
    let (mut count, mut missing) = (0, Vec::new());
    for entry in fs::read_dir(Path::new(FOLDER)).expect("the folder of the .proto files") {
        let path = entry.expect("an entry of the folder").path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(&path).expect("a .proto file");
        count += fields(&file, &text).len();
        missing.extend(undocumented(&file, &text));
    }
    missing.sort();
    assert!(count > 400, "only {count} fields were found");
    assert!(
        missing.is_empty(),
        "no comment says unit and limit of\n{}",
        missing.join("\n")
    );
}

#[test]
fn a_field_without_a_comment_is_named() {
    let text = "
        // Of the message, not of its first field.
        message A {
          uint64 bare = 1;
          // Bytes, at most 7.
          bytes above = 2;
          bytes after_another = 3;
          map<string, uint32> behind = 4; // At most 9.
          bytes after_one_behind = 5;
          // Size bytes.
          uint32 size_bytes = 6;
          enum Kind {
            KIND_UNSPECIFIED = 0;
            KIND_ONE = 1;
          }
          oneof kind {
            bool inner = 7;
            // True: it is so.
            bool said = 8 [deprecated = true];
          }
          reserved 9;
        }
        message Empty {}
        service S {
          rpc Call(A) returns (Empty);
        }";
    let expected = [
        "x: A.bare",
        "x: A.after_another",
        "x: A.after_one_behind",
        "x: A.size_bytes",
        "x: A.Kind.KIND_ONE",
        "x: A.kind.inner",
    ];
    assert_eq!(undocumented("x", text), expected);
}
