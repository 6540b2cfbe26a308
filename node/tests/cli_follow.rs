//! The verbs that follow, and those that move and measure, against a real cluster whose logs are short: what they print as
//! JSON, and that a start that is no longer kept is told, never passed over.

mod asked;
mod real;

use asked::{Ended, ask};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use understudy_node::cli::cluster_processes::LocalCluster;

const LIMIT: Duration = Duration::from_secs(30);

struct World {
    cluster: LocalCluster,
    endpoints: String,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> World {
        let flags = ["--retention-log-bytes", "300000"];
        let (cluster, folder) = real::cluster(1, 2, &flags).await;
        let world = World {
            endpoints: cluster.endpoints().join(","),
            cluster,
            _folder: folder,
        };
        let made = [
            "namespace",
            "create",
            "default",
            "--shards",
            "1",
            "--copies",
            "2",
        ];
        world.done(&made);
        world
    }

    /// It ends with status 0.
    fn done(&self, args: &[&str]) -> Ended {
        let ended = ask(&self.endpoints, args, b"");
        assert_eq!(
            ended.status, 0,
            "{args:?}: {} {}",
            ended.stdout, ended.stderr
        );
        ended
    }

    fn document(&self, args: &[&str]) -> Value {
        let ended = self.done(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// The node's id and its store's, once the managers know that it is down.
    fn when_down(&self, name: &str) -> (String, String) {
        let began = Instant::now();
        loop {
            let nodes = self.document(&["cluster", "nodes"]);
            let nodes = nodes["nodes"].as_array().unwrap();
            let node = nodes.iter().find(|node| node["name"] == name).unwrap();
            if node["state"] == "down" {
                let store = node["store_id"].as_str().unwrap();
                return (node["id"].to_string(), store.to_string());
            }
            assert!(began.elapsed() < LIMIT, "{node}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn lines(&self, args: &[&str]) -> Vec<Value> {
        let ended = self.done(&[args, &["-o", "json"]].concat());
        let lines = ended.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Starts a verb that follows, and repeats something, with a number, until it has ended.
    fn followed(&self, args: &[&str], mut act: impl FnMut(&World, u32)) -> Vec<Value> {
        let mut verb = Command::new(env!("CARGO_BIN_EXE_understudy"))
            .args(args)
            .args(["-o", "json"])
            .env("UNDERSTUDY_ENDPOINTS", &self.endpoints)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let mut late = false;
        for number in 0.. {
            if verb.try_wait().unwrap().is_some() || late {
                break;
            }
            act(self, number);
            std::thread::sleep(Duration::from_millis(50));
            late = began.elapsed() > LIMIT;
        }
        // Of one that has ended this says nothing.
        let _ = verb.kill();
        let printed = std::io::read_to_string(verb.stdout.take().unwrap()).unwrap();
        verb.wait().unwrap();
        assert!(!late, "{args:?} does not end; it told {printed}");
        let lines = printed.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

// capabilities A14, A15
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn what_changes_is_followed_and_what_is_gone_is_told() {
    let mut world = World::start().await;

    let changes = world.followed(&["watch", "w", "--limit", "1"], |world, _| {
        world.done(&["put", "w1", "v"]);
    });
    assert_eq!(changes[0]["event"], "change");
    assert_eq!(changes[0]["changes"][0]["key"], "w1");
    let names = ["naming", "watch", "svc", "--limit", "1"];
    let bound = world.followed(&names, |world, number| {
        // The same endpoints again would be no change.
        let endpoint = format!("10.0.0.1:{number}");
        world.done(&["naming", "bind", "svc/a", &endpoint]);
    });
    assert_eq!(bound[0]["event"], "bound");
    assert_eq!(bound[0]["binding"]["name"], "svc/a");
    let log = world.followed(&["log", "0", "--follow", "--limit", "2"], |_, _| {});
    assert_eq!((log.len(), &log[0]["kind"]), (2, &json!("epoch_start")));
    let any = world.document(&["get", "w1", "--level", "any"]);
    assert_eq!(any["objects"][0]["key"], "w1");

    // One client's requests, those about some keys, and one side of each.
    let client = world.document(&["session", "new"]);
    let client = client["client_id"].as_str().unwrap();
    for (sequence, key) in [(1, "mine"), (2, "other")] {
        let id = format!("{client}:{sequence}");
        world.done(&["put", key, "v", "--request-id", &id]);
    }
    let of_client = world.lines(&["log", "0", "--client", client]);
    let ids: Vec<_> = of_client.iter().map(|line| &line["request_id"]).collect();
    assert_eq!(
        ids,
        [&json!(format!("{client}:1")), &json!(format!("{client}:2"))]
    );
    let done = world.lines(&["log", "0", "--prefix", "min", "--view", "changes"]);
    assert_eq!((done.len(), &done[0]["ops"]), (1, &json!([])));
    assert_eq!(done[0]["changes"][0]["key"], "mine");
    let asked = world.lines(&["log", "0", "--prefix", "oth", "--view", "requests"]);
    assert_eq!((asked.len(), &asked[0]["changes"]), (1, &json!([])));
    assert_eq!(asked[0]["ops"][0]["op"], "put");

    // More than the log keeps: its beginning goes. The first record alone, an epoch start, would leave no gap.
    let value = "x".repeat(100_000);
    let began = Instant::now();
    let refused = loop {
        world.done(&["put", "large", &value]);
        let ended = ask(
            &world.endpoints,
            &["log", "0", "--from", "2", "-l", "1"],
            b"",
        );
        if ended.status != 0 {
            break ended;
        }
        assert!(began.elapsed() < LIMIT, "the log is never trimmed");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((refused.status, refused.stdout.as_str()), (1, ""));
    assert!(
        refused.stderr.contains("the first version that is kept is"),
        "{}",
        refused.stderr
    );
    let kept = world.lines(&["log", "0", "-l", "1"]);
    let first = kept[0]["pair"]["version"].as_u64().unwrap();
    assert!(first > 2, "{kept:?}");
    let gap = world.followed(
        &["watch", "l", "--after", "0=1.1", "--limit", "1"],
        |world, _| {
            world.done(&["put", "later", "v"]);
        },
    );
    assert_eq!(gap[0]["event"], "gap");
    let from = &gap[0]["first"];
    assert!(from["version"].as_u64().unwrap() >= first, "{gap:?}");
    let change = gap.last().unwrap();
    assert_eq!(change["event"], "change");
    assert!(
        change["pair"]["version"].as_u64() > from["version"].as_u64(),
        "{gap:?}"
    );

    // A primary is moved, and a store is given up.
    let shards = world.document(&["cluster", "shards"]);
    let moved = world.document(&["cluster", "transfer", "0"]);
    assert_ne!(moved["primary"], shards["shards"][0]["primary"]);
    world.cluster.kill("node-2").await.unwrap();
    let (id, store) = world.when_down("node-2");
    let shown = world.document(&["cluster", "declare-lost", &id, &store]);
    assert_eq!(shown["declared"], false);
    world.done(&["cluster", "declare-lost", &id, &store, "--yes"]);
    world.done(&["put", "a", "1"]);
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

#[test]
#[ignore = "starts real processes; `make live` runs it"]
fn the_bench_and_the_demo_print_documents() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let run = |args: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        let ended = asked::run(command.args(args).args(["-o", "json"]), b"");
        assert_eq!(ended.status, 0, "{args:?}: {}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let measured = run(&[
        "bench",
        "--clients",
        "2",
        "--warm-up",
        "1",
        "--duration",
        "1",
    ]);
    assert!(measured.is_object(), "{measured}");
    let page_flag = ["--report", page.to_str().unwrap()];
    let small = [
        "--flights",
        "50",
        "--clients",
        "64",
        "--rate",
        "1000",
        "--duration",
        "9",
    ];
    let shown = run(&[&["demo", "--port-base", "0"], &small[..], &page_flag].concat());
    assert_eq!(shown["passed"], true, "{shown}");
    let notes = &shown["audit"]["notes"];
    let count = |of: &str| notes[of].as_array().unwrap().len();
    assert!(count("brought_back") + count("conflicts") > 0, "{notes}");
    assert!(std::fs::read_to_string(page).unwrap().contains("</html>"));
}
