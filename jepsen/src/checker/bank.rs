//! That transfers between accounts neither make nor destroy anything: `transfer` of `{:from :to :amount}` (or a list of the
//! three), `read` of a map from account to balance.
//!
//! Every read must show the same accounts as the first, with the same total, and no balance below zero unless that is
//! allowed. Whether a transfer took effect does not matter here. Source: jepsen.tests.bank,
//! github.com/jepsen-io/jepsen.

use super::Checked;
use super::models::unknown_function;
use super::report::Report;
use crate::history::{Operation, Operations, Outcome, Unusable, Value};

const WRONG_TOTAL: &str = "wrong-total";
const MISSING_ACCOUNT: &str = "missing-account";
const UNEXPECTED_ACCOUNT: &str = "unexpected-account";
const NIL_BALANCE: &str = "nil-balance";
const NEGATIVE_BALANCE: &str = "negative-balance";

#[derive(Clone, Copy, Default, Debug)]
pub struct Rules {
    /// What all balances come to; that of the first read where it is not given.
    pub total: Option<i64>,
    pub negative_allowed: bool,
}

/// What a read showed, sorted by account.
#[derive(Clone)]
struct Shown<'a> {
    index: u32,
    balances: Vec<(&'a Value, &'a Value)>,
    total: i128,
}

pub fn bank(operations: &Operations, rules: Rules) -> Result<Checked, Unusable> {
    let mut report = Report::new(&[
        WRONG_TOTAL,
        MISSING_ACCOUNT,
        UNEXPECTED_ACCOUNT,
        NIL_BALANCE,
        NEGATIVE_BALANCE,
    ]);
    let mut first: Option<Shown> = None;
    let mut reads = 0;
    for (index, operation) in operations.all.iter().enumerate() {
        match operations.name(operation) {
            "transfer" => understand_transfer(operation)?,
            "read" if operation.outcome != Outcome::Ok || operation.answered.is_nil() => {}
            "read" => {
                reads += 1;
                report.judged(operation);
                let shown = shown(index as u32, operation)?;
                let first = first.get_or_insert_with(|| shown.clone());
                judge(operation, &shown, first, rules, &mut report);
            }
            other => return Err(unknown_function(other, operation, "transfer, read")),
        }
    }
    report.figure("reads", reads);
    let open = (reads == 0).then(|| "no balances were read".to_string());
    Ok(report.checked_unless(open))
}

/// A transfer binds nothing, but one that cannot be read shows that the history is of something else.
fn understand_transfer(operation: &Operation) -> Result<(), Unusable> {
    let asked = &operation.asked;
    let as_map = ["from", "to", "amount"].map(|name| asked.get(name).is_some());
    let as_list = asked.elements().is_some_and(|parts| parts.len() == 3);
    if as_list || as_map == [true; 3] {
        return Ok(());
    }
    let what = format!("'{asked}' has no :from, :to and :amount");
    Err(Unusable::at(operation.line, what))
}

fn shown(index: u32, operation: &Operation) -> Result<Shown<'_>, Unusable> {
    let wrong = |what| Unusable::at(operation.end_line, what);
    let answered = &operation.answered;
    let Value::Map(pairs) = answered else {
        return Err(wrong(format!("'{answered}' is no map of balances")));
    };
    let mut total = 0;
    for (account, balance) in pairs {
        match (balance, balance.as_int()) {
            (_, Some(balance)) => total += i128::from(balance),
            (Value::Nil, None) => {}
            _ => return Err(wrong(format!("{balance} of {account} is no whole number"))),
        }
    }
    Ok(Shown {
        index,
        balances: pairs.iter().map(|(account, of)| (account, of)).collect(),
        total,
    })
}

