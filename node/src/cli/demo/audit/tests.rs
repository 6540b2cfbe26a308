//! The judgement on small made-up ends: each thing that may go wrong is noticed, and nothing else is.

use super::super::ledger::Answer;
use super::*;
use understudy_proto::{ClientId, Sequence};

fn flights() -> Vec<Flight> {
    vec![Flight {
        code: "US0001".to_string(),
        from: "FRA".to_string(),
        to: "SIN".to_string(),
        seats: 9,
    }]
}

fn id(sequence: u64) -> RequestId {
    RequestId {
        client: ClientId::from_parts(1, 2),
        sequence: Sequence(sequence),
    }
}

fn told(sequence: u64, client: u32, seat: u32, came: Came) -> Request {
    wished(sequence, client, Wish::Seat(seat), came)
}

fn note(sequence: u64, page: u32) -> Request {
    wished(sequence, 9, Wish::Note(page), Came::Done)
}

fn wished(sequence: u64, client: u32, wish: Wish, came: Came) -> Request {
    let mut request = Request::new(id(sequence), client, 0, wish);
    request.answers.push(Answer {
        at: Duration::from_secs(sequence),
        came,
        duplicate: false,
    });
    request
}

/// One seat sold to request 1, and nothing else.
fn good() -> (Ledger, Held) {
    let ledger = Ledger {
        requests: vec![told(1, 4, 7, Came::Done)],
    };
    let mut held = Held::default();
    let seat = ("US0001".to_string(), 7);
    held.log.insert(id(1), vec![Came::Done]);
    held.sales.insert(seat.clone(), 1);
    held.counters.insert("US0001".to_string(), 1);
    let ticket = Ticket {
        request: id(1).to_string(),
        client: 4,
    };
    held.seats.insert(seat, ticket);
    (ledger, held)
}

fn audit(ledger: &Ledger, held: &Held) -> Audit {
    with_notes(ledger, held, &HeldNotes::default())
}

fn with_notes(ledger: &Ledger, held: &Held, notes: &HeldNotes) -> Audit {
    let names = BTreeMap::from([(2, "node-2".to_string())]);
    judge(&flights(), ledger, held, notes, &names)
}

#[test]
fn what_was_told_and_logged_passes() {
    let (ledger, held) = good();
    let audit = audit(&ledger, &held);
    assert!(audit.passed() && audit.missing.is_empty(), "{audit:?}");
    assert_eq!(audit.seats_sold, 1);
}

#[test]
fn a_note_is_in_the_log_or_a_conflict_or_waits_and_else_it_is_lost() {
    let (mut ledger, held) = good();
    ledger.requests.extend((2..=4).map(|n| note(n, 8)));
    let mut notes = HeldNotes::default();
    let page = ("US0001".to_string(), 8);
    notes.log.insert(id(2), vec![Came::Done]);
    notes.written.insert(page.clone(), 1);
    notes.edits.insert(page.clone(), 1);
    notes.conflicts.insert(id(3), vec![Came::Done]);
    notes.orphans.insert(id(4), vec![(Came::Done, 2)]);
    let found = with_notes(&ledger, &held, &notes);
    assert!(found.passed(), "{found:?}");
    assert_eq!((found.notes.requests, found.notes.acknowledged), (3, 3));
    assert_eq!(found.notes.waiting[0].orphan_log_of, "node-2");
    notes.orphans.clear();
    let lost = with_notes(&ledger, &held, &notes);
    assert!(!lost.passed());
    assert_eq!(lost.missing[0].what, "page 8");
    // A page that was written once more than the log says: something ran twice.
    notes.edits.insert(page, 2);
    assert_eq!(with_notes(&ledger, &held, &notes).ran_twice.len(), 1);
}

#[test]
fn what_is_nowhere_does_not_pass() {
    let (mut ledger, held) = good();
    ledger.requests.push(told(2, 5, 8, Came::Done));
    let lost = audit(&ledger, &held);
    assert!(!lost.passed());
    assert_eq!(lost.missing.len(), 1);
    // A retry that came to something else does not account for the first answer.
    let (mut ledger, mut held) = good();
    ledger.requests.push(told(2, 5, 7, Came::Done));
    held.log.insert(id(2), vec![Came::Refused]);
    let changed = audit(&ledger, &held);
    assert_eq!(changed.missing.len(), 1);
}

#[test]
fn what_ran_twice_does_not_pass() {
    let (ledger, mut held) = good();
    held.log.insert(id(1), vec![Came::Done, Came::Done]);
    assert!(!audit(&ledger, &held).passed());
    let (ledger, mut held) = good();
    held.counters.insert("US0001".to_string(), 2);
    assert!(!audit(&ledger, &held).passed());
    let (ledger, mut held) = good();
    held.sales.insert(("US0001".to_string(), 7), 2);
    assert_eq!(audit(&ledger, &held).seats_sold_twice.len(), 1);
}

#[test]
fn what_ran_though_the_client_was_told_not_does_not_pass() {
    let (mut ledger, held) = good();
    ledger.requests[0].answers.clear();
    ledger.requests[0].not_run = true;
    assert!(!audit(&ledger, &held).passed());
}

#[test]
fn a_seat_of_two_clients_does_not_pass_and_is_listed_in_the_order_of_the_answers() {
    let (mut ledger, mut held) = good();
    ledger.requests[0].answers[0].at = Duration::from_secs(9);
    ledger.requests.push(told(2, 5, 7, Came::Done));
    held.log.insert(id(2), vec![Came::Done]);
    let audit = audit(&ledger, &held);
    assert!(!audit.passed(), "{audit:?}");
    assert_eq!(audit.seats_of_two_clients[0].clients, [5, 4]);
    let holder = audit.seats_of_two_clients[0].now_held_by.as_deref();
    assert_eq!(holder, Some(id(1).to_string().as_str()));
}
