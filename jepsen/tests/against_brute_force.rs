//! The search against a judge that simply tries every order, on small random histories of every model, both ways round:
//! what the one finds linearizable the other does too. And what is told of a violation is true.

use proptest::prelude::*;
use std::collections::BTreeMap;
use understudy_jepsen::checker::linearizable::{self, Kind, Settings, Verdict, Violation};
use understudy_jepsen::history::event::Type;
use understudy_jepsen::history::{Event, NEVER, Operations, Value};

const SETTINGS: Settings = Settings {
    threads: 1,
    memory_bytes: 1 << 28,
    explain: true,
};
const OPERATIONS_MAX: usize = 7;

/// What the brute-force judge thinks a model is: it shares nothing with the models of the search.
fn apply(kind: Kind, state: &mut BTreeMap<i64, Vec<i64>>, operation: &Told) -> bool {
    let known = operation.told;
    match kind {
        Kind::Register | Kind::CasRegister | Kind::CasRegisterKv => {
            let register = state.entry(operation.key).or_insert_with(|| initial(kind));
            match operation.f {
                "read" => !known || register[0] == operation.answered[0],
                "write" => {
                    register[0] = operation.asked[0];
                    true
                }
                _ => {
                    let held = register[0] == operation.asked[0];
                    if held {
                        register[0] = operation.asked[1];
                    }
                    held
                }
            }
        }
        Kind::Mutex => {
            let held = state.entry(0).or_default();
            let legal = held.is_empty() == (operation.f == "acquire");
            match operation.f {
                "acquire" => held.push(1),
                _ => held.clear(),
            }
            legal
        }
        Kind::Set | Kind::Counter => {
            let now = state.entry(0).or_default();
            if operation.f == "add" {
                now.push(operation.asked[0]);
                return true;
            }
            if !known {
                return true;
            }
            if kind == Kind::Counter {
                return now.iter().sum::<i64>() == operation.answered[0];
            }
            let (mut now, mut seen) = (now.clone(), operation.answered.clone());
            now.sort_unstable();
            now.dedup();
            seen.sort_unstable();
            now == seen
        }
        Kind::Queue => {
            let now = state.entry(0).or_default();
            if operation.f == "enqueue" {
                now.push(operation.asked[0]);
                return true;
            }
            let first = if now.is_empty() { -1 } else { now.remove(0) };
            !known || first == operation.answered[0]
        }
        Kind::Kv => {
            let now = state.entry(operation.key).or_default();
            match operation.f {
                "get" => !known || *now == operation.answered,
                "put" => {
                    *now = operation.asked.clone();
                    true
                }
                _ => {
                    now.extend(&operation.asked);
                    true
                }
            }
        }
        Kind::MultiRegister | Kind::Transactions => {
            let first = state.entry(0).or_insert_with(|| initial(kind))[0];
            let second = state.entry(1).or_insert_with(|| initial(kind))[0];
            match operation.f {
                "read" => !known || [first, second] == operation.answered[..],
                "write" => {
                    state.insert(operation.key, vec![operation.asked[0]]);
                    true
                }
                // A swap: reads both, writes both.
                _ => {
                    state.insert(0, vec![operation.asked[0]]);
                    state.insert(1, vec![operation.asked[1]]);
                    !known || [first, second] == operation.answered[..]
                }
            }
        }
    }
}

/// What a register is at first; -1 is nil.
fn initial(kind: Kind) -> Vec<i64> {
    match kind {
        Kind::Register | Kind::CasRegister | Kind::CasRegisterKv | Kind::Transactions => vec![-1],
        Kind::MultiRegister => vec![0],
        _ => vec![],
    }
}

/// An operation as the brute-force judge sees it.
#[derive(Clone, Debug)]
struct Told {
    f: &'static str,
    key: i64,
    asked: Vec<i64>,
    answered: Vec<i64>,
    /// It took effect.
    known: bool,
    /// If it did, that is what it answered.
    told: bool,
    invoked: u32,
    ended: u32,
}

