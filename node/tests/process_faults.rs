//! One real cluster under load, broken in sequence: each manager killed and restarted, each node told to end, each node
//! killed, a node that went on alone, then everything at once. At the end every acknowledged write is accounted for, by request id.
//!
//! I7: it stands in its primary's log as it was told, or, where a primary of the shard was killed, came to the same when it
//! was asked again, was given back (recorded again or as a conflict), or waits in the orphan log of that node. I8: no id stands in a log twice, and the counters are the number of increments in the log.
// capabilities B01, B08, P18; trap G3

mod real;
mod serving;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::sleep;
use understudy_client::{Client, Error, Namespace, Outcome, Written};
use understudy_node::cli::cluster_processes::{LocalCluster, Member, MemberRole};
use understudy_node::cli::faults::wait_whole;
use understudy_node::cli::read_back::{Recorded, is_conflict, request_of};
use understudy_proto::failure::Applied;
use understudy_proto::shard_of_key::shard_index;
use understudy_proto::v1::cluster_client::ClusterClient;
use understudy_proto::v1::outcome::Status;
use understudy_proto::v1::{LogRecord, ShardInfo, StatusRequest, TransferShardRequest};
use understudy_proto::{Pair, RequestId};

const MANAGERS: u16 = 3;
const NODES: u16 = 3;
const SHARDS: u32 = 8;
const CLIENTS: u32 = 16;
const KEYS_PER_CLIENT: u64 = 6;
const NAMESPACE: &str = "accounts";
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(4);
/// Until the cluster serves, or is whole again; a slow machine needs a part of it.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn every_acknowledged_write_is_accounted_for_when_processes_are_killed() {
    let mut world = World::start().await;
    let load = Load::start(&world.client);
    load.some_more(200).await;

    let failed = load.errors();
    for member in world.names(MemberRole::Manager) {
        world.cluster.kill(&member).await.unwrap();
        load.some_more(200).await;
        world.restart(&member).await;
    }
    assert_eq!(load.errors(), failed, "a manager's end fails no write");
    // Told to end, a node first hands its primaries over.
    for member in world.names(MemberRole::Node) {
        let clean = world.cluster.stop_member(&member).await.unwrap();
        assert!(clean, "{member} ends cleanly");
        load.some_more(200).await;
        world.restart(&member).await;
        world.whole().await;
    }
    assert_eq!(load.errors(), failed, "a node's clean end fails no write");
    world.nothing_was_cut_off().await;

    for member in world.names(MemberRole::Node) {
        world.note_primaries_of(&member).await;
        world.cluster.kill(&member).await.unwrap();
        // Only clients of a new primary finish this many.
        load.some_more(500).await;
        world.restart(&member).await;
        world.whole().await;
    }

    // One node goes on alone, and then dies as well: the others come back without what it acknowledged meanwhile.
    let nodes = world.names(MemberRole::Node);
    let (alone, others) = nodes.split_first().unwrap();
    for other in others {
        world.note_primaries_of(other).await;
    }
    for other in others {
        world.cluster.kill(other).await.unwrap();
    }
    world.note_when_primary_of_all(alone).await;
    load.some_more(500).await;
    world.cluster.kill(alone).await.unwrap();
    for other in others {
        world.restart(other).await;
    }
    load.some_more(500).await;
    world.restart(alone).await;
    world.whole().await;

    let everyone = world.names_of_all();
    for member in &everyone {
        world.note_primaries_of(member).await;
    }
    for member in &everyone {
        world.cluster.kill(member).await.unwrap();
    }
    for member in &everyone {
        world.cluster.restart(member).unwrap();
    }
    world.cluster.wait_ready(PATIENCE).await.unwrap();
    world.whole().await;
    load.some_more(200).await;

    let mut told = load.stop().await;
    settle(&mut told).await;
    let (faults, held) = world.judge(&told).await;
    let cut_off = told.iter().filter(|entry| held.was_cut_off(entry)).count();
    println!(
        "{} requests, {} acknowledged, {cut_off} of them cut off and brought back; {} records",
        told.len(),
        told.iter()
            .filter(|entry| !entry.answers.is_empty())
            .count(),
        held.log.len(),
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(
        cut_off > 0,
        "the primary that was alone acknowledged something"
    );
    world.no_orphan_is_left().await;
    world.every_manager_counts_the_orphans().await;
    world.every_manager_moves_a_shard().await;
    assert_eq!(world.cluster.stop().await, Vec::<String>::new());
}

