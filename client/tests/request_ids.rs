//! Request ids and marks: against a plain set, over many orders of answers.

use std::collections::BTreeSet;
use understudy_client::request_ids::{Marks, RequestIds};
use understudy_client::{ClientId, RequestId, Sequence};

/// A small generator, so that the test needs no crate and repeats itself.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn marks_are_the_longest_answered_beginning_in_any_order() {
    for seed in 0..200 {
        let mut numbers = Numbers(seed);
        let (mut marks, mut model) = (Marks::default(), BTreeSet::new());
        for _ in 0..150 {
            let number = 1 + numbers.below(60);
            marks.answer(number);
            model.insert(number);
            let upto = (1..).take_while(|n| model.contains(n)).last().unwrap_or(0);
            assert_eq!(marks.upto(), upto, "seed {seed}: {model:?}");
            for n in 1..=61 {
                assert_eq!(marks.is_answered(n), model.contains(&n), "seed {seed}: {n}");
            }
        }
    }
}

// capabilities A19, B18
#[test]
fn numbers_are_never_given_twice_and_start_at_one() {
    let client = ClientId::from_parts(5, 5);
    let mut ids = RequestIds::new(client);
    let first = ids.take();
    assert_eq!(first.to_string(), format!("{client}:1"));
    ids.note_used(Sequence(10));
    assert_eq!(ids.take().sequence, Sequence(11));
    ids.note_used(Sequence(3));
    assert_eq!(ids.take().sequence, Sequence(12));
}

#[test]
fn an_open_request_holds_the_mark_and_a_strangers_answer_moves_nothing() {
    let mut ids = RequestIds::new(ClientId::from_parts(5, 5));
    let (first, second) = (ids.take(), ids.take());
    ids.answer(second);
    assert_eq!(ids.answered_upto(), 0);
    ids.answer(RequestId {
        client: ClientId::from_parts(6, 6),
        sequence: Sequence(1),
    });
    assert_eq!(ids.answered_upto(), 0);
    ids.answer(first);
    assert_eq!(ids.answered_upto(), 2);
}

#[test]
fn a_resumed_client_id_goes_on_and_claims_nothing_about_the_past() {
    let mut ids = RequestIds::resume(ClientId::from_parts(5, 5), 8);
    let id = ids.take();
    assert_eq!(id.sequence, Sequence(8));
    ids.answer(id);
    assert_eq!(ids.answered_upto(), 0);
    assert!(ids.resumed());
}