fn has_order(
    kind: Kind,
    told: &[Told],
    placed: &mut Vec<bool>,
    state: &BTreeMap<i64, Vec<i64>>,
) -> bool {
    let open = |i: usize| !placed[i];
    let must = (0..told.len()).filter(|i| open(*i) && told[*i].known);
    let Some(first_end) = must.map(|i| told[i].ended).min() else {
        return true;
    };
    for next in 0..told.len() {
        if placed[next] || told[next].invoked > first_end {
            continue;
        }
        let mut after = state.clone();
        if !apply(kind, &mut after, &told[next]) {
            continue;
        }
        placed[next] = true;
        let found = has_order(kind, told, placed, &after);
        placed[next] = false;
        if found {
            return true;
        }
    }
    false
}

/// The functions of a model, and whether each is asked with a value.
fn functions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Register => &["read", "write"],
        Kind::CasRegister | Kind::CasRegisterKv => &["read", "write", "cas"],
        Kind::Mutex => &["acquire", "release"],
        Kind::Set | Kind::Counter => &["read", "add"],
        Kind::Queue => &["dequeue", "enqueue"],
        Kind::Kv => &["get", "put", "append"],
        Kind::MultiRegister | Kind::Transactions => &["read", "write", "swap"],
    }
}

const KINDS: [Kind; 10] = [
    Kind::Register,
    Kind::CasRegister,
    Kind::CasRegisterKv,
    Kind::Kv,
    Kind::MultiRegister,
    Kind::Mutex,
    Kind::Set,
    Kind::Counter,
    Kind::Queue,
    Kind::Transactions,
];

/// One operation as it is drawn: function, key, two numbers asked, numbers answered, outcome, and how much of its
/// invocation and end move in time.
type Drawn = (usize, i64, [i64; 2], Vec<i64>, u8, u16, u16);

fn told(kind: Kind, drawn: &[Drawn]) -> Vec<Told> {
    let mut times: Vec<(u16, usize, bool)> = Vec::new();
    for (index, (.., begin, length)) in drawn.iter().enumerate() {
        times.push((*begin, index, false));
        times.push((begin.saturating_add(*length), index, true));
    }
    times.sort();
    let place = |index: usize, end: bool| {
        times
            .iter()
            .position(|t| t.1 == index && t.2 == end)
            .unwrap() as u32
    };
    // Half of the histories of strings write each text once.
    let distinct = drawn[0].5.is_multiple_of(2);
    let names = functions(kind);
    let one = |(index, d): (usize, &Drawn)| {
        let (f, key, asked, answered, outcome, ..) = d;
        let mut f = names[f % names.len()];
        let key = if matches!(
            kind,
            Kind::Kv | Kind::CasRegisterKv | Kind::MultiRegister | Kind::Transactions
        ) {
            *key
        } else {
            0
        };
        let known = *outcome > 0;
        let answered = match (kind, f) {
            (Kind::Kv, _) => answered.clone(),
            (Kind::Set, _) => {
                let mut seen = answered.clone();
                seen.sort_unstable();
                seen.dedup();
                seen
            }
            (Kind::MultiRegister | Kind::Transactions, _) => {
                let least = initial(kind)[0];
                vec![
                    asked[1].max(least),
                    answered.first().map_or(least, |n| n - 1).max(least),
                ]
            }
            (Kind::Counter, _) => vec![answered.iter().sum::<i64>() - 1],
            _ => vec![answered.first().copied().unwrap_or(-1)],
        };
        if f == "cas" && asked[0] < 0 {
            f = "write";
        }
        let least = if kind == Kind::Counter { -1 } else { 0 };
        let asked = asked.map(|v| v.max(least)).to_vec();
        let asked = match kind {
            Kind::Kv if distinct => vec![index as i64],
            // Texts of which one begins with another cannot be taken apart.
            Kind::Kv if asked[0] == 2 && drawn[0].5 % 4 == 1 => vec![0, 1],
            Kind::Kv if drawn[0].5 % 8 == 3 && asked[1] == 0 => vec![],
            Kind::Kv => asked[..1].to_vec(),
            _ => asked,
        };
        Told {
            f,
            key,
            asked,
            answered,
            known,
            told: known,
            invoked: place(index, false),
            ended: if known { place(index, true) } else { NEVER },
        }
    };
    drawn.iter().enumerate().map(one).collect()
}

fn value(number: i64) -> Value {
    if number < 0 {
        Value::Nil
    } else {
        Value::Int(number)
    }
}

