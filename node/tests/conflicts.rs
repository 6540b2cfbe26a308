//! Conflicts on real processes: a secondary that is down misses a write, its primary is killed, and on the new branch somebody else
//! writes the object. What comes back is a conflict; it is listed, shown and decided by command, once, and a retry of the decision is told
//! what was decided. Where a namespace wants it, what comes back is held for a person, or discarded, though nobody touched the object.
//!
//! Capabilities A21, B18.

mod real;

use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::{LocalCluster, MemberRole, http_get};
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::NamespacePolicy;
use understudy_proto::v1::namespace_policy::CutOff;

const NODES: u16 = 2;
const PATIENCE: Duration = Duration::from_secs(60);

struct Asked {
    status: i32,
    document: Value,
    stderr: String,
}

fn ask(cluster: &LocalCluster, args: &[&str]) -> Asked {
    ask_in(cluster, "orders", args)
}

/// Runs `understudy conflicts ...` on the namespace.
fn ask_in(cluster: &LocalCluster, namespace: &str, args: &[&str]) -> Asked {
    let out = Command::new(env!("CARGO_BIN_EXE_understudy"))
        .args(["conflicts"])
        .args(args)
        .args([
            "-n",
            namespace,
            "-o",
            "json",
            "--deadline-ms",
            "30000",
            "-e",
        ])
        .arg(cluster.endpoints().join(","))
        .output()
        .unwrap();
    Asked {
        status: out.status.code().unwrap(),
        document: serde_json::from_slice(&out.stdout).unwrap_or(Value::Null),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_conflict_is_listed_shown_and_decided_once() {
    let (mut cluster, _folder) = real::cluster(1, NODES, &[]).await;
    let client = with_namespaces(&cluster, &[("orders", CutOff::Unspecified)]).await;
    assert_eq!(
        ask(&cluster, &["list"]).document,
        json!({ "conflicts": [], "more": false, "unserved_shards": [] })
    );
    let orders = client.namespace("orders");
    let before = orders.put("x", "before").copies(1).await.unwrap();
    assert_eq!(before.copies_durable, 1);

    // The primary is alone with a write, and dies.
    let primary = name_of(&cluster, &client, before.primary.0).await;
    let other = other_node(&cluster, &primary);
    cluster.kill(&other).await.unwrap();
    let cut_off = orders.put("x", "cut off").await.unwrap();
    cluster.kill(&primary).await.unwrap();
    cluster.restart(&other).unwrap();
    cluster.wait_member_ready(&other, PATIENCE).await.unwrap();
    let second = client.new_session();
    let here = second.namespace("orders").put("x", "here").await.unwrap();
    assert!(here.pair.epoch > cut_off.pair.epoch);
    cluster.restart(&primary).unwrap();
    cluster.wait_member_ready(&primary, PATIENCE).await.unwrap();

    let id = format!("0/{}@{}", cut_off.request_id, cut_off.pair);
    let listed = until_listed(&cluster).await;
    assert_eq!(
        (&listed["id"], &listed["reason"], &listed["keys"]),
        (&json!(id), &json!("object-changed"), &json!(["x"]))
    );
    let shown = ask(&cluster, &["show", &id]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    let cut = &shown.document["cut_off"]["changes"][0]["components"][0];
    assert_eq!(
        (&cut["old"], &cut["new"]),
        (&json!("before"), &json!("cut off"))
    );
    assert_eq!(shown.document["here"][0]["object"]["value"], json!("here"));
    let state = shown.document["state"].as_str().unwrap().to_string();

    // Somebody writes the object after it was shown: nothing is decided.
    let later = second.namespace("orders").put("x", "later").await.unwrap();
    let resolve = |cluster: &LocalCluster, shown: &str, with: &[&str]| {
        let args: Vec<&str> = ["resolve", &id, "--shown", shown]
            .into_iter()
            .chain(with.iter().copied())
            .collect();
        ask(cluster, &args)
    };
    let refused = resolve(&cluster, &state, &["--take"]);
    assert_eq!(refused.status, 4, "{}", refused.stderr);
    assert_eq!(value(&orders).await, "later");
    let retried = orders.put("x", "cut off").request_id(cut_off.request_id);
    let retried = retried.await.unwrap();
    assert!(retried.duplicate && retried.conflict);

    // Decided for what was cut off, under an id of the decision's own.
    let decision = client.new_session().next_request_id().to_string();
    let state = format!("{},{}", state.split_once(',').unwrap().0, later.pair);
    let taken = resolve(&cluster, &state, &["--take", "--request-id", &decision]);
    assert_eq!(taken.status, 0, "{}", taken.stderr);
    assert_eq!(taken.document["duplicate"], json!(false));
    assert_eq!(value(&orders).await, "cut off");
    let again = resolve(&cluster, &state, &["--take", "--request-id", &decision]);
    assert_eq!(again.status, 0, "{}", again.stderr);
    assert_eq!(
        (&again.document["duplicate"], &again.document["pair"]),
        (&json!(true), &taken.document["pair"])
    );
    assert_eq!(resolve(&cluster, &state, &["--keep"]).status, 3);
    let other_id = later.request_id.to_string();
    let other_request = resolve(&cluster, &state, &["--keep", "--request-id", &other_id]);
    assert_eq!(other_request.status, 3, "{}", other_request.stderr);
    assert!(
        other_request.stderr.contains("did something else"),
        "{}",
        other_request.stderr
    );
    assert_eq!(ask(&cluster, &["show", &id]).status, 3);
    assert_eq!(ask(&cluster, &["list"]).document["conflicts"], json!([]));
    let retried = orders.put("x", "cut off").request_id(cut_off.request_id);
    let retried = retried.await.unwrap();
    assert!(retried.duplicate && !retried.conflict);

    // The next primary knows the same.
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    cluster.kill(&other).await.unwrap();
    let again = resolve(&cluster, &state, &["--take", "--request-id", &decision]);
    assert_eq!(again.document["duplicate"], json!(true), "{}", again.stderr);
    assert_eq!(value(&orders).await, "cut off");
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn what_was_cut_off_is_held_or_discarded_where_the_namespace_wants_that() {
    let (mut cluster, _folder) = real::cluster(1, NODES, &[]).await;
    let policies = [
        ("applied", CutOff::ReapplyIfUnchanged),
        ("held", CutOff::Hold),
        ("discarded", CutOff::Discard),
    ];
    let client = with_namespaces(&cluster, &policies).await;
    let spaces = policies.map(|(name, _)| client.namespace(name));
    let first = spaces[0].put("x", "before").copies(1).await.unwrap();
    let primary = name_of(&cluster, &client, first.primary.0).await;
    let other = other_node(&cluster, &primary);
    for (name, _) in policies {
        let cluster = client.cluster();
        // The first one is there already.
        let _ = cluster.transfer(name, 0, Some(first.primary.0)).await;
    }
    for space in &spaces {
        let before = space.put("x", "before").copies(1).await.unwrap();
        assert_eq!((before.primary, before.copies_durable), (first.primary, 1));
    }

    // The primary of all is alone with one write to each, and dies; nobody else writes x.
    cluster.kill(&other).await.unwrap();
    let mut cut_off = Vec::new();
    for space in &spaces {
        cut_off.push(space.put("x", "cut off").await.unwrap());
    }
    cluster.kill(&primary).await.unwrap();
    cluster.restart(&other).unwrap();
    cluster.wait_member_ready(&other, PATIENCE).await.unwrap();
    for space in &spaces {
        space.put("y", "here").await.unwrap();
    }
    cluster.restart(&primary).unwrap();
    cluster.wait_member_ready(&primary, PATIENCE).await.unwrap();
    let judged = ["applied", "conflicts", "discarded"];
    until_judged(&cluster, &other, &judged).await;

    let mut values = Vec::new();
    for (space, cut_off) in spaces.iter().zip(&cut_off) {
        let retried = space.put("x", "cut off").request_id(cut_off.request_id);
        let retried = retried.await.unwrap();
        assert!(retried.duplicate, "nothing runs again: {retried:?}");
        values.push(value(space).await);
    }
    assert_eq!(values, ["cut off", "before", "before"]);
    let held = ask_in(&cluster, "held", &["list"]).document;
    let id = format!("0/{}@{}", cut_off[1].request_id, cut_off[1].pair);
    assert_eq!(held["conflicts"][0]["id"], json!(id), "{held}");
    assert_eq!(held["conflicts"].as_array().unwrap().len(), 1);
    for name in ["applied", "discarded"] {
        let none = ask_in(&cluster, name, &["list"]).document;
        assert_eq!(none["conflicts"], json!([]));
    }
    assert_eq!(cluster.stop().await, Vec::<String>::new());
}

/// Of one shard each, whole.
async fn with_namespaces(cluster: &LocalCluster, names: &[(&str, CutOff)]) -> Client {
    let settings = Settings {
        deadline: PATIENCE,
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings)
        .await
        .unwrap();
    for (name, cut_off) in names {
        let policy = NamespacePolicy {
            shards: 1,
            copies: u32::from(NODES),
            cut_off: (*cut_off).into(),
            ..NamespacePolicy::default()
        };
        let made = client.cluster().create_namespace(name, policy, false).await;
        made.unwrap();
    }
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    client
}

fn other_node(cluster: &LocalCluster, than: &str) -> String {
    let mut members = cluster.members().iter();
    let other = members.find(|m| m.role == MemberRole::Node && m.name != than);
    other.unwrap().name.clone()
}

/// Until the node counted one of each.
async fn until_judged(cluster: &LocalCluster, node: &str, each: &[&str]) {
    let began = Instant::now();
    loop {
        let admin = cluster.member(node).unwrap().ports.admin;
        let (_, text) = http_get(admin, "/metrics").await.unwrap();
        let one = |what: &&str| {
            let line = format!("understudy_orphans_{what}_total 1");
            text.lines().any(|found| found == line)
        };
        if each.iter().all(one) {
            return;
        }
        let found: Vec<&str> = text.lines().filter(|l| l.contains("orphans_")).collect();
        assert!(began.elapsed() < PATIENCE, "{found:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn value(orders: &understudy_client::Namespace) -> String {
    let object = orders.get("x").await.unwrap().unwrap();
    String::from_utf8(object.value().unwrap().to_vec()).unwrap()
}

/// The process of a node.
async fn name_of(cluster: &LocalCluster, client: &Client, node: u64) -> String {
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let info = nodes.into_iter().find(|info| info.node == node).unwrap();
    let port = info
        .internal_address
        .rsplit_once(':')
        .unwrap()
        .1
        .to_string();
    let mut members = cluster.members().iter();
    let member = members.find(|member| member.ports.internal.to_string() == port);
    member.unwrap().name.clone()
}

async fn until_listed(cluster: &LocalCluster) -> Value {
    let began = Instant::now();
    loop {
        let asked = ask(cluster, &["list"]);
        if let Some(first) = asked.document["conflicts"].get(0) {
            return first.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{}", asked.stderr);
        sleep(Duration::from_millis(100)).await;
    }
}
