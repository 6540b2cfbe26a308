//! How a verb ends: its exit status, and an error that says what, why, and what to do.
//!
//! Wrong input is one line. What the cluster could not do is three, because a person then has to decide something; an
//! unknown outcome always bears the request id that settles it.

use std::fmt;
use std::io;
use understudy_client::proto::failure::{Failure, Reason};
use understudy_client::{Class, Error};

/// The exit statuses of every client verb; docs/cli.md is their contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// The command or its input is wrong; nothing changed.
    Usage = 2,
    NotFound = 3,
    ConditionNotMet = 4,
    /// No server could do it; it certainly did not run.
    Unavailable = 5,
    /// It may have run; the same request id settles it.
    Unknown = 6,
}

/// Why a verb ended without doing what it was to do. Empty parts are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub exit: Exit,
    pub what: String,
    pub why: String,
    pub todo: String,
    /// Nobody reads our output any more: end without a word.
    pub silent: bool,
}

/// How a verb ends.
pub type Ended = Result<Exit, Trouble>;

impl Trouble {
    pub fn new(
        exit: Exit,
        what: impl Into<String>,
        why: impl Into<String>,
        todo: impl Into<String>,
    ) -> Trouble {
        Trouble {
            exit,
            what: what.into(),
            why: why.into(),
            todo: todo.into(),
            silent: false,
        }
    }

    /// Wrong input, told in one line.
    pub fn usage(what: impl Into<String>, todo: impl Into<String>) -> Trouble {
        Trouble::new(Exit::Usage, what, "", todo)
    }

    /// What the client said, about something that was tried ("the put of 'apple'").
    pub fn of(what: impl fmt::Display, error: &Error) -> Trouble {
        let what = printable(&what.to_string());
        let why = why(error);
        match error.class() {
            Class::Invalid => Trouble::new(
                Exit::Usage,
                what.to_string(),
                why,
                "correct it; nothing was changed",
            ),
            Class::NotFound => {
                Trouble::new(Exit::NotFound, what.to_string(), why, not_found(error))
            }
            Class::Refused => Trouble::new(
                Exit::Failed,
                format!("{what} was refused"),
                format!("{why}; nothing was changed"),
                "",
            ),
            Class::Forked => {
                let todo = "read again without the old position; what was cut off is in `understudy orphans`";
                Trouble::new(Exit::Failed, format!("{what} stopped"), why, todo)
            }
            Class::Compacted => {
                let todo = "begin without a position, or with the first one that is kept";
                Trouble::new(Exit::Failed, format!("{what} stopped"), why, todo)
            }
            Class::Unavailable => {
                let todo = "look at `understudy cluster status`, check --endpoints, and try again";
                Trouble::new(Exit::Unavailable, format!("{what} did not run"), why, todo)
            }
            Class::Storage => {
                let todo = "look at the nodes' logs and disks, and try again";
                Trouble::new(Exit::Unavailable, format!("{what} did not run"), why, todo)
            }
            Class::Unknown => Trouble::new(
                Exit::Unknown,
                format!("{what} may have run"),
                why,
                settle(error),
            ),
        }
    }
}

fn why(error: &Error) -> String {
    let text = match error.failure() {
        Some(failure) => format!("{} ({})", plain(failure), failure.reason),
        None => match error {
            Error::Unavailable(trouble) | Error::OutcomeUnknown { last: trouble, .. } => {
                trouble.to_string()
            }
            other => other.to_string(),
        },
    };
    one_line(&text)
}

/// The field as a person calls it.
fn plain(failure: &Failure) -> String {
    let names = [
        ("ops.key", "the key"),
        ("ops.value", "the value"),
        ("ops.name", "the component's name"),
        ("preconditions.", "the condition's "),
        ("keys has", "the key has"),
        ("ops has", "the request has"),
    ];
    let mut message = failure.message.clone();
    for (field, name) in names {
        message = message.replace(field, name);
    }
    let of_bytes = ["ops.key", "ops.value", "ops.name", "preconditions.key"];
    let field = failure.metadata.get("field").map_or("", String::as_str);
    if failure.reason == Reason::TooLarge && of_bytes.contains(&field) {
        message = message.replace(", the limit", " bytes, the limit");
    }
    message
}

