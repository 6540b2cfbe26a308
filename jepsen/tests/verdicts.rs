//! Real histories whose verdicts are known must all come out right. They are not part of the project: the test says that
//! it skips where they are absent.

use std::path::{Path, PathBuf};
use understudy_jepsen::checker;
use understudy_jepsen::checker::elle::{Consistency, list_append};
use understudy_jepsen::checker::linearizable::{self, Kind, Settings, Verdict};
use understudy_jepsen::history::{Operations, read};

const SETTINGS: Settings = Settings {
    threads: 2,
    memory_bytes: 1 << 30,
    explain: true,
};

fn folder() -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut folders = above.map(|folder| folder.join("shared/histories"));
    folders.find(|folder| folder.join("verdicts.tsv").exists())
}

#[test]
fn every_known_verdict_is_right() {
    let Some(folder) = folder() else {
        println!("skipped: there is no folder shared/histories beside the project");
        return;
    };
    let table = std::fs::read_to_string(folder.join("verdicts.tsv")).unwrap();
    let mut judged = 0;
    for row in table.lines().skip(1) {
        let fields: Vec<&str> = row.split('\t').collect();
        let [file, model, format, ops, unknown, expected, ..] = fields[..] else {
            panic!("a row with too few fields: {row}");
        };
        let kind = match model {
            "cas-register" => Kind::CasRegister,
            "cas-register-kv" => Kind::CasRegisterKv,
            "kv" => Kind::Kv,
            "mutex" => Kind::Mutex,
            "multi-register" => Kind::MultiRegister,
            "list-append-txn" => {
                assert_eq!(by_cycles(&folder.join(file)), expected, "{file}");
                judged += 1;
                continue;
            }
            other => panic!("{file}: there is no model {other}"),
        };
        let (found, events) = read(&folder.join(file), None).unwrap();
        assert_eq!(found.name(), format, "{file}");
        let operations = Operations::collect(events).unwrap();
        let judgement = linearizable::judge(&operations, kind, SETTINGS).unwrap();
        let verdict = match &judgement.verdict {
            Verdict::Linearizable => "linearizable",
            Verdict::Violation(_) => "not-linearizable",
            Verdict::Unknown(why) => why,
        };
        assert_eq!(verdict, expected, "{file}");
        // The table counts transactions that only read as well when their outcome is unknown; they bind nothing.
        if kind != Kind::MultiRegister {
            assert_eq!(judgement.operations.to_string(), ops, "{file}: operations");
            assert_eq!(judgement.unknown.to_string(), unknown, "{file}: unknown");
        }
        judged += 1;
    }
    assert!(judged >= 79, "only {judged} histories were judged");
}

fn by_cycles(file: &Path) -> &'static str {
    let operations = Operations::collect(read(file, None).unwrap().1).unwrap();
    match list_append(&operations, Consistency::default())
        .unwrap()
        .verdict
    {
        checker::Verdict::Holds => "linearizable",
        checker::Verdict::Violated(_) => "not-linearizable",
        checker::Verdict::Unknown(_) => "unknown",
    }
}
