//! Tests of the tables: one per rule, and random commands on two managers.

use super::command::*;
use super::invariants::faults;
use super::*;
use crate::time::Duration;
use proptest::prelude::*;
use understudy_proto::failure::{Applied as WasApplied, Failure, Reason};
use understudy_proto::ids::*;
use understudy_proto::limits;

const DAY: u64 = limits::SESSION_HORIZON_MS;

#[derive(Default)]
pub(super) struct Desk {
    pub(super) tables: Tables,
    index: u64,
}

impl Desk {
    pub(super) fn run(&mut self, command: Command) -> Result<Answer, Refusal> {
        crate::control::tests::choose_mutant();
        self.index += 1;
        let client = ClientId::from_parts(1, 0);
        let sequence = Sequence(self.index);
        let id = RequestId { client, sequence };
        self.tables
            .apply(self.index, &Envelope { id, command })
            .answer
    }

    pub(super) fn register(
        &mut self,
        name: &str,
        store: u128,
        launch: &str,
    ) -> Result<ProcessId, Refusal> {
        let answer = self.run(Command::RegisterNode(registration(name, store, launch)))?;
        match answer {
            Answer::Registered { process } => Ok(process),
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, name: &str, shards: u32) -> Result<Namespace, Refusal> {
        let settings = NamespaceSettings::default();
        let name = name.to_string();
        match self.run(Command::CreateNamespace {
            name,
            shards,
            settings,
        })? {
            Answer::Namespace(namespace) => Ok(*namespace),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn change(&mut self, shard: ShardId, op: EntryOp) -> Result<(), Refusal> {
        let revision = self.tables.shard(shard).unwrap().revision;
        self.change_at(shard, revision, op)
    }

    pub(super) fn change_at(
        &mut self,
        shard: ShardId,
        revision: Revision,
        op: EntryOp,
    ) -> Result<(), Refusal> {
        let change = EntryChange {
            shard,
            revision,
            op,
        };
        match self.run(Command::ChangeEntries(vec![change]))? {
            Answer::Entries {
                refused: Some((_, why)),
                ..
            } => Err(*why),
            _ => Ok(()),
        }
    }

    fn clock(&mut self, to_ms: u64) -> Result<Answer, Refusal> {
        let from_ms = self.tables.clock_ms();
        self.run(Command::RaiseClock {
            from_ms,
            to_ms,
            step: false,
        })
    }

    fn bind(&mut self, name: &str, lease_ms: Option<u64>) -> Result<Answer, Refusal> {
        self.run(Command::Bind {
            name: name.to_string(),
            endpoints: vec!["h:1".to_string()],
            lease_ms,
            revision: None,
        })
    }
}

fn registration(name: &str, store: u128, launch: &str) -> Registration {
    Registration {
        name: name.to_string(),
        store: StoreId(store),
        launch: LaunchId(launch.to_string()),
        ..Registration::default()
    }
}

/// A shard in epoch 1 on the nodes 1, 2 and 3, with 1 as primary.
fn placed() -> (Desk, ShardId, Vec<ProcessId>) {
    let mut desk = Desk::default();
    let nodes = (1..=3).map(|n| desk.register(&format!("n{n}"), n, "a").unwrap());
    let nodes: Vec<ProcessId> = nodes.collect();
    let shard = desk.create("main", 1).unwrap().first_shard;
    let secondaries = vec![nodes[1].copy(), nodes[2].copy()];
    let primary = nodes[0];
    desk.change(
        shard,
        EntryOp::Place {
            primary,
            secondaries,
        },
    )
    .unwrap();
    (desk, shard, nodes)
}

#[test]
fn a_repeated_command_gets_the_first_answer_and_does_not_run() {
    let mut tables = Tables::default();
    let id = RequestId {
        client: ClientId::from_parts(1, 0),
        sequence: Sequence(1),
    };
    let command = Command::RegisterNode(registration("n", 1, ""));
    let first = tables.apply(
        1,
        &Envelope {
            id,
            command: command.clone(),
        },
    );
    let again = tables.apply(2, &Envelope { id, command });
    assert_eq!(first.answer, again.answer);
    assert!(again.duplicate && again.changes.is_empty());
    let other = Command::DeleteNamespace {
        name: "x".to_string(),
    };
    let misused = tables.apply(3, &Envelope { id, command: other });
    assert_eq!(misused.answer, Err(Refusal::IdReused));
    assert!(tables.was_carried_out(id), "the first one was");
    let sequence = id.sequence.next();
    assert!(!tables.was_carried_out(RequestId { sequence, ..id }));
}

#[test]
fn each_start_of_a_process_has_its_incarnation_and_ends_the_ones_before() {
    let mut desk = Desk::default();
    let first = desk.register("n", 1, "a").unwrap();
    assert_eq!(
        desk.register("n", 1, "a"),
        Ok(first),
        "the same process asks again"
    );
    let second = desk.register("n", 1, "b").unwrap();
    assert_eq!(
        (second.node, second.incarnation),
        (first.node, Incarnation(2))
    );
    assert!(desk.tables.has_ended(first) && !desk.tables.has_ended(second));
}

#[test]
fn a_live_nodes_name_is_refused_to_another_store() {
    let mut desk = Desk::default();
    let first = desk.register("n", 1, "a").unwrap();
    let taken = desk.register("n", 2, "b").unwrap_err();
    assert!(matches!(taken, Refusal::NodeNameTaken { .. }), "{taken}");
    let taken = desk.register("m", 1, "b").unwrap_err();
    assert!(matches!(taken, Refusal::StoreTaken { .. }), "{taken}");
    let revision = desk.tables.node(first.node).unwrap().revision;
    let state = NodeState::Down;
    let node = first.node;
    desk.run(Command::SetNodeState {
        node,
        revision,
        state,
    })
    .unwrap();
    let second = desk.register("n", 2, "b").unwrap();
    assert_eq!(second.node, first.node);
    assert!(
        !desk.tables.has_ended(first),
        "down is no proof that it ended"
    );
    assert_eq!(
        desk.tables.process_of(first.copy()),
        None,
        "its copies are other copies"
    );
}

#[test]
fn only_the_exact_process_is_reported_as_ended() {
    let mut desk = Desk::default();
    let process = desk.register("n", 1, "a").unwrap();
    let (node, incarnation) = (process.node, process.incarnation);
    let report = |launch: &str| Command::ReportExit {
        node,
        incarnation,
        launch: LaunchId(launch.to_string()),
    };
    assert!(desk.run(report("b")).is_err());
    assert!(!desk.tables.has_ended(process));
    desk.run(report("a")).unwrap();
    assert!(desk.tables.has_ended(process));
}

#[test]
fn shard_ids_are_never_reused() {
    let mut desk = Desk::default();
    let first = desk.create("a", 16).unwrap();
    desk.run(Command::DeleteNamespace {
        name: "a".to_string(),
    })
    .unwrap();
    let second = desk.create("a", 16).unwrap();
    assert!(second.id > first.id);
    assert_eq!(second.first_shard, ShardId(17));
    assert!(
        desk.tables.shard_is_deleted(ShardId(16)) && !desk.tables.shard_is_deleted(ShardId(33))
    );
}

#[test]
fn a_namespace_has_its_bounds() {
    let mut desk = Desk::default();
    assert!(desk.create("", 1).is_err() && desk.create("a", 0).is_err());
    assert!(desk.create("a", 4_097).is_err());
    assert!(desk.create("a", 4_096).is_ok());
    assert!(matches!(
        desk.create("a", 1),
        Err(Refusal::AlreadyExists { .. })
    ));
}

#[test]
fn every_change_of_a_row_is_a_compare_and_set() {
    let (mut desk, shard, nodes) = placed();
    let stale = desk.tables.shard(shard).unwrap().revision;
    let copy = nodes[2].copy();
    desk.change(shard, EntryOp::MarkJoining { copy }).unwrap();
    let op = EntryOp::BeginFailover {
        epoch: Epoch(2),
        preferred: None,
    };
    let refused = desk.change_at(shard, stale, op);
    assert!(
        matches!(refused, Err(Refusal::Changed { .. })),
        "{refused:?}"
    );
    assert_eq!(desk.tables.shard(shard).unwrap().begun, None);
}

#[test]
fn only_a_sealed_candidate_of_a_begun_failover_is_promoted() {
    let (mut desk, shard, nodes) = placed();
    let promote = |n: usize, sealed: &[usize]| EntryOp::Promote {
        epoch: Epoch(3),
        promoted: nodes[n],
        last: Pair::new(1, 4),
        sealed: sealed.iter().map(|s| nodes[*s].copy()).collect(),
    };
    assert!(
        desk.change(shard, promote(1, &[1])).is_err(),
        "nothing has begun"
    );
    let begin = |epoch| EntryOp::BeginFailover {
        epoch: Epoch(epoch),
        preferred: None,
    };
    assert!(desk.change(shard, begin(1)).is_err());
    desk.change(shard, begin(3)).unwrap();
    assert!(
        desk.change(shard, begin(2)).is_err(),
        "a lower promise is no news"
    );
    assert!(desk.change(shard, promote(1, &[2])).is_err());
    desk.change(
        shard,
        EntryOp::MarkJoining {
            copy: nodes[2].copy(),
        },
    )
    .unwrap();
    assert!(
        desk.change(shard, promote(2, &[2])).is_err(),
        "a joining copy is no candidate"
    );
    desk.change(shard, promote(1, &[1])).unwrap();
    let entry = desk.tables.shard(shard).unwrap().clone();
    assert_eq!((entry.epoch, entry.primary), (Epoch(3), Some(nodes[1])));
    assert_eq!(entry.secondaries, [nodes[0].copy()]);
    let cut = &entry.open_cuts[0];
    let away = [nodes[0].copy(), nodes[2].copy()];
    assert_eq!(
        cut.stores,
        away.into_iter().collect(),
        "all stores that were not sealed"
    );
    assert_eq!(
        (cut.old_epoch, cut.new_epoch, cut.cut),
        (Epoch(1), Epoch(3), Pair::new(1, 4))
    );
    assert!(
        desk.run(Command::RemoveNode {
            node: nodes[0].node
        })
        .is_err()
    );
}

#[test]
fn a_removed_node_stays_out_with_its_store_and_takes_no_copy() {
    let (mut desk, _, _) = placed();
    let gone = desk.register("n4", 4, "a").unwrap();
    let remove = || Command::RemoveNode { node: gone.node };
    desk.run(remove()).unwrap();
    desk.run(remove()).expect("said again it is done");
    let shard = desk.create("more", 1).unwrap().first_shard;
    let place = EntryOp::Place {
        primary: gone,
        secondaries: Vec::new(),
    };
    assert!(desk.change(shard, place).is_err());
    assert!(desk.register("n4", 4, "b").is_err(), "the same folder");
    assert!(desk.register("n5", 4, "b").is_err(), "by another name");
    let new = desk.register("n4", 5, "b").expect("an empty folder");
    assert!(new.node > gone.node, "an id is never given again");
}

#[test]
fn a_process_that_is_not_the_newest_is_not_promoted() {
    let (mut desk, shard, nodes) = placed();
    let epoch = Epoch(2);
    desk.change(
        shard,
        EntryOp::BeginFailover {
            epoch,
            preferred: None,
        },
    )
    .unwrap();
    desk.register("n2", 2, "later").unwrap();
    let sealed = [nodes[1].copy()].into_iter().collect();
    let (promoted, last) = (nodes[1], Pair::ZERO);
    assert!(
        desk.change(
            shard,
            EntryOp::Promote {
                epoch,
                promoted,
                last,
                sealed
            }
        )
        .is_err()
    );
}

#[test]
fn a_cut_closes_store_by_store_or_by_a_persons_word() {
    let (mut desk, shard, nodes) = placed();
    let epoch = Epoch(2);
    desk.change(
        shard,
        EntryOp::BeginFailover {
            epoch,
            preferred: None,
        },
    )
    .unwrap();
    let sealed = [nodes[1].copy()].into_iter().collect();
    let (promoted, last) = (nodes[1], Pair::new(1, 1));
    desk.change(
        shard,
        EntryOp::Promote {
            epoch,
            promoted,
            last,
            sealed,
        },
    )
    .unwrap();
    let (a, b) = (nodes[0].copy(), nodes[2].copy());
    let early = EntryOp::CloseCuts {
        copy: a,
        followed: Epoch(1),
    };
    assert!(
        desk.change(shard, early).is_err(),
        "it did not follow the new epoch yet"
    );
    desk.change(
        shard,
        EntryOp::CloseCuts {
            copy: a,
            followed: epoch,
        },
    )
    .unwrap();
    assert!(!desk.tables.shard(shard).unwrap().cut_lists(a));
    assert!(
        desk.run(Command::DeclareStoreLost { copy: b }).is_err(),
        "its node lives"
    );
    let (node, revision) = (b.node, desk.tables.node(b.node).unwrap().revision);
    let state = NodeState::Down;
    desk.run(Command::SetNodeState {
        node,
        revision,
        state,
    })
    .unwrap();
    desk.run(Command::DeclareStoreLost { copy: b }).unwrap();
    let entry = desk.tables.shard(shard).unwrap();
    assert!(entry.open_cuts.is_empty() && !entry.names(b));
    assert!(
        desk.register("n3", 3, "again").is_err(),
        "a lost store does not come back"
    );
}

#[test]
fn an_ended_client_id_is_never_registered_again() {
    let mut desk = Desk::default();
    let client = ClientId::from_parts(10 * DAY, 3);
    let early = desk.run(Command::RegisterSession { client }).unwrap_err();
    let failure = Failure::from(early);
    assert_eq!(
        (failure.reason, failure.applied),
        (Reason::ClientIdRefused, WasApplied::No)
    );
    desk.clock(10 * DAY).unwrap();
    desk.run(Command::RegisterSession { client }).unwrap();
    desk.run(Command::CloseSession { client }).unwrap();
    assert!(desk.run(Command::RegisterSession { client }).is_err());
    desk.clock(11 * DAY - 1).unwrap();
    assert!(
        desk.tables.session(client).is_some(),
        "a tombstone until the floor passed it"
    );
    desk.clock(11 * DAY).unwrap();
    assert!(desk.tables.session(client).is_none());
    let refused = desk.run(Command::RegisterSession { client }).unwrap_err();
    assert_eq!(Failure::from(refused).applied, WasApplied::Unknown);
    assert!(desk.clock(11 * DAY).is_err(), "the clock never falls");
    assert_eq!(desk.tables.registration_floor_ms(), 10 * DAY);
}

#[test]
fn activity_is_written_in_batches_and_is_no_change_to_watch() {
    let mut desk = Desk::default();
    desk.clock(DAY).unwrap();
    let client = ClientId::from_parts(DAY, 1);
    desk.run(Command::RegisterSession { client }).unwrap();
    let revision = desk.tables.revision();
    desk.clock(DAY + 5).unwrap();
    desk.run(Command::RenewSessions {
        clients: vec![client],
    })
    .unwrap();
    assert_eq!(desk.tables.session(client).unwrap().active_ms, DAY + 5);
    assert_eq!(desk.tables.revision(), revision);
}

#[test]
fn a_session_that_was_silent_for_the_horizon_ends_for_good() {
    let mut desk = Desk::default();
    desk.clock(DAY).unwrap();
    let [silent, active] = [1, 2].map(|n| ClientId::from_parts(DAY, n));
    for client in [silent, active] {
        desk.run(Command::RegisterSession { client }).unwrap();
    }
    let clients = vec![silent, active];
    desk.clock(2 * DAY).unwrap();
    assert_eq!(
        desk.tables.silent_clients(9),
        [],
        "a horizon is not over yet"
    );
    desk.run(Command::RenewSessions {
        clients: vec![active],
    })
    .unwrap();
    desk.clock(2 * DAY + 1).unwrap();
    assert_eq!(desk.tables.silent_clients(9), [silent]);
    assert_eq!(desk.tables.silent_clients(0), []);

    // Whoever was active after all is passed over.
    let before = desk.tables.revision();
    desk.run(Command::ExpireSessions {
        clients: clients.clone(),
    })
    .unwrap();
    let state = |desk: &Desk, client| desk.tables.session(client).map(|row| row.state);
    assert_eq!(state(&desk, active), Some(SessionState::Open));
    assert_eq!(state(&desk, silent), Some(SessionState::Closed));
    assert!(desk.tables.revision() > before, "nodes are told");

    // The tombstone goes once the floor is above it; the id stays refused.
    desk.clock(2 * DAY + 2).unwrap();
    assert_eq!(state(&desk, silent), None);
    let again = Command::RegisterSession { client: silent };
    assert!(matches!(
        desk.run(again),
        Err(Refusal::ClientIdRefused { .. })
    ));

    // A new leader's step of the clock: nobody could renew, so whoever is there has the whole time again.
    let step = Command::RaiseClock {
        from_ms: 2 * DAY + 2,
        to_ms: 9 * DAY,
        step: true,
    };
    desk.run(step).unwrap();
    assert_eq!(desk.tables.silent_clients(9), []);

    let clients = vec![silent; RENEWALS_MAX + 1];
    let many = desk.run(Command::ExpireSessions { clients });
    assert!(matches!(many, Err(Refusal::TooMany { .. })));
}

// capability A11
#[test]
fn bindings_are_listed_by_prefix_and_expire_by_the_tables_clock() {
    let mut desk = Desk::default();
    desk.clock(1_000).unwrap();
    for (name, lease) in [
        ("a", None),
        ("a/b", Some(500)),
        ("a/b/c", None),
        ("a/bc", None),
    ] {
        desk.bind(name, lease).unwrap();
    }
    assert!(desk.bind("a//b", None).is_err() && desk.bind("/a", None).is_err());
    let names = |desk: &Desk, p: &str| {
        desk.tables
            .bindings(p)
            .map(|b| b.0.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&desk, "a/b"), ["a/b", "a/b/c"]);
    desk.clock(1_400).unwrap();
    desk.bind("a/b", Some(500)).unwrap();
    desk.clock(1_899).unwrap();
    assert!(desk.tables.binding("a/b").is_some(), "it was renewed");
    let (from_ms, to_ms, step) = (1_899, 99_000, true);
    desk.run(Command::RaiseClock {
        from_ms,
        to_ms,
        step,
    })
    .unwrap();
    assert!(
        desk.tables.binding("a/b").is_some(),
        "nobody could renew before a new leader's step"
    );
    let revision = desk.tables.revision();
    desk.clock(99_500).unwrap();
    let changes: Vec<Change> = desk
        .tables
        .changes_after(revision)
        .unwrap()
        .cloned()
        .collect();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].what, Changed::Unbound("a/b".to_string()));
}

// capability A06; trap G13
#[test]
fn lengths_keep_their_rules() {
    let mut desk = Desk::default();
    let ms = Duration::from_millis;
    let mut set = |change: SettingsChange| {
        let done = desk.run(Command::SetSettings(change)).is_ok();
        (done, desk.tables.settings().clone())
    };
    let none = SettingsChange::default;
    assert!(
        !set(SettingsChange {
            lease: Some(ms(799)),
            ..none()
        })
        .0
    );
    assert!(
        set(SettingsChange {
            lease: Some(ms(800)),
            ..none()
        })
        .0
    );
    assert!(
        !set(SettingsChange {
            heartbeat_interval: Some(ms(49)),
            ..none()
        })
        .0
    );
    assert!(
        !set(SettingsChange {
            election_timeout_max: Some(ms(200)),
            ..none()
        })
        .0
    );
    let source = SettingsChange {
        heartbeat_interval: Some(ms(10_000)),
        lease: Some(ms(0)),
        ..none()
    };
    let (done, settings) = set(source);
    assert!(done);
    assert_eq!(
        (settings.lease(), settings.lease_longest),
        (ms(25_000), ms(25_000))
    );
}

#[test]
fn bytes_that_are_no_whole_snapshot_are_refused() {
    let (desk, _, _) = placed();
    let bytes = desk.tables.encode();
    assert_eq!(Tables::decode(&bytes).as_ref(), Ok(&desk.tables));
    for end in 0..bytes.len() {
        assert!(Tables::decode(&bytes[..end]).is_err(), "{end} bytes");
    }
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(Tables::decode(&flipped), Err(SnapshotError::Damaged));
    let mut later = bytes.clone();
    later[11] = 9;
    let (found, known) = (9, snapshot::FORMAT);
    assert_eq!(
        Tables::decode(&later),
        Err(SnapshotError::Format { found, known })
    );
    let mut longer = bytes;
    longer.push(0);
    assert!(Tables::decode(&longer).is_err());
    assert_eq!(
        Tables::decode(b"something else"),
        Err(SnapshotError::Foreign)
    );
}

fn copy() -> impl Strategy<Value = CopyId> {
    (1..5_u64).prop_map(|n| CopyId {
        node: NodeId(n),
        store: StoreId(n.into()),
    })
}

fn process() -> impl Strategy<Value = ProcessId> {
    (copy(), 1..3_u64).prop_map(|(c, i)| ProcessId {
        node: c.node,
        store: c.store,
        incarnation: Incarnation(i),
    })
}

fn op() -> impl Strategy<Value = EntryOp> {
    let epoch = || (1..6_u64).prop_map(Epoch);
    prop_oneof![
        (process(), prop::collection::vec(copy(), 0..3)).prop_map(|(primary, secondaries)| {
            EntryOp::Place {
                primary,
                secondaries,
            }
        }),
        (epoch(), prop::option::of(copy()))
            .prop_map(|(epoch, preferred)| EntryOp::BeginFailover { epoch, preferred }),
        (
            epoch(),
            process(),
            prop::collection::btree_set(copy(), 1..4)
        )
            .prop_map(|(epoch, promoted, sealed)| EntryOp::Promote {
                epoch,
                promoted,
                last: Pair::ZERO,
                sealed
            }),
        (copy(), any::<bool>()).prop_map(|(copy, leaving)| EntryOp::AddJoining { copy, leaving }),
        (epoch(), copy()).prop_map(|(epoch, copy)| EntryOp::Complete { epoch, copy }),
        copy().prop_map(|copy| EntryOp::MarkJoining { copy }),
        copy().prop_map(|copy| EntryOp::MarkLeaving { copy }),
        copy().prop_map(|copy| EntryOp::Remove { copy }),
        (copy(), epoch()).prop_map(|(copy, followed)| EntryOp::CloseCuts { copy, followed }),
        (epoch(), copy()).prop_map(|(epoch, copy)| EntryOp::AddInSync { epoch, copy }),
        (epoch(), copy()).prop_map(|(epoch, copy)| EntryOp::DropInSync { epoch, copy }),
    ]
}

/// Commands whose revisions are made right when they are applied (`true`) or left wrong.
fn command() -> impl Strategy<Value = (Command, bool)> {
    let name = || (0..3_u8).prop_map(|n| format!("x{n}"));
    let client = || (0..4_u64).prop_map(|n| ClientId::from_parts(n * 40_000, n.into()));
    let node = || (1..5_u64).prop_map(NodeId);
    let state = prop_oneof![
        Just(NodeState::Up),
        Just(NodeState::Down),
        Just(NodeState::Suspect)
    ];
    let change = || {
        ((1..5_u64).prop_map(ShardId), op()).prop_map(|(shard, op)| EntryChange {
            shard,
            revision: Revision::ZERO,
            op,
        })
    };
    let commands = prop_oneof![
        4 => (1..5_u128, 0..4_u8).prop_map(|(n, l)| {
            Command::RegisterNode(registration(&format!("n{n}"), n, &format!("l{l}")))
        }),
        1 => (node(), state).prop_map(|(node, state)| Command::SetNodeState { node, revision: Revision::ZERO, state }),
        1 => (node(), any::<bool>()).prop_map(|(node, drain)| Command::DrainNode { node, drain }),
        1 => node().prop_map(|node| Command::RemoveNode { node }),
        1 => (name(), 1..3_u32, any::<bool>()).prop_map(|(name, shards, in_sync)| {
            let policy = if in_sync { Policy::InSync } else { Policy::Lazy };
            let settings = NamespaceSettings { policy, ..NamespaceSettings::default() };
            Command::CreateNamespace { name, shards, settings }
        }),
        1 => name().prop_map(|name| Command::DeleteNamespace { name }),
        12 => prop::collection::vec(change(), 1..3).prop_map(Command::ChangeEntries),
        1 => copy().prop_map(|copy| Command::DeclareStoreLost { copy }),
        2 => ((1..5_u64).prop_map(ShardId), copy(), any::<bool>()).prop_map(|(shard, copy, stopped)| {
            let incarnation = Incarnation(1);
            let process = ProcessId { node: copy.node, store: copy.store, incarnation };
            let stopped = stopped.then_some(process);
            let forced = Forced { copy, least: Pair::ZERO, stopped };
            Command::ForcePromotion { shard, revision: Revision::ZERO, forced }
        }),
        1 => client().prop_map(|client| Command::RegisterSession { client }),
        1 => client().prop_map(|client| Command::CloseSession { client }),
        1 => (0..200_000_u64).prop_map(|to_ms| Command::RaiseClock { from_ms: 0, to_ms, step: false }),
        1 => (name(), prop::option::of(1..50_000_u64)).prop_map(|(name, lease_ms)| Command::Bind {
            name,
            endpoints: vec!["h:1".to_string()],
            lease_ms,
            revision: None,
        }),
        1 => name().prop_map(|name| Command::Unbind { name, revision: None }),
        1 => (700..3_000_u64).prop_map(|lease| Command::SetSettings(SettingsChange {
            lease: Some(Duration::from_millis(lease)),
            ..SettingsChange::default()
        })),
    ];
    (commands, prop::bool::weighted(0.9))
}

fn with_right_revisions(tables: &Tables, command: Command) -> Command {
    match command {
        Command::ChangeEntries(mut list) => {
            for change in &mut list {
                let row = tables.shard(change.shard);
                change.revision = row.map_or(Revision::ZERO, |r| r.revision);
            }
            Command::ChangeEntries(list)
        }
        Command::ForcePromotion { shard, forced, .. } => {
            let revision = tables.shard(shard).map_or(Revision::ZERO, |r| r.revision);
            Command::ForcePromotion {
                shard,
                revision,
                forced,
            }
        }
        Command::SetNodeState { node, state, .. } => {
            let revision = tables.node(node).map_or(Revision::ZERO, |n| n.revision);
            Command::SetNodeState {
                node,
                revision,
                state,
            }
        }
        Command::RaiseClock { to_ms, step, .. } => {
            let from_ms = tables.clock_ms();
            Command::RaiseClock {
                from_ms,
                to_ms,
                step,
            }
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One manager applies all; another starts from a snapshot somewhere between, with every entry encoded. They are
    /// equal, nothing is ever inconsistent, and no epoch falls.
    #[test]
    fn managers_that_applied_the_same_log_are_equal(
        commands in prop::collection::vec((command(), 0..40_u64), 1..120),
        cut in 0..120_usize,
    ) {
        let mut one = Tables::default();
        let mut other = Tables::default();
        for (n, ((command, right), repeat)) in commands.into_iter().enumerate() {
            let command = if right { with_right_revisions(&one, command) } else { command };
            let sequence = Sequence(if repeat == 0 { 1 } else { n as u64 + 1 });
            let id = RequestId { client: ClientId::from_parts(1, 0), sequence };
            let bytes = Envelope { id, command }.encode();
            let envelope = Envelope::decode(&bytes).unwrap();
            let before = one.shards().clone();
            let applied = one.apply(n as u64 + 1, &envelope);
            prop_assert_eq!(faults(&one), Vec::<String>::new());
            for (shard, entry) in one.shards() {
                prop_assert!(before.get(shard).is_none_or(|b| b.epoch <= entry.epoch));
            }
            if n == cut {
                other = Tables::decode(&one.encode()).unwrap();
            } else {
                prop_assert_eq!(&applied, &other.apply(n as u64 + 1, &envelope));
            }
            prop_assert_eq!(&one, &other);
        }
    }
}
