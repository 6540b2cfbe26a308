//! The start-up check: damage done to a stored copy is found and mended from the log's last records, or reported as what
//! cannot be mended; later writes are never undone by it.

use bytes::Bytes;
use proptest::prelude::*;
use understudy_proto::limits::START_CHECK_BYTES_MAX;
use understudy_proto::{ClientId, Pair, RequestId, Sequence, ShardId, Version};
use understudy_protocol::object::Object;
use understudy_protocol::request::Op;
use understudy_protocol::startup::{StartupFindings, Window, check};
use understudy_protocol::store::{Batch, StoreChange, StoreError, Stored};
use understudy_protocol::testing::{History, MemoryStore, Part};

const SHARD: ShardId = ShardId(3);

/// A copy as it was written, and what it should be.
struct Copy {
    history: History,
    store: MemoryStore,
    batches: u64,
}

impl Copy {
    fn new() -> Copy {
        let mut copy = Copy {
            history: History::new(SHARD),
            store: MemoryStore::new(),
            batches: 0,
        };
        let start = copy.history.start_epoch();
        copy.write(start);
        copy
    }

    fn run(&mut self, ops: Vec<Op>) {
        let changes = self.history.run(ops, vec![]);
        self.write(changes);
    }

    fn put(&mut self, key: &'static str, value: &'static str) {
        let changes = self.history.put(key, value);
        self.write(changes);
    }

    fn write(&mut self, changes: Vec<StoreChange>) {
        self.batches += 1;
        let batch = Batch {
            shard: SHARD,
            number: self.batches,
            changes,
        };
        self.store.write(batch).unwrap();
        self.store.sync();
    }

    fn check(&mut self, records_max: usize) -> Result<StartupFindings, StoreError> {
        let saved = self.store.open_shard(SHARD).unwrap();
        let window = Window {
            records_max,
            bytes_max: usize::MAX,
        };
        check(SHARD, &saved, &self.store, window)
    }

    /// Checks, repairs, and checks that the copy is then what the log says.
    fn mended(&mut self, records_max: usize) -> StartupFindings {
        let findings = self.check(records_max).unwrap();
        assert!(!findings.must_rebuild(), "{findings:?}");
        self.batches = 0;
        self.write(findings.repairs.clone());
        let after = self.check(records_max).unwrap();
        assert_eq!((after.repairs, after.mismatches), (vec![], vec![]));
        for (key, object) in &self.history.objects {
            let stored = self.store.object(SHARD, 0, key).unwrap();
            assert_eq!(stored.as_ref(), Some(object), "{key:?}");
        }
        let all = self.store.objects_after(SHARD, 0, None, usize::MAX);
        assert_eq!(all.unwrap().items.len(), self.history.objects.len());
        findings
    }

    fn lose(&mut self, key: &str) {
        assert!(self.store.lose_object(SHARD, 0, key.as_bytes()));
    }

    /// Puts an object's bytes back as they were at some earlier time.
    fn set_back(&mut self, key: &'static str, old: &Object) {
        let part = Part::Object(0, Bytes::from(key));
        let bytes = old.encode().to_vec();
        assert!(self.store.damage(SHARD, &part, |b| *b = bytes.clone()));
    }

    fn object(&self, key: &str) -> Object {
        self.history.objects[key.as_bytes()].clone()
    }
}

fn add(key: &'static str, delta: i64) -> Op {
    Op::Add {
        key: key.into(),
        name: "n".into(),
        delta,
    }
}

fn append(key: &'static str, data: &'static str) -> Op {
    Op::Append {
        key: key.into(),
        name: "list".into(),
        data: data.into(),
    }
}

fn set(key: &'static str, name: &'static str, value: &'static str) -> Op {
    Op::SetComponent {
        key: key.into(),
        name: name.into(),
        value: value.into(),
    }
}

#[test]
fn a_sound_copy_needs_nothing() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    copy.run(vec![add("c", 5), append("x", "tail")]);
    copy.run(vec![Op::Delete { key: "x".into() }]);
    let findings = copy.check(100).unwrap();
    assert_eq!(findings.examined, 4);
    assert_eq!((findings.repairs, findings.mismatches), (vec![], vec![]));
}

