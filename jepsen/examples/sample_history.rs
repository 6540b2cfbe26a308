//! Writes a history of a key-value store that is linearizable (or, with `spoil`, has one stale read), to measure checkers
//! with: `cargo run --release -p understudy-jepsen --example sample_history -- OPERATIONS CLIENTS [SEED] [spoil]`.
//!
//! The store is a map; an operation takes effect at a moment between its invocation and its end, both drawn from the seed.

use anyhow::Context;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{BufWriter, Write};

const KEYS: u32 = 100;
/// A put begins a string anew about so often, so that strings stay short.
const APPENDS_TO_A_PUT: u32 = 10;

struct Open {
    f: &'static str,
    key: u32,
    value: String,
    /// It has taken effect.
    done: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<u64>());
    let usage = "usage: sample_history OPERATIONS CLIENTS [SEED] [spoil]";
    let operations = number(0).context(usage)?.context(usage)?;
    let clients = number(1).context(usage)?.context(usage)? as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(number(2).and_then(Result::ok).unwrap_or(1));
    let spoil_at = arguments
        .iter()
        .any(|text| text == "spoil")
        .then_some(operations * 3 / 4);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut store = vec![String::new(); KEYS as usize];
    let mut open: Vec<Option<Open>> = (0..clients).map(|_| None).collect();
    let (mut begun, mut ended, mut spoiled) = (0, 0, false);
    while ended < operations {
        let client = rng.random_range(0..clients);
        match &mut open[client] {
            None if begun < operations => {
                let operation = drawn(&mut rng, begun);
                begun += 1;
                line(
                    &mut out,
                    client,
                    ":invoke",
                    &operation,
                    operation.f != "get",
                )?;
                open[client] = Some(operation);
            }
            None => {}
            Some(operation) if !operation.done => {
                apply(&mut store[operation.key as usize], operation);
                operation.done = true;
            }
            Some(operation) => {
                if operation.f == "get" && !spoiled && spoil_at.is_some_and(|at| ended > at) {
                    operation.value += "never written";
                    spoiled = true;
                }
                line(&mut out, client, ":ok", operation, true)?;
                open[client] = None;
                ended += 1;
            }
        }
    }
    Ok(out.flush()?)
}

fn drawn(rng: &mut impl Rng, number: u64) -> Open {
    let f = match rng.random_range(0..2 * APPENDS_TO_A_PUT) {
        0 => "put",
        n if n <= APPENDS_TO_A_PUT => "append",
        _ => "get",
    };
    Open {
        f,
        key: rng.random_range(0..KEYS),
        value: if f == "get" {
            String::new()
        } else {
            format!("x {number} y")
        },
        done: false,
    }
}

fn apply(stored: &mut String, operation: &mut Open) {
    match operation.f {
        "get" => operation.value.clone_from(stored),
        "put" => stored.clone_from(&operation.value),
        _ => *stored += &operation.value,
    }
}

fn line(
    out: &mut impl Write,
    client: usize,
    kind: &str,
    operation: &Open,
    with_value: bool,
) -> std::io::Result<()> {
    let Open { f, key, value, .. } = operation;
    let value = if with_value {
        format!("\"{value}\"")
    } else {
        "nil".to_string()
    };
    writeln!(
        out,
        "{{:process {client}, :type {kind}, :f :{f}, :key \"{key}\", :value {value}}}"
    )
}
