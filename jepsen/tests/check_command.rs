//! The verb `check` as a stranger uses it: exit statuses, standard input, what is printed, and the timeline.

use std::io::Write;
use std::process::{Command, Output, Stdio};

const GOOD: &str = "{:process 0, :type :invoke, :f :write, :value 1}
{:process 0, :type :ok, :f :write, :value 1}
{:process 1, :type :invoke, :f :read, :value nil}
{:process 1, :type :ok, :f :read, :value 1}
";
const STALE: &str = "{:process 0, :type :invoke, :f :write, :value 1}
{:process 0, :type :ok, :f :write, :value 1}
{:process 0, :type :invoke, :f :write, :value 2}
{:process 0, :type :ok, :f :write, :value 2}
{:process 1, :type :invoke, :f :read, :value nil}
{:process 1, :type :ok, :f :read, :value 1}
";

fn check(input: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_understudy-jepsen"))
        .arg("check")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_exit_status_is_the_verdict() {
    let good = check(GOOD, &["-", "--model", "register"]);
    assert_eq!(good.status.code(), Some(0));
    assert!(
        printed(&good).starts_with("linearizable\n"),
        "{}",
        printed(&good)
    );

    let stale = check(STALE, &["-", "--model", "cas-register"]);
    assert_eq!(stale.status.code(), Some(1));
    let text = printed(&stale);
    assert!(text.starts_with("not-linearizable\n"), "{text}");
    // Both writes and the read, and nothing else.
    for line in [
        "lines 1 to 2: process 0 write 1: ok",
        "lines 3 to 4:",
        "lines 5 to 6: process 1 read: ok 1",
    ] {
        assert!(text.contains(line), "{text}");
    }

    let broken = check(
        "{:process 0, :type :invoke, :f :write, :value 1}\n{:process 0 :type :ok :f}",
        &["-", "--model", "register"],
    );
    assert_eq!(broken.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("line 2"));

    let other = check(GOOD, &["-", "--model", "mutex"]);
    assert_eq!(
        other.status.code(),
        Some(2),
        "a function that the model does not know"
    );
    assert_eq!(
        check(GOOD, &["-", "--model", "no-model"]).status.code(),
        Some(2)
    );
    assert_eq!(
        check(GOOD, &["/nonexistent", "--model", "register"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn without_memory_the_verdict_is_unknown() {
    let output = check(GOOD, &["-", "--model", "register", "--memory", "0"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(printed(&output).starts_with("unknown: "));
}

#[test]
fn machines_get_json_and_people_a_page() {
    let page =
        std::env::temp_dir().join(format!("understudy-timeline-{}.html", std::process::id()));
    let file = page.to_str().unwrap();
    let stale = STALE.replace(":value 2", ":value \"<script>\"");
    let output = check(
        &stale,
        &["-", "--model", "register", "--json", "--timeline", file],
    );
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["verdict"], "not-linearizable");
    assert_eq!(told["operations"], 3);
    assert_eq!(
        told["findings"][0]["operations"].as_array().unwrap().len(),
        3
    );
    let drawn = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert!(drawn.contains("class=\"shown\"") && drawn.contains("process 1"));
    assert!(!drawn.contains("<script"), "what a history says is no HTML");
    assert!(!drawn.contains("http"), "the page needs no network");
}

/// Histories, models and exit statuses that came out otherwise once.
#[test]
fn what_once_came_out_wrong_comes_out_right() {
    let line = |process: &str, kind: &str, rest: &str| {
        format!("{{\"process\":{process},\"type\":\"{kind}\",{rest}}}\n")
    };
    let pair = |process: usize, asked: &str, answered: &str| {
        let process = process.to_string();
        line(&process, "invoke", asked) + &line(&process, "ok", answered)
    };
    // The keys of a transaction may be told only with its answer.
    let told_late = pair(
        0,
        r#""f":"txn","value":[["write",1,5]]"#,
        r#""f":"txn","value":[["write",1,5]]"#,
    ) + &pair(1, r#""f":"txn""#, r#""f":"txn","value":[["read",1,5]]"#);
    // A process is a number; what is none is not left out in silence.
    let named = line("\"client-1\"", "invoke", r#""f":"read""#);
    // A model without keys does not mix what is about several.
    let keyed = pair(
        0,
        r#""f":"write","key":"x","value":1"#,
        r#""f":"write","key":"x","value":1"#,
    );
    let large = r#""f":"add","value":4611686018427387903"#;
    let sums = pair(0, large, large).repeat(3);
    // A text that is appended very often, all of it read: no table of all calls by all places.
    let often = pair(
        0,
        r#""f":"append","key":1,"value":"a""#,
        r#""f":"append","key":1,"value":"a""#,
    )
    .repeat(20_000)
        + &pair(
            1,
            r#""f":"get","key":1"#,
            &format!(r#""f":"get","key":1,"value":"{}""#, "a".repeat(20_000)),
        );
    // Many calls that are alike at the same time: which of them came first makes no difference.
    let adds = |kind: &str| -> String {
        (0..40)
            .map(|process| line(&process.to_string(), kind, r#""f":"add","value":1"#))
            .collect()
    };
    let too_much =
        adds("invoke") + &adds("ok") + &pair(50, r#""f":"read""#, r#""f":"read","value":41"#);
    for (history, model, status) in [
        (&told_late, "multi-register", 0),
        (&named, "register", 2),
        (&keyed, "register", 2),
        (&sums, "counter", 0),
        (&often, "kv", 0),
        (&too_much, "counter", 1),
    ] {
        let output = check(history, &["-", "--model", model, "--memory", "256"]);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{model}: {}",
            printed(&output)
        );
    }
}