fn not_found(error: &Error) -> &'static str {
    match error.failure().map(|failure| failure.reason) {
        Some(Reason::NamespaceUnknown) => {
            "create it with `understudy namespace create NAME`, or name another with --namespace"
        }
        _ => "check the name; nothing was changed",
    }
}

fn settle(error: &Error) -> String {
    match error.request_id() {
        Some(id) if matches!(error, Error::Expired { .. }) => {
            format!("read the objects, or ask `understudy request {id}`; this id runs no more")
        }
        Some(id) => format!("repeat the same command with --request-id {id}; it runs at most once"),
        None => "look whether it happened before you repeat it".to_string(),
    }
}

/// What somebody typed, in a line of ours: a name with a line break must not make two lines of it.
fn printable(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_line = matches!(self.exit, Exit::Usage | Exit::NotFound);
        let (to_why, to_do) = match one_line {
            true => (": ", "; "),
            false => ("\nwhy: ", "\nto do: "),
        };
        write!(f, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "{to_why}{}", self.why)?;
        }
        if !self.todo.is_empty() {
            write!(f, "{to_do}{}", self.todo)?;
        }
        Ok(())
    }
}

impl From<io::Error> for Trouble {
    /// Of writing our output. A reader that went away (`| head`) is no error worth a word.
    fn from(error: io::Error) -> Trouble {
        let mut trouble = Trouble::new(
            Exit::Failed,
            "the output cannot be written",
            error.to_string(),
            "",
        );
        trouble.silent = error.kind() == io::ErrorKind::BrokenPipe;
        trouble
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_client::{ClientId, RequestId, Sequence};
    use understudy_client::{Trouble as Met, error::Error};

    #[test]
    fn wrong_input_is_one_line_and_says_what_to_do() {
        let error = Error::Invalid(Failure::too_large("ops.key", 5_000, 4_096));
        let trouble = Trouble::of("the put", &error);
        assert_eq!(trouble.exit, Exit::Usage);
        assert_eq!(
            trouble.to_string(),
            "error: the put: the key has 5000 bytes, the limit is 4096 (TOO_LARGE); correct it; nothing was changed"
        );
    }

    #[test]
    fn an_unknown_outcome_says_how_to_settle_it() {
        let id = RequestId {
            client: ClientId(7),
            sequence: Sequence(3),
        };
        let error = Error::OutcomeUnknown {
            request_id: Some(id),
            last: Met::Lost("the attempt's time passed".to_string()),
        };
        let trouble = Trouble::of("the put of 'a'", &error);
        assert_eq!(trouble.exit, Exit::Unknown);
        let text = trouble.to_string();
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains(&format!("--request-id {id}")), "{text}");
    }

    #[test]
    fn every_class_has_its_exit_status() {
        let failure = |reason| Failure::no(reason, "x");
        let exit = |error: Error| Trouble::of("it", &error).exit as u8;
        assert_eq!(exit(Error::Invalid(failure(Reason::CrossShard))), 2);
        assert_eq!(exit(Error::NotFound(failure(Reason::NamespaceUnknown))), 3);
        assert_eq!(exit(Error::Refused(failure(Reason::NotAllowed))), 1);
        assert_eq!(exit(Error::Forked(failure(Reason::Forked))), 1);
        assert_eq!(exit(Error::Compacted(failure(Reason::Compacted))), 1);
        assert_eq!(exit(Error::Unavailable(Met::NotSent("x".into()))), 5);
        assert_eq!(exit(Error::Storage(failure(Reason::StorageFull))), 5);
        let expired = Error::Expired {
            request_id: None,
            failure: failure(Reason::RequestExpired),
        };
        assert_eq!(exit(expired), 6);
    }
}
