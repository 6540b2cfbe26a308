//! The rules by which a primary follows its writers: only after a site led for long, not again for long, and after all else.
// capability P30

use super::*;
use crate::writers::WriterShares;

const ALL: [u64; 4] = [1, 2, 3, 4];
const AFTER: u64 = 3_000;
const CALM: u64 = 10_000;

/// Nodes 1 and 4 are at `a`, 2 at `b`, 3 at `c`.
fn site(n: u64) -> &'static str {
    match n {
        2 => "b",
        3 => "c",
        _ => "a",
    }
}

impl Bench {
    /// One shard that follows its writers, with a copy at each site.
    fn near_writers() -> Bench {
        Bench::near_writers_with(NamespaceSettings::default())
    }

    fn near_writers_with(settings: NamespaceSettings) -> Bench {
        super::super::choose_mutant();
        let control = ControlSettings {
            near_writers_after: Duration::from_millis(AFTER),
            near_writers_calm: Duration::from_millis(CALM),
            balance_after: Duration::ZERO,
            ..ControlSettings::default()
        };
        let mut bench = Bench {
            now: Instant::ZERO + Duration::from_millis(10_000),
            tables: Tables::default(),
            controller: Controller::new(control),
            sequences: BTreeMap::new(),
            index: 0,
            term: 0,
        };
        for n in ALL {
            bench.apply(Command::RegisterNode(Registration {
                name: format!("n{n}"),
                store: StoreId(n.into()),
                site: site(n).to_string(),
                launch: LaunchId(format!("launch {n}")),
                capacity: 1,
                ..Registration::default()
            }));
        }
        bench.apply(Command::CreateNamespace {
            name: "near".to_string(),
            shards: 1,
            settings: NamespaceSettings {
                primary_near_writers: true,
                ..settings
            },
        });
        bench.lead();
        ALL.iter().for_each(|n| drop(bench.beat(*n)));
        bench.step(Input::TablesChanged);
        assert_eq!(bench.primary_site(), "a");
        bench.everyone_follows();
        bench
    }

    fn primary_site(&self) -> &'static str {
        site(self.primary(S1))
    }

    fn everyone_follows(&mut self) {
        let epoch = self.entry(S1).epoch;
        for n in self.others(S1) {
            self.report(n, S1, epoch, epoch, 0);
        }
    }

    /// Time passes, in which the updates come from these sites; up to the first hand-over.
    fn write(&mut self, ms: u64, shares: &[(&str, u32)]) -> Vec<HandOver> {
        self.write_with(ms, shares, &ALL)
    }

    fn write_with(&mut self, ms: u64, shares: &[(&str, u32)], alive: &[u64]) -> Vec<HandOver> {
        for _ in 0..ms / 500 {
            let mut request = self.heartbeat(self.primary(S1));
            let sites = shares.iter().map(|(site, of)| (site.to_string(), *of));
            request.writers = vec![WriterShares {
                shard: S1,
                epoch: self.entry(S1).epoch,
                sites: sites.collect(),
            }];
            self.send(request);
            let asked = handed_over(&self.pass(500, alive));
            if !asked.is_empty() {
                return asked;
            }
        }
        Vec::new()
    }

    fn answer(&mut self, hand_over: HandOver, outcome: HandOverOutcome) {
        let from = self.entry(S1).primary.unwrap();
        let hand_overs = vec![(hand_over, outcome)];
        self.step(Input::HandOverAnswer(HandOverAnswer { from, hand_overs }));
    }

    fn carry_out(&mut self, hand_over: HandOver) {
        let last = Pair::new(hand_over.epoch.0, 5);
        let others = self.others(S1);
        self.answer(hand_over, HandOverOutcome::Promised { last });
        for n in others {
            if self.entry(S1).begun.is_some() {
                self.seal(n, S1, last);
            }
        }
        assert_eq!(self.primary(S1), hand_over.target.node.0);
        self.everyone_follows();
    }
}

