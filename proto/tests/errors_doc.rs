//! Compares docs/errors.md with the reasons in `failure.rs`, both ways: every reason has an entry, every entry a reason,
//! and both say the same gRPC code and the same thing for a client to do.

use understudy_proto::failure::{Advice, Code, Reason};

const DOC: &str = include_str!("../../docs/errors.md");

/// The entries: a heading of the third level, and the text up to the next heading.
fn entries() -> Vec<(&'static str, &'static str)> {
    let sections = DOC.split("\n#").skip(1);
    sections
        .filter_map(|section| section.strip_prefix("## "))
        .map(|entry| entry.split_once('\n').unwrap_or((entry, "")))
        .collect()
}

fn fact(entry: &str, name: &str) -> Option<String> {
    let start = format!("- {name}: ");
    let line = entry.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(line.trim_matches('`').to_string())
}

/// The name in the gRPC specification.
fn grpc(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
    }
}

fn client(advice: Advice) -> &'static str {
    match advice {
        Advice::Stop => "stops",
        Advice::Follow => "follows",
        Advice::TryElsewhere => "tries elsewhere",
        Advice::TellUnknown => "tells the caller",
        Advice::NewClientId => "makes a new client id",
    }
}

#[test]
fn every_reason_has_an_entry_and_every_entry_a_reason() {
    let mut documented: Vec<&str> = entries().iter().map(|(name, _)| *name).collect();
    let mut known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    documented.sort_unstable();
    known.sort_unstable();
    assert_eq!(documented, known, "left: docs/errors.md, right: failure.rs");
}

#[test]
fn each_entry_says_what_the_code_does() {
    for (name, entry) in entries() {
        let Some(reason) = Reason::parse(name) else {
            panic!("{name} is no reason");
        };
        let code = fact(entry, "gRPC");
        assert_eq!(code.as_deref(), Some(grpc(reason.code())), "{name}");
        let does = fact(entry, "Client");
        assert_eq!(does.as_deref(), Some(client(reason.advice())), "{name}");
        let applied = fact(entry, "Applied").unwrap_or_default();
        let says = applied.starts_with("no") || applied.starts_with("unknown");
        assert!(says, "{name} does not say whether the request was applied");
        let advice = fact(entry, "What to do");
        assert!(advice.is_some(), "{name} tells a person nothing");
    }
}
