//! What the binary says and does without a cluster: wrong input, settings, ports, data folders, documents.
//!
//! Each wrong thing is a line that says what to do, and leaves everything as it was.

use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn understudy(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        if name.starts_with("UNDERSTUDY_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(args: &[&str]) -> Output {
    understudy(args).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the errors are text")
}

/// The status, and the one line on standard error.
fn one_line(output: &Output) -> (i32, String) {
    let text = stderr(output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty(), "{}", stdout(output));
    (
        output.status.code().expect("it ended by itself"),
        text.trim().to_string(),
    )
}

#[test]
fn wrong_usage_is_status_2_and_help_is_0() {
    for wrong in [
        &["putt", "a", "b"][..],
        &["put"],
        &["put", "a", "b", "--request-id", "7"],
        &["put", "a", "b", "--if-absent", "--if-present"],
        &["get", "a", "--token", "1.2"],
        &["get", "a", "-o", "xml"],
        &["get", "zz", "--encoding", "hex"],
        &["watch", "--after", "1"],
        &["dev", "--managers", "2"],
        &["dev", "--site", "eu"],
        &[
            "cluster",
            "managers",
            "add",
            "4",
            "--internal",
            "nowhere",
            "--public",
            "a:1",
        ],
        &["get", "a", "-e", "ftp://a"],
        &["get", "a", "-e", "https://a:1"],
    ] {
        let output = run(wrong);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
    for right in [
        &["--help"][..],
        &["--version"],
        &["cluster", "transfer", "--help"],
        &["node", "--help"],
    ] {
        assert_eq!(run(right).status.code(), Some(0), "{right:?}");
    }
}

#[test]
fn names_that_are_no_utf_8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = understudy(&["get"]);
    command.arg(std::ffi::OsStr::from_bytes(b"\xff"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("UTF-8"));
}

// capability B05
#[test]
fn where_nobody_listens_a_request_is_unavailable_and_certainly_did_not_run() {
    let output = run(&[
        "put",
        "a",
        "b",
        "-e",
        "http://127.0.0.1:1",
        "--deadline-ms",
        "300",
    ]);
    assert_eq!(output.status.code(), Some(5));
    let text = stderr(&output);
    let starts: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(starts, ["error", "why", "to do"], "{text}");
    assert!(text.contains("did not run"));
}

#[test]
fn a_wrong_line_of_a_transaction_is_told_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ops.jsonl");
    std::fs::write(
        &file,
        "{\"op\": \"put\", \"key\": \"a\", \"value\": \"1\"}\n{\"op\": \"pot\", \"key\": \"a\"}\n",
    )
    .unwrap();
    let (status, line) = one_line(&run(&[
        "txn",
        file.to_str().unwrap(),
        "-e",
        "http://127.0.0.1:1",
    ]));
    assert_eq!(status, 2);
    assert!(
        line.starts_with("error: line 2: op 'pot' does not exist; the nearest is 'put'"),
        "{line}"
    );
    let (status, _) = one_line(&run(&["txn", "/nonexistent/ops.jsonl"]));
    assert_eq!(status, 2);
}

#[test]
fn config_shows_each_value_with_its_source_and_names_the_nearest_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    std::fs::write(&file, "name = \"n1\"\n[storage]\nopen_files = 100\n").unwrap();
    let file = file.to_str().unwrap();
    let mut command = understudy(&["config", "show", "node", "--config", file, "-o", "json"]);
    let output = command.env("UNDERSTUDY_SITE", "eu").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        shown["name"],
        serde_json::json!({ "value": "n1", "source": format!("file {file}") })
    );
    assert_eq!(shown["site"]["source"], "environment UNDERSTUDY_SITE");
    assert_eq!(shown["storage.open_files"]["value"], 100);
    assert_eq!(shown["listen.public"]["source"], "default");

    std::fs::write(file, "nam = \"n1\"\n").unwrap();
    let (status, line) = one_line(&run(&["config", "check", "node", file]));
    assert_eq!(status, 2);
    assert_eq!(
        line,
        "error: nam: there is no such setting; the nearest is 'name'"
    );
    let (status, _) = one_line(&run(&["node", "--config", file]));
    assert_eq!(status, 2);
}