fn letters(numbers: &[i64]) -> Value {
    let letters: String = numbers
        .iter()
        .map(|n| char::from(b'a' + (*n).max(0) as u8))
        .collect();
    Value::text(&letters)
}

fn list(numbers: &[i64]) -> Value {
    Value::List(numbers.iter().map(|n| value(*n)).collect())
}

fn step(name: &str, key: i64, number: Value) -> Value {
    Value::List(vec![Value::Keyword(name.into()), Value::Int(key), number])
}

/// As the history says it: (function, asked, answered).
fn said(kind: Kind, told: &Told) -> (&'static str, Value, Value) {
    let both = |name, numbers: &[i64]| {
        vec![
            step(name, 0, value(numbers[0])),
            step(name, 1, value(numbers[1])),
        ]
    };
    let (asked, answered) = match (kind, told.f) {
        (Kind::Kv, "get") => (Value::Nil, letters(&told.answered)),
        (Kind::Kv, _) => (letters(&told.asked), letters(&told.asked)),
        (Kind::MultiRegister | Kind::Transactions, f) => {
            let steps = match f {
                "read" => both("read", &told.answered),
                "write" => vec![step("write", told.key, value(told.asked[0]))],
                _ => [both("read", &told.answered), both("write", &told.asked)].concat(),
            };
            let blank = |step: &Value| match step.elements() {
                Some([name, key, _]) if name.name() == Some("read") => {
                    Value::List(vec![name.clone(), key.clone(), Value::Nil])
                }
                _ => step.clone(),
            };
            let asked = steps.iter().map(blank).collect();
            return ("txn", Value::List(asked), Value::List(steps));
        }
        (Kind::Counter, "add") => (Value::Int(told.asked[0]), Value::Nil),
        (Kind::Counter, _) => (Value::Nil, Value::Int(told.answered[0])),
        (_, "cas") => (list(&told.asked), list(&told.asked)),
        (_, "write" | "add" | "enqueue") => (value(told.asked[0]), value(told.asked[0])),
        (Kind::Set, _) => (Value::Nil, list(&told.answered)),
        (Kind::Mutex, _) => (Value::Nil, Value::Nil),
        _ => (Value::Nil, value(told.answered[0])),
    };
    match kind {
        Kind::CasRegisterKv => {
            let with_key = |v| Value::List(vec![Value::Int(told.key), v]);
            (told.f, with_key(asked), with_key(answered))
        }
        _ => (told.f, asked, answered),
    }
}

