//! Whatever a request does to whatever state: its changes applied to the state before give exactly the evaluated state,
//! also after a trip through the stored form, and undone they give exactly the state before.
// capabilities A15, P31, P35

use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use understudy_proto::limits::RECORD_BYTES_MAX;
use understudy_proto::{ClientId, NamespaceId, Pair, RequestId, Sequence, ShardId};
use understudy_protocol::evaluate::{Evaluated, evaluate};
use understudy_protocol::object::{Component, LastWrite, Object, Value};
use understudy_protocol::record::{Body, Record, RequestBody};
use understudy_protocol::request::{FailedOp, Op, Outcome, Precondition, Request};

type State = BTreeMap<Bytes, Object>;

fn key() -> impl Strategy<Value = Bytes> {
    (0..3u8).prop_map(|n| Bytes::from(vec![b'a' + n]))
}

fn name() -> impl Strategy<Value = Bytes> {
    (0..3u8).prop_map(|n| match n {
        0 => Bytes::new(),
        n => Bytes::from(vec![b'x' + n]),
    })
}

fn data() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from)
}

fn delta() -> impl Strategy<Value = i64> {
    prop_oneof![-3..3i64, Just(i64::MAX), Just(i64::MIN)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (key(), data()).prop_map(|(key, value)| Op::Put { key, value }),
        key().prop_map(|key| Op::Delete { key }),
        (key(), name(), data()).prop_map(|(key, name, value)| Op::SetComponent {
            key,
            name,
            value
        }),
        (key(), name()).prop_map(|(key, name)| Op::RemoveComponent { key, name }),
        (key(), name(), delta()).prop_map(|(key, name, delta)| Op::Add { key, name, delta }),
        (key(), name(), data()).prop_map(|(key, name, data)| Op::Append { key, name, data }),
        key().prop_map(|key| Op::Get { key }),
    ]
}

fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        (key(), any::<bool>()).prop_map(|(key, absent)| Precondition::Absent { key, absent }),
        (key(), 0..5u64).prop_map(|(key, version)| Precondition::LastPair {
            key,
            pair: Pair::new(1, version)
        }),
        (key(), name(), -3..3i64).prop_map(|(key, name, counter)| {
            Precondition::ComponentValue {
                key,
                name,
                value: Value::Counter(counter),
            }
        }),
    ]
}

fn requests() -> impl Strategy<Value = Vec<(Vec<Op>, Vec<Precondition>)>> {
    let one = (
        proptest::collection::vec(op(), 0..6),
        proptest::collection::vec(precondition(), 0..2),
    );
    proptest::collection::vec(one, 1..12)
}

fn request(sequence: u64, ops: Vec<Op>, preconditions: Vec<Precondition>) -> Request {
    let id = RequestId {
        client: ClientId(9),
        sequence: Sequence(sequence),
    };
    Request::new(id, NamespaceId(1), ops, preconditions, Sequence::ZERO)
}

fn run(request: &Request, pair: Pair, state: &State) -> Evaluated {
    evaluate::<Infallible>(request, pair, |key| Ok(state.get(key).cloned())).unwrap()
}

fn set(state: &mut State, key: &Bytes, object: Option<Object>) {
    match object {
        Some(object) => state.insert(key.clone(), object),
        None => state.remove(key),
    };
}

/// The record of the request as a copy gets it.
fn record(request: Request, pair: Pair, evaluated: Evaluated) -> Record {
    let record = Record {
        shard: ShardId(1),
        pair,
        previous: Pair::ZERO,
        previous_epoch_start: Pair::ZERO,
        previous_checksum: 0,
        time_ms: 0,
        body: Body::Request(Box::new(RequestBody {
            id: request.id,
            fingerprint: request.fingerprint,
            ops: request.ops,
            preconditions: request.preconditions,
            outcome: evaluated.outcome,
            changes: evaluated.changes,
            earlier: Vec::new(),
        })),
    };
    let (decoded, _) = Record::decode(&record.encode().bytes).unwrap();
    assert_eq!(decoded, record);
    decoded
}

