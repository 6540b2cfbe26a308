//! What each crate's manifest may depend on.

use std::path::Path;
use toml::Table;

struct Rule {
    krate: &'static str,
    ours: &'static [&'static str],
    /// Other people's crates that it may always have; `None`: any but those that `never` names.
    others: Option<&'static [&'static str]>,
    never: &'static [&'static str],
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        krate: "proto",
        ours: &[],
        others: Some(&["bytes", "crc32c", "prost", "serde"]),
        never: &[],
        because: "understudy-proto is words on the wire: it stands on nothing of ours, and tonic comes only with its feature `grpc`",
    },
    Rule {
        krate: "node/protocol",
        ours: &["understudy-proto"],
        others: Some(&["bytes", "crc32c", "rmp-serde", "serde", "xxhash-rust"]),
        never: &[],
        because: "understudy-protocol decides and does nothing: no clock, no I/O, no threads, no chance",
    },
    Rule {
        krate: "client",
        ours: &["understudy-proto"],
        others: Some(&["bytes", "thiserror"]),
        never: &[],
        because: "the pure part of the client runs in the simulator; what needs a network is optional, behind `grpc`",
    },
    Rule {
        krate: "node",
        ours: &[
            "understudy-proto",
            "understudy-protocol",
            "understudy-client",
        ],
        others: None,
        never: &[],
        because: "the servers do not depend on what tests them",
    },
    Rule {
        krate: "jepsen",
        ours: &[
            "understudy-proto",
            "understudy-protocol",
            "understudy-client",
        ],
        others: Some(&[
            "anyhow",
            "bytes",
            "clap",
            "flate2",
            "rand",
            "rand_chacha",
            "rustc-hash",
            "serde",
            "serde_json",
            "smallvec",
        ]),
        never: &["rocksdb", "openraft", "tonic"],
        because: "the simulator compiles in seconds and runs in virtual time: no RocksDB, no node, and the runtime of what breaks real processes is optional, behind `live`",
    },
];

/// A crate's folder and its manifest; the workspace's stands under "".
pub fn read() -> Vec<(String, Table)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = RULES.iter().map(|rule| rule.krate).chain([""]);
    let manifest = |folder: &str| {
        let text = std::fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
        (folder.to_string(), text.parse().unwrap())
    };
    folders.map(manifest).collect()
}

pub fn breaches(manifests: &[(String, Table)]) -> Vec<String> {
    let manifest = |folder: &str| &manifests.iter().find(|(name, _)| name == folder).unwrap().1;
    let mut sentences: Vec<String> = RULES
        .iter()
        .flat_map(|rule| breaches_of(rule, manifest(rule.krate)))
        .collect();
    let shared = manifest("")["workspace"]["dependencies"]
        .as_table()
        .unwrap();
    for (name, feature) in [
        ("understudy-proto", "grpc"),
        ("understudy-protocol", "mutants"),
    ] {
        let features = shared[name]
            .get("features")
            .map(ToString::to_string)
            .unwrap_or_default();
        if features.contains(feature) {
            sentences.push(format!("Cargo.toml gives {name} the feature `{feature}` everywhere: only whoever needs it may ask for it."));
        }
    }
    let client = &shared["understudy-client"];
    if client
        .get("default-features")
        .and_then(toml::Value::as_bool)
        != Some(false)
    {
        sentences.push(
            "Cargo.toml takes understudy-client with its default features: then the simulator compiles tokio and tonic."
                .to_string(),
        );
    }
    sentences
}

fn breaches_of(rule: &Rule, manifest: &Table) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut refuse = |name: &str, how: &str| {
        sentences.push(format!(
            "{}/Cargo.toml depends on {name}{how}: {}.",
            rule.krate, rule.because
        ));
    };
    let none = Table::new();
    let dependencies = manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .unwrap_or(&none);
    for (name, dependency) in dependencies {
        let flag = |key: &str| dependency.get(key).and_then(toml::Value::as_bool) == Some(true);
        let grpc = dependency
            .get("features")
            .is_some_and(|list| list.to_string().contains("grpc"));
        let ours = name.starts_with("understudy");
        let listed = rule
            .others
            .is_none_or(|others| others.contains(&name.as_str()));
        if ours && !rule.ours.contains(&name.as_str()) || rule.never.contains(&name.as_str()) {
            refuse(name, "");
        } else if !ours && !listed && !flag("optional") {
            let how = match rule.krate {
                "node/protocol" => "",
                _ => " and does not make it optional",
            };
            refuse(name, how);
        } else if grpc && rule.krate != "node" {
            refuse(name, " with `grpc`");
        }
        if flag("optional") && rule.krate == "node/protocol" {
            refuse(name, ", if only optionally");
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_is_not_allowed_is_told_with_its_reason() {
        let mut manifests = read();
        let mut add = |krate: &str, line: &str| {
            let (_, manifest) = manifests
                .iter_mut()
                .find(|(name, _)| name == krate)
                .unwrap();
            let added: Table = line.parse().unwrap();
            let dependencies = manifest["dependencies"].as_table_mut().unwrap();
            dependencies.extend(added);
        };
        add("node/protocol", "tokio = \"1\"");
        add("client", "understudy-node = { workspace = true }");
        add(
            "jepsen",
            "understudy-proto = { workspace = true, features = [\"grpc\"] }",
        );
        let told = breaches(&manifests);
        let begins = [
            "node/protocol/Cargo.toml depends on tokio: understudy-protocol decides",
            "client/Cargo.toml depends on understudy-node: the pure part",
            "jepsen/Cargo.toml depends on understudy-proto with `grpc`: the simulator",
        ];
        assert_eq!(told.len(), begins.len(), "{told:#?}");
        for (sentence, begin) in told.iter().zip(begins) {
            assert!(sentence.starts_with(begin), "{sentence}");
        }
    }
}
