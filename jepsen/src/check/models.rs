//! The models by the names that the command line has for them.

use crate::checker::elle::Consistency;
use crate::checker::linearizable::{self, Judgement, Kind};
use crate::checker::{self, Checked, Finding, Verdict, bank};
use crate::history::{Operations, Unusable};
use clap::ValueEnum;

pub use crate::checker::linearizable::Settings;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Model {
    /// A register, nil at first: read, write
    Register,
    /// A register with compare-and-set, nil at first: read, write, cas [old new]
    CasRegister,
    /// The same, one for each key: every value is [key value]
    CasRegisterKv,
    /// Strings by key, "" at first: get, put, append
    Kv,
    /// Registers that begin as 0: txn of steps [:read k v] and [:write k v]
    MultiRegister,
    /// A lock, free at first: acquire, release
    Mutex,
    /// A set, empty at first: add, read
    Set,
    /// A counter, 0 at first: add, read
    Counter,
    /// A first-in, first-out queue: enqueue, dequeue (nil: it was empty)
    Queue,
    /// Objects, nil at first: txn of steps :r, :w, :append, :cas [old new] and :check
    Transactions,
    /// Lists by key, judged by cycles as Elle does: txn of steps [:append k v] and [:r k list]
    #[value(alias = "list-append-txn")]
    ListAppend,
    /// Unique elements: add, read of all; nothing that was acknowledged or seen is lost
    SetFull,
    /// A counter: add, read; every read is between the least and the most that it can be
    CounterBounds,
    /// Accounts: transfer {:from :to :amount}, read of all balances; the total stays, nobody is in debt
    Bank,
    /// generate; no id is given twice
    UniqueIds,
    /// Registers by key: write, read of [key value]; what each process saw before is not taken back
    Sessions,
    /// request, and read of the ids in a log; each acknowledged one is there, none twice
    ExactlyOnce,
    /// final-read of each copy; all are equal
    Convergence,
}

/// The words for both verdicts.
const LINEARIZABLE: (&str, &str) = ("linearizable", "not-linearizable");

pub const HELP: &str = "\
Formats: Jepsen's EDN (edn), log lines of an old Jepsen (jepsen-log), porcupine's kv tests (kv-txt), and one JSON object a \
line (jsonl): {\"process\": 0, \"type\": \"invoke\", \"f\": \"write\", \"value\": 3}, with \"key\" and \"time\" (ns) where they apply. \
Each may be packed with gzip. The order of the lines is the order in time. An operation that ends with :info, or never, may \
take effect at any time after its invocation, once or not at all; one that ends with :fail did not.

Exit status: 0 it holds, 1 it does not, 2 the input is unusable (the line is named), 3 unknown.

Examples:
  understudy-jepsen check history.edn --model cas-register
  understudy-jepsen check history.jsonl.gz --model kv --timeline why.html
  grep -v nemesis log | understudy-jepsen check - --model mutex --format jepsen-log";

impl Model {
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no model is hidden");
        value.get_name().to_string()
    }

    /// How the verdicts are called.
    pub fn words(self) -> (&'static str, &'static str) {
        match self.kind() {
            Some(_) => LINEARIZABLE,
            // Strictly serializable is what linearizable is called of transactions.
            None if self == Model::ListAppend => LINEARIZABLE,
            None => ("holds", "violated"),
        }
    }

    /// Of a model that the search for a linear order judges.
    fn kind(self) -> Option<Kind> {
        Some(match self {
            Model::Register => Kind::Register,
            Model::CasRegister => Kind::CasRegister,
            Model::CasRegisterKv => Kind::CasRegisterKv,
            Model::Kv => Kind::Kv,
            Model::MultiRegister => Kind::MultiRegister,
            Model::Mutex => Kind::Mutex,
            Model::Set => Kind::Set,
            Model::Counter => Kind::Counter,
            Model::Queue => Kind::Queue,
            Model::Transactions => Kind::Transactions,
            _ => return None,
        })
    }

    pub fn check(
        self,
        operations: &Operations,
        settings: Settings,
        consistency: Consistency,
    ) -> Result<Checked, Unusable> {
        if let Some(kind) = self.kind() {
            let judgement = linearizable::judge(operations, kind, settings)?;
            return Ok(checked(operations, kind, judgement));
        }
        match self {
            Model::SetFull => checker::set_full(operations, false),
            Model::CounterBounds => checker::counter_bounds(operations),
            Model::Bank => checker::bank(operations, bank::Rules::default()),
            Model::UniqueIds => checker::unique_ids(operations),
            Model::Sessions => checker::sessions(operations),
            Model::ExactlyOnce => checker::exactly_once(operations),
            Model::Convergence => checker::convergence(operations),
            // What is left is judged by its cycles.
            _ => checker::list_append(operations, consistency),
        }
    }
}

fn checked(operations: &Operations, kind: Kind, judgement: Judgement) -> Checked {
    let verdict = match judgement.verdict {
        linearizable::Verdict::Linearizable => Verdict::Holds,
        linearizable::Verdict::Unknown(why) => Verdict::Unknown(why),
        linearizable::Verdict::Violation(violation) => {
            let breaks = &operations.all[violation.breaks as usize];
            let of_key = match (&breaks.key, breaks.asked.pair()) {
                (Some(key), _) => format!(" of key {key}"),
                (None, Some((key, _))) if kind == Kind::CasRegisterKv => format!(" of key {key}"),
                _ => String::new(),
            };
            let text = match violation.prefix_exact {
                true => format!(
                    "the operations{of_key} are linearizable until line {}; with it there is no order of these, whatever the \
                     others did",
                    breaks.end_line
                ),
                false => format!("there is no order of these operations{of_key}"),
            };
            Verdict::Violated(vec![Finding {
                name: "not-linearizable",
                text,
                operations: violation.core,
            }])
        }
    };
    Checked {
        verdict,
        operations: judgement.operations,
        unknown: judgement.unknown,
        figures: vec![
            ("parts", judgement.parts as u64),
            ("places looked at", judgement.looked_at),
        ],
    }
}
