//! A cluster of processes on this machine: start, kill, restart and stop them, and ask whether they are ready.
//!
//! Each member is a child process of its own executable on loopback, with its data and its log in one folder. A child
//! ends when this process does, however that ends: it holds the read end of a pipe that only we hold open. The order of
//! ports: managers first, then nodes, each process the next ten from the base on.

use super::cluster_agent::LocalAgent;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a clean stop may take before it is a kill.
pub const STOP_LIMIT: Duration = Duration::from_secs(8);

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Shape {
    pub managers: u16,
    /// Sites with how many nodes are there. One site without a name: `[("", 3)]`.
    pub sites: Vec<(String, u16)>,
    /// Everything that the processes write is in here.
    pub folder: PathBuf,
    /// The first port; 0 takes free ones.
    pub port_base: u16,
    /// Further flags of every manager, and of every node.
    pub manager_flags: Vec<String>,
    pub node_flags: Vec<String>,
    /// `None`: the executable of this process.
    pub executable: Option<PathBuf>,
    /// An agent starts the nodes and restarts them.
    pub agent: bool,
}

impl Shape {
    /// `managers` managers, `nodes` nodes in one site, default ports.
    pub fn new(managers: u16, nodes: u16, folder: impl Into<PathBuf>) -> Shape {
        Shape {
            managers,
            sites: vec![(String::new(), nodes)],
            folder: folder.into(),
            port_base: 7420,
            manager_flags: Vec::new(),
            node_flags: Vec::new(),
            executable: None,
            agent: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    Manager,
    Node,
}

/// The three ports of a process, on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub public: u16,
    pub internal: u16,
    pub admin: u16,
}

/// One process of the cluster, running or not.
#[derive(Debug)]
pub struct Member {
    /// manager-1, node-2: also the name of its folder, and with `.log` of its log.
    pub name: String,
    pub role: MemberRole,
    pub site: String,
    pub ports: Ports,
    pub folder: PathBuf,
    pub log: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Member {
    /// Where clients reach it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.public)
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }
}

/// Why a cluster cannot do what was asked, in one line.
#[derive(Debug)]
pub struct ClusterError(pub String);

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

fn failed<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> ClusterError {
    move |error| ClusterError(format!("{what}: {error}"))
}

/// The processes. Dropping it kills them.
#[derive(Debug)]
pub struct LocalCluster {
    executable: PathBuf,
    members: Vec<Member>,
    agent: Option<LocalAgent>,
}

impl LocalCluster {
    /// Chooses ports and starts every process. Nobody is waited for.
    pub fn start(shape: &Shape) -> Result<LocalCluster, ClusterError> {
        let mut cluster = LocalCluster::prepare(shape)?;
        for index in 0..cluster.members.len() {
            if !cluster.is_agents(index) {
                cluster.spawn(index)?;
            }
        }
        if let Some(agent) = &mut cluster.agent {
            agent
                .start()
                .map_err(failed("the agent cannot be started"))?;
        }
        Ok(cluster)
    }

    /// The members, with their ports, and no process yet.
    pub fn prepare(shape: &Shape) -> Result<LocalCluster, ClusterError> {
        let executable = match &shape.executable {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(failed("this program cannot find itself"))?,
        };
        let nodes: u16 = shape.sites.iter().map(|(_, count)| count).sum();
        let count = usize::from(shape.managers + nodes) + usize::from(shape.agent);
        let ports = match shape.port_base {
            0 => free_ports(count)?,
            base => (0..count)
                .map(|index| ports_from(base, index))
                .collect::<Result<_, _>>()?,
        };
        let mut ports = ports.into_iter();
        let mut members = Vec::new();
        for number in 1..=shape.managers {
            let name = format!("manager-{number}");
            members.push(member(shape, name, MemberRole::Manager, "", ports.next()));
        }
        let mut number = 0;
        for (site, count) in &shape.sites {
            for _ in 0..*count {
                number += 1;
                let name = format!("node-{number}");
                members.push(member(shape, name, MemberRole::Node, site, ports.next()));
            }
        }
        give_flags(shape, &mut members);
        let agent = match ports.next().filter(|_| shape.agent) {
            Some(ports) => Some(prepare_agent(&executable, shape, ports, &mut members)?),
            None => None,
        };
        Ok(LocalCluster {
            executable,
            members,
            agent,
        })
    }

    /// The agent of the nodes, if there is one.
    pub fn agent(&mut self) -> Option<&mut LocalAgent> {
        self.agent.as_mut()
    }

