//! A forced promotion on real processes: all but a copy that was left behind are killed, what it lacks is shown by request id, a
//! person makes it primary, and when the others come back every acknowledged write is there again or is a conflict.

mod asked;

use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::{LocalCluster, Shape};
use understudy_node::cli::faults::wait_whole;
use understudy_proto::RequestId;
use understudy_proto::v1::NamespacePolicy;
use understudy_proto::v1::namespace_policy::Mode;

const NODES: u16 = 3;
const NAMESPACE: &str = "bookings";
const PATIENCE: Duration = Duration::from_secs(90);
/// Long enough for a look at what a copy lacks before the next one is promoted by itself.
const LEASE_MS: u64 = 8_000;
/// Written while one copy hears nothing.
const MISSED: usize = 40;

struct World {
    cluster: LocalCluster,
    client: Client,
    _folder: tempfile::TempDir,
}

/// The nodes of the shard's copies.
struct Roles {
    primary: u64,
    other: u64,
    left: u64,
}

impl World {
    async fn start(mode: Mode) -> World {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape {
            port_base: 0,
            manager_flags: vec![format!("--founding-lease-ms={LEASE_MS}")],
            executable: Some(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))),
            ..Shape::new(1, NODES, folder.path())
        };
        let mut cluster = LocalCluster::start(&shape).unwrap();
        cluster.wait_ready(PATIENCE).await.unwrap();
        let settings = Settings {
            deadline: Duration::from_secs(30),
            ..Settings::default()
        };
        let client = Client::connect_with(cluster.endpoints(), settings);
        let client = client.await.unwrap();
        let policy = NamespacePolicy {
            shards: 1,
            copies: u32::from(NODES),
            mode: mode.into(),
            min_in_sync: u32::from(mode == Mode::InSync),
            ..NamespacePolicy::default()
        };
        let managers = client.cluster();
        let made = managers.create_namespace(NAMESPACE, policy, false).await;
        made.unwrap();
        wait_whole(&client, u32::from(NODES), PATIENCE)
            .await
            .unwrap();
        World {
            cluster,
            client,
            _folder: folder,
        }
    }

    async fn roles(&self) -> Roles {
        let shards = self.client.cluster().shards(Some(NAMESPACE)).await.unwrap();
        let shard = &shards.shards[0];
        Roles {
            primary: shard.primary,
            other: shard.secondaries[0],
            left: shard.secondaries[1],
        }
    }

    async fn name(&self, node: u64) -> String {
        let nodes = self.client.cluster().nodes().await.unwrap().nodes;
        let found = nodes.into_iter().find(|row| row.node == node);
        found.expect("the node is known").name
    }

    async fn incarnation(&self, node: u64) -> u64 {
        let nodes = self.client.cluster().nodes().await.unwrap().nodes;
        nodes
            .iter()
            .find(|row| row.node == node)
            .unwrap()
            .incarnation
    }

    async fn when_state(&self, node: u64, state: &str) {
        let began = Instant::now();
        loop {
            let nodes = self.client.cluster().nodes().await.unwrap().nodes;
            if nodes
                .iter()
                .any(|row| row.node == node && row.state == state)
            {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "node {node} becomes {state}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn put(&self, key: &str, value: &str) -> RequestId {
        let namespace = self.client.namespace(NAMESPACE);
        let put = namespace.put(key.to_string(), value.to_string());
        put.send().await.unwrap().request_id
    }

    async fn value(&self, key: &str) -> Option<String> {
        let namespace = self.client.namespace(NAMESPACE);
        let found = namespace.get(key.to_string()).await.unwrap();
        let value = found.as_ref().and_then(|object| object.value().cloned());
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// The command line, as a person uses it.
    fn promote(&self, left: u64, more: &[&str]) -> asked::Ended {
        let (endpoints, to) = (self.cluster.endpoints().join(","), left.to_string());
        let mut args = vec!["cluster", "promote", "0", "--force", "--to", &to];
        args.extend(["-n", NAMESPACE, "-o", "json"]);
        args.extend(more);
        asked::ask(&endpoints, &args, b"")
    }

    fn shown(&self, left: u64, more: &[&str]) -> Value {
        let ended = self.promote(left, more);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    }

    async fn nothing_is_open(&self) {
        let began = Instant::now();
        loop {
            let status = self.client.cluster().status().await.unwrap();
            if status.open_cuts == 0 && status.orphans == Some(0) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{status:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn key(number: usize) -> String {
    format!("seat/{number}")
}

async fn forced_promotion(mode: Mode) {
    let mut world = World::start(mode).await;
    let roles = world.roles().await;
    let (primary, other, left) = (
        world.name(roles.primary).await,
        world.name(roles.other).await,
        world.name(roles.left).await,
    );
    world.put("before", "all").await;
    // Two copies go on without the third: it leaves the in-sync set and the witnesses.
    sleep(Duration::from_secs(1)).await;
    world.cluster.kill(&left).await.unwrap();
    let mut missed = Vec::new();
    for number in 0..MISSED {
        missed.push(world.put(&key(number), "first").await);
    }
    sleep(Duration::from_secs(3)).await;
    missed.push(world.put(&key(MISSED), "first").await);
    let incarnation = world.incarnation(roles.primary).await;
    world.cluster.kill(&primary).await.unwrap();
    world.cluster.restart(&left).unwrap();
    let ready = world.cluster.wait_member_ready(&left, PATIENCE).await;
    ready.unwrap();
    world.when_state(roles.left, "up").await;

    // The other one is there still, and all that the copy lacks is listed by request id.
    let shown = world.shown(roles.left, &["--first", "1000"]);
    let listed = shown["lacking"].as_array().unwrap().iter();
    let listed: Vec<&str> = listed
        .map(|one| one["request_id"].as_str().unwrap())
        .collect();
    for id in &missed {
        assert!(
            listed.contains(&id.to_string().as_str()),
            "{id} in {shown:#}"
        );
    }
    assert_eq!(shown["unknown"], serde_json::json!([roles.primary]));
    let page = world.shown(roles.left, &["--first", "5"]);
    assert_eq!(
        (page["lacking"].as_array().unwrap().len(), &page["more"]),
        (5, &Value::Bool(true))
    );
    let last = &page["lacking"][4]["pair"];
    let after = format!("{}.{}", last["epoch"], last["version"]);
    let next = world.shown(roles.left, &["--first", "5", "--after", &after]);
    assert_ne!(next["lacking"][0]["pair"], page["lacking"][0]["pair"]);
    let before = shown["state"].as_str().unwrap().to_string();

    world.cluster.kill(&other).await.unwrap();
    world.when_state(roles.primary, "down").await;
    world.when_state(roles.other, "down").await;
    let stale = world.promote(roles.left, &["--lose-from", &before]);
    assert_ne!(stale.status, 0, "the other copy answered then");
    assert!(stale.stderr.contains("look again"), "{}", stale.stderr);

    // Nobody knows that the old primary's leases are over, until a person says so.
    let shown = world.shown(roles.left, &[]);
    assert_eq!(shown["unknown"].as_array().unwrap().len(), 2, "{shown:#}");
    let state = shown["state"].as_str().unwrap();
    let waits = world.shown(roles.left, &["--lose-from", state]);
    assert_eq!(waits["promoted"], false, "{waits:#}");
    let why = waits["waits_for"].to_string();
    assert!(why.contains("one of the witnesses"), "{why}");
    let shown = world.shown(roles.left, &[]);
    let state = shown["state"].as_str().unwrap();
    let wrong = format!("{}@{}", roles.primary, incarnation + 1);
    let refused = ["--lose-from", state, "--old-primary-stopped", &wrong];
    assert_ne!(world.promote(roles.left, &refused).status, 0);
    let stopped = format!("{}@{incarnation}", roles.primary);
    let done = ["--lose-from", state, "--old-primary-stopped", &stopped];
    let done = world.shown(roles.left, &done);
    assert_eq!(
        (&done["promoted"], &done["primary"]),
        (&Value::Bool(true), &roles.left.into()),
        "{done:#}"
    );

    // It serves, without what it lacks. One of those keys is written anew.
    assert_eq!(world.value("before").await.as_deref(), Some("all"));
    assert_eq!(world.value(&key(0)).await, None);
    world.put(&key(1), "second").await;
    let shards = world
        .client
        .cluster()
        .shards(Some(NAMESPACE))
        .await
        .unwrap();
    assert_eq!(shards.shards[0].open_cuts[0].nodes.len(), 2);

    for name in [&primary, &other] {
        world.cluster.restart(name).unwrap();
        world
            .cluster
            .wait_member_ready(name, PATIENCE)
            .await
            .unwrap();
    }
    wait_whole(&world.client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    world.nothing_is_open().await;
    let mut conflicts = 0;
    for (number, id) in missed.iter().enumerate() {
        let again = world
            .client
            .namespace(NAMESPACE)
            .put(key(number), "first".to_string());
        let again = again.request_id(*id).send().await.unwrap();
        assert!(again.duplicate, "{number}: its outcome came back");
        let value = world.value(&key(number)).await;
        match again.conflict {
            true => conflicts += 1,
            false => assert_eq!(value.as_deref(), Some("first"), "{number}"),
        }
    }
    assert_eq!(conflicts, 1, "the key that was written anew");
    assert_eq!(world.value(&key(1)).await.as_deref(), Some("second"));
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn what_an_in_sync_copy_lacked_comes_back() {
    forced_promotion(Mode::InSync).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn what_a_lazy_copy_lacked_comes_back() {
    forced_promotion(Mode::Lazy).await;
}
