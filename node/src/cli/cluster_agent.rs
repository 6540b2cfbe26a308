//! The agent of a local cluster: it starts the nodes in place of this process, restarts them, and reports their ends.
//!
//! It ends when this process does, and ends the nodes then: what is started for a bench or a test leaves nothing behind.

use super::cluster_processes::Ports;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use toml::{Table, Value};
use understudy_proto::v1::agent_client::AgentClient;
use understudy_proto::v1::{AgentProcess, ListProcessesRequest};

const ASK_LIMIT: Duration = Duration::from_secs(5);
/// The longest pause before a restart.
const RESTART_MOST_MS: i64 = 1_000;

/// The agent's process, and where it is asked.
#[derive(Debug)]
pub struct LocalAgent {
    pub ports: Ports,
    config: PathBuf,
    log: PathBuf,
    executable: PathBuf,
    child: Option<Child>,
}

impl LocalAgent {
    /// Writes its config: these commands under these names, and the managers' internal addresses.
    pub fn prepare(
        executable: &Path,
        folder: &Path,
        ports: Ports,
        processes: &[(String, Vec<String>)],
        managers: &[String],
    ) -> io::Result<LocalAgent> {
        std::fs::create_dir_all(folder)?;
        let text = Value::String;
        let commands = processes.iter().map(|(name, words)| {
            let words = std::iter::once(executable.display().to_string()).chain(words.clone());
            (
                name.clone(),
                text(words.map(quoted).collect::<Vec<_>>().join(" ")),
            )
        });
        let listen = [
            ("internal", format!("127.0.0.1:{}", ports.internal)),
            ("admin", format!("127.0.0.1:{}", ports.admin)),
        ];
        let listen = listen.map(|(key, address)| (key.to_string(), text(address)));
        let restart = Table::from_iter([("most_ms".to_string(), Value::Integer(RESTART_MOST_MS))]);
        let config: Table = [
            ("data_dir", text(folder.join("agent").display().to_string())),
            (
                "managers",
                Value::Array(managers.iter().cloned().map(text).collect()),
            ),
            ("stop_with_agent", Value::Boolean(true)),
            ("stop_timeout_ms", Value::Integer(3_000)),
            // What is ended here is ended on purpose, again and again: the next end must not find it still waiting.
            ("restart", Value::Table(restart)),
            ("processes", Value::Table(commands.collect())),
            ("listen", Value::Table(listen.into_iter().collect())),
        ]
        .map(|(key, value)| (key.to_string(), value))
        .into_iter()
        .collect();
        let path = folder.join("agent.toml");
        std::fs::write(&path, config.to_string())?;
        Ok(LocalAgent {
            ports,
            config: path,
            log: folder.join("agent.log"),
            executable: executable.to_path_buf(),
            child: None,
        })
    }

    /// Starts it, and with it the nodes.
    pub fn start(&mut self) -> io::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.executable);
        command
            .args(["agent", "--exit-with-parent", "--config"])
            .arg(&self.config)
            // Only we hold the other end: it stops the nodes and ends when we do, so nothing has to kill it.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(false);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("UNDERSTUDY_") {
                command.env_remove(name);
            }
        }
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Its own words and those of its processes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// host:port of its service.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.internal)
    }

    /// Its own process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills it as a crash would: its processes go on.
    pub async fn kill(&mut self) -> io::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// Stops its processes, and ends it. What takes longer than that is killed.
    pub async fn stop(&mut self, limit: Duration) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        drop(child.stdin.take());
        if tokio::time::timeout(limit, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    pub async fn processes(&self) -> io::Result<Vec<AgentProcess>> {
        let asking = async {
            let client = AgentClient::connect(format!("http://{}", self.address())).await;
            let mut client = client.map_err(io::Error::other)?;
            let listed = client.list(ListProcessesRequest {}).await;
            Ok(listed.map_err(io::Error::other)?.into_inner().processes)
        };
        let asked = tokio::time::timeout(ASK_LIMIT, asking).await;
        asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The process id of the one of that name, while it runs.
    pub async fn pid_of(&self, name: &str) -> io::Result<Option<u32>> {
        let processes = self.processes().await?;
        let found = processes.into_iter().find(|process| process.name == name);
        Ok(found.map(|process| process.pid).filter(|pid| *pid > 0))
    }
}

/// A word as the command line of a setting has it.
fn quoted(word: String) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
