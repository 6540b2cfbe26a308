//! Each anomaly in a history that shows it and little else.

use super::{Consistency, list_append};
use crate::checker::report::testing::{figure, history, names};
use crate::checker::{Checked, Verdict};
use crate::history::{Format, Operations, Outcome, read};
use std::path::Path;

/// Transactions that are all open at once, `type steps` each: there is no order in time.
fn at_once(transactions: &[&str]) -> Operations {
    let mut text = String::new();
    for (process, told) in transactions.iter().enumerate() {
        let steps = told.split_once(' ').unwrap().1;
        text += &format!("{{:process {process} :type :invoke :f :txn :value [{steps}]}}\n");
    }
    for (process, told) in transactions.iter().enumerate() {
        let (kind, steps) = told.split_once(' ').unwrap();
        text += &format!("{{:process {process} :type :{kind} :f :txn :value [{steps}]}}\n");
    }
    history(&text)
}

/// One after the other, `process type steps` each.
fn in_turn(transactions: &[&str]) -> Operations {
    let mut text = String::new();
    for told in transactions {
        let mut words = told.splitn(3, ' ');
        let [process, kind, steps] = [(); 3].map(|()| words.next().unwrap());
        for kind in ["invoke", kind] {
            text += &format!("{{:process {process} :type :{kind} :f :txn :value [{steps}]}}\n");
        }
    }
    history(&text)
}

fn strict(operations: &Operations) -> Checked {
    list_append(operations, Consistency::StrictSerializable).unwrap()
}

fn serializable(operations: &Operations) -> Checked {
    list_append(operations, Consistency::Serializable).unwrap()
}

fn found_at_once(transactions: &[&str]) -> Vec<&'static str> {
    names(&strict(&at_once(transactions)))
}