proptest! {
    #[test]
    fn apply_gives_the_evaluated_state_and_undo_the_one_before(requests in requests()) {
        let mut state = State::new();
        let mut history = Vec::new();
        for (at, (ops, preconditions)) in requests.into_iter().enumerate() {
            let pair = Pair::new(1, at as u64 + 1);
            let request = request(at as u64 + 1, ops, preconditions);
            let id = request.id;
            let evaluated = run(&request, pair, &state);
            let mut expected = state.clone();
            for (key, object) in &evaluated.written {
                set(&mut expected, key, object.clone());
            }
            let record = record(request, pair, evaluated);
            let before = state.clone();
            for change in record.changes() {
                let after = change.apply(state.get(&change.key).cloned(), pair, id);
                set(&mut state, &change.key, after.expect("the state is as the record found it"));
            }
            prop_assert_eq!(&state, &expected);
            history.push((record, before));
        }
        for (record, before) in history.into_iter().rev() {
            for change in record.changes() {
                let undone = change.undo(state.get(&change.key).cloned(), record.pair);
                set(&mut state, &change.key, undone.expect("the state is as the record left it"));
            }
            prop_assert_eq!(&state, &before);
        }
    }
}

#[test]
fn a_record_that_only_looked_leaves_the_last_writer_alone() {
    let key = Bytes::from_static(b"k");
    let mut state = State::new();
    let put = Op::Put {
        key: key.clone(),
        value: key.clone(),
    };
    let evaluated = run(&request(1, vec![put], vec![]), Pair::new(1, 1), &state);
    state.insert(key.clone(), evaluated.written[0].1.clone().unwrap());

    let get = Op::Get { key: key.clone() };
    let looked = run(&request(2, vec![get], vec![]), Pair::new(1, 2), &state);
    let change = &looked.changes[0];
    let object = state.get(&key).cloned();
    let id = RequestId {
        client: ClientId(9),
        sequence: Sequence(2),
    };
    let pair = Pair::new(1, 2);
    assert_eq!(change.apply(object.clone(), pair, id), Ok(object.clone()));
    assert_eq!(change.undo(object.clone(), pair), Ok(object));
    assert!(change.undo(None, pair).is_err());
}

#[test]
fn what_would_not_fit_a_record_is_an_outcome() {
    let mut state = State::new();
    let key = Bytes::from_static(b"large");
    let value = Bytes::from(vec![7; 1 << 20]);
    let sets = |names: std::ops::Range<u8>| {
        let set = |n| Op::SetComponent {
            key: key.clone(),
            name: Bytes::from(vec![n]),
            value: value.clone(),
        };
        names.map(set).collect::<Vec<_>>()
    };
    for (sequence, names) in [(1, 0..2), (2, 2..3)] {
        let pair = Pair::new(1, sequence);
        let evaluated = run(&request(sequence, sets(names), vec![]), pair, &state);
        assert!(matches!(evaluated.outcome, Outcome::Applied(_)));
        set(&mut state, &key, evaluated.written[0].1.clone());
    }
    let gets = vec![Op::Get { key: key.clone() }; 900];
    let pair = Pair::new(1, 3);
    let request = request(3, gets, vec![]);
    let evaluated = run(&request, pair, &state);
    let refused = matches!(evaluated.outcome, Outcome::Failed(_, FailedOp::TooLarge));
    assert!(refused, "the results alone would be 2.7 GB");
    let record = record(request, pair, evaluated);
    assert!(record.encode().bytes.len() <= RECORD_BYTES_MAX);
}

#[test]
fn many_small_components_stay_within_the_bound_of_a_record() {
    let last = LastWrite {
        pair: Pair::new(u64::MAX, u64::MAX - 1),
        request: request(1, vec![], vec![]).id,
    };
    let component = |name: u32| Component {
        name: Bytes::from(name.to_be_bytes().to_vec()),
        value: Value::Data(Bytes::new()),
        pair: last.pair,
    };
    let object = Object {
        last,
        components: (0..1000).map(component).collect(),
    };
    let key = |n: u32| Bytes::from(n.to_be_bytes().to_vec());
    let state: State = (0..600).map(|n| (key(n), object.clone())).collect();
    let deletes = (0..600).map(|n| Op::Delete { key: key(n) }).collect();
    let pair = Pair::new(u64::MAX, u64::MAX);
    let request = request(2, deletes, vec![]);
    let evaluated = run(&request, pair, &state);
    let length = record(request, pair, evaluated).encode().bytes.len();
    assert!(length <= RECORD_BYTES_MAX, "the record has {length}");
}