    /// Whether the agent starts that member, and not we.
    fn is_agents(&self, index: usize) -> bool {
        self.agent.is_some() && self.members[index].role == MemberRole::Node
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Where clients may begin: every process.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Waits until every process says so on `/readyz`, or tells which does not.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + limit;
        for index in 0..self.members.len() {
            self.wait_index(index, until).await?;
        }
        Ok(())
    }

    pub async fn wait_member_ready(
        &mut self,
        name: &str,
        limit: Duration,
    ) -> Result<(), ClusterError> {
        let index = self.index(name)?;
        self.wait_index(index, Instant::now() + limit).await
    }

    async fn wait_index(&mut self, index: usize, until: Instant) -> Result<(), ClusterError> {
        loop {
            let member = &mut self.members[index];
            if let Some(status) = exited(member) {
                return Err(ClusterError(format!(
                    "{} ended ({status}): {}",
                    member.name,
                    last_line(&member.log)
                )));
            }
            let answer = http_get(member.ports.admin, "/readyz").await;
            let waits = match answer {
                Ok((200, _)) => return Ok(()),
                Ok((_, body)) => body.trim().to_string(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                let log = member.log.display();
                return Err(ClusterError(format!(
                    "{} is not ready ({waits}); its log is {log}",
                    member.name
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its process id while it runs; of what an agent started the agent is asked.
    pub async fn pid_of(&self, name: &str) -> Result<Option<u32>, ClusterError> {
        let index = self.index(name)?;
        match self.agent.as_ref().filter(|_| self.is_agents(index)) {
            Some(agent) => agent
                .pid_of(name)
                .await
                .map_err(failed("the agent does not answer")),
            None => Ok(self.members[index].pid()),
        }
    }

    /// Ends a process without a word (SIGKILL), and waits until it is gone. What an agent started is not waited for.
    pub async fn kill(&mut self, name: &str) -> Result<(), ClusterError> {
        let index = self.index(name)?;
        if self.is_agents(index) {
            return match self.pid_of(name).await? {
                Some(pid) => kill_now(name, pid),
                None => Ok(()),
            };
        }
        if let Some(mut child) = self.members[index].child.take() {
            child
                .kill()
                .await
                .map_err(failed(format!("{name} cannot be killed")))?;
        }
        Ok(())
    }

    /// The same for a process whose id the caller knows: nobody has to be asked before it dies.
    pub async fn kill_known(&mut self, name: &str, pid: u32) -> Result<(), ClusterError> {
        match self.is_agents(self.index(name)?) {
            true => kill_now(name, pid),
            false => self.kill(name).await,
        }
    }

    /// Ends a process cleanly (SIGTERM); what takes too long is killed. `true`: it ended cleanly.
    pub async fn stop_member(&mut self, name: &str) -> Result<bool, ClusterError> {
        let index = self.index(name)?;
        signal_child(&self.members[index], Signal::TERM);
        let unclean = self.wait_end(index, Instant::now() + STOP_LIMIT).await;
        Ok(unclean.is_none())
    }

    /// Starts a process again that has ended, with the same folder and ports.
    pub fn restart(&mut self, name: &str) -> Result<(), ClusterError> {
        let index = self.index(name)?;
        if self.is_agents(index) {
            // The agent does it by itself.
            return Ok(());
        }
        if exited(&mut self.members[index]).is_none() && self.members[index].child.is_some() {
            return Err(ClusterError(format!("{name} still runs")));
        }
        self.spawn(index)
    }

    /// Any signal, for tests that freeze a process.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<(), ClusterError> {
        let index = self.index(name)?;
        signal_child(&self.members[index], signal);
        Ok(())
    }

    /// Members that ended since this was asked last, with how.
    pub fn ended(&mut self) -> Vec<(String, ExitStatus)> {
        let mut ended = Vec::new();
        for member in &mut self.members {
            if let Some(status) = exited(member) {
                member.child = None;
                ended.push((member.name.clone(), status));
            }
        }
        ended
    }

    /// Ends all cleanly, nodes first so that they can hand over; what takes too long is killed. Tells of each that
    /// did not end cleanly.
    pub async fn stop(mut self) -> Vec<String> {
        let mut unclean = Vec::new();
        if let Some(agent) = &mut self.agent {
            agent.stop(STOP_LIMIT).await;
        }
        for role in [MemberRole::Node, MemberRole::Manager] {
            let of_role = |member: &Member| member.role == role;
            for member in self.members.iter().filter(|member| of_role(member)) {
                signal_child(member, Signal::TERM);
            }
            let until = Instant::now() + STOP_LIMIT;
            for index in 0..self.members.len() {
                if of_role(&self.members[index]) {
                    unclean.extend(self.wait_end(index, until).await);
                }
            }
        }
        unclean
    }

    /// Says what went wrong, unless it ended by itself before that and well.
    async fn wait_end(&mut self, index: usize, until: Instant) -> Option<String> {
        let member = &mut self.members[index];
        let mut child = member.child.take()?;
        let how = match tokio::time::timeout_at(until, child.wait()).await {
            Ok(Ok(status)) if status.success() => return None,
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                // It is gone already when this fails.
                let _ = child.kill().await;
                "killed, because its clean end took too long".to_string()
            }
        };
        let last = last_line(&member.log);
        Some(format!("{}: {how}; its log ends with: {last}", member.name))
    }

    fn index(&self, name: &str) -> Result<usize, ClusterError> {
        let index = self.members.iter().position(|member| member.name == name);
        index.ok_or_else(|| ClusterError(format!("there is no member '{name}'")))
    }

    fn spawn(&mut self, index: usize) -> Result<(), ClusterError> {
        let executable = self.executable.clone();
        let member = &mut self.members[index];
        let child = command(&executable, member)
            .and_then(|mut command| command.spawn())
            .map_err(failed(format!("{} cannot be started", member.name)))?;
        member.child = Some(child);
        Ok(())
    }
}

fn member(
    shape: &Shape,
    name: String,
    role: MemberRole,
    site: &str,
    ports: Option<Ports>,
) -> Member {
    Member {
        role,
        site: site.to_string(),
        ports: ports.expect("as many ports were chosen as there are members"),
        folder: shape.folder.join(&name),
        log: shape.folder.join(format!("{name}.log")),
        flags: Vec::new(),
        child: None,
        name,
    }
}

fn prepare_agent(
    executable: &Path,
    shape: &Shape,
    ports: Ports,
    members: &mut [Member],
) -> Result<LocalAgent, ClusterError> {
    let nodes = members.iter().filter(|m| m.role == MemberRole::Node);
    let commands = nodes.map(|member| {
        let mut words = member.flags.clone();
        words.push("--data-dir".to_string());
        words.push(member.folder.display().to_string());
        (member.name.clone(), words)
    });
    let managers = members.iter().filter(|m| m.role == MemberRole::Manager);
    let managers: Vec<String> = managers
        .map(|m| format!("127.0.0.1:{}", m.ports.internal))
        .collect();
    let commands: Vec<_> = commands.collect();
    let agent = LocalAgent::prepare(executable, &shape.folder, ports, &commands, &managers)
        .map_err(failed("the agent's config cannot be written"))?;
    let nodes = members.iter_mut().filter(|m| m.role == MemberRole::Node);
    // What its processes say is in its own log.
    nodes.for_each(|member| member.log = agent.log().to_path_buf());
    Ok(agent)
}

/// Every process is told of all managers, so all ports have to be known first.
fn give_flags(shape: &Shape, members: &mut [Member]) {
    let managers: Vec<String> = members
        .iter()
        .filter(|member| member.role == MemberRole::Manager)
        .map(|member| format!("127.0.0.1:{}", member.ports.internal))
        .collect();
    let initial = managers
        .iter()
        .zip(1..)
        .map(|(address, id)| format!("{id}@{address}"));
    let initial = initial.collect::<Vec<_>>().join(",");
    let mut id = 0;
    for member in members {
        let (verb, mut flags, more) = match member.role {
            MemberRole::Manager => {
                id += 1;
                let flags = vec![
                    format!("--id={id}"),
                    format!("--initial-managers={initial}"),
                ];
                ("manager", flags, &shape.manager_flags)
            }
            MemberRole::Node => {
                let flags = vec![
                    format!("--site={}", member.site),
                    format!("--managers={}", managers.join(",")),
                ];
                ("node", flags, &shape.node_flags)
            }
        };
        flags.insert(0, verb.to_string());
        flags.push(format!("--name={}", member.name));
        flags.push(format!("--port-base={}", member.ports.public));
        if !(shape.agent && member.role == MemberRole::Node) {
            flags.push("--exit-with-parent".to_string());
        }
        flags.extend(more.iter().cloned());
        member.flags = flags;
    }
}

fn command(executable: &Path, member: &Member) -> io::Result<Command> {
    std::fs::create_dir_all(&member.folder)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&member.log)?;
    let mut command = Command::new(executable);
    command
        .args(&member.flags)
        .arg("--data-dir")
        .arg(&member.folder)
        // Only we hold the other end, so it ends with us.
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C on the terminal is for us; the children hear of it from us, in order.
        .process_group(0)
        .kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        // What is set for a client or another server must not change these.
        if name.to_string_lossy().starts_with("UNDERSTUDY_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn kill_now(name: &str, pid: u32) -> Result<(), ClusterError> {
    let pid = Pid::from_raw(pid.cast_signed());
    let pid = pid.ok_or_else(|| ClusterError(format!("{name} does not run")))?;
    kill_process(pid, Signal::KILL).map_err(failed(format!("{name} cannot be killed")))
}

fn exited(member: &mut Member) -> Option<ExitStatus> {
    let child = member.child.as_mut()?;
    child.try_wait().ok().flatten()
}

fn signal_child(member: &Member, signal: Signal) {
    let pid = member
        .pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().rev();
    let mut telling = lines.filter(|line| !line.trim().is_empty());
    let line = telling.next().unwrap_or("it said nothing");
    line.trim_start_matches("error: ").to_string()
}

fn ports_from(base: u16, index: usize) -> Result<Ports, ClusterError> {
    let first = usize::from(base) + 10 * index;
    let public = u16::try_from(first)
        .ok()
        .filter(|port| *port <= u16::MAX - 2);
    let public = public.ok_or_else(|| {
        ClusterError(format!(
            "--port-base {base} leaves no room for all processes"
        ))
    })?;
    Ok(Ports {
        public,
        internal: public + 1,
        admin: public + 2,
    })
}

/// Below the ports that the system gives to outgoing connections, so that a process that is down for a while finds its
/// ports free again.
const FREE_FROM: u16 = 20_000;
const FREE_TO: u16 = 32_000;

fn free_ports(count: usize) -> Result<Vec<Ports>, ClusterError> {
    let mut found = Vec::new();
    // Held until all are found, so that no port is found twice.
    let mut held = Vec::new();
    for _ in 0..10_000 {
        if found.len() == count {
            return Ok(found);
        }
        let public = rand::random_range(FREE_FROM..FREE_TO);
        let three = (public..public + 3).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if let Ok(listeners) = three.collect::<Result<Vec<_>, _>>() {
            held.push(listeners);
            found.push(Ports {
                public,
                internal: public + 1,
                admin: public + 2,
            });
        }
    }
    Err(ClusterError(format!(
        "no free ports between {FREE_FROM} and {FREE_TO}; stop other processes"
    )))
}

/// One GET to an admin port: status and body.
pub async fn http_get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let answer = timeout(Duration::from_secs(1), async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
    });
    let text = answer
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer is no HTTP"))?;
    Ok((status, body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_gets_the_next_ten_ports_and_hears_of_all_managers() {
        let mut shape = Shape::new(3, 0, "/data");
        shape.sites = vec![("eu".to_string(), 2), ("us".to_string(), 1)];
        let cluster = LocalCluster::prepare(&shape).unwrap();
        let names: Vec<&str> = cluster
            .members()
            .iter()
            .map(|member| member.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "manager-1",
                "manager-2",
                "manager-3",
                "node-1",
                "node-2",
                "node-3"
            ]
        );
        let last = cluster.member("node-3").unwrap();
        assert_eq!(last.site, "us");
        assert_eq!(last.endpoint(), "http://127.0.0.1:7470");
        assert_eq!(
            last.flags[..3],
            [
                "node",
                "--site=us",
                "--managers=127.0.0.1:7421,127.0.0.1:7431,127.0.0.1:7441"
            ]
        );
        let initial = "--initial-managers=1@127.0.0.1:7421,2@127.0.0.1:7431,3@127.0.0.1:7441";
        assert!(cluster.members()[1].flags.contains(&initial.to_string()));
        assert!(cluster.members()[1].flags.contains(&"--id=2".to_string()));
        shape.port_base = 65_500;
        assert!(LocalCluster::prepare(&shape).is_err());
    }

    #[test]
    fn free_ports_are_free_and_no_two_the_same() {
        let ports = free_ports(6).unwrap();
        let mut all: Vec<u16> = ports
            .iter()
            .flat_map(|p| [p.public, p.internal, p.admin])
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 18);
    }
}
