//! What systemd is told (`sd_notify`): ready, stopping, and that the agent still turns.
//!
//! One datagram each to the socket that systemd names in the environment; without one nothing is sent. See sd_notify(3).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear from us.
    watchdog: Option<Duration>,
}

impl Notifier {
    pub fn from_environment() -> Notifier {
        let path = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
        let usec = std::env::var("WATCHDOG_USEC").ok();
        let usec: Option<u64> = usec.and_then(|usec| usec.parse().ok());
        let meant =
            std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        Notifier::new(&path, usec.filter(|_| meant))
    }

    fn new(path: &str, watchdog_usec: Option<u64>) -> Notifier {
        let socket = match path {
            "" => None,
            path => connect(path)
                .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used"))
                .ok(),
        };
        let watchdog = watchdog_usec.filter(|usec| *usec > 0);
        Notifier {
            socket,
            // Twice within its limit, as systemd recommends.
            watchdog: watchdog.map(|usec| Duration::from_micros(usec) / 2),
        }
    }

    pub fn ready(&self) {
        self.tell("READY=1");
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Never returns. From the task that would hang if the agent did.
    pub async fn keep_watchdog_quiet(&self) {
        let Some(every) = self.watchdog else {
            return std::future::pending().await;
        };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(every).await;
        }
    }

    fn tell(&self, word: &str) {
        let sent = self.socket.as_ref().map(|s| s.send(word.as_bytes()));
        if let Some(Err(error)) = sent {
            tracing::debug!(%error, word, "systemd was not told");
        }
    }
}

/// A path, or with `@` a name in the abstract space.
fn connect(path: &str) -> std::io::Result<UnixDatagram> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // The agent's work never waits for systemd.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn systemd_hears_each_word_and_the_watchdog_twice_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.to_str().unwrap(), Some(40_000));
        let hear = || {
            let mut word = [0; 64];
            let length = systemd.recv(&mut word).unwrap();
            String::from_utf8_lossy(&word[..length]).into_owned()
        };
        notifier.ready();
        assert_eq!(hear(), "READY=1");
        let limit = Duration::from_millis(200);
        let _ = tokio::time::timeout(limit, notifier.keep_watchdog_quiet()).await;
        notifier.stopping();
        let words: Vec<String> = std::iter::repeat_with(hear)
            .take_while(|word| word != "STOPPING=1")
            .collect();
        assert!(words.len() >= 2, "{words:?}");
        assert!(words.iter().all(|word| word == "WATCHDOG=1"), "{words:?}");
    }

    #[test]
    fn without_systemd_nothing_is_told() {
        let notifier = Notifier::new("", Some(0));
        assert!(notifier.socket.is_none() && notifier.watchdog.is_none());
        notifier.ready();
    }
}
