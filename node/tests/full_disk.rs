//! A node whose disk gets full, or fails, a small file system of its own, under load: its primaries move away and no write fails,
//! its copies go on answering, and with room again, or started anew on a sound disk, it is as good as before. Capability B06.

mod load;

use load::Load;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use understudy_client::Client;
use understudy_node::cli::cluster_processes::{LocalCluster, Shape};
use understudy_node::cli::faults::wait_whole;
use understudy_node::cli::local::patient_client;
use understudy_proto::v1::objects_client::ObjectsClient;
use understudy_proto::v1::{NamespacePolicy, ReadLevel, ReadRequest};

const NODES: u16 = 3;
const SHARDS: u32 = 6;
const NAMESPACE: &str = "notes";
const PATIENCE: Duration = Duration::from_secs(60);
const VICTIM: &str = "node-2";
/// The disk of the victim, and what is left of it when it is full: less than an eighth, its reserve.
const DISK_MIB: u64 = 512;
const LEFT_MIB: u64 = 48;

/// A file system in memory, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Result<Disk, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let size = format!("size={DISK_MIB}m");
        let mut mount = Command::new("mount");
        done(mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(at))?;
        Ok(Disk(at.to_path_buf()))
    }

    fn free_mib(&self) -> u64 {
        let room = rustix::fs::statvfs(&self.0).unwrap();
        (room.f_bavail * room.f_frsize) >> 20
    }

    /// Until so much is left. What does not fit any more is not written.
    fn fill_to(&self, left_mib: u64) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = File::create(&filler).unwrap();
        while self.free_mib() > left_mib && file.write_all(&[1; 1 << 20]).is_ok() {}
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is still ending may hold files on it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A file system that says that it has room, on a device that has less: writes that are new to the device fail once what is
/// below it is full.
struct FailingDisk {
    // Dropped in this order.
    top: Disk,
    below: Disk,
}

impl FailingDisk {
    fn mount(at: &Path, below: &Path) -> Result<FailingDisk, String> {
        let below = Disk::mount(below)?;
        let image = below.0.join("image");
        let file = File::create(&image).map_err(|error| error.to_string())?;
        let long = file.set_len((8 * DISK_MIB) << 20);
        long.map_err(|error| error.to_string())?;
        let mut make = Command::new("mkfs.ext4");
        // Without a journal, so that one failed write does not end the whole file system.
        make.args(["-q", "-F", "-O", "^has_journal", "-E", "nodiscard"]);
        done(make.arg(&image))?;
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        done(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(at),
        )?;
        let top = Disk(at.to_path_buf());
        Ok(FailingDisk { top, below })
    }

    fn fail(&self) -> PathBuf {
        self.below.fill_to(0)
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}

/// Waits until the node is the primary of so many shards as that says.
async fn until_primaries(client: &Client, node: u64, so: impl Fn(usize) -> bool) {
    let began = Instant::now();
    loop {
        let shards = client.cluster().shards(Some(NAMESPACE)).await.unwrap();
        let its = shards.shards.iter().filter(|s| s.primary == node).count();
        if so(its) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it is the primary of {its}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A cluster whose nodes keep their data in there, with its namespace; and the victim, which is the primary of some shards.
async fn cluster_in(folder: &Path) -> (LocalCluster, Client, u64) {
    let shape = Shape {
        port_base: 0,
        executable: Some(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))),
        ..Shape::new(1, NODES, folder)
    };
    let mut cluster = LocalCluster::start(&shape).unwrap();
    cluster.wait_ready(PATIENCE).await.unwrap();
    let client = patient_client(cluster.endpoints()).await.unwrap();
    let policy = NamespacePolicy {
        shards: SHARDS,
        copies: u32::from(NODES),
        ..NamespacePolicy::default()
    };
    let made = client
        .cluster()
        .create_namespace(NAMESPACE, policy, false)
        .await;
    made.unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    let nodes = client.cluster().nodes().await.unwrap().nodes;
    let node = nodes.iter().find(|node| node.name == VICTIM).unwrap().node;
    until_primaries(&client, node, |its| its > 0).await;
    (cluster, client, node)
}

/// Until the node takes a primary back; whoever is asked too early says that it may not.
async fn take_one_back(client: &Client, node: u64) {
    let began = Instant::now();
    while let Err(refused) = client.cluster().transfer(NAMESPACE, 0, Some(node)).await {
        assert!(began.elapsed() < PATIENCE, "{refused}");
        sleep(Duration::from_millis(200)).await;
    }
    until_primaries(client, node, |its| its > 0).await;
}

/// Ends the load, and counts.
async fn all_is_there(client: &Client, load: Load) {
    let written = load.end().await;
    let mut there = 0;
    let mut scan = client.namespace(NAMESPACE).scan().page_size(10_000);
    while let Some(page) = scan.next_page().await.unwrap() {
        there += page.objects.len() as u64;
    }
    assert_eq!(there, written, "every acknowledged write is there");
}

async fn its_copies_answer(cluster: &LocalCluster, node: u64) {
    let endpoint = cluster.member(VICTIM).unwrap().endpoint();
    let mut at_it = ObjectsClient::connect(endpoint).await.unwrap();
    let read = at_it.read(ReadRequest {
        namespace: NAMESPACE.to_string(),
        keys: vec!["0/0".into()],
        level: ReadLevel::Any.into(),
        refuse_forwarding: true,
        ..ReadRequest::default()
    });
    let answer = read.await.unwrap().into_inner();
    assert_eq!(answer.node, node, "its copies still answer");
    assert!(answer.objects[0].object.is_some());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_node_with_a_full_disk_gives_its_primaries_away_and_takes_writes_again_with_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = match Disk::mount(&folder.path().join(VICTIM)) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: no small file system can be mounted here: {why}"),
    };
    let (cluster, client, node) = cluster_in(folder.path()).await;
    let load = Load::start(&client, NAMESPACE);
    load.some_more(200).await;

    let filler = disk.fill_to(LEFT_MIB);
    until_primaries(&client, node, |its| its == 0).await;
    load.some_more(500).await;
    its_copies_answer(&cluster, node).await;

    std::fs::remove_file(filler).unwrap();
    take_one_back(&client, node).await;
    load.some_more(500).await;
    all_is_there(&client, load).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts real processes; run by the gate's live part"]
async fn a_node_whose_disk_fails_gives_its_primaries_away_and_is_whole_again_on_a_sound_one() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    let disk = match FailingDisk::mount(&folder.path().join(VICTIM), &below) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: no failing file system can be mounted here: {why}"),
    };
    let (mut cluster, client, node) = cluster_in(folder.path()).await;
    let load = Load::start(&client, NAMESPACE);
    load.some_more(200).await;

    let room = disk.top.free_mib();
    let filler = disk.fail();
    until_primaries(&client, node, |its| its == 0).await;
    assert!(
        room > 7 * DISK_MIB && disk.top.free_mib() > 7 * DISK_MIB,
        "it says that it has room"
    );
    load.some_more(500).await;
    its_copies_answer(&cluster, node).await;

    // The disk is sound again, and the process starts anew: what the disk lost it gets from the others.
    std::fs::remove_file(filler).unwrap();
    cluster.kill(VICTIM).await.unwrap();
    cluster.restart(VICTIM).unwrap();
    cluster.wait_member_ready(VICTIM, PATIENCE).await.unwrap();
    wait_whole(&client, u32::from(NODES), PATIENCE)
        .await
        .unwrap();
    take_one_back(&client, node).await;
    load.some_more(500).await;
    all_is_there(&client, load).await;
    assert_eq!(cluster.stop().await, Vec::<String>::new());
    drop(disk);
}
