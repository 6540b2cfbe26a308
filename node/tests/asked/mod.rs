//! The command line asked as a shell asks it: what came out, and with which status it ended.

use std::io::Write;
use std::process::{Command, Stdio};

pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a verb against these endpoints.
pub fn ask(endpoints: &str, args: &[&str], input: &[u8]) -> Ended {
    run(
        Command::new(env!("CARGO_BIN_EXE_understudy"))
            .args(args)
            .env("UNDERSTUDY_ENDPOINTS", endpoints)
            .env("UNDERSTUDY_DEADLINE_MS", "30000"),
        input,
    )
}

pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A verb that reads nothing may be gone already.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    Ended {
        status: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
