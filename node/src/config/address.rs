//! The checks that the roles' settings share: addresses, numbers, names, folders. Each problem is one line.

use super::{Listen, LogSettings, Problem};
use std::net::IpAddr;
use std::path::Path;
use understudy_proto::limits::NAME_BYTES_MAX;

/// Host and port of `host:port` or `[v6]:port`.
pub fn split_address(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("'{address}' is no address, write host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None if host.contains(':') => {
            return Err(format!("'{address}': write [{host}]:{port} for IPv6"));
        }
        None => host,
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(wrong());
    }
    Ok((host, port))
}

/// Whether only this machine reaches the address.
pub fn is_loopback(address: &str) -> bool {
    match split_address(address) {
        Ok(("localhost", _)) => true,
        Ok((host, _)) => host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Err(_) => false,
    }
}

/// Whether it means every address of the machine, and so none that others could be told.
pub fn is_unspecified(address: &str) -> bool {
    let host = split_address(address).map(|(host, _)| host);
    host.is_ok_and(|host| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()))
}

/// Gathers problems.
#[derive(Debug, Default)]
pub(super) struct Checks {
    problems: Vec<Problem>,
}

impl Checks {
    pub fn problems(self) -> Vec<Problem> {
        self.problems
    }

    pub fn that(&mut self, key: &str, holds: bool, otherwise: &str) {
        if !holds {
            self.bad(key, Some(&otherwise.to_string()));
        }
    }

    pub fn bad(&mut self, key: &str, message: Option<&String>) {
        let key = key.to_string();
        self.problems.extend(message.map(|message| Problem {
            key,
            message: message.clone(),
        }));
    }

    pub fn at_least(&mut self, key: &str, value: u64, least: u64) {
        self.that(
            key,
            value >= least,
            &format!("is {value}, has to be at least {least}"),
        );
    }

    pub fn at_most(&mut self, key: &str, value: u64, most: u64) {
        self.that(
            key,
            value <= most,
            &format!("is {value}, has to be at most {most}"),
        );
    }

    pub fn between(&mut self, key: &str, value: u64, least: u64, most: u64) {
        self.at_least(key, value, least);
        self.at_most(key, value, most);
    }

    pub fn one_of(&mut self, key: &str, value: &str, allowed: &[&str]) {
        let message = format!("is '{value}', has to be one of {}", allowed.join(", "));
        self.that(key, allowed.contains(&value), &message);
    }

    pub fn name(&mut self, key: &str, name: &str) {
        let fits = name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        let message =
            format!("has to be at most {NAME_BYTES_MAX} bytes without control characters");
        self.that(key, fits, &message);
    }

    pub fn folder(&mut self, folder: &Path) {
        let set = !folder.as_os_str().is_empty();
        self.that(
            "data_dir",
            set,
            "has to be set: the folder that holds what this process writes",
        );
    }

    /// Plain text and no authentication only where nobody else listens.
    pub fn listen(&mut self, listen: &Listen, insecure: bool) {
        let places = [
            ("listen.public", &listen.public),
            ("listen.internal", &listen.internal),
            ("listen.admin", &listen.admin),
        ];
        for (key, address) in places {
            self.listens(key, address, insecure);
        }
    }

    pub fn listens(&mut self, key: &str, address: &str, insecure: bool) {
        if let Err(why) = split_address(address) {
            return self.bad(key, Some(&why));
        }
        let why = format!(
            "{address} is not loopback and this build speaks plain text without authentication; listen on \
             127.0.0.1, or set insecure = true (--insecure) on a network that you trust"
        );
        self.that(key, insecure || is_loopback(address), &why);
    }

    pub fn advertised(&mut self, key: &str, address: &str, from_key: &str, from: &str) {
        if !address.is_empty() {
            match split_address(address) {
                Err(why) => self.bad(key, Some(&why)),
                Ok((_, 0)) => {
                    self.bad(key, Some(&"needs a port that others can reach".to_string()))
                }
                Ok(_) => {}
            }
            return;
        }
        let why = format!("has to be set, because nobody can be told to reach {from_key} = {from}");
        self.that(key, !is_unspecified(from), &why);
    }

    pub fn log(&mut self, log: &LogSettings) {
        self.one_of("log.format", &log.format, &["text", "json"]);
        if let Err(error) = log.level.parse::<tracing_subscriber::filter::Targets>() {
            let why = format!(
                "'{}': {error}; write error, warn, info, debug or trace",
                log.level
            );
            self.bad("log.level", Some(&why));
        }
    }
}
