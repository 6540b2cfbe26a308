//! Groups of managers in one process, over loopback: elections, crashes, snapshots, changes of members, reads.

use super::{LIMIT, bind, copy_folder};
use crate::manager::{
    Group, GroupConfig, MANAGER_BINDINGS, ManagerNode, RaftServer, RaftSettings, dial_plain,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use understudy_proto::failure::Reason;
use understudy_proto::v1::raft_server::RaftServer as RaftService;
use understudy_protocol::tables::Answer;

/// A manager with its server on a loopback port.
struct Running {
    group: Group,
    shut: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Running {
    async fn start(config: GroupConfig, listener: TcpListener) -> Running {
        let group = Group::start(config).await.unwrap();
        let service = RaftService::new(RaftServer::new(group.clone()));
        let (shut, until_shut) = oneshot::channel::<()>();
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
                drop(until_shut.await)
            });
        let served = tokio::spawn(async move { serving.await.unwrap() });
        Running {
            group,
            shut,
            served,
        }
    }

    /// Nothing is handed over and nobody is told.
    async fn kill(self) {
        self.group.stop(LIMIT).await;
        drop(self.shut);
        drop(self.group);
        let _ = tokio::time::timeout(LIMIT, self.served).await;
    }
}

/// Managers 1 to n with their folders and addresses; those that run are in `running`.
struct Cluster {
    folders: BTreeMap<u64, Arc<TempDir>>,
    initial: BTreeMap<u64, ManagerNode>,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Running>,
    raft: RaftSettings,
}

impl Cluster {
    async fn start(size: u64) -> Cluster {
        Cluster::start_with(size, RaftSettings::default()).await
    }

    async fn start_with(size: u64, raft: RaftSettings) -> Cluster {
        let mut cluster = Cluster {
            folders: BTreeMap::new(),
            initial: BTreeMap::new(),
            addresses: BTreeMap::new(),
            running: BTreeMap::new(),
            raft,
        };
        let mut listeners = Vec::new();
        for id in 1..=size {
            let listener = cluster.prepare(id).await;
            let node = cluster.node(id);
            cluster.initial.insert(id, node);
            listeners.push((id, listener));
        }
        for (id, listener) in listeners {
            cluster.run(id, listener).await;
        }
        cluster
    }