fn judge(operation: &Operation, shown: &Shown, first: &Shown, rules: Rules, report: &mut Report) {
    let line = operation.line;
    let both = [first.index, shown.index];
    let alone = [shown.index];
    let total = rules.total.map_or(first.total, i128::from);
    let of = match rules.total {
        Some(_) => &alone[..],
        None => &both[..],
    };
    if shown.total != total {
        report.found(WRONG_TOTAL, of, || {
            format!(
                "the read of line {line} comes to {}, not to {total}",
                shown.total
            )
        });
    }
    for account in only_in(first, shown) {
        report.found(MISSING_ACCOUNT, &both, || {
            format!("the read of line {line} does not show the account {account}")
        });
    }
    for account in only_in(shown, first) {
        report.found(UNEXPECTED_ACCOUNT, &both, || {
            format!(
                "the read of line {line} shows the account {account}, which was not there at first"
            )
        });
    }
    for (account, balance) in &shown.balances {
        match balance.as_int() {
            None => report.found(NIL_BALANCE, &alone, || {
                format!("the read of line {line} shows nothing for the account {account}")
            }),
            Some(balance) if balance < 0 && !rules.negative_allowed => {
                report.found(NEGATIVE_BALANCE, &alone, || {
                    format!("the read of line {line} shows {balance} for the account {account}")
                });
            }
            Some(_) => {}
        }
    }
}

/// Accounts of the one that the other has not.
fn only_in<'a>(one: &'a Shown, other: &'a Shown) -> impl Iterator<Item = &'a Value> {
    let has = |account: &Value| other.balances.binary_search_by(|(a, _)| (*a).cmp(account));
    let accounts = one.balances.iter().map(|(account, _)| *account);
    accounts.filter(move |account| has(account).is_err())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::report::testing::{names, told};
    use super::{Rules, bank};

    const BEGIN: &str = "0 invoke read nil
                         0 ok read {0 10, 1 5}
                         1 invoke transfer {:from 0 :to 1 :amount 3}
                         1 info transfer nil
                         2 invoke transfer [1 0 2]
                         2 ok transfer [1 0 2]\n";

    fn then_read(balances: &str, rules: Rules) -> Vec<&'static str> {
        let text = format!("{BEGIN}3 invoke read nil\n3 ok read {balances}");
        names(&bank(&told(&text), rules).unwrap())
    }

    #[test]
    fn money_moves_and_stays() {
        let rules = Rules::default();
        assert_eq!(then_read("{0 7, 1 8}", rules), [""; 0]);
        assert_eq!(then_read("{0 7, 1 9}", rules), ["wrong-total"]);
        let total = Some(16);
        let rules = Rules { total, ..rules };
        assert_eq!(then_read("{0 7, 1 9}", rules), ["wrong-total"]);
    }

    #[test]
    fn accounts_neither_come_nor_go() {
        let rules = Rules::default();
        assert_eq!(then_read("{0 15}", rules), ["missing-account"]);
        let more = then_read("{0 10, 1 5, 2 0}", rules);
        assert_eq!(more, ["unexpected-account"]);
        assert_eq!(then_read("{0 15, 1 nil}", rules), ["nil-balance"]);
    }

    #[test]
    fn balances_below_zero_must_be_allowed() {
        let rules = Rules::default();
        assert_eq!(then_read("{0 -1, 1 16}", rules), ["negative-balance"]);
        let negative_allowed = true;
        let rules = Rules {
            negative_allowed,
            ..rules
        };
        assert_eq!(then_read("{0 -1, 1 16}", rules), [""; 0]);
    }

    #[test]
    fn without_reads_nothing_can_be_told() {
        let checked = bank(&told("0 invoke read nil"), Rules::default()).unwrap();
        assert!(matches!(checked.verdict, Verdict::Unknown(_)));
    }

    #[test]
    fn what_is_no_bank_is_refused_with_its_line() {
        let line = |text| bank(&told(text), Rules::default()).unwrap_err().line;
        assert_eq!(line("0 invoke transfer 5"), 1);
        assert_eq!(line("0 invoke read nil\n0 ok read [1 2]"), 2);
        assert_eq!(line("0 invoke read nil\n0 ok read {0 :a}"), 2);
        assert_eq!(line("0 invoke deposit 5"), 1);
    }
}
