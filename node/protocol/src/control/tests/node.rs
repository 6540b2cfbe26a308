//! The node's side: which answers count, from when, and who is asked.

use crate::control::NodeControl;
use crate::control::message::*;
use crate::time::{Duration, Instant};
use understudy_proto::ids::*;

const SHARD: ShardId = ShardId(5);
const EPOCH: Epoch = Epoch(2);

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn node() -> NodeControl {
    super::choose_mutant();
    let process = ProcessId {
        node: NodeId(1),
        store: StoreId(1),
        incarnation: Incarnation(1),
    };
    let managers = (1..=3).map(NodeId).collect();
    let mut node = NodeControl::new(process, managers, Duration::from_millis(100));
    node.claim(SHARD, EPOCH);
    node
}

fn beat(node: &mut NodeControl, ms: u64) -> (NodeId, HeartbeatRequest) {
    node.next_heartbeat(at(ms), 0, true)
        .expect("a heartbeat is due")
}

fn answer(request: &HeartbeatRequest, term: u64, grants: Grants) -> HeartbeatAnswer {
    HeartbeatAnswer {
        process: request.process,
        sequence: request.sequence,
        outcome: HeartbeatOutcome::Taken(Taken {
            term,
            grants,
            lease: Duration::from_millis(1_000),
            heartbeat_interval: Duration::from_millis(100),
            claim_list_wanted: false,
            full_report_wanted: false,
            tables_revision: Revision(1),
            deletable: Vec::new(),
        }),
    }
}

fn all(except: &[Claim]) -> Grants {
    let except = except.to_vec();
    Grants::AllClaimed { except }
}

fn report(shard: u64, version: u64, orphans: u64) -> CopyReport {
    CopyReport {
        shard: ShardId(shard),
        present: true,
        last: Pair::new(1, version),
        promised: Epoch(1),
        followed: Epoch(1),
        orphans,
    }
}

#[test]
fn a_lease_counts_from_when_the_heartbeat_was_sent_less_the_drift() {
    let mut node = node();
    let (to, request) = beat(&mut node, 1_000);
    assert!(!node.holds(SHARD, EPOCH, at(1_000)));
    node.on_answer(at(1_400), to, answer(&request, 1, all(&[])));
    assert!(node.holds(SHARD, EPOCH, at(1_989)));
    assert!(
        !node.holds(SHARD, EPOCH, at(1_990)),
        "1 % of a second is taken off"
    );
    assert!(
        !node.holds(SHARD, Epoch(1), at(1_500)),
        "another epoch has none"
    );
}

#[test]
fn an_answer_covers_only_what_its_heartbeat_claimed() {
    let mut node = node();
    let (to, request) = beat(&mut node, 1_000);
    node.claim(ShardId(6), Epoch(1));
    node.on_answer(at(1_010), to, answer(&request, 1, all(&[])));
    assert!(node.holds(SHARD, EPOCH, at(1_020)));
    assert!(!node.holds(ShardId(6), Epoch(1), at(1_020)));
    node.give_up(SHARD);
    assert!(!node.holds(SHARD, EPOCH, at(1_020)));
}

#[test]
fn what_an_answer_leaves_out_keeps_its_earlier_end() {
    let mut node = node();
    let claim = Claim {
        shard: SHARD,
        epoch: EPOCH,
    };
    let (to, first) = beat(&mut node, 1_000);
    node.on_answer(at(1_010), to, answer(&first, 1, all(&[])));
    let (to, second) = beat(&mut node, 1_500);
    node.on_answer(at(1_510), to, answer(&second, 1, all(&[claim])));
    assert!(node.holds(SHARD, EPOCH, at(1_989)));
    assert!(!node.holds(SHARD, EPOCH, at(1_991)));
    let (to, third) = beat(&mut node, 1_700);
    node.on_answer(at(1_710), to, answer(&third, 1, Grants::Pairs(vec![claim])));
    assert!(node.holds(SHARD, EPOCH, at(2_600)));
}

#[test]
fn overtaken_and_repeated_answers_and_former_leaders_have_no_effect() {
    let mut node = node();
    let (_, first) = beat(&mut node, 1_000);
    let (to, second) = beat(&mut node, 1_100);
    node.on_answer(at(1_110), to, answer(&second, 2, Grants::Nothing));
    node.on_answer(at(1_120), to, answer(&first, 2, all(&[])));
    assert!(!node.holds(SHARD, EPOCH, at(1_130)));
    let (to, third) = beat(&mut node, 1_300);
    node.on_answer(at(1_310), to, answer(&third, 1, all(&[])));
    node.on_answer(at(1_310), to, answer(&third, 2, all(&[])));
    assert!(!node.holds(SHARD, EPOCH, at(1_320)));
}

#[test]
fn without_progress_no_heartbeat_is_sent() {
    let mut node = node();
    assert!(node.next_heartbeat(at(1_000), 0, false).is_none());
    assert!(node.next_heartbeat(at(1_000), 0, true).is_some());
}

