//! The Python example against a real cluster, with the primary's process killed in its middle.
//!
//! Run by the gate's `live` part, which sets UNDERSTUDY_PYTHON to a Python with the example's packages.
// capabilities B08, B12, B19

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use understudy_node::cli::cluster_processes::{LocalCluster, Shape};

/// Of the whole program; it takes a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_python_program_without_generated_code_survives_a_failover() {
    let python = std::env::var_os("UNDERSTUDY_PYTHON").expect(
        "UNDERSTUDY_PYTHON names a Python with the packages of the example; run: bash .ci/run live",
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut shape = Shape::new(3, 3, folder.path());
    shape.port_base = 0;
    shape.executable = Some(env!("CARGO_BIN_EXE_understudy").into());
    let mut cluster = LocalCluster::start(&shape).expect("the processes start");
    let ready = cluster.wait_ready(Duration::from_secs(30)).await;
    ready.expect("every process is ready");

    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/examples/python/example.py");
    let mut program = Command::new(python)
        .arg(example)
        .args(["--failover", "--endpoints", &cluster.endpoints().join(",")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut output = BufReader::new(program.stdout.take().expect("it was piped")).lines();
    let mut said = String::new();
    let address = loop {
        let line = output
            .next()
            .expect("it says where the primary is")
            .expect("its output is text");
        said.push_str(&line);
        said.push('\n');
        if let Some((_, address)) = line.split_once("address=") {
            break address.to_string();
        }
    };

    let primary = cluster
        .members()
        .iter()
        .find(|member| member.endpoint().ends_with(&address))
        .unwrap_or_else(|| panic!("{address} is the address of a member"));
    let name = primary.name.clone();
    cluster.kill(&name).await.expect("the primary is killed");
    let stdin = program.stdin.as_mut().expect("it was piped");
    stdin.write_all(b"killed\n").expect("the program listens");

    let status = wait(&mut program);
    said.extend(output.map_while(Result::ok).map(|line| line + "\n"));
    assert!(status.success(), "{status}; it said:\n{said}");
    assert!(said.ends_with("all well\n"), "it said:\n{said}");
}

fn wait(program: &mut Child) -> ExitStatus {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Some(status) = program.try_wait().expect("our own child can be asked") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    program.kill().expect("our own child can be killed");
    panic!("the program did not end in {LIMIT:?}");
}
