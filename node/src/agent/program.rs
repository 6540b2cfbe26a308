//! A process of the config: its command line, and how it is started.
//!
//! A child is told of its launch by its environment and of its process id by its standard input, gets nothing of the agent's own settings, and is in a process group of its
//! own, so that what ends the agent does not end it.

use super::Launch;
use crate::config::split_words;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// The word that stands for the agent's own executable, so that what it starts is of the same version.
const OURSELVES: &str = "understudy";

/// What is started under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    /// As the config has it.
    pub command: String,
    executable: PathBuf,
    arguments: Vec<String>,
}

impl Program {
    /// The error says what is wrong with the command line.
    pub fn parse(name: &str, command: &str) -> Result<Program, String> {
        let mut words = split_words(command)?.into_iter();
        let first = words.next().ok_or("is empty")?;
        let executable = match first.as_str() {
            OURSELVES => std::env::current_exe()
                .map_err(|error| format!("this program cannot find itself: {error}"))?,
            other => PathBuf::from(other),
        };
        Ok(Program {
            name: name.to_string(),
            command: command.to_string(),
            executable,
            arguments: words.collect(),
        })
    }

    /// Starts it. `address`: where the managers reach this agent.
    pub fn spawn(&self, launch: &Launch, address: &str) -> std::io::Result<Child> {
        let mut command = Command::new(&self.executable);
        let (told, mut telling) = std::io::pipe()?;
        command
            .args(&self.arguments)
            .stdin(Stdio::from(told))
            // It is to live on when the agent ends, and Ctrl-C on a terminal is for the agent.
            .process_group(0)
            .kill_on_drop(false);
        for (name, _) in std::env::vars_os() {
            if is_ours(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        command
            .env(LAUNCH_VARIABLE, &launch.0)
            .env("UNDERSTUDY_AGENT_PID", std::process::id().to_string())
            .env("UNDERSTUDY_AGENT_ADDRESS", address);
        let child = command.spawn()?;
        // What a script starts inherits its environment: only the process with this id is the one whose end is seen. Whoever
        // does not read it is not vouched for.
        let _ = writeln!(telling, "{}", child.id().unwrap_or(0));
        Ok(child)
    }
}

/// The settings `agent.launch_id`, `agent.pid` and `agent.address` of a node.
pub const LAUNCH_VARIABLE: &str = "UNDERSTUDY_AGENT_LAUNCH_ID";

/// What is set for the agent, by a person or by systemd, and must not change its children.
fn is_ours(variable: &str) -> bool {
    let systemd = [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ];
    variable.starts_with("UNDERSTUDY_") || systemd.contains(&variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_process_itself_is_told_its_own_id() {
        let whether = |script: &str| {
            let command = format!("sh -c '{script}'");
            let program = Program::parse("n", &command).unwrap();
            let mut child = program.spawn(&Launch::draw(), "").unwrap();
            async move { child.wait().await.unwrap().success() }
        };
        assert!(whether("read id; test $id = $$").await);
        assert!(whether("exec sh -c \"read id; test \\$id = \\$\\$\"").await);
        assert!(!whether("sh -c \"read id; test \\$id = \\$\\$\"; exit $?").await);
    }

    #[test]
    fn the_own_name_means_the_own_executable() {
        let program = Program::parse("n", "understudy node --config n.toml").unwrap();
        assert_eq!(program.executable, std::env::current_exe().unwrap());
        assert_eq!(program.arguments, ["node", "--config", "n.toml"]);
        let other = Program::parse("n", "/bin/true").unwrap();
        assert_eq!(other.executable, PathBuf::from("/bin/true"));
    }
}