struct World {
    cluster: LocalCluster,
    client: Client,
    /// Shards that lost their primary, with the node whose process it was.
    lost: BTreeSet<(u32, u64)>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> World {
        let (cluster, folder, client) = serving::cluster(MANAGERS, NODES, NAMESPACE, SHARDS).await;
        World {
            cluster,
            client,
            lost: BTreeSet::new(),
            _folder: folder,
        }
    }

    fn names(&self, role: MemberRole) -> Vec<String> {
        let members = self.cluster.members().iter();
        members
            .filter(|member| member.role == role)
            .map(|member| member.name.clone())
            .collect()
    }

    fn names_of_all(&self) -> Vec<String> {
        let mut names = self.names(MemberRole::Manager);
        names.extend(self.names(MemberRole::Node));
        names
    }

    async fn restart(&mut self, member: &str) {
        self.cluster.restart(member).unwrap();
        let ready = self.cluster.wait_member_ready(member, PATIENCE);
        ready.await.unwrap();
    }

    async fn whole(&self) {
        wait_whole(&self.client, u32::from(NODES), PATIENCE)
            .await
            .unwrap();
    }

    /// To be called when no failover is under way: who is primary then stays it until it is killed.
    async fn note_primaries_of(&mut self, member: &str) {
        let primaries = self.primaries_of(member).await;
        self.lost.extend(primaries);
    }

    /// Waits until the failovers of all shards to this node are over.
    async fn note_when_primary_of_all(&mut self, member: &str) {
        let began = Instant::now();
        while self.primaries_of(member).await.len() < SHARDS as usize {
            assert!(began.elapsed() < PATIENCE, "{member} takes over all shards");
            sleep(Duration::from_millis(50)).await;
        }
        self.note_primaries_of(member).await;
    }

    /// The shards whose primary it is, with its id; none of a manager.
    async fn primaries_of(&self, member: &str) -> Vec<(u32, u64)> {
        let internal = self.cluster.member(member).unwrap().ports.internal;
        let nodes = self.client.cluster().nodes().await.unwrap().nodes;
        let address = format!("127.0.0.1:{internal}");
        let Some(node) = nodes.iter().find(|node| node.internal_address == address) else {
            return Vec::new();
        };
        let shards = self.client.cluster().shards(Some(NAMESPACE)).await.unwrap();
        let of_node = shards.shards.iter().filter(|row| row.primary == node.node);
        of_node.map(|row| (row.index, node.node)).collect()
    }

    async fn recorded(&self) -> Recorded {
        let namespace = self.client.namespace(NAMESPACE);
        Recorded::read(&namespace, SHARDS).await.unwrap()
    }

    /// No primary was killed: there are no orphans, and none was given back.
    async fn nothing_was_cut_off(&self) {
        let recorded = self.recorded().await;
        assert_eq!(recorded.orphans.len(), 0);
        let back = |record: &&LogRecord| !record.earlier.is_empty() || is_conflict(record);
        assert_eq!(recorded.log.iter().filter(back).count(), 0);
    }

