//! A test over all checkers but Elle, which has its own: a store that does one thing after the other is never blamed, whoever calls it when, and
//! whatever the callers hear of it.

use super::{Checked, Verdict, bank::Rules};
use super::{bank, convergence, counter_bounds, exactly_once, sessions, set_full, unique_ids};
use crate::history::event::Type;
use crate::history::{Event, Operations, Unusable, Value};
use proptest::prelude::*;

const PROCESSES: usize = 4;

/// What a client asks for; `u8` is its choice among the things that it can ask for.
type Act = fn(&mut Store, u8, i64) -> (&'static str, Value, Value);

/// Everything that the workloads use, each its own part.
#[derive(Default)]
struct Store {
    list: Vec<Value>,
    registers: [(Value, i64); 2],
    sum: i64,
    balances: [i64; 3],
}

/// One who reads, one who changes something; each gives the function, what was asked and what was answered.
fn set(store: &mut Store, choice: u8, unique: i64) -> (&'static str, Value, Value) {
    if choice.is_multiple_of(2) {
        return ("read", Value::Nil, Value::set(store.list.clone()));
    }
    store.list.push(Value::Int(unique));
    ("add", Value::Int(unique), Value::Int(unique))
}

fn counter(store: &mut Store, choice: u8, _: i64) -> (&'static str, Value, Value) {
    if choice.is_multiple_of(2) {
        return ("read", Value::Nil, Value::Int(store.sum));
    }
    let by = i64::from(choice) - 100;
    store.sum += by;
    ("add", Value::Int(by), Value::Int(by))
}

fn requests(store: &mut Store, choice: u8, unique: i64) -> (&'static str, Value, Value) {
    if choice.is_multiple_of(2) {
        let copy = Value::Int(i64::from(choice) % 3);
        let seen = Value::List(store.list.clone());
        return ("seen", Value::Nil, Value::List(vec![copy, seen]));
    }
    store.list.push(Value::Int(unique));
    ("request", Value::Int(unique), Value::Int(unique))
}

fn registers(
    store: &mut Store,
    choice: u8,
    unique: i64,
    told: bool,
) -> (&'static str, Value, Value) {
    let key = usize::from(choice) % 2;
    let pair = |value| Value::List(vec![Value::Int(key as i64), value]);
    let reads = choice.is_multiple_of(3);
    if !reads {
        store.registers[key] = (Value::Int(unique), store.registers[key].1 + 1);
    }
    let (value, version) = store.registers[key].clone();
    let answer = match (told, &value) {
        (true, Value::Int(_)) => Value::List(vec![value, Value::Int(version)]),
        _ => value,
    };
    match reads {
        true => ("read", pair(Value::Nil), pair(answer)),
        false => ("write", pair(Value::Int(unique)), pair(answer)),
    }
}

fn with_versions(store: &mut Store, choice: u8, unique: i64) -> (&'static str, Value, Value) {
    registers(store, choice, unique, true)
}

fn without_versions(store: &mut Store, choice: u8, unique: i64) -> (&'static str, Value, Value) {
    registers(store, choice, unique, false)
}

fn transfers(store: &mut Store, choice: u8, _: i64) -> (&'static str, Value, Value) {
    if choice.is_multiple_of(2) {
        let balances = (0..).map(Value::Int).zip(store.balances.map(Value::Int));
        return ("read", Value::Nil, Value::map(balances.collect()));
    }
    let (from, to) = (usize::from(choice / 2) % 3, usize::from(choice / 8) % 3);
    store.balances[from] -= 1;
    store.balances[to] += 1;
    let asked = [from as i64, to as i64, 1].map(Value::Int).to_vec();
    ("transfer", Value::List(asked.clone()), Value::List(asked))
}

fn ids(store: &mut Store, _: u8, _: i64) -> (&'static str, Value, Value) {
    store.sum += 1;
    ("generate", Value::Nil, Value::Int(store.sum))
}

fn copies(store: &mut Store, choice: u8, _: i64) -> (&'static str, Value, Value) {
    let copy = Value::Int(i64::from(choice) % 3);
    let content = Value::List(store.list.clone());
    ("final-read", copy.clone(), Value::List(vec![copy, content]))
}

/// What a process is at: it has begun to do what it wants, or done it with this answer.
enum Stage {
    Begun(u8, i64, &'static str),
    Done(&'static str, Value),
}

/// Every turn brings a process one stage further: it asks, the store acts, it hears. One choice in eight hears nothing.
fn run(act: Act, turns: &[(usize, u8)]) -> Operations {
    let mut store = Store::default();
    let mut stages: Vec<Option<Stage>> = (0..PROCESSES).map(|_| None).collect();
    let mut names: Vec<i64> = (0..PROCESSES as i64).collect();
    let mut events: Vec<Event> = Vec::new();
    let mut push = |process, kind, f: &str, value| {
        let line = events.len() as u64 + 1;
        events.push(Event {
            process,
            kind,
            f: f.into(),
            key: None,
            value,
            time_ns: None,
            line,
        });
    };
    for (unique, (turn, choice)) in turns.iter().enumerate() {
        let process = names[*turn];
        stages[*turn] = match stages[*turn].take() {
            None => {
                // What is asked for does not depend on what is there.
                let (f, asked, _) = act(&mut Store::default(), *choice, unique as i64);
                push(process, Type::Invoke, f, asked);
                Some(Stage::Begun(*choice, unique as i64, f))
            }
            Some(Stage::Begun(wanted, unique, f)) => match choice % 9 {
                0 => {
                    push(process, Type::Fail, f, Value::Nil);
                    None
                }
                _ => {
                    let (f, _, answered) = act(&mut store, wanted, unique);
                    Some(Stage::Done(f, answered))
                }
            },
            Some(Stage::Done(f, answered)) => {
                if choice.is_multiple_of(8) {
                    push(process, Type::Info, f, Value::Nil);
                    names[*turn] += PROCESSES as i64;
                } else {
                    push(process, Type::Ok, f, answered);
                }
                None
            }
        };
    }
    Operations::collect(events.into_iter().map(Ok)).unwrap()
}

fn found(checked: Result<Checked, Unusable>) -> Option<String> {
    match checked.unwrap().verdict {
        // There may have been nothing to judge.
        Verdict::Holds | Verdict::Unknown(_) => None,
        Verdict::Violated(findings) => Some(format!("{findings:?}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_store_that_does_one_thing_after_the_other_is_never_blamed(
        turns in prop::collection::vec((0..PROCESSES, any::<u8>()), 0..300)
    ) {
        let rules = Rules { total: Some(0), negative_allowed: true };
        prop_assert_eq!(found(set_full(&run(set, &turns), true)), None);
        prop_assert_eq!(found(counter_bounds(&run(counter, &turns))), None);
        prop_assert_eq!(found(exactly_once(&run(requests, &turns))), None);
        prop_assert_eq!(found(sessions(&run(with_versions, &turns))), None);
        prop_assert_eq!(found(sessions(&run(without_versions, &turns))), None);
        prop_assert_eq!(found(bank(&run(transfers, &turns), rules)), None);
        prop_assert_eq!(found(unique_ids(&run(ids, &turns))), None);
        prop_assert_eq!(found(convergence(&run(copies, &turns))), None);
    }
}
