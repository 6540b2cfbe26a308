//! What a workload is promised, and what a checker found.

use crate::checker::{self, Checked, linearizable};
use crate::history::{Operations, Unusable};

/// What is to come out of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    Holds,
    /// This is promised to nobody, and a run in which somebody who serves was cut off has to show that the checker sees it.
    Breaks,
    /// Neither.
    Open,
}

impl Promise {
    pub fn name(self) -> &'static str {
        match self {
            Promise::Holds => "must hold",
            Promise::Breaks => "must break",
            Promise::Open => "may break",
        }
    }
}

/// The result of one checker.
#[derive(Clone, Debug)]
pub struct Found {
    pub checker: &'static str,
    pub verdict: checker::Verdict,
    pub operations: usize,
    pub unknown: usize,
    pub figures: Vec<(&'static str, u64)>,
    /// The lines of the history that show the first violation.
    pub lines: Vec<u64>,
}

const MEMORY_BYTES: u64 = 2 << 30;

impl Found {
    pub fn of(checker: &'static str, operations: &Operations, checked: Checked) -> Found {
        let lines = match &checked.verdict {
            checker::Verdict::Violated(findings) => {
                let first = findings.first().map_or(&[][..], |first| &first.operations);
                lines_of(operations, first)
            }
            _ => Vec::new(),
        };
        Found {
            checker,
            verdict: checked.verdict,
            operations: checked.operations,
            unknown: checked.unknown,
            figures: checked.figures,
            lines,
        }
    }

    /// Whether the history is linearizable.
    pub fn linearizable(
        checker: &'static str,
        operations: &Operations,
        kind: linearizable::Kind,
    ) -> Result<Found, Unusable> {
        let settings = linearizable::Settings {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: MEMORY_BYTES,
            explain: true,
        };
        let judged = linearizable::judge(operations, kind, settings)?;
        let mut lines = Vec::new();
        let verdict = match judged.verdict {
            linearizable::Verdict::Linearizable => checker::Verdict::Holds,
            linearizable::Verdict::Unknown(why) => checker::Verdict::Unknown(why),
            linearizable::Verdict::Violation(violation) => {
                lines = lines_of(operations, &violation.core);
                let breaks = &operations.all[violation.breaks as usize];
                let text = format!(
                    "no order explains the {} of process {} that line {} ends; {} operations show it",
                    operations.name(breaks),
                    breaks.process,
                    breaks.end_line,
                    violation.core.len()
                );
                checker::Verdict::Violated(vec![checker::Finding {
                    name: "not linearizable",
                    text,
                    operations: violation.core,
                }])
            }
        };
        Ok(Found {
            checker,
            verdict,
            operations: judged.operations,
            unknown: judged.unknown,
            figures: vec![
                ("parts", judged.parts as u64),
                ("looked at", judged.looked_at),
            ],
            lines,
        })
    }
}

/// Where they begin and end in the file.
fn lines_of(operations: &Operations, numbers: &[u32]) -> Vec<u64> {
    let mut lines: Vec<u64> = numbers
        .iter()
        .filter_map(|number| operations.all.get(*number as usize))
        .flat_map(|operation| [operation.line, operation.end_line])
        .filter(|line| *line != 0)
        .collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}
