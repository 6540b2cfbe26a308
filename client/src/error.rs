//! What a caller can get instead of an answer: one enum whose classes stay apart.
//!
//! *Wrong input* changed nothing and never will; *unavailable* means that no server could be asked or that all said no;
//! *storage* that the server was there and its store was not; *unknown* that the request may have run. Unknown is never
//! reported as failed, and bears the request id that settles it.

use std::fmt;
use understudy_proto::RequestId;
use understudy_proto::failure::{Applied, Failure, Reason};

/// What came back from one attempt instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The server refused, and said why.
    Failure(Failure),
    /// The request never left this process: no connection could be made, or no time was left.
    NotSent(String),
    /// The connection broke, the attempt's time passed, or the answer was no word of ours: the request may have run.
    Lost(String),
}

impl Trouble {
    /// Whether this attempt was applied, as far as the caller can know.
    pub fn applied(&self) -> Applied {
        match self {
            Trouble::Failure(failure) => failure.applied,
            Trouble::NotSent(_) => Applied::No,
            Trouble::Lost(_) => Applied::Unknown,
        }
    }

    /// The server's words, when there were any.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Trouble::Failure(failure) => Some(failure),
            Trouble::NotSent(_) | Trouble::Lost(_) => None,
        }
    }

    pub fn reason(&self) -> Option<Reason> {
        self.failure().map(|failure| failure.reason)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Failure(failure) => failure.fmt(f),
            Trouble::NotSent(why) => write!(f, "not sent: {why}"),
            Trouble::Lost(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// The class of an error: what a caller, a shell or a supervisor acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request itself is wrong. Nothing changed; the same request will always be refused.
    Invalid,
    /// The namespace, name or id does not exist.
    NotFound,
    /// The state of the cluster does not allow it, or this build cannot do it. Nothing changed.
    Refused,
    /// The caller's position lies on a branch that a failover cut off.
    Forked,
    /// The position asked for is no longer kept.
    Compacted,
    /// No server could do it in time. Nothing changed.
    Unavailable,
    /// Servers answered and their stores were full, failed or damaged. Nothing changed.
    Storage,
    /// The request may have run, or may yet run. Ask again under the same request id.
    Unknown,
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wrong input: nothing changed, and trying again cannot help.
    #[error("wrong input: {0}")]
    Invalid(Failure),
    /// No such namespace, name or id.
    #[error("not found: {0}")]
    NotFound(Failure),
    /// Not allowed in the cluster's present state, or not built yet. Nothing changed.
    #[error("refused: {0}")]
    Refused(Failure),
    /// A failover cut off the branch of the caller's token or cursor (metadata `cut`).
    #[error("forked: {0}")]
    Forked(Failure),
    /// The revision or version asked for is no longer kept (metadata `first`).
    #[error("compacted: {0}")]
    Compacted(Failure),
    /// No server could do it before the deadline. The request certainly did not run.
    #[error("unavailable: {0}")]
    Unavailable(Trouble),
    /// The servers were there, their stores were not. The request certainly did not run.
    #[error("storage: {0}")]
    Storage(Failure),
    /// The request may have run. The same call under the same request id settles it.
    #[error("outcome unknown{}: {last}", under(request_id))]
    OutcomeUnknown {
        /// `None` only for calls that bear no id (transfers and other commands to the managers).
        request_id: Option<RequestId>,
        /// What the last attempt met.
        last: Trouble,
    },
    /// The request id is too old to be told: the request may have run long ago, and will not run now.
    #[error("expired{}: {failure}", under(request_id))]
    Expired {
        request_id: Option<RequestId>,
        failure: Failure,
    },
}

impl Error {
    pub fn class(&self) -> Class {
        match self {
            Error::Invalid(_) => Class::Invalid,
            Error::NotFound(_) => Class::NotFound,
            Error::Refused(_) => Class::Refused,
            Error::Forked(_) => Class::Forked,
            Error::Compacted(_) => Class::Compacted,
            Error::Unavailable(_) => Class::Unavailable,
            Error::Storage(_) => Class::Storage,
            Error::OutcomeUnknown { .. } | Error::Expired { .. } => Class::Unknown,
        }
    }

    /// Whether the request was applied: `Unknown` only in the class of that name.
    pub fn applied(&self) -> Applied {
        match self.class() {
            Class::Unknown => Applied::Unknown,
            _ => Applied::No,
        }
    }

    /// The request whose outcome is unknown. After `OutcomeUnknown` the same content under this id settles it.
    pub fn request_id(&self) -> Option<RequestId> {
        match self {
            Error::OutcomeUnknown { request_id, .. } | Error::Expired { request_id, .. } => {
                *request_id
            }
            _ => None,
        }
    }

    /// The last server's words, when there were any.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Error::Invalid(failure)
            | Error::NotFound(failure)
            | Error::Refused(failure)
            | Error::Forked(failure)
            | Error::Compacted(failure)
            | Error::Storage(failure)
            | Error::Expired { failure, .. } => Some(failure),
            Error::Unavailable(trouble) | Error::OutcomeUnknown { last: trouble, .. } => {
                trouble.failure()
            }
        }
    }

    /// The error of a failure that certainly changed nothing and that no other server can better.
    pub(crate) fn certain(failure: Failure) -> Error {
        match failure.reason {
            Reason::FieldInvalid
            | Reason::TooLarge
            | Reason::CrossShard
            | Reason::RequestIdReused => Error::Invalid(failure),
            Reason::NamespaceUnknown | Reason::NotFound => Error::NotFound(failure),
            Reason::Forked => Error::Forked(failure),
            Reason::Compacted => Error::Compacted(failure),
            Reason::StorageFull | Reason::StorageFailed | Reason::StorageCorrupt => {
                Error::Storage(failure)
            }
            _ if failure.reason.advice() == understudy_proto::failure::Advice::TryElsewhere => {
                Error::Unavailable(Trouble::Failure(failure))
            }
            _ => Error::Refused(failure),
        }
    }
}

fn under(request_id: &Option<RequestId>) -> String {
    match request_id {
        Some(id) => format!(" (request id {id})"),
        None => String::new(),
    }
}
