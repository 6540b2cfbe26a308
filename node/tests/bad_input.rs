//! Wrong and hostile input against a real cluster: each wrong request is refused in words that say what to do, noise on any
//! port stops nobody, and nothing changes: no object, no version, no primary.
//!
//! What needs no cluster (settings, ports, foreign folders) is in `cli_usage.rs`; ids used twice, transactions across shards
//! and wrong lines of an import are in `cli_cluster.rs`.

mod asked;
#[path = "bad_input/http2.rs"]
mod http2;
mod real;

use asked::{Ended, run};
use http2::Http2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use understudy_node::cli::cluster_processes::LocalCluster;

const LIMIT: Duration = Duration::from_secs(60);

struct World {
    cluster: LocalCluster,
    endpoints: String,
    folder: tempfile::TempDir,
}

impl World {
    async fn start(nodes: u16) -> World {
        let (cluster, folder) = real::cluster(1, nodes, &[]).await;
        let world = World {
            endpoints: cluster.endpoints().join(","),
            cluster,
            folder,
        };
        let made = world.ask(&["namespace", "create", "default", "--shards", "4"], b"");
        assert_eq!(made.status, 0, "{}", made.stderr);
        for n in 0..20 {
            let put = world.ask(&["put", &format!("key-{n}"), &format!("value {n}")], b"");
            assert_eq!(put.status, 0, "{}", put.stderr);
        }
        world
    }

    fn ask(&self, args: &[&str], input: &[u8]) -> Ended {
        asked::ask(&self.endpoints, args, input)
    }

    fn read(&self, args: &[&str]) -> String {
        let ended = self.ask(args, b"");
        assert_eq!(ended.status, 0, "{args:?}: {}", ended.stderr);
        ended.stdout
    }

    /// Every object with its pair, and who is the primary of each shard in which epoch.
    fn everything(&self) -> (String, Vec<Value>) {
        let shards: Value =
            serde_json::from_str(&self.read(&["cluster", "shards", "-o", "json"])).unwrap();
        let rows = shards["shards"].as_array().unwrap().iter();
        let rows = rows
            .map(|shard| serde_json::json!([shard["shard_id"], shard["epoch"], shard["primary"]]));
        (self.read(&["scan", "-o", "json"]), rows.collect())
    }

    fn pids(&self) -> Vec<u32> {
        self.cluster
            .members()
            .iter()
            .map(|member| member.pid().unwrap())
            .collect()
    }
}