fn first_text(checked: &Checked) -> &str {
    match &checked.verdict {
        Verdict::Violated(findings) => &findings[0].text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_serial_history_has_no_anomaly() {
    let checked = strict(&in_turn(&[
        "0 ok [:append 1 1] [:r 1 [1]] [:append 1 2] [:r 1 [1 2]] [:r 2 nil]",
        "1 ok [:r 1 [1 2]] [:append 1 3] [:append 2 1]",
        "2 info [:append 2 2] [:r 1 nil]",
        "3 ok [:r 2 [1]]",
        "3 fail [:append 2 3]",
        "3 ok [:append 2 3] [:r 1 [1 2 3]] [:r 2 [1 2 3]]",
    ]));
    assert_eq!(names(&checked), [""; 0]);
    assert_eq!((checked.operations, checked.unknown), (5, 1));
    assert_eq!(figure(&checked, "keys"), 2);
}

#[test]
fn two_orders_of_writes_are_g0() {
    let found = at_once(&[
        "ok [:append 1 1] [:append 2 1]",
        "ok [:append 1 2] [:append 2 2]",
        "ok [:r 1 [1 2]]",
        "ok [:r 2 [2 1]]",
    ]);
    let checked = strict(&found);
    assert_eq!(names(&checked), ["G0"]);
    assert_eq!(
        first_text(&checked),
        "T0 (line 1) -ww[key 1]-> T1 (line 2) -ww[key 2]-> T0"
    );
}

#[test]
fn reads_that_wait_for_each_other_are_g1c() {
    let found = found_at_once(&["ok [:append 1 1] [:r 2 [1]]", "ok [:append 2 1] [:r 1 [1]]"]);
    assert_eq!(found, ["G1c"]);
}

#[test]
fn a_read_of_half_a_transaction_is_g_single() {
    let found = found_at_once(&[
        "ok [:append 1 1] [:append 2 1]",
        "ok [:r 1 [1]] [:r 2 nil]",
        "ok [:r 2 [1]]",
    ]);
    assert_eq!(found, ["G-single"]);
}

#[test]
fn write_skew_is_g2_also_where_nobody_saw_the_writes() {
    let skew = ["ok [:r 1 nil] [:append 2 1]", "ok [:r 2 nil] [:append 1 1]"];
    assert_eq!(found_at_once(&skew), ["G2-item"]);
    let seen = [skew[0], skew[1], "ok [:r 1 [1]] [:r 2 [1]]"];
    assert_eq!(found_at_once(&seen), ["G2-item"]);
}

#[test]
fn an_append_that_nobody_saw_is_no_conflict_with_its_own_transaction() {
    let one = ["ok [:r 1 nil] [:append 1 1]", "ok [:r 1 nil]"];
    assert_eq!(found_at_once(&one), [""; 0]);
    let blind = [
        "ok [:append 1 1]",
        "ok [:append 1 2]",
        "ok [:append 1 3] [:r 1 nil]",
    ];
    assert_eq!(found_at_once(&blind), ["internal"]);
}

#[test]
fn a_lost_update_is_named() {
    let lost = ["ok [:r 1 nil] [:append 1 1]", "ok [:r 1 nil] [:append 1 2]"];
    assert_eq!(found_at_once(&lost), ["lost-update", "G2-item"]);
    let seen = [lost[0], lost[1], "ok [:r 1 [1]]"];
    assert_eq!(found_at_once(&seen), ["lost-update", "G-single"]);
}

#[test]
fn a_stale_read_is_wrong_only_in_real_time() {
    let stale = ["0 ok [:append 1 1]", "1 ok [:r 1 nil]", "2 ok [:r 1 [1]]"];
    let checked = strict(&in_turn(&stale));
    assert_eq!(names(&checked), ["G-single-realtime"]);
    assert_eq!(
        first_text(&checked),
        "T1 (line 3) -rw[key 1]-> T0 (line 1) -realtime-> T1"
    );
    assert_eq!(names(&serializable(&in_turn(&stale))), [""; 0]);
    let own = ["0 ok [:append 1 1]", "0 ok [:r 1 nil]"];
    assert_eq!(names(&strict(&in_turn(&own))), ["G-single-process"]);
}

#[test]
fn all_shapes_have_variants_in_time() {
    for (in_time, expected) in [
        (
            &[
                "0 ok [:append 1 1]",
                "1 ok [:append 1 2]",
                "2 ok [:r 1 [2 1]]",
            ][..],
            "G0-realtime",
        ),
        (
            &[
                "0 ok [:append 1 1]",
                "0 ok [:append 1 2]",
                "2 ok [:r 1 [2 1]]",
            ],
            "G0-process",
        ),
        (&["0 ok [:r 1 [1]]", "1 ok [:append 1 1]"], "G1c-realtime"),
        (&["0 ok [:r 1 [1]]", "0 ok [:append 1 1]"], "G1c-process"),
    ] {
        assert_eq!(names(&strict(&in_turn(in_time))), [expected]);
        assert_eq!(names(&serializable(&in_turn(in_time))), [""; 0]);
    }
}

#[test]
fn several_reads_that_were_overtaken_may_need_time_as_well() {
    let check = |second: u32| {
        let line = |process: u32, kind: &str, steps: &str| {
            format!("{{:process {process} :type :{kind} :f :txn :value [{steps}]}}\n")
        };
        // One reader saw the first append and later not the second; one that is open all the time saw it the other way
        // round.
        let text = [
            line(0, "invoke", "[:append 1 1]"),
            line(1, "invoke", "[:append 2 1]"),
            line(2, "invoke", "[:r 1 nil] [:r 2 nil]"),
            line(3, "invoke", "[:r 1 nil]"),
            line(3, "ok", "[:r 1 [1]]"),
            line(second, "invoke", "[:r 2 nil]"),
            line(second, "ok", "[:r 2 nil]"),
            line(2, "ok", "[:r 1 nil] [:r 2 [1]]"),
            line(0, "ok", "[:append 1 1]"),
            line(1, "ok", "[:append 2 1]"),
        ];
        history(&text.concat())
    };
    assert_eq!(names(&strict(&check(4))), ["G2-item-realtime"]);
    assert_eq!(names(&strict(&check(3))), ["G2-item-process"]);
    assert_eq!(names(&serializable(&check(3))), [""; 0]);
}

#[test]
fn reads_of_what_is_not_committed_are_found() {
    let failed = ["fail [:append 1 1]", "ok [:r 1 [1]]"];
    assert_eq!(found_at_once(&failed), ["G1a"]);
    let below = ["fail [:append 1 1]", "ok [:append 1 2]", "ok [:r 1 [1 2]]"];
    assert_eq!(found_at_once(&below), ["G1a", "dirty-update"]);
    let half = [
        "ok [:append 1 1] [:append 1 2]",
        "ok [:r 1 [1]]",
        "ok [:r 1 [1 2]]",
    ];
    assert_eq!(found_at_once(&half), ["G1b", "G-single"]);
    assert_eq!(found_at_once(&["ok [:r 1 [7]]"]), ["unwritten"]);
}

#[test]
fn unknown_transactions_bind_once_they_are_seen() {
    let unseen = [
        "info [:append 1 1] [:append 2 1]",
        "ok [:r 1 nil] [:r 2 nil]",
    ];
    assert_eq!(found_at_once(&unseen), [""; 0]);
    let half = [
        "info [:append 1 1] [:append 2 1]",
        "ok [:r 1 nil] [:r 2 [1]]",
    ];
    assert_eq!(found_at_once(&half), ["G-single"]);
}

#[test]
fn lists_must_grow_in_one_order_and_hold_each_element_once() {
    let writes = ["ok [:append 1 1]", "ok [:append 1 2]"];
    let orders = [writes[0], writes[1], "ok [:r 1 [1 2]]", "ok [:r 1 [2 1]]"];
    assert_eq!(found_at_once(&orders), ["incompatible-order"]);
    let twice = [writes[0], writes[1], "ok [:r 1 [1 2 1]]"];
    assert_eq!(found_at_once(&twice), ["duplicate-elements"]);
    let other = [writes[0], writes[1], "ok [:r 1 [2 1]]", "ok [:r 1 [1 1]]"];
    assert_eq!(found_at_once(&other), ["duplicate-elements"]);
    // A read of a failed element in an order of its own is found as well.
    let both = [
        "ok [:append 1 1]",
        "fail [:append 1 2]",
        "ok [:r 1 [1]]",
        "ok [:r 1 [2]]",
    ];
    assert_eq!(found_at_once(&both), ["incompatible-order", "G1a"]);
}

#[test]
fn a_transaction_must_agree_with_itself() {
    for steps in [
        "ok [:append 1 1] [:r 1 nil]",
        "ok [:r 1 nil] [:append 1 1] [:r 1 nil]",
        "ok [:append 1 1] [:append 1 2] [:r 1 [2 1]]",
        "ok [:r 1 [1]] [:append 1 1]",
        "ok [:r 1 nil] [:append 1 1] [:r 1 [1]] [:r 1 nil]",
    ] {
        assert!(found_at_once(&[steps]).contains(&"internal"), "{steps}");
    }
}

#[test]
fn many_blind_appends_to_one_key_stay_few_edges() {
    let mut told: Vec<String> = Vec::new();
    for number in 0..1_000 {
        told.push(format!(
            "ok [:r 1 nil] [:r {} nil] [:append 2 {number}]",
            number + 10
        ));
    }
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let checked = strict(&at_once(&told));
    assert_eq!(names(&checked), [""; 0]);
    let readers: Vec<String> = (0..1_000)
        .map(|number| format!("ok [:r 1 nil] [:append 1 {number}]"))
        .collect();
    let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
    let checked = strict(&at_once(&readers));
    assert_eq!(names(&checked), ["lost-update", "G2-item"]);
    assert!(figure(&checked, "dependencies") < 10_000);
}

#[test]
fn what_is_no_list_append_is_refused_with_its_line() {
    let line = |operations: Operations| {
        let refused = list_append(&operations, Consistency::StrictSerializable);
        refused.unwrap_err().line
    };
    assert_eq!(
        line(in_turn(&["0 ok [:append 1 1]", "1 ok [:append 1 1]"])),
        3
    );
    assert_eq!(line(in_turn(&["0 ok [:w 1 1]"])), 1);
    assert_eq!(line(in_turn(&["0 ok [:r 1 5]"])), 2);
    assert_eq!(line(in_turn(&["0 ok [:r 1]"])), 2);
    assert_eq!(line(history("{:process 0 :type :invoke :f :read}")), 1);
}

#[test]
fn a_history_of_snapshot_isolation_is_told_from_a_serializable_one() {
    let name = "shared/histories/elle/si-without-g-single.edn";
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(path) = above
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
    else {
        println!("skipped: there is no {name} beside the project");
        return;
    };
    let (_, events) = read(&path, Some(Format::Edn)).unwrap();
    let operations = Operations::collect(events).unwrap();
    assert!(operations.all.iter().all(|o| o.outcome == Outcome::Ok));
    assert_eq!(names(&serializable(&operations)), ["G2-item"]);
    let strictly = names(&strict(&operations));
    assert!(strictly.contains(&"G2-item") && strictly.contains(&"G-single-realtime"));
}

/// Run with `--ignored --nocapture`: what a large history takes.
#[test]
#[ignore = "measures speed"]
fn a_large_history_takes_seconds() {
    for (stale_in, at_the_end) in [
        (0, ""),
        (100, ""),
        (3, ""),
        // Everything that happened since is between this read and what it missed.
        (0, "[:r 0 nil]"),
        (100, "[:r 0 nil] [:r 1 nil]"),
    ] {
        let mut text = large(100_000, stale_in);
        let broken = stale_in > 0 || !at_the_end.is_empty();
        for kind in ["invoke", "ok"] {
            text += &format!("{{:process 99 :type :{kind} :f :txn :value [{at_the_end}]}}\n");
        }
        let operations = history(&text);
        let begin = std::time::Instant::now();
        let checked = strict(&operations);
        println!(
            "{stale_in} {at_the_end:?}: {:?}, {:?}",
            begin.elapsed(),
            checked.figures
        );
        assert_eq!(matches!(checked.verdict, Verdict::Violated(_)), broken);
    }
}

/// Twenty clients, keys of a hundred elements each. One read in so many misses an element (with 0, none does).
fn large(transactions: usize, stale_in: usize) -> String {
    let mut dice = 1_u64;
    let mut roll = |sides: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) as usize % sides
    };
    let mut lists: Vec<Vec<String>> = vec![Vec::new(); transactions];
    let mut open: Vec<Option<String>> = vec![None; 20];
    let (mut text, mut begun) = (String::new(), 0);
    while begun < transactions {
        let process = roll(open.len());
        if let Some(steps) = open[process].take() {
            text += &format!("{{:process {process} :type :ok :f :txn :value [{steps}]}}\n");
            continue;
        }
        let mut steps = String::new();
        for _ in 0..1 + roll(4) {
            let key = begun / 50 + roll(5);
            if roll(2) == 0 {
                let value = lists[key].len().to_string();
                steps += &format!("[:append {key} {value}] ");
                lists[key].push(value);
            } else {
                let old = usize::from(stale_in > 0 && roll(stale_in) == 0);
                let seen = lists[key].len().saturating_sub(old);
                steps += &format!("[:r {key} [{}]] ", lists[key][..seen].join(" "));
            }
        }
        text += &format!("{{:process {process} :type :invoke :f :txn :value [{steps}]}}\n");
        open[process] = Some(steps);
        begun += 1;
    }
    text
}
