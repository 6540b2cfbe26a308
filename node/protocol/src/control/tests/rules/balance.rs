//! The rules by which copies and primaries are evened out: after long calm, one at a time, and never with fewer copies on the way.
// capability B11

use super::*;

const ALL: [u64; 4] = [1, 2, 3, 4];
const CALM: u64 = 60_000;

impl Bench {
    /// Ten shards on three nodes, and a fourth that came later.
    fn with_a_new_node() -> Bench {
        let mut bench = Bench::new();
        bench.apply(Command::CreateNamespace {
            name: "more".to_string(),
            shards: 8,
            settings: NamespaceSettings::default(),
        });
        bench.step(Input::TablesChanged);
        bench.register(4);
        bench.pass(100, &ALL);
        bench
    }

    fn copies(&self, n: u64) -> usize {
        let rows = self.tables.shards().values();
        rows.filter(|row| row.copies().any(|copy| copy.node.0 == n))
            .count()
    }

    /// Rows with a copy that joins or leaves.
    fn moving(&self) -> Vec<ShardId> {
        let rows = self.tables.shards().iter();
        let moving = rows.filter(|(_, row)| !row.joining.is_empty());
        moving.map(|(shard, _)| *shard).collect()
    }

    /// What joins becomes complete, and what leaves has given everything.
    fn finish(&mut self, shard: ShardId) {
        let row = self.entry(shard).clone();
        for copy in &row.joining {
            if row.leaving.contains(copy) {
                self.report(copy.node.0, shard, row.epoch, row.epoch, 0);
                continue;
            }
            let mut request = self.heartbeat(self.primary(shard));
            request.asks = vec![Ask::Complete {
                shard,
                epoch: row.epoch,
                copy: *copy,
            }];
            self.send(request);
            self.step(Input::TablesChanged);
        }
    }
}

#[test]
fn a_new_node_gets_its_share_one_copy_at_a_time_after_long_calm() {
    let mut bench = Bench::with_a_new_node();
    bench.pass(CALM - 1_000, &ALL);
    assert_eq!(bench.copies(4), 0, "not at once");
    bench.pass(1_000, &ALL);
    assert_eq!(bench.moving().len(), 1);
    bench.pass(5_000, &ALL);
    let moving = bench.moving();
    assert_eq!(moving.len(), 1, "the next one waits for this one");
    let row = bench.entry(moving[0]);
    assert_eq!((row.full_copies().count(), row.joining.len()), (3, 1));
    for _ in 0..40 {
        for shard in bench.moving() {
            bench.finish(shard);
        }
        bench.pass(600, &ALL);
        assert!(bench.moving().len() <= 1);
        let rows = bench.tables.shards().values();
        assert!(rows.clone().all(|row| row.full_copies().count() >= 3));
    }
    let counts = ALL.map(|n| bench.copies(n));
    assert_eq!(counts.iter().sum::<usize>(), 30, "{counts:?}");
    let (most, fewest) = (counts.iter().max(), counts.iter().min());
    assert!(most.unwrap() - fewest.unwrap() <= 2, "{counts:?}");
}

#[test]
fn a_node_that_went_away_begins_the_wait_anew() {
    let mut bench = Bench::with_a_new_node();
    bench.pass(CALM - 5_000, &ALL);
    bench.pass(3_000, &[1, 2, 3]);
    bench.pass(CALM - 1_000, &ALL);
    assert_eq!(bench.copies(4), 0);
    bench.pass(3_000, &ALL);
    assert_eq!(bench.copies(4), 1);
}

#[test]
fn primaries_go_where_there_are_fewer() {
    let mut bench = Bench::with_a_new_node();
    // All primaries of one node fail over.
    let emptied = bench.primary(S1);
    let shards: Vec<ShardId> = bench.tables.shards().keys().copied().collect();
    for shard in shards {
        if bench.primary(shard) != emptied {
            continue;
        }
        bench.ask_new_epoch(shard);
        for n in bench.others(shard) {
            bench.seal(n, shard, Pair::new(1, 5));
        }
        bench.seal(emptied, shard, Pair::new(1, 4));
        assert_ne!(bench.primary(shard), emptied);
    }
    // Copies come first; without the new node there are none to move.
    bench.apply(Command::DrainNode {
        node: NodeId(4),
        drain: true,
    });
    bench.apply(Command::RemoveNode { node: NodeId(4) });
    let alive = [1, 2, 3];
    assert!(handed_over(&bench.pass(CALM - 1_000, &alive)).is_empty());
    let asked = handed_over(&bench.pass(2_000, &alive));
    let targets: BTreeSet<u64> = asked.iter().map(|it| it.target.node.0).collect();
    assert_eq!(targets, BTreeSet::from([emptied]));
    let shards: BTreeSet<ShardId> = asked.iter().map(|it| it.shard).collect();
    assert_eq!(shards.len(), 1, "one at a time");
}

#[test]
fn a_hand_over_that_failed_is_not_tried_again_at_once() {
    let mut bench = Bench::with_a_new_node();
    bench.apply(Command::RemoveNode { node: NodeId(4) });
    let emptied = bench.primary(S1);
    let shards: Vec<ShardId> = bench.tables.shards().keys().copied().collect();
    for shard in shards {
        if bench.primary(shard) != emptied {
            continue;
        }
        bench.ask_new_epoch(shard);
        for n in bench.others(shard) {
            bench.seal(n, shard, Pair::new(1, 5));
        }
        bench.seal(emptied, shard, Pair::new(1, 4));
    }
    let alive = [1, 2, 3];
    let asked = handed_over(&bench.pass(CALM + 100, &alive));
    let hand_over = asked[0];
    let from = bench.entry(hand_over.shard).primary.unwrap();
    let hand_overs = vec![(hand_over, HandOverOutcome::Failed)];
    bench.step(Input::HandOverAnswer(HandOverAnswer { from, hand_overs }));
    let again = handed_over(&bench.pass(CALM - 1_000, &alive));
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn a_drained_node_that_is_down_for_long_is_replaced_like_any_other() {
    let mut bench = Bench::with_a_new_node();
    let away = bench.others(S1)[0];
    bench.apply(Command::DrainNode {
        node: NodeId(away),
        drain: true,
    });
    let alive: Vec<u64> = ALL.into_iter().filter(|n| *n != away).collect();
    bench.pass(33_000, &alive);
    for _ in 0..4 {
        for shard in bench.moving() {
            if bench.primary(shard) != away {
                bench.finish(shard);
            }
        }
        bench.pass(600, &alive);
    }
    assert!(!bench.entry(S1).names(CopyId {
        node: NodeId(away),
        store: StoreId(away.into())
    }));
}
