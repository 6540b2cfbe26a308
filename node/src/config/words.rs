//! The words of a command line in a setting: blanks between them, quotes as in a shell, and nothing else of one.

/// Bytes of a command line.
const COMMAND_BYTES_MAX: usize = 4_096;

/// Words between blanks; quotes and backslashes as in a shell, and nothing else of one.
/// At least one. An error: what is wrong with the text.
pub fn split_words(command: &str) -> Result<Vec<String>, String> {
    if command.len() > COMMAND_BYTES_MAX {
        return Err(format!("is longer than {COMMAND_BYTES_MAX} bytes"));
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (mark, Some(open)) if mark == open => quote = None,
            ('\\', quoted) if quoted != Some('\'') => {
                let next = characters.next().ok_or("ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (other, Some(_)) => word.get_or_insert_default().push(other),
            (mark @ ('"' | '\''), None) => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            (blank, None) if blank.is_whitespace() => words.extend(word.take()),
            (other, None) => word.get_or_insert_default().push(other),
        }
    }
    match quote {
        Some(mark) => Err(format!("has a {mark} that is not closed")),
        None => {
            words.extend(word);
            let empty = "is empty: write a program and its arguments".to_string();
            (!words.is_empty()).then_some(words).ok_or(empty)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_splits_it() {
        let words = |text: &str| split_words(text).unwrap();
        assert_eq!(words(" a  b\tc "), ["a", "b", "c"]);
        assert_eq!(words(r#"a "b c" 'd "e'"#), ["a", "b c", r#"d "e"#]);
        assert_eq!(words(r#"a\ b "c\"d" '\' """#), ["a b", "c\"d", "\\", ""]);
        assert_eq!(words("--x='1 2'y"), ["--x=1 2y"]);
        assert!(split_words("a 'b").unwrap_err().contains("not closed"));
        assert!(split_words("a \\").is_err());
        assert!(split_words("  ").unwrap_err().contains("is empty"));
    }
}
