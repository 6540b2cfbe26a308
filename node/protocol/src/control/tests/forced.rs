//! A forced promotion as the leader conducts it: what it waits for, whom it promotes, what a change of leader leaves of it.

use super::rules::{Bench, S1};
use crate::control::message::*;
use crate::control::{Action, Awaited, Input};
use crate::tables::*;
use understudy_proto::ids::*;

/// Longer than a node may be silent, and than any lease.
const LONG_MS: u64 = 4_000;

impl Bench {
    fn copy(&self, n: u64) -> CopyId {
        self.process(n).copy()
    }

    /// A person's command; the leader hears of it.
    fn force(&mut self, n: u64, least: Pair, stopped: bool) -> Result<Answer, Refusal> {
        let entry = self.entry(S1);
        let revision = entry.revision;
        let forced = Forced {
            copy: self.copy(n),
            least,
            stopped: entry.primary.filter(|_| stopped),
        };
        let command = Command::ForcePromotion {
            shard: S1,
            revision,
            forced,
        };
        let answer = self.apply(command).answer;
        self.step(Input::TablesChanged);
        answer
    }

    fn promises(&mut self, n: u64, outcome: SealOutcome) {
        let epoch = self.entry(S1).begun.expect("a begun failover").epoch;
        let from = self.process(n);
        let seals = vec![(Claim { shard: S1, epoch }, outcome)];
        self.step(Input::SealAnswer(SealAnswer { from, seals }));
    }

    fn waits_for(&self) -> Vec<Awaited> {
        let failover = self.controller.failover(self.now, &self.tables, S1);
        failover.expect("a failover is under way").waits_for
    }
}

fn sealed(version: u64) -> SealOutcome {
    SealOutcome::Sealed {
        last: Pair::new(1, version),
    }
}

/// The primary of the shard is gone, silently; the two others.
fn headless() -> (Bench, u64, u64) {
    let mut bench = Bench::new();
    let others = bench.others(S1);
    bench.pass(LONG_MS, &others);
    assert!(bench.entry(S1).begun.is_some());
    (bench, others[0], others[1])
}

#[test]
fn the_chosen_copy_is_promoted_though_another_has_more() {
    let (mut bench, more, less) = headless();
    bench.force(less, Pair::new(1, 3), false).unwrap();
    bench.promises(more, sealed(9));
    assert_eq!(bench.entry(S1).epoch, Epoch(1));
    bench.promises(less, sealed(3));
    let entry = bench.entry(S1);
    assert_eq!((entry.epoch, entry.forced), (Epoch(2), Some(Epoch(2))));
    assert_eq!(bench.primary(S1), less);
    // Both others may have what it lacks, and whoever promised bears witness.
    let cut = &bench.entry(S1).open_cuts[0];
    assert_eq!(cut.stores.len(), 2);
    assert!(bench.entry(S1).witnesses.contains(&bench.copy(more)));
}

#[test]
fn while_no_witness_promised_and_nobody_says_that_it_is_stopped_it_waits_and_says_so() {
    let mut bench = Bench::new();
    let others = bench.others(S1);
    let (left, witness) = (others[0], others[1]);
    // The last witness is gone as well, and the one that is left is none.
    let copy = bench.copy(left);
    let revision = bench.entry(S1).revision;
    let op = EntryOp::DropWitness { copy };
    let change = EntryChange {
        shard: S1,
        revision,
        op,
    };
    bench.apply(Command::ChangeEntries(vec![change]));
    bench.pass(LONG_MS, &[left]);
    bench.force(left, Pair::new(1, 1), false).unwrap();
    bench.promises(left, sealed(5));
    bench.pass(LONG_MS, &[left]);
    assert_eq!(
        bench.entry(S1).epoch,
        Epoch(1),
        "nobody knows that it is over"
    );
    let witness = bench.copy(witness);
    assert_eq!(
        bench.waits_for(),
        vec![Awaited::OneOfTheWitnesses(vec![witness])]
    );
    bench.force(left, Pair::new(1, 1), true).unwrap();
    bench.pass(10, &[left]);
    assert_eq!(bench.entry(S1).epoch, Epoch(2));
    assert_eq!(bench.primary(S1), left);
}

