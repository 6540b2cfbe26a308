//! The agent of a machine with real processes: what is killed comes back and its lease is not waited for, the agent and its
//! processes outlive each other, people's wishes hold, and a manager has what is silent restarted.
// capabilities A02, A03, A07

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::{Client, Settings};
use understudy_node::cli::cluster_processes::{LocalCluster, Shape};
use understudy_node::cli::faults::wait_whole;
use understudy_proto::v1::agent_process::State;
use understudy_proto::v1::{AgentProcess, NamespacePolicy};

const NODES: u16 = 3;
const NAMESPACE: &str = "things";
const PATIENCE: Duration = Duration::from_secs(90);

struct World {
    cluster: LocalCluster,
    client: Client,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(manager_flags: &[&str]) -> World {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape {
            port_base: 0,
            executable: Some(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))),
            manager_flags: manager_flags.iter().map(ToString::to_string).collect(),
            agent: true,
            ..Shape::new(3, NODES, folder.path())
        };
        let mut cluster = LocalCluster::start(&shape).unwrap();
        cluster.wait_ready(PATIENCE).await.unwrap();
        let settings = Settings {
            deadline: PATIENCE,
            ..Settings::default()
        };
        let client = Client::connect_with(cluster.endpoints(), settings)
            .await
            .unwrap();
        let policy = NamespacePolicy {
            copies: u32::from(NODES),
            shards: 4,
            ..NamespacePolicy::default()
        };
        client
            .cluster()
            .create_namespace(NAMESPACE, policy, true)
            .await
            .unwrap();
        let mut world = World {
            cluster,
            client,
            _folder: folder,
        };
        world.whole().await;
        world
    }

    async fn whole(&mut self) {
        wait_whole(&self.client, u32::from(NODES), PATIENCE)
            .await
            .unwrap();
    }

    async fn processes(&mut self) -> BTreeMap<String, AgentProcess> {
        let agent = self.cluster.agent().unwrap();
        let began = Instant::now();
        loop {
            match agent.processes().await {
                Ok(all) => return all.into_iter().map(|p| (p.name.clone(), p)).collect(),
                Err(error) if began.elapsed() > PATIENCE => panic!("no agent: {error}"),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until the process is so.
    async fn until(&mut self, name: &str, so: impl Fn(&AgentProcess) -> bool) -> AgentProcess {
        let began = Instant::now();
        loop {
            let process = self.processes().await.remove(name).unwrap();
            if so(&process) {
                return process;
            }
            assert!(began.elapsed() < PATIENCE, "{process:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn pids(&mut self) -> BTreeMap<String, u32> {
        let all = self.processes().await.into_iter();
        all.map(|(name, process)| (name, process.pid)).collect()
    }

    /// The node that is the primary of most shards, and the time until all of them took a write after it was killed.
    async fn kill_busiest(&mut self) -> (String, Duration) {
        let shards = self
            .client
            .cluster()
            .shards(Some(NAMESPACE))
            .await
            .unwrap()
            .shards;
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        shards
            .iter()
            .for_each(|s| *counts.entry(s.primary).or_default() += 1);
        let (busiest, _) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap();
        let nodes = self.client.cluster().nodes().await.unwrap().nodes;
        let name = nodes.into_iter().find(|n| n.node == busiest).unwrap().name;
        self.cluster.kill(&name).await.unwrap();
        let began = Instant::now();
        for key in 0..16 {
            let namespace = self.client.namespace(NAMESPACE);
            namespace
                .put(format!("key-{key}"), "x")
                .deadline(PATIENCE)
                .await
                .unwrap();
        }
        (name, began.elapsed())
    }

    /// The agent dies without a word, and another one starts on its folder.
    async fn replace_agent(&mut self) {
        self.cluster.agent().unwrap().kill().await.unwrap();
        self.cluster.agent().unwrap().start().unwrap();
        self.processes().await;
    }

    fn verb(&mut self, verb: &[&str]) -> Output {
        let address = self.cluster.agent().unwrap().address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        command.arg("agent").args(verb).args(["--agent", &address]);
        command.output().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn what_is_killed_comes_back_at_once_and_agent_and_processes_outlive_each_other() {
    // Whoever waited for this lease would fail the test.
    let lease = Duration::from_secs(30);
    let mut world = World::start(&["--founding-lease-ms=30000"]).await;
    let first = world.pids().await;
    let (killed, took) = world.kill_busiest().await;
    assert!(took < lease / 2, "{took:?}: the lease was waited for");
    let back = world.until(&killed, |p| p.state() == State::Running).await;
    assert!(back.pid != first[&killed] && back.starts == 2, "{back:?}");
    assert!(back.last_end.contains("signal: 9"), "{back:?}");
    world.whole().await;

    let before = world.pids().await;
    world.replace_agent().await;
    assert_eq!(
        world.pids().await,
        before,
        "none was ended, none started again"
    );
    assert!(world.processes().await.values().all(|p| p.starts == 0));
    let (killed, took) = world.kill_busiest().await;
    assert!(took < lease / 2, "{took:?}: the new agent vouches for it");
    world
        .until(&killed, |p| p.starts == 1 && p.state() == State::Running)
        .await;
    world.whole().await;

    // A wish of a person holds, also with another agent.
    assert!(world.verb(&["stop", "node-2"]).status.success());
    world.replace_agent().await;
    let stopped = world.processes().await.remove("node-2").unwrap();
    assert_eq!((stopped.state(), stopped.pid), (State::Stopped, 0));
    let shown = world.verb(&["list"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("node-2  stopped"), "{shown}");
    assert_eq!(world.verb(&["start", "node-9"]).status.code(), Some(3));
    assert!(world.verb(&["start", "node-2"]).status.success());
    assert!(world.verb(&["restart", "node-1"]).status.success());
    world.whole().await;
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

// capability B13: nobody reports that a process stands still; only its heartbeats fail to come
#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_manager_has_the_agent_restart_a_process_that_hangs() {
    let mut world = World::start(&[]).await;
    let hung = world.pids().await["node-3"];
    let pid = Pid::from_raw(hung.cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let back = world
        .until("node-3", |p| p.state() == State::Running && p.pid != hung)
        .await;
    assert!(back.last_end.contains("signal: 9"), "{back:?}");
    world.whole().await;
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

#[test]
fn a_wrong_config_is_told_line_by_line_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let data = folder.path().join("data");
    let text = format!(
        "data_dir = {data:?}\nmanagers = [\"a\"]\n[processes]\nn1 = \"understudy 'node\"\n\"../n2\" = \"x\"\n[listen]\ninternal = \"0.0.0.0:1\"\n"
    );
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        let output = command
            .args(["agent", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let (status, told) = run(&text);
    assert_eq!(status, Some(2), "{told}");
    for part in [
        "managers: 'a' is no address, write host:port",
        "processes.n1: has a ' that is not closed",
        "processes.../n2: a name has letters",
        "listen.internal: 0.0.0.0:1 is not loopback",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let (status, told) = run("dat_dir = \"x\"\n");
    assert_eq!(status, Some(2));
    assert!(told.contains("the nearest is 'data_dir'"), "{told}");
    assert!(!data.exists());
}