/// One line for what, one for why, one for what to do; and the status.
fn told(ended: &Ended, status: i32, words: &[&str]) {
    let text = &ended.stderr;
    assert_eq!(ended.status, status, "{text}");
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    let known = |line: &str| {
        ["error: ", "why: ", "to do: "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    assert!(
        text.lines().count() <= 3 && text.lines().all(known),
        "{text}"
    );
    assert!(
        text.len() < 1_000,
        "it repeats what was too long: {} bytes",
        text.len()
    );
    assert!(
        words.iter().all(|word| text.contains(word)),
        "{words:?}: {text}"
    );
}

/// The status, the verb, what is on its standard input, and words that it has to say.
type Wrong<'a> = (i32, &'a [&'a str], &'a [u8], &'a [&'a str]);

// capability B04
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn what_is_wrong_is_told_in_words_and_changes_nothing() {
    let world = World::start(2).await;
    let before = world.everything();
    let (longest, too_long) = ("k".repeat(4_096), "k".repeat(4_097));
    let name = "n".repeat(256);
    let value = vec![b'v'; 1024 * 1024 + 1];
    let wrong: [Wrong<'_>; 10] = [
        (2, &["put", &too_long, "v"], b"", &["4096"]),
        (2, &["put", "", "v"], b"", &["key"]),
        (2, &["get", ""], b"", &["key"]),
        (2, &["delete", ""], b"", &["key"]),
        (2, &["put", "key-1"], &value, &["1048576"]),
        (
            3,
            &["put", "key-1", "v", "-n", "nowhere"],
            b"",
            &["nowhere"],
        ),
        (3, &["scan", "-n", "nowhere"], b"", &["nowhere"]),
        (2, &["namespace", "create", &name], b"", &["255"]),
        (2, &["namespace", "create", "a\nb"], b"", &["name"]),
        (
            2,
            &["namespace", "create", "many", "--shards", "4097"],
            b"",
            &["4096"],
        ),
    ];
    for (status, args, input, words) in wrong {
        let ended = world.ask(args, input);
        let shown: Vec<&str> = args.iter().map(|arg| &arg[..arg.len().min(20)]).collect();
        println!("{shown:?}: {} {}", ended.status, ended.stderr);
        told(&ended, status, words);
    }
    assert_eq!(world.everything(), before);
    let namespaces = world.read(&["namespace", "list", "-o", "json"]);
    assert!(
        !namespaces.contains("many") && !namespaces.contains("nn"),
        "{namespaces}"
    );
    // At the limit it is right.
    let kept = world.ask(&["put", &longest], &value[1..]);
    assert_eq!(kept.status, 0, "{}", kept.stderr);
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn a_folder_in_use_or_of_another_cluster_is_status_3_and_left_alone() {
    let mut world = World::start(1).await;
    let other = World::start(1).await;
    let data = world.folder.path().join("node-1");
    let identity = std::fs::read(data.join("CLUSTER")).unwrap();
    let managers = |world: &World| {
        format!(
            "127.0.0.1:{}",
            world.cluster.member("manager-1").unwrap().ports.internal
        )
    };
    let node = |managers: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        command.args([
            "node",
            "--name",
            "node-1",
            "--port-base",
            "0",
            "--log-level",
            "off",
        ]);
        command
            .args(["--managers", managers])
            .arg("--data-dir")
            .arg(&data);
        let ended = run(&mut command, b"");
        // It tells its ports first, as it was asked to.
        let lines: Vec<&str> = ended.stderr.lines().collect();
        (ended.status, lines.join("\n"))
    };

    let (status, line) = node(&managers(&world));
    let pid = world
        .cluster
        .member("node-1")
        .unwrap()
        .pid()
        .unwrap()
        .to_string();
    assert_eq!(status, 3, "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains(&pid) && line.contains("stop that one"),
        "{line}"
    );
    assert_eq!(world.read(&["get", "key-3"]), "value 3\n");

    world.cluster.stop_member("node-1").await.unwrap();
    let (status, line) = node(&managers(&other));
    assert_eq!(status, 3, "{line}");
    assert!(
        line.contains("another cluster") && line.lines().count() == 1,
        "{line}"
    );
    assert_eq!(std::fs::read(data.join("CLUSTER")).unwrap(), identity);
    let nodes: Value =
        serde_json::from_str(&other.read(&["cluster", "nodes", "-o", "json"])).unwrap();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1);

    // It is still good where it belongs.
    world.cluster.restart("node-1").unwrap();
    world
        .cluster
        .wait_member_ready("node-1", LIMIT)
        .await
        .unwrap();
    assert_eq!(world.read(&["get", "key-3"]), "value 3\n");
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
    assert_eq!(other.cluster.stop().await, Vec::<String>::new());
}

// --- noise -----------------------------------------------------------------------------------------------------------

/// The methods of the .proto files: what a stranger who read them would call.
fn methods() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/understudy/v1");
    let mut methods = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut service = "";
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(call)) => {
                    let method = call.split('(').next().unwrap();
                    methods.push(format!("/understudy.v1.{service}/{method}"));
                }
                _ => {}
            }
        }
    }
    assert!(methods.len() > 30, "the methods were not found");
    methods
}

