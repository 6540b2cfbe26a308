//! Who may import whom, as docs/architecture.md tells it: read from the manifests and from the paths in the sources.
//!
//! A breach fails with the sentence that a reviewer would write. An exception has a name and a reason here, and one that is
//! no longer needed fails too. What Cargo or clippy refuse by themselves is named all the same, for the sentence.

mod manifests;
mod paths;

use paths::{Breach, source_files};

/// What the sources in some folders must not name.
struct Ban {
    within: &'static [&'static str],
    /// Paths as they are written, like `std::time`; a name with a capital is meant wherever it stands in a path.
    names: &'static [&'static str],
    because: &'static str,
    /// Files (or folders) and why they may.
    except: &'static [(&'static str, &'static str)],
}

/// Which modules of understudy-node a folder of it may use, itself aside.
struct Neighbours {
    folder: &'static str,
    may_use: &'static [&'static str],
    because: &'static str,
    /// (file, module, why)
    except: &'static [(&'static str, &'static str, &'static str)],
}

const BANS: &[Ban] = &[
    Ban {
        within: &["node/protocol/src"],
        names: &[
            "tokio",
            "tonic",
            "rocksdb",
            "openraft",
            "rand",
            "tracing",
            "std::time",
            "std::fs",
            "std::net",
            "std::thread",
            "std::process",
            "std::env",
            "std::io",
            "HashMap",
            "HashSet",
            "SystemTime",
        ],
        because: "the protocol decides and nothing else: a clock, disk, network, log or the order of a hash table would make a run that no seed repeats",
        except: &[(
            "node/protocol/src/control/tests",
            "tests are told by the environment which mistake to build in and how long to walk",
        )],
    },
    Ban {
        within: &["node/protocol/src"],
        names: &["std::sync"],
        because: "the protocol has no threads and no globals; state is handed in and out",
        except: &[(
            "node/protocol/src/mutant.rs",
            "the mistake that is built in on purpose is chosen once for the process, and never in a release",
        )],
    },
    Ban {
        within: &["node/src", "client/src", "jepsen/src", "proto/src"],
        names: &["openraft"],
        because: "only node/src/manager names openraft, so that the consensus library can change without anybody else noticing",
        except: &[("node/src/manager", "this is the place")],
    },
    Ban {
        within: &["node/src", "client/src", "jepsen/src", "proto/src"],
        names: &["rocksdb"],
        because: "only node/src/storage names rocksdb: whoever else needs the disk goes through its contract",
        except: &[
            ("node/src/storage", "this is the place"),
            (
                "node/src/manager/log.rs",
                "Raft's log is a store of its own, with the order of writes that openraft asks for",
            ),
            (
                "node/src/manager/flush.rs",
                "the same log: its one thread that syncs",
            ),
            (
                "node/src/cli/bench/floor/commit.rs",
                "measures what the disk and RocksDB can do at best, without our store in between",
            ),
        ],
    },
    Ban {
        within: &["node/src"],
        names: &["understudy_client"],
        because: "the servers do not call themselves through the client; only the command line is built on it",
        except: &[("node/src/cli", "this is the place")],
    },
    Ban {
        within: &["node/src/cli"],
        names: &["understudy_protocol"],
        because: "the command line sees the cluster as any client does, and knows nothing of how it decides",
        except: &[],
    },
    Ban {
        within: &[
            "node/src/storage",
            "node/src/shard",
            "node/src/data_folder.rs",
        ],
        names: &["understudy_proto::v1", "tonic", "prost"],
        because: "what goes over the wire is translated in node/src/rpc and nowhere deeper",
        except: &[(
            "node/src/shard/responder.rs",
            "another node's answer to a forwarded request is handed to the client as it came, unread",
        )],
    },
    Ban {
        within: &["node/src/data_node", "node/src/manager_role.rs"],
        names: &[
            "prost",
            "understudy_proto::v1::stream_answer",
            "understudy_proto::v1::Record",
        ],
        because: "the lives of the processes hold services and connections; what is in the messages is rpc's",
        except: &[],
    },
    Ban {
        within: &["node/src/storage"],
        names: &["tokio"],
        because: "the store blocks and has a thread of its own; whoever is asynchronous waits outside of it",
        except: &[],
    },
    Ban {
        within: &["node/src"],
        names: &["SystemTime", "libc::clock_gettime"],
        because: "clocks are read in node/src/clock.rs, the one place that tests bend",
        except: &[("node/src/clock.rs", "this is the place")],
    },
    Ban {
        within: &["client/src", "client/examples"],
        names: &[
            "understudy_protocol",
            "understudy_node",
            "understudy_jepsen",
            "rocksdb",
            "openraft",
        ],
        because: "a client knows the wire (understudy-proto) and nothing of the servers' insides",
        except: &[],
    },
    Ban {
        within: &["proto/src"],
        names: &[
            "understudy_protocol",
            "understudy_node",
            "understudy_client",
            "tokio",
            "std::fs",
            "std::net",
            "std::time",
            "std::thread",
        ],
        because: "understudy-proto is words: ids, limits, failures and messages, built on nothing of ours",
        except: &[],
    },
    Ban {
        within: &[
            "jepsen/src/sim",
            "jepsen/src/workload",
            "jepsen/src/checker",
            "jepsen/src/nemesis",
            "jepsen/src/history",
        ],
        names: &[
            "understudy_node",
            "tokio",
            "tonic",
            "std::fs",
            "std::net",
            "std::thread",
            "std::time",
            "HashMap",
            "HashSet",
        ],
        because: "a simulated run comes from its seed alone; real time, threads, files and hash tables would make it another run",
        except: &[
            (
                "jepsen/src/history/read.rs",
                "histories of other systems are in files; no simulated run reads one",
            ),
            (
                "jepsen/src/checker/linearizable",
                "judges parts of a finished history on several threads, and the first broken part is the same however they run; the clock only ends the search for the smallest part",
            ),
            (
                "jepsen/src/checker/elle/tests.rs",
                "a test that a large history is judged in time",
            ),
        ],
    },
    Ban {
        within: &[
            "jepsen/src/workload",
            "jepsen/src/checker",
            "jepsen/src/nemesis",
            "jepsen/src/history",
        ],
        names: &["crate::sim", "crate::live"],
        because: "workloads, faults, histories and checkers are the same for simulated and real clusters, so they know neither",
        except: &[],
    },
    Ban {
        within: &["jepsen/src/live"],
        names: &[
            "crate::sim",
            "crate::nemesis",
            "crate::workload",
            "understudy_protocol",
            "understudy_node",
        ],
        because: "runs of real processes see what clients see; what the simulator knows of the servers' insides would make them agree with a mistake",
        except: &[],
    },
];

