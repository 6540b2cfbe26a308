//! Tests of the manager group: the store alone, then groups of several managers over loopback.

mod group;
mod store;

use std::path::Path;
use std::time::Duration;
use understudy_proto::{ClientId, RequestId, Sequence};
use understudy_protocol::tables::{Command, Envelope};

/// No test waits that long unless something is broken.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// A command that leaves a trace which is easy to find: a binding.
pub(super) fn bind(sequence: u64, name: &str, endpoint: &str) -> Envelope {
    Envelope {
        id: RequestId {
            client: ClientId::from_parts(1_795_365_000_000, 7),
            sequence: Sequence(sequence),
        },
        command: Command::Bind {
            name: name.to_string(),
            endpoints: vec![endpoint.to_string()],
            lease_ms: None,
            revision: None,
        },
    }
}

/// What a crash would leave: the files as they are at this moment.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_folder(&item.path(), &target);
        } else if let Err(error) = std::fs::copy(item.path(), &target) {
            // Removed meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}
