//! The rules of agents: whose wait an exit report ends, whom the leader asks to restart what is silent, and when it gives up.
// capabilities A02, A07, B10

use super::*;

impl Bench {
    fn node(&self, n: u64) -> &NodeEntry {
        self.tables.node(NodeId(n)).expect("a registered node")
    }

    fn report_exit(&mut self, launch: LaunchId, process: Option<(NodeId, Incarnation)>) {
        self.step(Input::ExitReport(ExitReport { launch, process }));
    }

    /// Registers a node anew, started by an agent.
    fn register_with_agent(&mut self, n: u64) {
        self.apply(Command::RegisterNode(Registration {
            name: format!("n{n}"),
            store: StoreId(n.into()),
            launch: LaunchId(format!("launch {n} {}", self.index)),
            agent: format!("machine-{n}:7429"),
            ..Registration::default()
        }));
    }
}

fn restarts(actions: &[Action]) -> Vec<RestartRequest> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Restart(request) => Some(request.clone()),
        _ => None,
    });
    asked.collect()
}

#[test]
fn a_launch_id_alone_names_the_process_that_ended() {
    let mut bench = Bench::new();
    bench.pass(2_000, &[1, 2, 3]);
    let primary = bench.primary(S1);
    let launch = bench.node(primary).launch.clone();
    bench.report_exit(LaunchId::default(), None);
    bench.report_exit(LaunchId("of nobody".to_string()), None);
    assert_eq!(bench.entry(S1).begun, None, "nobody was started so");
    bench.report_exit(launch, None);
    for n in bench.others(S1) {
        bench.seal(n, S1, Pair::new(1, 5));
    }
    assert_eq!(bench.entry(S1).epoch, Epoch(2), "no wait is left");
}

#[test]
fn a_late_report_of_an_earlier_process_does_nothing_to_a_later_one() {
    let mut bench = Bench::new();
    let primary = bench.primary(S1);
    let early = bench.node(primary).launch.clone();
    bench.register(primary);
    bench.pass(10, &[1, 2, 3]);
    for n in 1..=3 {
        bench.seal(n, S1, Pair::new(1, if n == primary { 9 } else { 5 }));
    }
    assert_eq!(bench.entry(S1).primary, Some(bench.process(primary)));
    let (node, later) = (NodeId(primary), Incarnation(2));
    for process in [None, Some((node, Incarnation(1))), Some((node, later))] {
        bench.report_exit(early.clone(), process);
        assert!(!bench.tables.has_ended(bench.process(primary)));
        assert_eq!(bench.entry(S1).begun, None, "{process:?}");
    }
}

#[test]
fn a_repeated_report_changes_nothing_more() {
    let mut bench = Bench::new();
    let primary = bench.primary(S1);
    let launch = bench.node(primary).launch.clone();
    bench.report_exit(launch.clone(), None);
    let after = bench.tables.revision();
    bench.report_exit(launch, None);
    assert_eq!(bench.tables.revision(), after);
}

#[test]
fn a_report_ends_the_wait_for_the_primary_and_for_no_sealed_copy() {
    let mut bench = Bench::new();
    bench.pass(2_000, &[1, 2, 3]);
    let (primary, others) = (bench.primary(S1), bench.others(S1));
    // A secondary's end is reported: the silent primary's lease is waited out as ever.
    let launch = bench.node(others[0]).launch.clone();
    bench.report_exit(launch, None);
    bench.ask_new_epoch(S1);
    bench.seal(others[1], S1, Pair::new(1, 5));
    assert_eq!(bench.primary(S1), primary);
    bench.pass(980, &[others[1]]);
    assert_eq!(bench.primary(S1), primary);
    bench.pass(40, &[others[1]]);
    assert_eq!(bench.primary(S1), others[1]);
}

#[test]
fn the_agent_of_a_silent_process_is_asked_ever_more_rarely_and_no_other() {
    let mut bench = Bench::new();
    bench.register_with_agent(3);
    bench.pass(100, &[1, 2, 3]);
    // Both fall silent; only one of them has an agent.
    let down = bench.pass(1_100, &[1]);
    assert_eq!(restarts(&down), [], "down, not yet for long");
    assert_eq!(bench.node(3).state, NodeState::Down);
    let first = restarts(&bench.pass(2_000, &[1]));
    let wanted = RestartRequest {
        process: bench.process(3),
        launch: bench.node(3).launch.clone(),
        agent: "machine-3:7429".to_string(),
    };
    assert_eq!(first, std::slice::from_ref(&wanted));
    assert_eq!(restarts(&bench.pass(3_800, &[1])), []);
    assert_eq!(restarts(&bench.pass(300, &[1])), [wanted]);
    // Its successor registers, and is not asked about.
    bench.register_with_agent(3);
    assert_eq!(restarts(&bench.pass(20_000, &[1, 3])), []);
}

