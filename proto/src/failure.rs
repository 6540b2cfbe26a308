//! The failures a caller can act on: a stable reason, whether the request was applied, and what the client does next.
//!
//! Three questions decide a class: did it happen, may it have happened, can the caller do better elsewhere? The three
//! classes of the source document stay apart (B04, B05, B06). *Unknown* is never reported as failed.
//! Every reason has an entry in `docs/errors.md`; a test compares the two.

use std::collections::BTreeMap;
use std::fmt;

/// The `domain` of every `google.rpc.ErrorInfo` that Understudy sends.
pub const ERROR_DOMAIN: &str = "understudy";

/// Whether a failed request was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Applied {
    /// Certainly not, and it will not be.
    No,
    /// It may have been, or may yet be. Ask again under the same request id.
    Unknown,
}

impl Applied {
    pub fn as_str(self) -> &'static str {
        match self {
            Applied::No => "no",
            Applied::Unknown => "unknown",
        }
    }
}

/// The gRPC code of a reason, by its number in the gRPC specification, so that this crate needs no tonic for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// What a careful client does with a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Tell the caller; trying again cannot help.
    Stop,
    /// The answer names who can do it; ask there, under the same id.
    Follow,
    /// Another server, or this one a little later, under the same id.
    TryElsewhere,
    /// The outcome can no longer be told; the caller must know.
    TellUnknown,
    /// Make a new client id from the time in the metadata, if nothing else was sent under the old one.
    NewClientId,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:ident, $advice:ident;)*) => {
        /// Why a request failed. The text is stable: programs compare it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$name),)* _ => None }
            }

            pub fn code(self) -> Code {
                match self { $(Reason::$name => Code::$code,)* }
            }

            pub fn advice(self) -> Advice {
                match self { $(Reason::$name => Advice::$advice,)* }
            }
        }
    };
}

reasons! {
    /// A field of the request is malformed or missing; metadata `field`.
    FieldInvalid = "FIELD_INVALID", InvalidArgument, Stop;
    /// A size or count is over its limit; metadata `field`, `limit`.
    TooLarge = "TOO_LARGE", InvalidArgument, Stop;
    /// The objects of the request are in more than one shard.
    CrossShard = "CROSS_SHARD", InvalidArgument, Stop;
    /// The request id was used before with other content.
    RequestIdReused = "REQUEST_ID_REUSED", InvalidArgument, Stop;
    /// No namespace of that name.
    NamespaceUnknown = "NAMESPACE_UNKNOWN", NotFound, Stop;
    /// Nothing of that name or id.
    NotFound = "NOT_FOUND", NotFound, Stop;
    /// Something of that name exists with other content.
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists, Stop;
    /// The state of the cluster does not allow it; the message says what to do.
    NotAllowed = "NOT_ALLOWED", FailedPrecondition, Stop;
    /// This node is not the shard's primary; metadata `shard`, `epoch`, `primary`, `address`.
    NotPrimary = "NOT_PRIMARY", FailedPrecondition, Follow;
    /// The caller knows an older configuration of the shard; metadata as NOT_PRIMARY.
    StaleEpoch = "STALE_EPOCH", FailedPrecondition, Follow;
    /// This manager does not lead; metadata `address` of the leader when known.
    NotLeader = "NOT_LEADER", FailedPrecondition, Follow;
    /// The caller's token is on a branch that a failover cut off; metadata `cut`.
    Forked = "FORKED", Aborted, Stop;
    /// The revision or version asked for is no longer kept; metadata `first`.
    Compacted = "COMPACTED", OutOfRange, Stop;
    /// The primary has no lease at the moment.
    NoLease = "NO_LEASE", Unavailable, TryElsewhere;
    /// The process or the copy is not ready yet.
    Starting = "STARTING", Unavailable, TryElsewhere;
    /// The process is stopping.
    Stopping = "STOPPING", Unavailable, TryElsewhere;
    /// A queue is full.
    Overloaded = "OVERLOADED", Unavailable, TryElsewhere;
    /// The in-sync set is smaller than the namespace demands.
    InSyncTooFew = "IN_SYNC_TOO_FEW", Unavailable, TryElsewhere;
    /// The managers have no leader that could answer.
    NoManager = "NO_MANAGER", Unavailable, TryElsewhere;
    /// The shard has no primary at the moment.
    NoPrimary = "NO_PRIMARY", Unavailable, TryElsewhere;
    /// The server could not reach the server that can do it.
    PeerUnreachable = "PEER_UNREACHABLE", Unavailable, TryElsewhere;
    /// The store's disk is full.
    StorageFull = "STORAGE_FULL", ResourceExhausted, TryElsewhere;
    /// The store's disk failed.
    StorageFailed = "STORAGE_FAILED", Internal, TryElsewhere;
    /// The store's data are damaged.
    StorageCorrupt = "STORAGE_CORRUPT", Internal, TryElsewhere;
    /// The request id is at or below the client's floor (metadata `floor`), or the client's session ended.
    RequestExpired = "REQUEST_EXPIRED", FailedPrecondition, TellUnknown;
    /// The client id is no UUIDv7, too old, closed, or dated in the future; metadata `table_time_ms`.
    ClientIdRefused = "CLIENT_ID_REFUSED", FailedPrecondition, NewClientId;
    /// The deadline passed first.
    DeadlinePassed = "DEADLINE_PASSED", DeadlineExceeded, TryElsewhere;
    /// This build or this issue of the product does not do it yet.
    Unimplemented = "UNIMPLEMENTED", Unimplemented, Stop;
    /// A mistake of the server's; it says so in its log.
    Internal = "INTERNAL", Internal, TryElsewhere;
    /// The copy did not become fresh enough for the read in time; metadata `position`, `token` or `age_ms`.
    CopyBehind = "COPY_BEHIND", Unavailable, TryElsewhere;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One failure: the reason, whether the request was applied, a sentence for people, and facts for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    pub applied: Applied,
    /// One line: what, why, and what to do.
    pub message: String,
    /// Further facts; keys as the reasons say. Never `applied`, which has its field.
    pub metadata: BTreeMap<String, String>,
}