    /// All nodes run, so whatever was cut off is given back.
    async fn no_orphan_is_left(&self) {
        let began = Instant::now();
        loop {
            let left = self.recorded().await.orphans.len();
            if left == 0 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{left} orphans are left");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Only the leader knows of orphans; whoever is asked tells the same.
    async fn every_manager_counts_the_orphans(&self) {
        let listed = self.recorded().await.orphans.len() as u64;
        for manager in self.managers() {
            let began = Instant::now();
            let request = || StatusRequest { stale: false };
            loop {
                let mut client = ClusterClient::connect(manager.clone()).await.unwrap();
                let told = client.status(request()).await.unwrap().into_inner().orphans;
                if told == Some(listed) {
                    break;
                }
                assert!(
                    began.elapsed() < PATIENCE,
                    "{manager} counts {told:?} of {listed} orphans"
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn every_manager_moves_a_shard(&self) {
        for manager in self.managers() {
            let mut client = ClusterClient::connect(manager.clone()).await.unwrap();
            let request = TransferShardRequest {
                namespace: NAMESPACE.to_string(),
                shard: 0,
                target_node: 0,
            };
            let before = self.shard(0).await;
            let moved = client.transfer_shard(request).await.unwrap().into_inner();
            assert!(moved.epoch > before.epoch, "{manager} moved the shard");
            assert_ne!(moved.primary, before.primary, "{manager} moved the shard");
        }
    }

    async fn shard(&self, index: u32) -> ShardInfo {
        let shards = self
            .client
            .cluster()
            .shards(Some(NAMESPACE))
            .await
            .unwrap()
            .shards;
        shards
            .into_iter()
            .find(|shard| shard.index == index)
            .unwrap()
    }

    /// The endpoint of each.
    fn managers(&self) -> Vec<String> {
        let members = self.cluster.members().iter();
        let managers = members.filter(|member| member.role == MemberRole::Manager);
        managers.map(Member::endpoint).collect()
    }

    /// What is wrong. A node that came back may still be moving its tail into its orphan log, so this asks again.
    async fn judge(&self, told: &[Entry]) -> (Vec<String>, Held) {
        let began = Instant::now();
        loop {
            let held = Held::of(self.recorded().await, self.counters().await);
            let faults = held.faults(told, &self.lost);
            if faults.is_empty() || began.elapsed() > PATIENCE {
                return (faults, held);
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn counters(&self) -> BTreeMap<String, i64> {
        let namespace = self.client.namespace(NAMESPACE);
        let mut objects = pin!(namespace.scan().objects());
        let mut counters = BTreeMap::new();
        while let Some(object) = objects.next().await {
            let object = object.unwrap();
            let key = String::from_utf8(object.key.to_vec()).unwrap();
            counters.insert(key, object.counter("n").unwrap_or(0));
        }
        counters
    }
}

/// One request, and what its client was told.
struct Entry {
    namespace: Namespace,
    id: RequestId,
    key: String,
    answers: Vec<(Pair, Status)>,
    /// The last call ended, and the request may have run.
    unknown: bool,
    /// A call ended with the word that it certainly did not run.
    not_run: bool,
}

impl Entry {
    /// One increment; every fifth request asks for an absent object and so fails as soon as there is one.
    async fn send(&mut self) {
        let write = self.namespace.transaction().request_id(self.id);
        let write = write.add(self.key.clone(), "n", 1);
        let write = match self.id.sequence.0 % 5 {
            0 => write.if_absent(self.key.clone()),
            _ => write,
        };
        let answer = write.send().await;
        self.note(answer);
    }

    fn note(&mut self, answer: Result<Written, Error>) {
        match answer {
            Ok(written) => {
                let status = match written.outcome {
                    Outcome::Applied(_) => Status::Applied,
                    Outcome::ConditionFailed { .. } => Status::ConditionFailed,
                    Outcome::Failed { .. } => Status::Failed,
                };
                self.answers.push((written.pair, status));
                self.unknown = false;
            }
            Err(error) => {
                self.unknown = error.applied() == Applied::Unknown;
                self.not_run = !self.unknown;
            }
        }
    }

    fn shard(&self) -> u32 {
        shard_index(self.key.as_bytes(), SHARDS)
    }
}

/// Clients that write until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    errors: Arc<AtomicU64>,
    running: JoinSet<Vec<Entry>>,
}

impl Load {
    fn start(client: &Client) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            errors: Arc::default(),
            running: JoinSet::new(),
        };
        for number in 0..CLIENTS {
            let namespace = client.new_session().namespace(NAMESPACE);
            let stop = load.stop.clone();
            let acknowledged = load.acknowledged.clone();
            let errors = load.errors.clone();
            load.running.spawn(async move {
                let mut told = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = namespace.session().next_request_id();
                    let mut entry = Entry {
                        key: format!("{number}/{}", id.sequence.0 % KEYS_PER_CLIENT),
                        namespace: namespace.clone(),
                        id,
                        answers: Vec::new(),
                        unknown: false,
                        not_run: false,
                    };
                    entry.send().await;
                    let count = match entry.answers.is_empty() {
                        true => &errors,
                        false => &acknowledged,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    told.push(entry);
                    sleep(PAUSE).await;
                }
                told
            });
        }
        load
    }

    fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were acknowledged.
    async fn some_more(&self, count: u64) {
        let until = self.acknowledged.load(Ordering::Relaxed) + count;
        let began = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < until {
            assert!(began.elapsed() < PATIENCE, "the writes have stopped");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(mut self) -> Vec<Entry> {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        while let Some(entries) = self.running.join_next().await {
            told.extend(entries.unwrap());
        }
        told
    }
}

/// Asks again, under the same id, for what nobody knows.
async fn settle(told: &mut [Entry]) {
    for entry in told.iter_mut().filter(|entry| entry.unknown) {
        entry.send().await;
        assert!(
            !entry.unknown,
            "{} stays unknown in a whole cluster",
            entry.id
        );
    }
}

/// What the cluster holds at the end.
struct Held {
    log: HashMap<RequestId, Vec<(Pair, Status)>>,
    /// Where a request had stood on branches that were cut off, and was brought back: recorded again, or as a conflict.
    back: HashMap<RequestId, Vec<(Pair, Status)>>,
    /// With the node that keeps it.
    orphans: HashMap<RequestId, Vec<(Pair, Status, u64)>>,
    /// Increments in the log, by key.
    increments: BTreeMap<String, i64>,
    counters: BTreeMap<String, i64>,
}

impl Held {
    fn of(recorded: Recorded, counters: BTreeMap<String, i64>) -> Held {
        let mut held = Held {
            log: HashMap::new(),
            back: HashMap::new(),
            orphans: HashMap::new(),
            increments: BTreeMap::new(),
            counters,
        };
        for record in &recorded.log {
            let Some((id, pair, status)) = told_of(record) else {
                continue;
            };
            let before = record.earlier.iter().map(|pair| (pair_of(pair), status));
            held.back.entry(id).or_default().extend(before);
            if is_conflict(record) {
                continue;
            }
            held.log.entry(id).or_default().push((pair, status));
            if status == Status::Applied {
                for change in &record.changes {
                    let key = String::from_utf8(change.key.to_vec()).unwrap();
                    *held.increments.entry(key).or_default() += 1;
                }
            }
        }
        for orphan in &recorded.orphans {
            if let Some((id, pair, status)) = orphan.record.as_ref().and_then(told_of) {
                let places = held.orphans.entry(id).or_default();
                places.push((pair, status, orphan.node));
            }
        }
        held
    }

    fn came_back(&self, entry: &Entry) -> &[(Pair, Status)] {
        self.back.get(&entry.id).map_or(&[], Vec::as_slice)
    }

    /// Something that the client was told was cut off by a failover.
    fn was_cut_off(&self, entry: &Entry) -> bool {
        let logged = self.log.get(&entry.id).map_or(&[][..], Vec::as_slice);
        entry.answers.iter().any(|answer| !logged.contains(answer))
    }

    fn faults(&self, told: &[Entry], lost: &BTreeSet<(u32, u64)>) -> Vec<String> {
        let mut faults = Vec::new();
        for entry in told {
            let logged = self.log.get(&entry.id).map_or(&[][..], Vec::as_slice);
            if logged.len() > 1 {
                faults.push(format!("I8: {} stands in the log as {logged:?}", entry.id));
            }
            if entry.not_run && entry.answers.is_empty() && !logged.is_empty() {
                faults.push(format!("{} ran though its client was told not", entry.id));
            }
            for answer in &entry.answers {
                // Asked again after a failover, it came to the same: then the orphan had nothing to add.
                let failed_over = lost.iter().any(|(shard, _)| *shard == entry.shard());
                let same = logged.iter().any(|(pair, status)| {
                    *status == answer.1 && (failed_over || *pair == answer.0)
                });
                if same || self.came_back(entry).contains(answer) {
                    continue;
                }
                let orphans = self.orphans.get(&entry.id).into_iter().flatten();
                let kept = orphans
                    .filter(|(pair, status, _)| (*pair, *status) == *answer)
                    .any(|(_, _, node)| lost.contains(&(entry.shard(), *node)));
                if !kept {
                    faults.push(format!(
                        "I7: {} in shard {} was told {answer:?}; the log has {logged:?}, orphan logs {:?}",
                        entry.id,
                        entry.shard(),
                        self.orphans.get(&entry.id)
                    ));
                }
            }
        }
        if self.counters != self.increments {
            faults.push(format!(
                "I8: the counters are {:?}, the log increments {:?}",
                self.counters, self.increments
            ));
        }
        faults
    }
}

fn told_of(record: &LogRecord) -> Option<(RequestId, Pair, Status)> {
    let id = request_of(record)?;
    let pair = pair_of(record.pair.as_ref()?);
    Some((id, pair, record.outcome.as_ref()?.status()))
}

fn pair_of(pair: &understudy_proto::v1::Pair) -> Pair {
    Pair::new(pair.epoch, pair.version)
}