#[test]
fn the_primary_goes_to_the_site_that_led_for_long_once() {
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    let b = [("a", 200), ("b", 800)];
    assert!(bench.write(AFTER - 500, &b).is_empty(), "not at once");
    let asked = bench.write(1_000, &b);
    assert_eq!(asked[0].target.node, NodeId(2));
    bench.carry_out(asked[0]);
    assert!(bench.write(3 * CALM, &b).is_empty(), "it is there");
    // And after the next one.
    let asked = bench.write(2 * AFTER, &[("b", 100), ("c", 900)]);
    assert_eq!(asked[0].target.node, NodeId(3));
}

#[test]
fn neither_a_burst_nor_an_even_load_nor_too_small_a_margin_moves_it() {
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    for _ in 0..10 {
        assert!(
            bench
                .write(AFTER - 500, &[("a", 100), ("b", 900)])
                .is_empty()
        );
        assert!(bench.write(500, &[("a", 500), ("b", 500)]).is_empty());
    }
    assert!(bench.write(3 * AFTER, &[("a", 450), ("b", 550)]).is_empty());
    // Enough, but for the margin.
    assert!(bench.write(3 * AFTER, &[("a", 410), ("b", 590)]).is_empty());
    assert!(bench.write(3 * AFTER, &[("a", 600), ("b", 400)]).is_empty());
    // Two sites in turn: each has to lead without a break.
    for _ in 0..10 {
        assert!(bench.write(AFTER - 1_000, &[("b", 900)]).is_empty());
        assert!(bench.write(AFTER - 1_000, &[("c", 900)]).is_empty());
    }
}

#[test]
fn it_stays_for_the_calm_time_wherever_it_was_moved_and_by_whom() {
    let mut bench = Bench::near_writers();
    let b = [("b", 950)];
    // A leader that is new knows of no earlier move, and waits.
    assert!(bench.write(CALM - 1_000, &b).is_empty());
    let asked = bench.write(2_000, &b);
    bench.carry_out(asked[0]);
    // A person moves it away from its writers.
    let row = bench.entry(S1).clone();
    let target = *row.secondaries.iter().find(|c| c.node.0 == 3).unwrap();
    let wanted = Input::TransferWanted { shard: S1, target };
    let asked = handed_over(&bench.step(wanted));
    assert_eq!(asked[0].target, target);
    bench.carry_out(asked[0]);
    assert!(bench.write(CALM - 1_000, &b).is_empty());
    let asked = bench.write(2_000, &b);
    assert_eq!(asked[0].target.node, NodeId(2));
    // And the next leader waits again.
    bench.lead();
    ALL.iter().for_each(|n| drop(bench.beat(*n)));
    bench.everyone_follows();
    assert!(bench.write(CALM - 1_000, &b).is_empty());
    assert!(!bench.write(2_000, &b).is_empty());
}

#[test]
fn where_no_copy_is_nothing_is_moved() {
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    assert!(bench.write(3 * AFTER, &[("d", 1_000)]).is_empty());
    assert_eq!(bench.entry(S1).copies().count(), 3);
}

#[test]
fn a_copy_that_drains_is_silent_or_has_orphans_takes_nothing() {
    let b = [("b", 1_000)];
    let drain = |drain| Command::DrainNode {
        node: NodeId(2),
        drain,
    };
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    bench.apply(drain(true));
    assert!(bench.write(3 * AFTER, &b).is_empty(), "it drains");
    bench.apply(drain(false));
    assert_eq!(bench.write(1_000, &b)[0].target.node, NodeId(2));

    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    assert!(bench.write(AFTER - 1_000, &b).is_empty());
    let silent = bench.write_with(2_000, &b, &[1, 3, 4]);
    assert!(silent.is_empty(), "it is silent");
    assert_eq!(bench.write(2_000, &b)[0].target.node, NodeId(2));

    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    let epoch = bench.entry(S1).epoch;
    bench.report(2, S1, epoch, epoch, 7);
    assert!(bench.write(2 * AFTER, &b).is_empty(), "it has orphans");
    bench.report(2, S1, epoch, epoch, 0);
    assert_eq!(bench.write(1_000, &b)[0].target.node, NodeId(2));
}