impl Failure {
    pub fn new(reason: Reason, applied: Applied, message: impl Into<String>) -> Failure {
        Failure {
            reason,
            applied,
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// A failure that certainly changed nothing.
    pub fn no(reason: Reason, message: impl Into<String>) -> Failure {
        Failure::new(reason, Applied::No, message)
    }

    /// A failure of which nobody knows whether it changed something.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Failure {
        Failure::new(reason, Applied::Unknown, message)
    }

    /// A malformed field, by its name in the `.proto` file.
    pub fn field(field: &str, message: impl Into<String>) -> Failure {
        Failure::no(Reason::FieldInvalid, message).with("field", field)
    }

    /// A crossed limit, by the field's name in the `.proto` file.
    pub fn too_large(field: &str, size: usize, limit: usize) -> Failure {
        Failure::no(
            Reason::TooLarge,
            format!("{field} has {size}, the limit is {limit}"),
        )
        .with("field", field)
        .with("limit", limit.to_string())
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Failure {
        self.metadata.insert(key.to_string(), value.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (applied: {})",
            self.reason,
            self.message,
            self.applied.as_str()
        )
    }
}

impl std::error::Error for Failure {}

#[cfg(feature = "grpc")]
mod status {
    use super::{Applied, ERROR_DOMAIN, Failure, Reason};
    use std::collections::HashMap;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    impl From<Failure> for Status {
        fn from(failure: Failure) -> Status {
            let mut metadata: HashMap<String, String> = failure.metadata.into_iter().collect();
            metadata.insert("applied".to_string(), failure.applied.as_str().to_string());
            let details =
                ErrorDetails::with_error_info(failure.reason.as_str(), ERROR_DOMAIN, metadata);
            Status::with_error_details(
                Code::from_i32(failure.reason.code() as i32),
                failure.message,
                details,
            )
        }
    }

    impl Failure {
        /// The failure in a status of ours; `None` for a status without our `ErrorInfo`, of which nothing is known.
        pub fn from_status(status: &Status) -> Option<Failure> {
            let info = status.get_error_details().error_info().cloned()?;
            if info.domain != ERROR_DOMAIN {
                return None;
            }
            let reason = Reason::parse(&info.reason)?;
            let mut metadata: std::collections::BTreeMap<_, _> =
                info.metadata.into_iter().collect();
            let applied = match metadata.remove("applied").as_deref() {
                Some("no") => Applied::No,
                _ => Applied::Unknown,
            };
            Some(Failure {
                reason,
                applied,
                message: status.message().to_string(),
                metadata,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_parses_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("SOMETHING_ELSE"), None);
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn a_failure_survives_its_status() {
        let failure = Failure::unknown(Reason::StorageFailed, "the disk failed").with("node", "3");
        let status = tonic::Status::from(failure.clone());
        assert_eq!(Failure::from_status(&status), Some(failure));
        assert_eq!(Failure::from_status(&tonic::Status::unavailable("x")), None);
    }
}
