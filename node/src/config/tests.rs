//! What a person can write into the layers, and what is told when it is wrong.

use super::*;
use layers::Given;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("understudy.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn given(key: &str, text: &str) -> Given {
    Given {
        key: key.to_string(),
        text: text.to_string(),
        flag: format!("--{}", flags::name(key)),
    }
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_string(), value.to_string())
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (_folder, path) = file("id = 1\n[raft]\nheartbeat_ms = 60\nsnapshot_every = 500\n");
    let layers = Layers {
        file: Some(path.clone()),
        environment: vec![
            variable("UNDERSTUDY_RAFT_HEARTBEAT_MS", "70"),
            variable("UNDERSTUDY_DATA_DIR", "/env"),
        ],
        flags: vec![
            given("data_dir", "/flag"),
            given("initial_managers", "1@a:1,2@b:1"),
        ],
    };
    let loaded = load::<ManagerConfig>(&layers).unwrap();
    assert_eq!(loaded.config.id, 1);
    assert_eq!(loaded.config.raft.heartbeat_ms, 70);
    assert_eq!(loaded.config.raft.snapshot_every, 500);
    assert_eq!(loaded.config.raft.log_kept, 2_000);
    assert_eq!(loaded.config.data_dir, PathBuf::from("/flag"));
    assert_eq!(loaded.config.initial_managers, ["1@a:1", "2@b:1"]);
    let source = |key: &str| {
        loaded
            .values
            .iter()
            .find(|(k, ..)| k == key)
            .unwrap()
            .2
            .to_string()
    };
    assert_eq!(source("id"), format!("file {}", path.display()));
    assert_eq!(
        source("raft.heartbeat_ms"),
        "environment UNDERSTUDY_RAFT_HEARTBEAT_MS"
    );
    assert_eq!(source("data_dir"), "flag --data-dir");
    assert_eq!(source("raft.log_kept"), "default");
}

#[test]
fn an_unknown_key_names_the_nearest_and_every_problem_is_told() {
    let (_folder, path) =
        file("manager = [\"a:1\"]\nname = 7\n[storage]\ncache_byte = 5\n[labels]\nrack = \"r1\"\n");
    let layers = Layers {
        file: Some(path),
        ..Layers::default()
    };
    let problems: Vec<String> = load::<NodeConfig>(&layers)
        .unwrap_err()
        .iter()
        .map(Problem::to_string)
        .collect();
    assert_eq!(
        problems,
        [
            "manager: there is no such setting; the nearest is 'managers'",
            "name: is 7, has to be a text",
            "storage.cache_byte: there is no such setting; the nearest is 'storage.cache_bytes'",
        ]
    );
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let (_folder, path) = file("id = 1\nname = \n");
    let layers = Layers {
        file: Some(path),
        ..Layers::default()
    };
    let problems = load::<ManagerConfig>(&layers).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].message.starts_with("line 2: "),
        "{}",
        problems[0]
    );
}

#[test]
fn labels_are_a_table_in_a_file_and_pairs_elsewhere() {
    let layers = Layers {
        flags: vec![given("labels", "rack=r1,zone=b")],
        ..Layers::default()
    };
    let labels = load::<NodeConfig>(&layers).unwrap().config.labels;
    assert_eq!(labels.get("zone").map(String::as_str), Some("b"));
    let (_folder, path) = file("[labels]\nrack = \"r1\"\n");
    let layers = Layers {
        file: Some(path),
        ..Layers::default()
    };
    assert_eq!(load::<NodeConfig>(&layers).unwrap().config.labels.len(), 1);
}

#[test]
fn every_problem_of_a_config_is_told() {
    let keys = |problems: Vec<Problem>| problems.into_iter().map(|p| p.key).collect::<Vec<_>>();
    assert_eq!(
        keys(ManagerConfig::default().validate()),
        ["id", "data_dir"]
    );
    assert_eq!(
        keys(NodeConfig::default().validate()),
        ["data_dir", "managers"]
    );
    assert!(ClientConfig::default().validate().is_empty());

    let mut config = ManagerConfig {
        id: 3,
        data_dir: "/d".into(),
        initial_managers: vec!["1@a:1".into(), "2@b:1".into()],
        ..ManagerConfig::default()
    };
    config.listen.public = "0.0.0.0:7420".into();
    config.listen.admin = "nonsense".into();
    config.raft.election_timeout_max_ms = 600;
    config.log.format = "xml".into();
    assert_eq!(
        keys(config.validate()),
        [
            "listen.public",
            "listen.admin",
            "advertise.public",
            "initial_managers",
            "initial_managers",
            "founding.lease_ms",
            "log.format"
        ]
    );
}

#[test]
fn a_port_open_to_others_needs_insecure() {
    let mut config = NodeConfig {
        data_dir: "/d".into(),
        managers: vec!["m:7421".into()],
        ..NodeConfig::default()
    };
    config.listen.public = "192.0.2.1:7420".into();
    let problems = config.validate();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("--insecure"));
    config.insecure = true;
    config.scrub.every_ms = u64::MAX;
    assert_eq!(config.validate()[0].key, "scrub.every_ms");
    config.scrub.every_ms = 0;
    assert!(config.validate().is_empty());
}

#[test]
fn addresses_are_host_and_port() {
    assert_eq!(split_address("[::1]:7420"), Ok(("::1", 7420)));
    assert_eq!(split_address("db-1.example:80"), Ok(("db-1.example", 80)));
    for wrong in [
        "",
        "host",
        "host:",
        "host:70000",
        ":80",
        "::1:80",
        "[::1:80",
        "http://a:1",
    ] {
        assert!(split_address(wrong).is_err(), "{wrong}");
    }
    assert!(is_loopback("[::1]:1") && is_loopback("localhost:1") && is_loopback("127.0.0.2:1"));
    assert!(!is_loopback("0.0.0.0:1") && is_unspecified("[::]:1"));
}

#[test]
fn a_manager_is_found_by_clients_on_the_port_before_or_where_it_says() {
    let config = ManagerConfig {
        initial_managers: vec!["1@a:7421".into(), "2@[::1]:9/b:80".into()],
        ..ManagerConfig::default()
    };
    let initial = config.initial().unwrap();
    assert_eq!(initial[&1].public, "a:7420");
    assert_eq!(initial[&2].internal, "[::1]:9");
    assert_eq!(initial[&2].public, "b:80");
    for wrong in ["a:1", "x@a:1", "1@a", "0@a:1", "1@a:1/b"] {
        let config = ManagerConfig {
            initial_managers: vec![wrong.into()],
            ..ManagerConfig::default()
        };
        assert!(config.initial().is_err(), "{wrong}");
    }
}

#[test]
fn a_mistyped_variable_is_told_and_a_strange_one_is_not() {
    let layers = |name: &str| Layers {
        environment: vec![variable(name, "1")],
        ..Layers::default()
    };
    let problems = load::<NodeConfig>(&layers("UNDERSTUDY_LISTEN_PUBLC")).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "UNDERSTUDY_LISTEN_PUBLC: there is no such variable; the nearest is 'UNDERSTUDY_LISTEN_PUBLIC'"
    );
    // Of another role, or of nothing of ours.
    assert!(load::<NodeConfig>(&layers("UNDERSTUDY_RAFT_HEARTBEAT_MS")).is_ok());
    assert!(load::<NodeConfig>(&layers("UNDERSTUDY_PYTHON")).is_ok());
}