fn operations(kind_of: Kind, told: &[Told]) -> Operations {
    let mut events: Vec<(u32, Event)> = Vec::new();
    for (index, one) in told.iter().enumerate() {
        let (f, asked, answered) = said(kind_of, one);
        let event = |kind, value| Event {
            process: index as i64,
            kind,
            f: f.into(),
            key: (kind_of == Kind::Kv).then_some(Value::Int(one.key)),
            value,
            time_ns: None,
            line: 0,
        };
        events.push((one.invoked, event(Type::Invoke, asked)));
        if one.known {
            events.push((one.ended, event(Type::Ok, answered)));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    Operations::collect(events.into_iter().map(|(_, event)| Ok(event))).unwrap()
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let one = (
        0usize..6,
        0i64..2,
        [-1i64..3, -1i64..3],
        proptest::collection::vec(0i64..3, 0..4),
        0u8..4,
        0u16..60,
        1u16..30,
    );
    proptest::collection::vec(one, 1..=OPERATIONS_MAX)
}

/// A history that some store gave: each operation is applied at a moment within it, and so it is linearizable; now and
/// then one answer is changed afterwards.
fn made_true(kind: Kind, told: &mut [Told], spoil: Option<usize>) {
    let spoiled = spoil.map(|index| told[index % told.len()].answered.clone());
    let mut by_moment: Vec<usize> = (0..told.len()).collect();
    by_moment.sort_by_key(|i| {
        told[*i].invoked + (told[*i].ended.min(200) - told[*i].invoked.min(200)) / 2
    });
    let mut state: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for index in by_moment {
        let key = if kind == Kind::Kv || kind == Kind::CasRegisterKv {
            told[index].key
        } else {
            0
        };
        let now = state.entry(key).or_insert(initial(kind)).clone();
        let other = state.entry(1).or_insert(initial(kind)).clone();
        told[index].answered = match kind {
            Kind::Counter => vec![now.iter().sum()],
            Kind::Queue => vec![now.first().copied().unwrap_or(-1)],
            Kind::MultiRegister | Kind::Transactions => vec![now[0], other[0]],
            Kind::Set => {
                let mut seen = now.clone();
                seen.sort_unstable();
                seen.dedup();
                seen
            }
            _ => now,
        };
        let mut after = state.clone();
        if apply(kind, &mut after, &told[index]) {
            state = after;
        } else {
            // It cannot take effect here (a cas, an acquire): then nobody knows whether it did.
            (told[index].known, told[index].told) = (false, false);
            told[index].ended = NEVER;
        }
    }
    if let (Some(index), Some(answered)) = (spoil, spoiled) {
        let index = index % told.len();
        if answered.len() == told[index].answered.len() || matches!(kind, Kind::Kv | Kind::Set) {
            told[index].answered = answered;
        }
    }
}

fn agree(kind: Kind, told: &[Told]) {
    let brute = has_order(kind, told, &mut vec![false; told.len()], &BTreeMap::new());
    let operations = operations(kind, told);
    let judgement = linearizable::judge(&operations, kind, SETTINGS).unwrap();
    match judgement.verdict {
        Verdict::Linearizable => assert!(brute, "{kind:?}: {told:#?}"),
        Verdict::Violation(violation) => {
            assert!(!brute, "{kind:?}: {told:#?}");
            what_is_told_is_true(kind, told, &operations, &violation);
        }
        Verdict::Unknown(why) => panic!("{why}"),
    }
}

/// The longest beginning has an order and one event more has none; the core shows the violation whatever the others did.
fn what_is_told_is_true(kind: Kind, told: &[Told], operations: &Operations, violation: &Violation) {
    let order =
        |told: &[Told]| has_order(kind, told, &mut vec![false; told.len()], &BTreeMap::new());
    // Of the broken part, what had begun before a place; what had not ended then is open.
    let until = |place: u32| -> Vec<(u32, Told)> {
        let of_part = violation.part.iter().copied();
        let begun = of_part.filter(|n| operations.all[*n as usize].invoked < place);
        let one = |number: u32| {
            let operation = &operations.all[number as usize];
            let mut one = told[operation.process as usize].clone();
            (one.invoked, one.ended) = (operation.invoked, operation.ended);
            if operation.ended >= place {
                (one.known, one.told, one.ended) = (false, false, NEVER);
            }
            (number, one)
        };
        begun.map(one).collect()
    };
    let only =
        |told: Vec<(u32, Told)>| -> Vec<Told> { told.into_iter().map(|(_, one)| one).collect() };
    assert!(violation.prefix_exact);
    assert!(
        order(&only(until(violation.prefix))),
        "the beginning has an order: {told:#?}"
    );
    let mut weakened = until(violation.prefix + 1);
    assert!(
        !order(&only(weakened.clone())),
        "with one event more it has none: {told:#?}"
    );
    for (number, one) in &mut weakened {
        if !violation.core.contains(number) {
            (one.known, one.told, one.ended) = (false, false, NEVER);
        }
    }
    assert!(!order(&only(weakened)), "{:?} of {told:#?}", violation.core);
}

/// Histories for each property; a longer run is one command (docs/testing.md).
fn cases() -> u32 {
    let asked = std::env::var("UNDERSTUDY_CASES").ok();
    asked.map_or(20_000, |text| {
        text.parse().expect("UNDERSTUDY_CASES is a number")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn both_judges_agree_on_what_is_drawn(kind in proptest::sample::select(&KINDS[..]), drawn in drawn()) {
        agree(kind, &told(kind, &drawn));
    }

    #[test]
    fn both_judges_agree_on_what_is_true_or_nearly(
        kind in proptest::sample::select(&KINDS[..]),
        drawn in drawn(),
        spoil in proptest::option::of(0usize..8),
    ) {
        let mut told = told(kind, &drawn);
        made_true(kind, &mut told, spoil);
        if spoil.is_none() {
            let operations = operations(kind, &told);
            let judgement = linearizable::judge(&operations, kind, SETTINGS).unwrap();
            prop_assert!(matches!(judgement.verdict, Verdict::Linearizable), "{:#?}", told);
        }
        agree(kind, &told);
    }
}
