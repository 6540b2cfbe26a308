//! Every verb against a real cluster of processes: what it prints as JSON, and with which status it ends.
//!
//! The shapes of the JSON are a contract (docs/cli.md): a test that fails here means that somebody's script breaks.

mod asked;
mod real;

use asked::Ended;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;
use understudy_node::cli::cluster_processes::LocalCluster;

/// A cluster of one manager and `nodes` nodes, and what asks it.
struct World {
    cluster: LocalCluster,
    endpoints: String,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(nodes: u16) -> World {
        let (cluster, folder) = real::cluster(1, nodes, &[]).await;
        let world = World {
            endpoints: cluster.endpoints().join(","),
            cluster,
            _folder: folder,
        };
        let made = world.ask(&[
            "namespace",
            "create",
            "default",
            "--shards",
            "4",
            "--if-not-exists",
            "-o",
            "json",
        ]);
        assert_eq!(made.status, 0, "{}", made.stderr);
        world
    }

    fn ask(&self, args: &[&str]) -> Ended {
        self.ask_with(args, b"")
    }

    fn ask_with(&self, args: &[&str], input: &[u8]) -> Ended {
        asked::ask(&self.endpoints, args, input)
    }

    /// One document, with this status.
    fn json(&self, status: i32, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let ended = self.ask(&args);
        assert_eq!(
            ended.status, status,
            "{args:?}: {} {}",
            ended.stdout, ended.stderr
        );
        serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ended.stdout))
    }
}

impl Ended {
    fn lines(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("a line is a document"))
            .collect()
    }
}