#[test]
fn who_is_asked_is_told_that_a_stopped_process_needs_no_wait() {
    let (mut bench, left, _) = headless();
    bench.promises(left, SealOutcome::GraceNotOver);
    let revision = bench.entry(S1).revision;
    let forced = Forced {
        copy: bench.copy(left),
        least: Pair::ZERO,
        stopped: bench.entry(S1).primary,
    };
    bench.apply(Command::ForcePromotion {
        shard: S1,
        revision,
        forced,
    });
    let actions = bench.step(Input::TablesChanged);
    let told = actions.iter().any(|action| match action {
        Action::Seal(request) => request.seals.iter().any(|seal| seal.over),
        _ => false,
    });
    assert!(told, "{actions:?}");
}

#[test]
fn the_lease_of_the_managers_is_waited_out_and_told() {
    let mut bench = Bench::new();
    let others = bench.others(S1);
    // The primary asks for a new epoch, so that nothing has run out when it is gone.
    bench.ask_new_epoch(S1);
    let primary = bench.process(bench.primary(S1));
    bench.apply(Command::SetNodeState {
        node: primary.node,
        revision: bench.tables.node(primary.node).unwrap().revision,
        state: NodeState::Down,
    });
    bench.force(others[0], Pair::ZERO, false).unwrap();
    bench.promises(others[0], sealed(4));
    assert_eq!(bench.entry(S1).epoch, Epoch(1));
    let waits = bench.waits_for();
    assert!(
        matches!(waits[..], [Awaited::LeaseOfTheManagers { .. }]),
        "{waits:?}"
    );
    bench.pass(LONG_MS, &others);
    assert_eq!(bench.primary(S1), others[0]);
}

#[test]
fn a_later_leader_goes_on_with_it() {
    let (mut bench, more, less) = headless();
    bench.force(less, Pair::new(1, 3), true).unwrap();
    bench.promises(more, sealed(9));
    bench.lead();
    bench.promises(more, sealed(9));
    assert_eq!(bench.entry(S1).epoch, Epoch(1), "the choice stands");
    assert_eq!(bench.waits_for(), vec![Awaited::Seal(bench.copy(less))]);
    bench.promises(less, sealed(3));
    // What the person said of the old primary holds with it: the new leader waits for nothing.
    assert_eq!(bench.primary(S1), less);
}

#[test]
fn a_copy_that_has_less_than_was_shown_is_not_promoted() {
    let (mut bench, left, other) = headless();
    bench.force(left, Pair::new(1, 3), true).unwrap();
    bench.promises(left, sealed(2));
    bench.pass(LONG_MS, &[left, other]);
    assert_eq!(bench.entry(S1).epoch, Epoch(1));
    let (have, shown) = (Pair::new(1, 2), Pair::new(1, 3));
    assert_eq!(
        bench.waits_for(),
        vec![Awaited::AsMuchAsShown { have, shown }]
    );
    // Looked at again, and chosen again.
    bench.force(left, Pair::new(1, 2), true).unwrap();
    bench.pass(10, &[left, other]);
    assert_eq!(bench.primary(S1), left);
}

#[test]
fn the_wish_under_the_same_id_is_carried_out_once() {
    let (mut bench, left, _) = headless();
    let revision = bench.entry(S1).revision;
    let forced = Forced {
        copy: bench.copy(left),
        least: Pair::ZERO,
        stopped: bench.entry(S1).primary,
    };
    let command = Command::ForcePromotion {
        shard: S1,
        revision,
        forced,
    };
    let first = bench.apply(command.clone());
    let client = ClientId::from_parts(1, 0);
    let sequence = Sequence(bench.index);
    let id = RequestId { client, sequence };
    bench.index += 1;
    let index = bench.index;
    let again = bench.tables.apply(index, &Envelope { id, command });
    assert!(again.duplicate && again.answer == first.answer);
    assert!(first.answer.is_ok());
}