/// Messages that no right client sends: with the gRPC head of five bytes, which may lie about the length.
fn bodies(dice: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let message = |body: &[u8]| [&[0], &(body.len() as u32).to_be_bytes()[..], body].concat();
    let noise: Vec<u8> = (0..200).map(|_| dice.random()).collect();
    vec![
        Vec::new(),
        message(b""),
        message(&noise),
        message(&[0xff; 11]), // a number that never ends
        message(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]), // a field of 4 GiB
        message(&[0x0a, 0x05, b'a']), // cut off
        message(&[0x0a, 0x02, 0xff, 0xfe]), // text that is no UTF-8
        message(&[0x0b; 300]), // groups in groups
        message(&[0x0a, 0x00].repeat(2_000)), // the same empty field again and again
        vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], // 4 GiB are announced
        vec![0, 0, 0, 1, 0, 1, 2, 3], // cut off in the message
        vec![1, 0, 0, 0, 3, 1, 2, 3], // compressed, it says
        vec![0, 0, 0],        // cut off in the head
        noise,
    ]
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let short = Some(Duration::from_millis(20));
    stream.set_read_timeout(short).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    stream
}

/// Sends, and listens for a moment. The other end may close at any time.
fn say(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    let mut heard = Vec::new();
    if stream.write_all(bytes).is_ok() {
        let _ = stream.read_to_end(&mut heard);
    }
    heard
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1_024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn noise_on_every_port_changes_nothing_and_stops_nobody() {
    let mut world = World::start(3).await;
    let mut dice = ChaCha8Rng::seed_from_u64(7);
    let members = world.cluster.members();
    let grpc: Vec<u16> = members
        .iter()
        .flat_map(|m| [m.ports.public, m.ports.internal])
        .collect();
    let admin: Vec<u16> = members.iter().map(|m| m.ports.admin).collect();
    let (before, pids) = (world.everything(), world.pids());
    let resident: Vec<u64> = pids.iter().map(|pid| resident_mib(*pid)).collect();

    // What is sent does arrive: a call that is right is answered.
    let health = Http2::call("/grpc.health.v1.Health/Check", &[0, 0, 0, 0, 0]);
    let answer = say(grpc[2], &health);
    assert!(
        answer.windows(2).any(|two| two == [0x08, 0x01]),
        "SERVING: {answer:?}"
    );

    // Connections that say nothing, held while everything else happens.
    let silent: Vec<TcpStream> = grpc
        .iter()
        .chain(&admin)
        .flat_map(|port| (0..20).map(|_| connect(*port)))
        .collect();
    let held_since = Instant::now();

    for port in grpc.iter().chain(&admin) {
        for length in [1, 23, 24, 100, 20_000] {
            let bytes: Vec<u8> = (0..length).map(|_| dice.random()).collect();
            say(*port, &bytes);
            say(*port, &Http2::begun().raw(&bytes).bytes);
        }
        say(*port, b"GET / HTTP/1.1\r\n\r\n");
        say(
            *port,
            &[b"GET /", &vec![b'a'; 100_000][..], b" HTTP/1.1\r\n\r\n"].concat(),
        );
        for hostile in Http2::hostile() {
            say(*port, &hostile.bytes);
        }
    }
    let methods = methods();
    // One of each kind of process; each port gets every method, also those that it does not have.
    for port in [grpc[0], grpc[1], grpc[2], grpc[3]] {
        for method in &methods {
            let mut all = Http2::begun();
            for body in bodies(&mut dice) {
                all = all.request(method, &body);
            }
            say(port, &all.bytes);
        }
    }

    let after = world.everything();
    assert_eq!(
        after, before,
        "an object, a version, an epoch or a primary changed"
    );
    assert_eq!(world.cluster.ended(), []);
    assert_eq!(world.pids(), pids);
    for (pid, before) in pids.iter().zip(resident) {
        let now = resident_mib(*pid);
        assert!(
            now < before + 100,
            "process {pid} grew from {before} to {now} MiB"
        );
    }
    for member in world.cluster.members() {
        let log = std::fs::read_to_string(&member.log).unwrap();
        assert!(!log.contains("panicked"), "{}: {log}", member.name);
    }
    // Whoever said nothing makes room by himself.
    tokio::time::sleep(Duration::from_secs(12).saturating_sub(held_since.elapsed())).await;
    for mut stream in silent {
        let heard = stream.read(&mut [0; 1]);
        let waits = heard
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waits, "a connection that never spoke is still open");
    }
    assert_eq!(world.ask(&["put", "key-1", "after"], b"").status, 0);
    assert_eq!(world.read(&["get", "key-1"]), "after\n");
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}