// capability A18; trap G1
#[test]
fn a_lost_object_is_set_to_the_last_write_and_never_to_an_older_one() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    let first = copy.object("x");
    copy.put("x", "2");
    copy.put("y", "other");
    copy.lose("x");
    let findings = copy.mended(100);
    assert_eq!(findings.mismatches[0].last, Pair::new(1, 3));
    // Also where the older value stands in its place, and where the check sees the later record only.
    copy.set_back("x", &first);
    copy.mended(100);
    copy.lose("x");
    copy.mended(2);
}

#[test]
fn a_later_write_beyond_the_log_that_is_looked_at_is_not_undone() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    copy.put("x", "2");
    for _ in 0..5 {
        copy.put("y", "more");
    }
    let findings = copy.mended(3);
    assert_eq!((findings.examined, findings.repairs), (3, vec![]));
}

#[test]
fn what_should_be_gone_is_deleted_again() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    let old = copy.object("x");
    copy.put("x", "2");
    copy.run(vec![Op::Delete { key: "x".into() }]);
    copy.write(vec![StoreChange::PutObject {
        generation: 0,
        key: "x".into(),
        object: Some(old),
    }]);
    copy.mended(100);
}

#[test]
fn additions_and_appends_are_done_again_from_where_the_object_stands() {
    let mut copy = Copy::new();
    copy.run(vec![add("c", 5), append("c", "a")]);
    let stale = copy.object("c");
    copy.run(vec![add("c", 6), append("c", "b")]);
    copy.run(vec![add("c", 7), append("c", "c"), set("c", "s", "v")]);
    copy.set_back("c", &stale);
    copy.mended(100);
    // The record that made the object is out of sight: the stored one is what the next found.
    copy.set_back("c", &stale);
    copy.mended(2);
    // It is in sight: nothing of the stored one is needed.
    copy.lose("c");
    copy.mended(100);
}

#[test]
fn what_the_log_in_sight_does_not_tell_is_not_guessed() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    copy.run(vec![set("x", "a", "old")]);
    copy.run(vec![set("x", "b", "new")]);
    copy.lose("x");
    let findings = copy.check(1).unwrap();
    assert!(findings.must_rebuild() && findings.repairs.is_empty());
    assert!(!findings.mismatches[0].repaired);
    copy.mended(100);
}

#[test]
fn a_damaged_value_is_mended_in_the_object_that_names_its_writer() {
    let mut copy = Copy::new();
    copy.run(vec![set("x", "a", "old"), set("x", "b", "old")]);
    copy.run(vec![set("x", "a", "new")]);
    let mut damaged = copy.object("x");
    let at = damaged.find(b"a").unwrap();
    damaged.components[at].value = understudy_protocol::object::Value::Counter(9);
    copy.set_back("x", &damaged);
    copy.mended(1);
    let part = Part::Object(0, Bytes::from("x"));
    copy.store.damage(SHARD, &part, |bytes| bytes.truncate(3));
    copy.mended(100);
}

#[test]
fn a_damaged_dedup_entry_is_mended_and_a_missing_one_may_have_expired() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    copy.put("x", "2");
    let id = |sequence| RequestId {
        client: ClientId(u128::from(SHARD.0) + 1),
        sequence: Sequence(sequence),
    };
    let entry = copy.store.dedup(SHARD, 0, id(1)).unwrap();
    let part = Part::Dedup(0, id(1));
    copy.store.damage(SHARD, &part, |bytes| bytes[5] ^= 1);
    assert_eq!(copy.mended(100).dedup_repaired, 1);
    assert_eq!(copy.store.dedup(SHARD, 0, id(1)), Ok(entry));
    copy.store.damage(SHARD, &part, |bytes| bytes.clear());
    assert_eq!(copy.mended(100).dedup_repaired, 1);
    copy.write(vec![StoreChange::PutDedup {
        generation: 0,
        id: id(2),
        entry: None,
    }]);
    assert_eq!(copy.mended(100).dedup_repaired, 0);
}

