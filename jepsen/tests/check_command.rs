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