// capability B06
#[test]
fn a_process_whose_store_failed_acts_no_more_and_says_so_without_progress() {
    let mut node = node();
    let (to, first) = beat(&mut node, 1_000);
    node.on_answer(at(1_010), to, answer(&first, 1, all(&[])));
    node.progresses_until(at(9_000));
    assert!(node.holds(SHARD, EPOCH, at(1_020)) && node.beacon(at(1_020)).is_some());
    assert!(node.fail_store());
    assert!(!node.fail_store(), "that is no news");
    assert!(!node.holds(SHARD, EPOCH, at(1_020)) && node.is_retired());
    assert_eq!(node.beacon(at(1_020)), None, "it stands by no primary");
    let (to, second) = node.next_heartbeat(at(1_020), 0, false).expect("at once");
    assert_eq!(second.condition, Condition::StoreFailed);
    // Neither a grant that was under way nor what comes later changes that.
    node.on_answer(at(1_030), to, answer(&second, 1, all(&[])));
    node.set_condition(Condition::Serving);
    node.set_condition(Condition::Stopping);
    let (_, third) = node.next_heartbeat(at(1_200), 0, false).expect("due");
    assert_eq!(third.condition, Condition::StoreFailed);
    assert!(!node.holds(SHARD, EPOCH, at(1_040)));
    node.retire();
    assert!(node.next_heartbeat(at(2_000), 0, true).is_none());
}

#[test]
fn a_silent_manager_is_left_after_an_interval_and_the_leader_is_kept() {
    let mut node = node();
    let (first, _) = beat(&mut node, 1_000);
    let (second, _) = beat(&mut node, 1_100);
    let (third, request) = beat(&mut node, 1_200);
    assert_eq!([first, second, third], [NodeId(1), NodeId(2), NodeId(3)]);
    node.on_answer(at(1_210), third, answer(&request, 1, all(&[])));
    assert_eq!(beat(&mut node, 1_300).0, NodeId(3));
}

#[test]
fn a_manager_that_does_not_lead_is_left_for_the_one_that_it_names() {
    let mut node = node();
    let (to, request) = beat(&mut node, 1_000);
    let leader = Some(NodeId(3));
    let refusal = HeartbeatRefusal::NotLeading { leader };
    let refused = HeartbeatAnswer {
        process: request.process,
        sequence: request.sequence,
        outcome: HeartbeatOutcome::Refused(refusal),
    };
    node.on_answer(at(1_001), to, refused);
    assert_eq!(node.due(), at(1_000), "it is asked at once");
    assert_eq!(beat(&mut node, 1_001).0, NodeId(3));
}

#[test]
fn reports_are_sent_until_acknowledged_and_anew_to_a_new_leader() {
    let mut node = node();
    node.report(report(1, 1, 0));
    let (_, lost) = beat(&mut node, 1_000);
    let (to, request) = beat(&mut node, 1_100);
    assert_eq!((lost.reports.len(), request.reports.len()), (1, 1));
    node.report(report(1, 1, 4));
    node.on_answer(at(1_110), to, answer(&request, 1, all(&[])));
    let (to, request) = beat(&mut node, 1_200);
    assert_eq!(
        request.reports,
        [report(1, 1, 4)],
        "it changed after it was sent"
    );
    node.on_answer(at(1_210), to, answer(&request, 1, all(&[])));
    let (to, request) = beat(&mut node, 1_400);
    assert_eq!(request.reports, []);
    node.on_answer(at(1_410), to, answer(&request, 2, all(&[])));
    assert_eq!(
        beat(&mut node, 1_500).1.reports.len(),
        1,
        "a new leader knows nothing"
    );
}

#[test]
fn a_position_alone_is_told_now_and_then() {
    let mut node = node();
    node.report(report(1, 1, 0));
    let mut told = 0;
    for n in 0..40 {
        let (to, request) = beat(&mut node, 1_000 + n * 100);
        told += request.reports.len();
        node.on_answer(at(1_000 + n * 100 + 1), to, answer(&request, 1, all(&[])));
        node.report(report(1, 2 + n, 0));
    }
    assert!((4..=8).contains(&told), "{told} times");
}

#[test]
fn messages_survive_their_encoding() {
    let mut node = node();
    node.report(report(1, 1, 0));
    let (_, request) = beat(&mut node, 1_000);
    assert_eq!(
        decode::<HeartbeatRequest>(&encode(&request)),
        Ok(request.clone())
    );
    let answer = answer(
        &request,
        1,
        all(&[Claim {
            shard: SHARD,
            epoch: EPOCH,
        }]),
    );
    let bytes = encode(&answer);
    assert_eq!(decode::<HeartbeatAnswer>(&bytes), Ok(answer));
    assert!(decode::<HeartbeatAnswer>(&bytes[..bytes.len() - 1]).is_err());
}