#[test]
fn config_check_tells_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manager.toml");
    std::fs::write(&file, "[listen]\npublic = \"0.0.0.0:7420\"\n").unwrap();
    let output = run(&["config", "check", "manager", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.lines().all(|line| line.starts_with("error: ")));
    assert!(text.contains("--insecure"));
}

#[test]
fn what_config_default_prints_is_a_file_that_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for role in ["manager", "node", "client"] {
        let text = stdout(&run(&["config", "default", role]));
        let file = folder.path().join(role);
        std::fs::write(&file, text).unwrap();
        let shown = run(&["config", "show", role, file.to_str().unwrap(), "-o", "json"]);
        assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    }
}

#[test]
fn print_config_tells_the_flags_too() {
    let output = run(&[
        "node",
        "--data-dir",
        "/d",
        "--managers",
        "a:1",
        "--port-base",
        "9000",
        "--print-config",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let line = |key: &str| {
        let found = text
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("data_dir"), "data_dir \"/d\" flag --data-dir");
    assert_eq!(
        line("listen.admin"),
        "listen.admin \"127.0.0.1:9002\" flag --port-base"
    );
    assert_eq!(
        line("storage.cache_bytes"),
        "storage.cache_bytes 134217728 default"
    );
    assert!(
        text.lines()
            .all(|line| line == line.trim_end() && !line.contains('\u{1b}'))
    );
}

/// The flags of a manager of its own.
fn manager<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = [
        "manager",
        "--id",
        "1",
        "--data-dir",
        folder,
        "--log-level",
        "error",
    ];
    flags.into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn a_port_in_use_is_told_before_the_folder_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let free = "127.0.0.1:0";
    let ports = [
        "--listen-public",
        &address,
        "--listen-internal",
        free,
        "--listen-admin",
        free,
    ];
    let flags = manager(data, &ports);
    let (status, line) = one_line(&run(&flags));
    assert_eq!(status, 1);
    assert!(
        line.contains(&address) && line.contains("choose another port"),
        "{line}"
    );
    assert!(!Path::new(data).exists());
}

#[test]
fn a_data_folder_of_somebody_else_is_status_3_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("CLUSTER"),
        "format = 1\nrole = \"node\"\n",
    )
    .unwrap();
    let data = folder.path().to_str().unwrap();
    let output = run(&manager(data, &["--port-base", "0"]));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let line = stderr(&output);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains("a node's, not a manager's"), "{line}");

    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.tex"), "x").unwrap();
    let data = foreign.path().to_str().unwrap();
    let output = run(&manager(data, &["--port-base", "0"]));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let names: Vec<_> = std::fs::read_dir(foreign.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name == "thesis.tex" || name == "LOCK"),
        "{names:?}"
    );
}

#[test]
fn a_server_ends_when_its_parent_does_and_its_folder_is_free_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    for _ in 0..2 {
        let flags = manager(data, &["--port-base", "0", "--exit-with-parent"]);
        let mut child = understudy(&flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The ports are told once the process hears of its parent.
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(child.stdout.as_mut().unwrap()),
            &mut line,
        )
        .unwrap();
        assert!(line.starts_with("public 127.0.0.1:"), "{line}");
        drop(child.stdin.take());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn completion_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("understudy"));
    }
    assert!(stdout(&run(&["gen", "man"])).contains(".TH understudy"));
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["gen", "man", "--dir", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(folder.path().join("understudy-cluster-status.1").exists());
}

#[test]
fn a_session_needs_no_server() {
    let output = run(&["session", "new", "-o", "json"]);
    let document: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let id: understudy_client::ClientId = document["client_id"].as_str().unwrap().parse().unwrap();
    assert!(id.is_uuid_v7());
}