#[test]
fn a_damaged_log_is_an_error() {
    let mut copy = Copy::new();
    for _ in 0..5 {
        copy.put("x", "1");
    }
    let part = Part::Record(0, Version(3));
    let mut hole = copy.store.clone();
    assert!(hole.damage(SHARD, &part, |bytes| bytes[40] ^= 1));
    copy.store = hole;
    assert!(matches!(copy.check(100), Err(StoreError::Corrupt(_))));
    assert!(copy.check(3).is_ok(), "out of sight");

    // A record of another history in its place.
    let mut other = Copy::new();
    other.put("x", "1");
    other.put("x", "other");
    let foreign = other.history.records[2].bytes.to_vec();
    copy.store
        .damage(SHARD, &part, |bytes| *bytes = foreign.clone());
    let error = copy.check(100).unwrap_err().to_string();
    assert!(error.contains("record 4: it follows 1.3"), "{error}");
}

#[test]
fn many_copies_share_what_one_start_reads_and_each_gets_its_end() {
    let one = Window::of_one(1);
    assert_eq!((one.records_max, one.bytes_max), (1_000, 8 << 20));
    assert_eq!(Window::of_one(0), one);
    let many = Window::of_one(1_000);
    assert_eq!(
        (many.records_max, many.bytes_max),
        (100, START_CHECK_BYTES_MAX / 1_000)
    );
    let very_many = Window::of_one(100_000);
    assert_eq!(
        (very_many.records_max, very_many.bytes_max),
        (16, 64 * 1024)
    );

    // The newest record is always looked at, however large it is.
    let mut copy = Copy::new();
    copy.put("x", "1");
    copy.put("x", "2");
    let saved = copy.store.open_shard(SHARD).unwrap();
    let narrow = Window {
        records_max: usize::MAX,
        bytes_max: 1,
    };
    assert_eq!(
        check(SHARD, &saved, &copy.store, narrow).unwrap().examined,
        1
    );
}

#[test]
fn an_end_that_contradicts_the_epochs_is_an_error() {
    let mut copy = Copy::new();
    copy.put("x", "1");
    let start = copy.history.start_epoch();
    copy.write(start[1..].to_vec());
    let error = copy.check(100).unwrap_err().to_string();
    assert!(error.contains("its epoch began at 1.1"), "{error}");
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop_oneof![Just("x"), Just("y")];
    prop_oneof![
        key().prop_map(|key| Op::Put {
            key: key.into(),
            value: "v".into()
        }),
        key().prop_map(|key| Op::Delete { key: key.into() }),
        key().prop_map(|key| set(key, "a", "1")),
        key().prop_map(|key| Op::RemoveComponent {
            key: key.into(),
            name: "a".into()
        }),
        (key(), -2..3i64).prop_map(|(key, delta)| add(key, delta)),
        key().prop_map(|key| append(key, "data")),
    ]
}

proptest! {
    /// Whatever happened, and whatever earlier value stands in an object's place: with the whole log in sight it is mended
    /// exactly; with a part of it, it is mended exactly or reported, and a sound copy is left alone.
    #[test]
    fn any_object_set_back_to_any_time_is_mended_or_reported(
        requests in proptest::collection::vec(proptest::collection::vec(op(), 1..4), 1..10),
        back_to in 0..10usize,
        records_max in 1..12usize,
    ) {
        let mut copy = Copy::new();
        let mut times = vec![];
        for ops in requests {
            times.push(copy.history.objects.clone());
            copy.run(ops);
        }
        prop_assert_eq!(copy.check(records_max).unwrap().repairs, vec![]);
        prop_assert_eq!(copy.check(records_max).unwrap().mismatches, vec![]);
        let then = times[back_to.min(times.len() - 1)].get(&b"x"[..]).cloned();
        copy.write(vec![StoreChange::PutObject {
            generation: 0,
            key: "x".into(),
            object: then.clone(),
        }]);
        let findings = copy.check(records_max).unwrap();
        let right = copy.history.objects.get(&b"x"[..]).cloned();
        for repair in &findings.repairs {
            if let StoreChange::PutObject { object, .. } = repair {
                prop_assert_eq!(object, &right);
            }
        }
        prop_assert_eq!(then == right && !findings.mismatches.is_empty(), false);
        copy.mended(usize::MAX);
    }
}
