//! A million objects: how much memory they take and how fast they go in. Left out unless asked for (`--run-ignored all`).

use crate::world::{Node, batch};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use understudy_node::storage::keys::Family;
use understudy_node::storage::{Database, Options};
use understudy_proto::{ClientId, Pair, RequestId, Sequence, ShardId, Version};
use understudy_protocol::change::{Change, ComponentChange, ObjectChange};
use understudy_protocol::object::{LastWrite, Value};
use understudy_protocol::record::{Body, Record, RequestBody};
use understudy_protocol::request::{Op, OpResult, Outcome, plain_object};
use understudy_protocol::store::{StoreChange, Stored};

const OBJECTS: u64 = 1_000_000;
const SHARDS: u64 = 16;
const MEMORY_BYTES_MAX: u64 = 500 * 1024 * 1024;

/// What a primary stores for one put of 256 bytes that do not compress.
fn put(shard: ShardId, version: u64) -> Vec<StoreChange> {
    let key = Bytes::from(format!("key-{version:08}"));
    let mut noise = version ^ shard.0.rotate_left(32);
    let value: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (noise >> 56) as u8
    })
    .take(256)
    .collect();
    let value = Bytes::from(value);
    let pair = Pair::new(1, version);
    let id = RequestId {
        client: ClientId(u128::from(1 + version % 64)),
        sequence: Sequence(version),
    };
    let change = ComponentChange {
        name: Bytes::new(),
        change: Change::Set {
            old: None,
            new: Some(Value::Data(value.clone())),
        },
    };
    let record = Record {
        shard,
        pair,
        previous: Pair::new(1, version - 1),
        previous_epoch_start: Pair::new(1, 1),
        previous_checksum: 0,
        time_ms: 0,
        body: Body::Request(Box::new(RequestBody {
            id,
            fingerprint: 0,
            ops: vec![Op::Put {
                key: key.clone(),
                value: value.clone(),
            }],
            preconditions: vec![],
            outcome: Outcome::Applied(vec![OpResult::Existed(false)]),
            changes: vec![ObjectChange {
                key: key.clone(),
                before: None,
                components: vec![change],
            }],
            earlier: vec![],
        })),
    };
    let generation = 0;
    let entry = record.dedup().map(|(_, entry)| entry);
    let last = LastWrite { pair, request: id };
    vec![
        StoreChange::AppendRecord {
            generation,
            record: record.encode(),
        },
        StoreChange::PutDedup {
            generation,
            id,
            entry,
        },
        StoreChange::PutObject {
            generation,
            key,
            object: Some(plain_object(value, last)),
        },
    ]
}

fn resident(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    let kib: u64 = found
        .trim_matches([':', ' ', '\t', 'k', 'B'])
        .parse()
        .unwrap();
    kib * 1024
}

#[test]
#[ignore = "takes a minute"]
fn a_million_objects_fit_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open(folder.path(), &Options::default()).unwrap());
    let node = Node::start(&database, Arc::new(|_| Ok(())));
    let began = Instant::now();
    for version in 1..=OBJECTS / SHARDS {
        for shard in 1..=SHARDS {
            let shard = ShardId(shard);
            let put = batch(shard, version, put(shard, version));
            node.submitter.submit(vec![put]).unwrap();
        }
        if version % 16 == 0 {
            node.wait_persisted(ShardId(SHARDS), version);
            trim(&node, version);
        }
    }
    let written = began.elapsed();
    let began = Instant::now();
    for version in (1..=OBJECTS / SHARDS).step_by(7) {
        let key = format!("key-{version:08}");
        let object = database.object(ShardId(1 + version % SHARDS), 0, key.as_bytes());
        assert!(object.unwrap().is_some());
    }
    let reads = OBJECTS / SHARDS / 7;
    let progress = node.writer.progress();
    println!(
        "{OBJECTS} puts in {written:?}, {} rounds; {reads} reads in {:?}; resident {} MiB, at most {} MiB; sizes {:?}, about {} objects",
        progress.rounds.load(std::sync::atomic::Ordering::Relaxed),
        began.elapsed(),
        resident("VmRSS") >> 20,
        resident("VmHWM") >> 20,
        database.sizes(ShardId(1)),
        database.estimated_keys(Family::Objects),
    );
    assert!(resident("VmHWM") < MEMORY_BYTES_MAX);
}

/// The log keeps its last 16,000 records; trimmed in steps.
fn trim(node: &Node, version: u64) {
    if !version.is_multiple_of(4096) || version < 16_384 {
        return;
    }
    for shard in 1..=SHARDS {
        let upto = Version(version - 16_000);
        let change = StoreChange::TrimLog {
            generation: 0,
            upto,
        };
        let trim = batch(ShardId(shard), version, vec![change]);
        node.submitter.submit(vec![trim]).unwrap();
    }
}