const NEIGHBOURS: &[Neighbours] = &[
    Neighbours {
        folder: "node/src/storage",
        may_use: &[],
        because: "the store knows records and keys, and nothing of shards, peers or services",
        except: &[],
    },
    Neighbours {
        folder: "node/src/shard",
        may_use: &["clock", "peers", "storage"],
        because: "the driver carries out what the protocol decided, on the disk and to the peers, and does not know who asked",
        except: &[],
    },
    Neighbours {
        folder: "node/src/manager",
        may_use: &["clock"],
        because: "the managers' group stands on openraft and the tables; it knows no shard's data and no data node",
        except: &[],
    },
    Neighbours {
        folder: "node/src/rpc",
        may_use: &["clock", "data_node", "manager", "shard"],
        because: "services check, translate and hand over to the shard or the manager; they do not reach round them to the disk",
        except: &[(
            "node/src/rpc/scan.rs",
            "storage",
            "names the range of a scan; the shard has said before that its copy may be read",
        )],
    },
    Neighbours {
        folder: "node/src/peers.rs",
        may_use: &["channels", "data_node", "rpc"],
        because: "connections to other nodes carry the shards' messages and decide nothing",
        except: &[],
    },
    Neighbours {
        folder: "node/src/data_node",
        may_use: &[
            "admin",
            "channels",
            "clock",
            "config",
            "data_folder",
            "manager",
            "peers",
            "process",
            "reflection",
            "rpc",
            "shard",
            "storage",
            "listening",
        ],
        because: "a data node is put together here; it is no manager and no command line",
        except: &[],
    },
    Neighbours {
        folder: "node/src/manager_role.rs",
        may_use: &[
            "admin",
            "clock",
            "config",
            "data_folder",
            "manager",
            "process",
            "reflection",
            "rpc",
            "listening",
        ],
        because: "a manager holds no data: it has no shards and no store of them",
        except: &[],
    },
    Neighbours {
        folder: "node/src/cli",
        may_use: &["admin", "config", "process", "version"],
        because: "verbs go through the client, like everybody else's programs",
        except: &[
            ("node/src/cli/server.rs", "data_node", "starts this role"),
            (
                "node/src/cli/server.rs",
                "listening",
                "binds the ports and divides their room",
            ),
            ("node/src/cli/server.rs", "manager_role", "starts this role"),
            ("node/src/cli/server.rs", "telemetry", "starts the log"),
            ("node/src/cli/agent.rs", "agent", "starts this role"),
            (
                "node/src/cli/agent.rs",
                "listening",
                "binds the ports and divides their room",
            ),
            ("node/src/cli/agent.rs", "telemetry", "starts the log"),
        ],
    },
    Neighbours {
        folder: "node/src/agent",
        may_use: &[
            "admin",
            "channels",
            "clock",
            "config",
            "data_folder",
            "listening",
            "manager",
            "process",
            "reflection",
            "rpc",
        ],
        because: "an agent starts processes and tells of their ends; it holds no data, and what they do is not its business",
        except: &[],
    },
    Neighbours {
        folder: "node/src/data_folder.rs",
        may_use: &["process"],
        because: "whose a folder is does not depend on what is in it",
        except: &[],
    },
];

