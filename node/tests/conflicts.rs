//! A conflict on real processes: a secondary that is down misses a write, its primary is killed, and on the new branch somebody else
//! writes the object. What comes back is a conflict; it is listed, shown and decided by command, once, and a retry of the decision is told
//! what was decided.
//!
//! Capabilities A21, B18.

mod real;

use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::{LocalCluster, MemberRole};
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::NamespacePolicy;

const NODES: u16 = 2;
const PATIENCE: Duration = Duration::from_secs(60);

struct Asked {
    status: i32,
    document: Value,
    stderr: String,
}

/// Runs `understudy conflicts ...` on the namespace.
fn ask(cluster: &LocalCluster, args: &[&str]) -> Asked {
    let out = Command::new(env!("CARGO_BIN_EXE_understudy"))
        .args(["conflicts"])
        .args(args)
        .args(["-n", "orders", "-o", "json", "--deadline-ms", "30000", "-e"])
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
    let settings = Settings {
        deadline: PATIENCE,
        ..Settings::default()
    };
    let client = Client::connect_with(cluster.endpoints(), settings)
        .await
        .unwrap();
    let policy = NamespacePolicy {
        shards: 1,
        copies: u32::from(NODES),
        ..NamespacePolicy::default()
    };
    client
        .cluster()
        .create_namespace("orders", policy, false)
        .await
        .unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    assert_eq!(
        ask(&cluster, &["list"]).document,
        json!({ "conflicts": [], "more": false, "unserved_shards": [] })
    );
    let orders = client.namespace("orders");
    let before = orders.put("x", "before").copies(1).await.unwrap();
    assert_eq!(before.copies_durable, 1);

    // The primary is alone with a write, and dies.
    let primary = name_of(&cluster, &client, before.primary.0).await;
    let other = cluster
        .members()
        .iter()
        .find(|member| member.role == MemberRole::Node && member.name != primary)
        .unwrap()
        .name
        .clone();
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