#[test]
fn of_an_in_sync_shard_only_a_member_takes_it() {
    let mut bench = Bench::near_writers_with(NamespaceSettings {
        policy: Policy::InSync,
        min_in_sync: 1,
        ..NamespaceSettings::default()
    });
    let (revision, epoch) = (bench.entry(S1).revision, bench.entry(S1).epoch);
    let copy = CopyId {
        node: NodeId(2),
        store: StoreId(2),
    };
    let mut request = bench.heartbeat(bench.primary(S1));
    request.asks = vec![Ask::DropInSync {
        shard: S1,
        epoch,
        revision,
        copy,
    }];
    bench.send(request);
    bench.step(Input::TablesChanged);
    assert!(!bench.entry(S1).in_sync.contains(&copy));
    bench.pass(CALM, &ALL);
    assert!(bench.write(2 * AFTER, &[("b", 900)]).is_empty());
    let asked = bench.write(2 * AFTER, &[("c", 900)]);
    assert_eq!(asked[0].target.node, NodeId(3));
}

#[test]
fn a_hand_over_that_failed_waits_as_long_as_the_first() {
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    let b = [("b", 1_000)];
    let asked = bench.write(2 * AFTER, &b);
    bench.answer(asked[0], HandOverOutcome::Failed);
    assert!(bench.write(AFTER - 500, &b).is_empty());
    assert!(!bench.write(1_500, &b).is_empty());
}

#[test]
fn what_is_told_no_more_is_forgotten_and_counts_only_from_the_primary() {
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    let b = [("b", 1_000)];
    bench.write(AFTER - 1_000, &b);
    // Nobody writes any more.
    assert!(bench.write(500, &[]).is_empty());
    assert!(bench.write(AFTER - 500, &b).is_empty());
    bench.write(500, &[]);
    // Of another process, and of another epoch.
    for (n, epoch) in [(2, Epoch(1)), (bench.primary(S1), Epoch(2))] {
        let mut request = bench.heartbeat(n);
        let sites = [("b".to_string(), 1_000)].into();
        let shard = S1;
        request.writers = vec![WriterShares {
            shard,
            epoch,
            sites,
        }];
        bench.send(request);
        assert!(handed_over(&bench.pass(2 * AFTER, &ALL)).is_empty());
    }
}

#[test]
fn without_the_option_nothing_follows_anybody() {
    let mut bench = Bench::near_writers();
    bench.pass(CALM, &ALL);
    let b = [("b", 1_000)];
    bench.write(AFTER - 1_000, &b);
    bench.apply(Command::AlterNamespace {
        name: "near".to_string(),
        revision: None,
        settings: NamespaceSettings::default(),
    });
    assert!(bench.write(3 * AFTER, &b).is_empty());
}

/// To whom a drained primary goes when the writers at `c` paused for so long.
fn drained_after(pause: u64) -> NodeId {
    let mut bench = Bench::near_writers();
    bench.write(1_000, &[("a", 200), ("c", 800)]);
    if pause > 0 {
        bench.write(500, &[]);
        bench.pass(pause, &ALL);
    }
    let node = NodeId(bench.primary(S1));
    bench.apply(Command::DrainNode { node, drain: true });
    let mut actions = bench.step(Input::TablesChanged);
    actions.extend(bench.pass(300, &ALL));
    handed_over(&actions)[0].target.node
}

#[test]
fn a_drained_node_gives_it_to_the_site_of_its_writers_also_while_they_pause() {
    assert_eq!(drained_after(0), NodeId(3));
    assert_eq!(drained_after(CALM / 2), NodeId(3));
    assert_eq!(drained_after(2 * CALM), NodeId(2), "they are forgotten");
}