#[test]
fn sources_name_only_what_they_may() {
    let files = source_files();
    assert!(files.len() > 150, "the sources were not found");
    let breaches: Vec<Breach> = BANS
        .iter()
        .flat_map(|ban| paths::breaches_of_ban(ban, &files))
        .chain(
            NEIGHBOURS
                .iter()
                .flat_map(|rule| paths::breaches_of_neighbours(rule, &files)),
        )
        .collect();
    let sentences: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(sentences.is_empty(), "\n{}", sentences.join("\n"));
}

#[test]
fn every_folder_that_a_rule_or_an_exception_names_is_there() {
    let files = source_files();
    let named = BANS
        .iter()
        .flat_map(|ban| {
            ban.within
                .iter()
                .chain(ban.except.iter().map(|(file, _)| file))
        })
        .chain(NEIGHBOURS.iter().map(|rule| &rule.folder));
    for path in named {
        let there = files.iter().any(|file| paths::is_in(&file.path, path));
        assert!(
            there,
            "{path} is named in a rule and holds no source: the rule looks at nothing"
        );
    }
}

#[test]
fn manifests_depend_only_on_what_they_may() {
    let sentences = manifests::breaches(&manifests::read());
    assert!(sentences.is_empty(), "\n{}", sentences.join("\n"));
}

#[test]
fn a_file_opens_with_what_it_is_responsible_for() {
    let silent: Vec<String> = source_files()
        .iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| {
            format!(
                "{}: say in the first lines (`//!`) what this file is responsible for",
                file.path
            )
        })
        .collect();
    assert!(silent.is_empty(), "\n{}", silent.join("\n"));
}