#[test]
fn a_process_that_ends_again_and_again_gets_its_copies_placed_elsewhere_at_once() {
    let mut bench = Bench::new();
    bench.register(4);
    bench.pass(100, &[1, 2, 3, 4]);
    let spare: Vec<u64> = (1..=4).filter(|n| !names(bench.entry(S1), *n)).collect();
    let secondary = bench.entry(S1).secondaries[0].node.0;
    let alive: Vec<u64> = (1..=4).filter(|n| *n != secondary).collect();
    for time in 1..=5 {
        assert!(!names(bench.entry(S1), spare[0]), "given up after {time}");
        let launch = bench.node(secondary).launch.clone();
        bench.pass(1_000, &[1, 2, 3, 4]);
        bench.report_exit(launch, None);
        bench.pass(100, &alive);
        if time < 5 {
            bench.register_with_agent(secondary);
        }
    }
    let joining = &bench.entry(S1).joining;
    assert!(joining.iter().any(|c| c.node.0 == spare[0]), "{joining:?}");
}

/// A node with an agent that has a copy of the shard and is not its primary, and the node that has none.
fn with_spare(bench: &mut Bench) -> (u64, u64) {
    bench.register(4);
    bench.pass(100, &[1, 2, 3, 4]);
    let spare = (1..=4).find(|n| !names(bench.entry(S1), *n)).unwrap();
    let secondary = bench.entry(S1).secondaries[0].node.0;
    bench.register_with_agent(secondary);
    bench.pass(100, &[1, 2, 3, 4]);
    (secondary, spare)
}

#[test]
fn wishes_that_nobody_grants_do_not_give_a_node_up_and_go_on() {
    let mut bench = Bench::new();
    bench.apply(Command::SetSettings(SettingsChange {
        replace_after: Some(Duration::from_millis(600_000)),
        ..SettingsChange::default()
    }));
    let (away, spare) = with_spare(&mut bench);
    let alive: Vec<u64> = (1..=4).filter(|n| *n != away).collect();
    let asked = restarts(&bench.pass(70_000, &alive)).len();
    assert!(asked >= 5, "{asked}");
    let asked = restarts(&bench.pass(200_000, &alive)).len();
    assert!(asked >= 2, "it is asked on and on: {asked}");
    assert!(!names(bench.entry(S1), spare), "the node may come back");
}

#[test]
fn an_exit_counts_once_however_often_it_is_reported_before_it_is_in_the_tables() {
    let mut bench = Bench::new();
    let (ended, spare) = with_spare(&mut bench);
    let launch = bench.node(ended).launch.clone();
    for _ in 0..6 {
        bench.pass(600, &[1, 2, 3, 4]);
        let report = ExitReport {
            launch: launch.clone(),
            process: None,
        };
        // What is proposed is not committed.
        let (now, input) = (bench.now, Input::ExitReport(report));
        let mut proposed = Vec::new();
        let tables = &bench.tables;
        bench.controller.step(now, tables, input, &mut proposed);
        assert!(!proposed.is_empty());
    }
    bench.report_exit(launch, None);
    let alive: Vec<u64> = (1..=4).filter(|n| *n != ended).collect();
    bench.pass(1_000, &alive);
    assert!(!names(bench.entry(S1), spare), "one exit is no reason");
}

#[test]
fn a_restart_counts_when_its_successor_registers() {
    let mut bench = Bench::new();
    let (hangs, spare) = with_spare(&mut bench);
    let alive: Vec<u64> = (1..=4).filter(|n| *n != hangs).collect();
    for time in 1..=5 {
        bench.pass(1_000, &[1, 2, 3, 4]);
        assert!(!names(bench.entry(S1), spare), "given up after {time}");
        assert_eq!(restarts(&bench.pass(4_000, &alive)).len(), 1);
        bench.register_with_agent(hangs);
    }
    bench.pass(100, &[1, 2, 3, 4]);
    bench.pass(2_000, &alive);
    assert!(names(bench.entry(S1), spare), "it hangs again and again");
}

fn names(entry: &ShardEntry, n: u64) -> bool {
    entry.copies().any(|c| c.node.0 == n)
}