fn keys(document: &Value) -> BTreeSet<&str> {
    document
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

fn names<const N: usize>(names: [&'static str; N]) -> BTreeSet<&'static str> {
    names.into_iter().collect()
}

// capabilities A13, B19
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn objects_are_written_read_and_followed() {
    let world = World::start(3).await;

    let written = world.json(0, &["put", "apple", "3 baskets"]);
    assert_eq!(
        keys(&written),
        names([
            "outcome",
            "results",
            "request_id",
            "pair",
            "shard_id",
            "duplicate",
            "conflict",
            "level",
            "copies_durable",
            "primary"
        ])
    );
    assert_eq!(
        (&written["outcome"], &written["results"]),
        (&json!("applied"), &json!([{ "existed": false }]))
    );
    assert_eq!(world.ask(&["get", "apple"]).stdout, "3 baskets\n");
    assert_eq!(world.ask(&["get", "apple", "--raw"]).stdout, "3 baskets");
    let mut found = world.json(0, &["get", "apple"]);
    let read = found["objects"][0]["read"].take();
    assert_eq!(read["token"], written["pair"], "nothing was written since");
    assert_eq!(read["age_ms"], 0, "at the primary");
    assert_eq!(
        found,
        json!({ "objects": [
            { "key": "apple", "pair": written["pair"], "value": "3 baskets", "read": null }
        ] })
    );
    let absent = &world.json(3, &["get", "pear"])["objects"][0];
    assert_eq!(
        (&absent["key"], &absent["absent"]),
        (&json!("pear"), &json!(true))
    );

    // Conditions.
    let refused = world.json(4, &["put", "apple", "x", "--if-absent"]);
    assert_eq!(
        (&refused["outcome"], &refused["failed_index"]),
        (&json!("condition_failed"), &json!(0))
    );
    let pair = format!(
        "{}.{}",
        written["pair"]["epoch"], written["pair"]["version"]
    );
    world.json(0, &["put", "apple", "4 baskets", "--if-pair", &pair]);
    world.json(4, &["put", "apple", "5 baskets", "--if-value", "3 baskets"]);

    // A request id makes a shell's retry safe, and other content under it is refused.
    let client = world.json(0, &["session", "new"]);
    let id = format!("{}:1", client["client_id"].as_str().unwrap());
    assert_eq!(
        world.json(0, &["put", "k", "v", "--request-id", &id])["duplicate"],
        false
    );
    assert_eq!(
        world.json(0, &["put", "k", "v", "--request-id", &id])["duplicate"],
        true
    );
    assert_eq!(world.ask(&["put", "k", "w", "--request-id", &id]).status, 2);
    let traces = world.json(0, &["request", &id]);
    assert_eq!(traces["found"][0]["where"], "log");
    assert_eq!(traces["found"][0]["outcome"], "applied");
    assert_eq!(world.ask(&["request", &id.replace(":1", ":2")]).status, 3);

    // Bytes that are no text.
    assert_eq!(world.ask_with(&["put", "bin"], b"\xff\x00").status, 0);
    assert_eq!(
        world.json(0, &["get", "bin"])["objects"][0]["value"],
        json!({ "base64": "/wA=" })
    );

    // The log has each request once.
    let log = world.ask(&["log", "--key", "k", "-o", "json"]).lines();
    let ours: Vec<&Value> = log
        .iter()
        .filter(|record| record["request_id"] == json!(id))
        .collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(
        keys(ours[0]),
        names([
            "shard_id",
            "pair",
            "previous_epoch_start",
            "kind",
            "request_id",
            "primary_time_ms",
            "ops",
            "conditions",
            "outcome",
            "changes",
            "checksum",
            "resolves"
        ])
    );
    assert_eq!(
        ours[0]["ops"],
        json!([{ "op": "put", "key": "k", "value": "v" }])
    );
    let change = json!({ "key": "k", "before": null, "components": [{ "name": "", "old": null, "new": "v" }] });
    assert_eq!(ours[0]["changes"], json!([change]));
    assert_eq!(world.ask(&["log", "99"]).status, 2);
    assert_eq!(
        world.json(0, &["orphans"]),
        json!({ "orphans": [], "more": false, "unreachable_nodes": [] })
    );
    assert_eq!(
        world.json(0, &["conflicts", "list"]),
        json!({ "conflicts": [], "more": false, "unserved_shards": [] })
    );
    let nobody = "0/01a20480-5567-7b5f-89b8-fa73fbb9dc77:1@1.2";
    assert_eq!(world.ask(&["conflicts", "show", nobody]).status, 3);
    assert_eq!(
        world
            .ask(&["conflicts", "resolve", nobody, "--keep"])
            .status,
        3
    );
    assert_eq!(world.ask(&["conflicts", "resolve", nobody]).status, 2);
    assert_eq!(world.ask(&["conflicts", "show", "0/1@2"]).status, 2);

    world.json(
        0,
        &["session", "close", client["client_id"].as_str().unwrap()],
    );
    assert_eq!(
        world
            .ask(&["put", "k", "v", "--request-id", &id.replace(":1", ":2")])
            .status,
        6
    );
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

// capabilities P34, P35
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn transactions_imports_and_exports_read_and_write_lines() {
    let world = World::start(1).await;
    let lines = br#"{"if": "absent", "key": "{7}a"}
{"op": "put", "key": "{7}a", "value": "1"}
{"op": "add", "key": "{7}n", "delta": 5}
{"op": "append", "key": "{7}t", "value": "xy"}
{"op": "get", "key": "{7}a"}
"#;
    let done = world.ask_with(&["txn", "-o", "json"], lines);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let done: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(done["results"][1], json!({ "counter": 5 }));
    assert_eq!(done["results"][2], json!({ "length": 2 }));
    assert_eq!(done["results"][3]["object"]["value"], "1");
    assert_eq!(world.ask_with(&["txn"], lines).status, 4);
    let across = b"{\"op\": \"delete\", \"key\": \"a\"}\n{\"op\": \"delete\", \"key\": \"b\"}\n{\"op\": \"delete\", \"key\": \"c\"}\n{\"op\": \"delete\", \"key\": \"d\"}\n{\"op\": \"delete\", \"key\": \"e\"}\n";
    let refused = world.ask_with(&["txn"], across);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("CROSS_SHARD"), "{}", refused.stderr);
    let wrong_kind = world.ask_with(
        &["txn", "-o", "json"],
        b"{\"op\": \"append\", \"key\": \"{7}n\", \"value\": \"x\"}",
    );
    assert_eq!(wrong_kind.status, 1);
    assert!(wrong_kind.stdout.contains("wrong_kind"));

    // A wrong line costs only itself.
    let lines = br#"{"key": "i1", "value": "1"}
nonsense
{"key": "i2", "components": [{"name": "a", "value": {"hex": "ff"}}, {"name": "n", "value": {"counter": -4}}]}

{"key": "", "value": "x"}
{"op": "put", "key": "i1", "value": "2"}
"#;
    let client = world.json(0, &["session", "new"]);
    let id = format!("{}:1", client["client_id"].as_str().unwrap());
    let loaded = world.ask_with(&["import", "--request-id", &id, "-o", "json"], lines);
    assert_eq!(loaded.status, 1);
    let summary =
        json!({ "lines": 6, "loaded": 3, "duplicates": 0, "failed": 2, "go_on_at_line": null });
    assert_eq!(
        serde_json::from_str::<Value>(&loaded.stdout).unwrap(),
        summary
    );
    let told: Vec<&str> = loaded
        .stderr
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    assert_eq!(told, ["line 2", "line 5"], "{}", loaded.stderr);
    assert_eq!(
        world.ask(&["get", "i1"]).stdout,
        "2\n",
        "lines of one key keep their order"
    );
    let again = world.ask_with(&["import", "--request-id", &id, "-o", "json"], lines);
    assert_eq!(
        serde_json::from_str::<Value>(&again.stdout).unwrap()["duplicates"],
        3
    );

    // What export writes, import reads.
    let exported = world.ask(&["export"]);
    assert_eq!(exported.lines().len(), 5);
    world.json(
        0,
        &[
            "namespace",
            "create",
            "copy",
            "--shards",
            "2",
            "--copies",
            "1",
        ],
    );
    let loaded = world.ask_with(&["import", "-n", "copy"], exported.stdout.as_bytes());
    assert_eq!(loaded.status, 0, "{}", loaded.stderr);
    let values = |namespace: &str| -> Vec<Value> {
        let scanned = world.ask(&["scan", "-n", namespace, "-o", "json"]).lines();
        let without_pairs = scanned.iter().map(|object| {
            let components = object["components"].as_array().cloned().unwrap_or_default();
            let components: Vec<Value> = components
                .iter()
                .map(|c| json!([c["name"], c["value"]]))
                .collect();
            json!([object["key"], object["value"], components])
        });
        without_pairs.collect()
    };
    assert_eq!(values("default"), values("copy"));
    let keys = world.ask(&["scan", "i", "--keys-only"]).stdout;
    assert_eq!(keys, "KEY\ni1\ni2\n");
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

// capabilities A11, B01, B03, B12
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn the_cluster_is_shown_and_run() {
    let mut world = World::start(2).await;
    let status = world.json(0, &["cluster", "status"]);
    assert_eq!(
        keys(&status),
        names([
            "cluster_id",
            "revision",
            "leader",
            "managers",
            "nodes_up",
            "nodes_total",
            "namespaces",
            "shards_total",
            "shards_without_primary",
            "shards_short_of_copies",
            "open_cuts",
            "orphans"
        ])
    );
    assert_eq!(
        (&status["leader"], &status["nodes_total"]),
        (&json!(1), &json!(2))
    );
    let nodes = world.json(0, &["cluster", "nodes"]);
    assert_eq!(
        keys(&nodes["nodes"][0]),
        names([
            "id",
            "name",
            "state",
            "site",
            "store_id",
            "incarnation",
            "inside_address",
            "outside_address",
            "internal_address",
            "primaries",
            "secondaries",
            "joining",
            "orphans",
            "labels"
        ])
    );
    let shards = world.json(0, &["cluster", "shards"]);
    assert_eq!(shards["shards"].as_array().unwrap().len(), 4);
    assert_eq!(
        keys(&shards["shards"][0]),
        names([
            "namespace",
            "shard",
            "shard_id",
            "revision",
            "epoch",
            "primary",
            "secondaries",
            "joining",
            "open_cuts",
            "writers"
        ])
    );
    let managers = world.json(0, &["cluster", "managers", "list"]);
    assert_eq!(managers["managers"][0]["leader"], true);

    // A client that knows only a node finds the managers.
    let node = world.cluster.member("node-1").unwrap().endpoint();
    world.json(0, &["cluster", "status", "-e", &node]);

    // Namespaces.
    let made = world.json(
        0,
        &[
            "namespace",
            "create",
            "shop",
            "--shards",
            "2",
            "--copies",
            "2",
        ],
    );
    assert_eq!(
        keys(&made),
        names([
            "name",
            "id",
            "revision",
            "mode",
            "copies",
            "shards",
            "sites",
            "min_in_sync",
            "dedup_entries",
            "dedup_age_ms",
            "log_bytes",
            "log_age_ms",
            "cut_off",
            "primary_near_writers",
            "forward"
        ])
    );
    assert_eq!(
        world
            .ask(&["namespace", "create", "shop", "--shards", "3"])
            .status,
        1
    );
    assert_eq!(
        world.json(0, &["namespace", "alter", "shop", "--copies", "1"])["copies"],
        1
    );
    assert_eq!(
        world.json(0, &["namespace", "list"])["namespaces"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    world.json(0, &["namespace", "delete", "shop"]);
    let gone = world.ask(&["get", "a", "-n", "shop"]);
    assert_eq!(gone.status, 3);
    assert_eq!(gone.stderr.lines().count(), 1, "{}", gone.stderr);

    // Names.
    world.json(
        0,
        &["naming", "bind", "svc/a", "10.0.0.1:80", "10.0.0.2:80"],
    );
    let found = world.json(0, &["naming", "lookup", "svc/a"]);
    assert_eq!(
        keys(&found),
        names(["name", "endpoints", "lease_ms", "revision"])
    );
    assert_eq!(found["endpoints"], json!(["10.0.0.1:80", "10.0.0.2:80"]));
    assert_ne!(
        world
            .ask(&["naming", "bind", "svc/a", "x:1", "--if-absent"])
            .status,
        0
    );
    assert_eq!(
        world.json(0, &["naming", "list", "svc/"])["bindings"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world.json(0, &["naming", "unbind", "svc/a"]);
    assert_eq!(world.ask(&["naming", "lookup", "svc/a"]).status, 3);
    let sessions = world.json(0, &["session", "list"]);
    assert_eq!(
        keys(&sessions),
        names([
            "sessions",
            "total",
            "table_time_ms",
            "registration_floor_ms"
        ])
    );

    // A killed node is replaced, and a put goes on.
    world.json(0, &["put", "a", "1"]);
    world.cluster.kill("node-2").await.unwrap();
    world.json(0, &["put", "a", "2"]);
    for key in ["b", "c", "d", "e", "f"] {
        world.json(0, &["put", key, "2"]);
    }
    world.cluster.restart("node-2").unwrap();
    world
        .cluster
        .wait_member_ready("node-2", Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(world.ask(&["get", "a"]).stdout, "2\n");
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; `make live` runs it"]
async fn dev_starts_a_cluster_and_ends_it_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.args([
        "dev",
        "--port-base",
        "0",
        "--nodes",
        "2",
        "-o",
        "json",
        "--data-dir",
    ]);
    let mut dev = command
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let document = Value::deserialize(&mut serde_json::Deserializer::from_reader(
        dev.stdout.take().unwrap(),
    ))
    .unwrap();
    assert_eq!(
        keys(&document),
        names(["endpoints", "data_dir", "namespace", "members"])
    );
    let members = document["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(
        keys(&members[0]),
        names([
            "name", "site", "endpoint", "internal", "admin", "pid", "log"
        ])
    );
    let endpoint = document["endpoints"][0].as_str().unwrap();
    let put = Command::new(env!("CARGO_BIN_EXE_understudy"))
        .args(["put", "a", "1", "-e", endpoint])
        .output()
        .unwrap();
    assert!(
        put.status.success(),
        "{}",
        String::from_utf8_lossy(&put.stderr)
    );

    let pid = rustix::process::Pid::from_raw(dev.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(dev.wait().unwrap().code(), Some(0));
    for member in members {
        let pid = member["pid"].as_i64().unwrap();
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "{} is gone",
            member["name"]
        );
    }
    assert!(
        folder.path().join("node-1/CLUSTER").exists(),
        "a folder that was named is kept"
    );
}