    /// A folder and a port for one more manager.
    async fn prepare(&mut self, id: u64) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.addresses
            .insert(id, listener.local_addr().unwrap().to_string());
        self.folders
            .insert(id, Arc::new(tempfile::tempdir().unwrap()));
        listener
    }

    fn node(&self, id: u64) -> ManagerNode {
        ManagerNode {
            internal_address: self.addresses[&id].clone(),
            public_address: format!("public-{id}:7420"),
        }
    }

    fn config(&self, id: u64, folder: &Path) -> GroupConfig {
        let member = self.initial.contains_key(&id);
        GroupConfig {
            id,
            folder: folder.to_path_buf(),
            initial_managers: if member {
                self.initial.clone()
            } else {
                BTreeMap::new()
            },
            raft: self.raft.clone(),
            dial: dial_plain(),
        }
    }

    async fn run(&mut self, id: u64, listener: TcpListener) {
        let config = self.config(id, self.folders[&id].path());
        self.running
            .insert(id, Running::start(config, listener).await);
    }

    async fn restart(&mut self, id: u64) {
        let listener = TcpListener::bind(&self.addresses[&id]).await.unwrap();
        self.run(id, listener).await;
    }

    async fn kill(&mut self, id: u64) {
        self.running.remove(&id).unwrap().kill().await;
    }

    fn group(&self, id: u64) -> &Group {
        &self.running[&id].group
    }

    /// The manager that leads and that a quorum acknowledges.
    async fn leader(&self) -> u64 {
        let start = Instant::now();
        loop {
            for (id, running) in &self.running {
                if running.group.acknowledged().await.is_some() {
                    return *id;
                }
            }
            assert!(start.elapsed() < LIMIT, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn other_than(&self, id: u64) -> u64 {
        *self.running.keys().find(|other| **other != id).unwrap()
    }

    async fn put(&self, at: u64, sequence: u64) {
        let name = format!("n{sequence}");
        let answer = self
            .group(at)
            .propose(bind(sequence, &name, "e"), LIMIT)
            .await
            .unwrap();
        assert!(matches!(answer, Ok(Answer::Done { .. })), "{answer:?}");
    }

    async fn has(&self, at: u64, sequence: u64) -> bool {
        let view = self.group(at).read(LIMIT).await.unwrap();
        view.look(|tables| tables.binding(&format!("n{sequence}")).is_some())
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_voter_leads_and_restarts_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start(1).await;
    cluster.put(1, 1).await;
    assert!(cluster.has(1, 1).await);
    let first = cluster.group(1).acknowledged().await.unwrap();
    cluster.kill(1).await;
    cluster.restart(1).await;
    assert!(cluster.has(1, 1).await);
    assert_eq!(cluster.leader().await, 1);
    assert!(
        cluster.group(1).acknowledged().await.unwrap() > first,
        "a new start, a new term"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_loses_nothing_acknowledged() {
    let cluster = Cluster::start(1).await;
    let mut copies = Vec::new();
    for sequence in 1..=60 {
        cluster.put(1, sequence).await;
        if sequence % 12 == 0 {
            let group = cluster.group(1).clone();
            let more = tokio::spawn(async move {
                for later in 0..20 {
                    let id = 1_000 * sequence + later;
                    group
                        .propose(bind(id, "later", &format!("{id}")), LIMIT)
                        .await
                        .unwrap()
                        .unwrap();
                }
            });
            let copy = tempfile::tempdir().unwrap();
            copy_folder(cluster.folders[&1].path(), copy.path());
            copies.push((sequence, copy));
            more.await.unwrap();
        }
    }
    for (sequence, copy) in copies {
        let group = Group::start(cluster.config(1, copy.path())).await.unwrap();
        let view = group.read(LIMIT).await.unwrap();
        let all =
            view.look(|tables| (1..=sequence).all(|n| tables.binding(&format!("n{n}")).is_some()));
        assert!(all, "the copy made after {sequence}");
        group.stop(LIMIT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_managers_go_on_without_their_leader_and_take_it_back() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.put(cluster.other_than(leader), 1).await;
    cluster.kill(leader).await;
    let second = cluster.leader().await;
    assert_ne!(second, leader);
    cluster.put(second, 2).await;
    cluster.restart(leader).await;
    assert!(cluster.has(leader, 1).await && cluster.has(leader, 2).await);
    let recovered = cluster.group(leader).recovered();
    until("the tables are recovered", || *recovered.borrow()).await;
    assert!(cluster.group(leader).stale().is_ok());
    let pre_votes = |id: &u64| cluster.group(*id).calls().pre_vote.load(Ordering::Relaxed);
    assert!(
        cluster.running.keys().map(pre_votes).sum::<u64>() > 0,
        "Pre-Vote is on"
    );
}

/// What its log holds may be committed or not: alone it cannot know, and so answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_the_tables_are_recovered() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.put(leader, 1).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for other in &others {
        cluster.kill(*other).await;
    }
    let limit = Duration::from_millis(100);
    let alone = cluster.group(leader).propose(bind(2, "n2", "e"), limit);
    assert!(alone.await.is_err(), "no quorum");
    cluster.kill(leader).await;

    cluster.restart(leader).await;
    for _ in 0..20 {
        let refused = cluster.group(leader).stale().map(drop).unwrap_err();
        assert_eq!(refused.reason, Reason::Starting);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for other in others {
        cluster.restart(other).await;
    }
    let recovered = cluster.group(leader).recovered();
    until("the tables are recovered", || *recovered.borrow()).await;
    let view = cluster.group(leader).stale().unwrap();
    assert!(view.look(|tables| tables.binding("n1").is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_acknowledges_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for id in [1, 2, 3] {
        if id != leader {
            cluster.kill(id).await;
        }
    }
    let alone = cluster.group(leader).clone();
    let start = Instant::now();
    while alone.acknowledged().await.is_some() {
        assert!(
            start.elapsed() < LIMIT,
            "a leader without a quorum may grant nothing"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let read = alone.read(Duration::from_millis(500)).await;
    assert_eq!(
        read.err().map(|failure| failure.reason),
        Some(Reason::NoManager)
    );
    let written = alone
        .propose(bind(1, "a", "e"), Duration::from_millis(500))
        .await;
    assert_eq!(
        written.err().map(|failure| failure.reason),
        Some(Reason::NoManager)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_reads_what_was_just_acknowledged() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for sequence in 1..=50 {
        cluster.put(leader, sequence).await;
        for id in [1, 2, 3] {
            assert!(cluster.has(id, sequence).await, "{sequence} at {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_once_whoever_is_asked_again() {
    let cluster = Cluster::start(3).await;
    let envelope = bind(1, "a", "e");
    let first = cluster
        .group(1)
        .propose(envelope.clone(), LIMIT)
        .await
        .unwrap();
    let revision = cluster
        .group(1)
        .read(LIMIT)
        .await
        .unwrap()
        .look(|tables| tables.revision());
    for id in [1, 2, 3] {
        assert_eq!(
            cluster
                .group(id)
                .propose(envelope.clone(), LIMIT)
                .await
                .unwrap(),
            first
        );
    }
    let after = cluster
        .group(2)
        .read(LIMIT)
        .await
        .unwrap()
        .look(|tables| tables.revision());
    assert_eq!(after, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_far_behind_gets_a_snapshot() {
    let raft = RaftSettings {
        snapshot_every: 40,
        log_kept: 5,
        ..RaftSettings::default()
    };
    let mut cluster = Cluster::start_with(3, raft).await;
    let leader = cluster.leader().await;
    let behind = cluster.other_than(leader);
    cluster.put(leader, 1).await;
    cluster.kill(behind).await;
    for sequence in 2..=200 {
        cluster.put(leader, sequence).await;
    }
    cluster.restart(behind).await;
    assert!(cluster.has(behind, 200).await && cluster.has(behind, 2).await);
    assert!(
        cluster
            .group(behind)
            .calls()
            .snapshot
            .load(Ordering::Relaxed)
            > 0
    );

    cluster.kill(behind).await;
    cluster.restart(behind).await;
    assert!(
        cluster.has(behind, 2).await,
        "from its own snapshot and log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_are_added_and_removed_and_an_id_is_never_used_again() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.put(leader, 1).await;
    let listener = cluster.prepare(4).await;
    cluster.run(4, listener).await;
    let node = cluster.node(4);
    let asked = cluster.other_than(leader);
    cluster
        .group(asked)
        .add_manager(4, node.clone(), LIMIT)
        .await
        .unwrap();
    cluster
        .group(asked)
        .add_manager(4, node.clone(), LIMIT)
        .await
        .unwrap();
    assert!(cluster.has(4, 1).await);

    let leader = cluster.leader().await;
    let name = format!("{MANAGER_BINDINGS}{leader}");
    let announced = bind(9, &name, "127.0.0.1:7420");
    let bound = cluster.group(leader).propose(announced, LIMIT).await;
    bound.unwrap().unwrap();
    cluster
        .group(4)
        .remove_manager(leader, LIMIT)
        .await
        .unwrap();
    cluster.kill(leader).await;
    let second = cluster.leader().await;
    cluster.put(second, 2).await;
    let left: Vec<u64> = cluster
        .group(second)
        .managers()
        .into_iter()
        .map(|manager| manager.id)
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&leader));
    let view = cluster.group(second).read(LIMIT).await.unwrap();
    assert!(view.look(|tables| tables.binding(&name).is_none()));
    let again = cluster
        .group(second)
        .add_manager(leader, cluster.node(leader), LIMIT)
        .await;
    assert_eq!(
        again.map_err(|failure| failure.reason),
        Err(Reason::NotAllowed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_hands_leadership_over() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let group = cluster.group(leader).clone();
    let term = group.acknowledged().await.unwrap();
    group.transfer_leadership(LIMIT).await.unwrap();
    assert_eq!(
        group.acknowledged().await,
        None,
        "grants nothing until elected again"
    );
    let second = cluster.leader().await;
    assert_ne!(second, leader);
    assert!(cluster.group(second).acknowledged().await.unwrap() > term);
    assert!(
        cluster
            .group(second)
            .calls()
            .transfer_leader
            .load(Ordering::Relaxed)
            > 0
    );

    let stopping = cluster.running.remove(&second).unwrap();
    stopping
        .group
        .transfer_and_stop(Duration::from_secs(5))
        .await;
    let third = cluster.leader().await;
    cluster.put(third, 1).await;
    stopping.kill().await;
}
