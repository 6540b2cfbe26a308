//! The cluster that the demo and the bench start: `cluster_processes`, in a folder that goes when it does.
//!
//! It says where clients begin, which process has an address, and which process ids to measure. A dropped cluster leaves
//! no process behind, and no data unless they were to be kept.

use super::cluster_processes::{LocalCluster, Member, MemberRole, Shape};
use anyhow::Context;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use understudy_client::{Client, Settings};

/// How long a fresh cluster may take until it serves.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// A client of the demo's or bench's own, for what it asks the managers while they are being killed.
pub async fn patient_client(endpoints: Vec<String>) -> anyhow::Result<Client> {
    let settings = Settings {
        deadline: START_LIMIT,
        ..Settings::default()
    };
    Ok(Client::connect_with(endpoints, settings).await?)
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    pub managers: u16,
    pub nodes: u16,
    /// 0: free ports.
    pub port_base: u16,
    /// Where the folder of this run is made; `None`: where the machine keeps temporary files.
    pub data_dir: Option<PathBuf>,
    /// Leave the data where they are.
    pub keep: bool,
    /// An agent starts the nodes, restarts them and reports their ends.
    pub agent: bool,
}

/// The cluster and its folder. The processes end before the folder goes.
#[derive(Debug)]
pub struct Local {
    processes: LocalCluster,
    folder: PathBuf,
    /// Removed when this is dropped.
    _temporary: Option<TempDir>,
}

impl Local {
    /// Starts every process, and waits until each one is ready.
    pub async fn start(plan: &Plan) -> anyhow::Result<Local> {
        let (folder, temporary) = folder(plan)?;
        let mut shape = Shape::new(plan.managers, plan.nodes, &folder);
        shape.port_base = plan.port_base;
        shape.agent = plan.agent;
        let mut processes = LocalCluster::start(&shape)?;
        if let Err(error) = processes.wait_ready(START_LIMIT).await {
            // Their logs say why.
            temporary.map(TempDir::keep);
            return Err(error.into());
        }
        Ok(Local {
            processes,
            folder,
            _temporary: temporary,
        })
    }

    /// Where clients begin: the nodes, then the managers.
    pub fn endpoints(&self) -> Vec<String> {
        let nodes = self.of(MemberRole::Node).map(Member::endpoint);
        let managers = self.of(MemberRole::Manager).map(Member::endpoint);
        nodes.chain(managers).collect()
    }

    /// The process that serves at this address, host:port, public or internal.
    pub fn at(&self, address: &str) -> anyhow::Result<&Member> {
        let serves = |member: &&Member| {
            let ports = [member.ports.public, member.ports.internal];
            ports
                .iter()
                .any(|port| address == format!("127.0.0.1:{port}"))
        };
        let found = self.processes.members().iter().find(serves);
        found.with_context(|| format!("no process of this cluster serves at '{address}'"))
    }

    /// The nodes, whether they run or not.
    pub fn node_members(&self) -> impl Iterator<Item = &Member> {
        self.of(MemberRole::Node)
    }

    /// The process of that name.
    pub fn named(&self, name: &str) -> anyhow::Result<&Member> {
        let found = self.processes.members().iter().find(|m| m.name == name);
        found.with_context(|| format!("no process of this cluster is called '{name}'"))
    }

    /// The process ids of the nodes that run.
    pub fn node_pids(&self) -> Vec<u32> {
        self.of(MemberRole::Node).filter_map(Member::pid).collect()
    }

    /// The process ids of all servers that run.
    pub fn pids(&self) -> Vec<u32> {
        let members = self.processes.members().iter();
        members.filter_map(Member::pid).collect()
    }

    /// The nodes that run: name and process id.
    pub fn nodes(&self) -> impl Iterator<Item = (String, u32)> {
        let nodes = self.of(MemberRole::Node);
        nodes.filter_map(|member| Some((member.name.clone(), member.pid()?)))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process id of that member while it runs.
    pub async fn pid_of(&self, name: &str) -> anyhow::Result<Option<u32>> {
        Ok(self.processes.pid_of(name).await?)
    }

    /// SIGKILL: the process gets no chance to say good-bye. `pid`: from `pid_of`.
    pub async fn kill(&mut self, name: &str, pid: u32) -> anyhow::Result<()> {
        Ok(self.processes.kill_known(name, pid).await?)
    }

    /// To a process that this one started.
    pub fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        Ok(self.processes.signal(name, signal)?)
    }

    /// Tells one process to end, which it does cleanly.
    pub async fn stop_one(&mut self, name: &str) -> anyhow::Result<()> {
        self.processes.stop_member(name).await?;
        Ok(())
    }

    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        Ok(self.processes.restart(name)?)
    }

    /// Ends the processes cleanly.
    pub async fn stop(self) {
        let _ = self.processes.stop().await;
    }

    fn of(&self, role: MemberRole) -> impl Iterator<Item = &Member> {
        let members = self.processes.members().iter();
        members.filter(move |member| member.role == role)
    }
}

/// A new folder for this run alone, in the one that was named or among the machine's temporary ones: what lies there
/// already stays as it is, and the next run finds no cluster of this one.
fn folder(plan: &Plan) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    let mut new = tempfile::Builder::new();
    new.prefix("understudy-");
    let temporary = match &plan.data_dir {
        None => new.tempdir()?,
        Some(parent) => {
            let made = std::fs::create_dir_all(parent).and_then(|()| new.tempdir_in(parent));
            made.with_context(|| format!("no folder can be made in {}", parent.display()))?
        }
    };
    if plan.keep {
        return Ok((temporary.keep(), None));
    }
    Ok((temporary.path().to_path_buf(), Some(temporary)))
}
