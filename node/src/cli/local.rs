//! A cluster of real processes on this machine, for the demo and the bench: started, killed with SIGKILL, started again.
//!
//! Each server is this same binary in a process of its own, listens on loopback and writes into a folder of its own. A
//! dropped cluster leaves no process behind, and no data unless they were to be kept.

use anyhow::Context;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What to start.
#[derive(Clone, Debug)]
pub struct Shape {
    pub managers: u16,
    pub nodes: u16,
    /// 0: free ports.
    pub port_base: u16,
    /// `None`: a temporary folder.
    pub data_dir: Option<PathBuf>,
    /// Leave the data where they are.
    pub keep: bool,
}

/// The processes of the cluster: the managers first, then the nodes.
#[derive(Debug)]
pub struct Local {
    servers: Vec<Server>,
    data_dir: PathBuf,
    keep: bool,
}

#[derive(Debug)]
struct Server {
    name: String,
    role: &'static str,
    public: String,
    settings: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
    pid: u32,
}

impl Local {
    /// Starts every process. It does not wait until they serve.
    pub fn start(shape: &Shape) -> anyhow::Result<Local> {
        let data_dir = match &shape.data_dir {
            Some(folder) => folder.clone(),
            None => std::env::temp_dir().join(format!("understudy-{}", std::process::id())),
        };
        std::fs::create_dir_all(&data_dir)
            .with_context(|| format!("the folder {} cannot be made", data_dir.display()))?;
        let count = usize::from(shape.managers) + usize::from(shape.nodes);
        let ports = ports(shape.port_base, count)?;
        let initial: Vec<String> = (0..usize::from(shape.managers))
            .map(|at| format!("{}@127.0.0.1:{}", at + 1, ports[at].internal))
            .collect();
        let internal: Vec<String> = initial
            .iter()
            .filter_map(|text| text.split_once('@'))
            .map(|(_, address)| address.to_string())
            .collect();
        let servers = ports.iter().enumerate().map(|(at, ports)| {
            let manager = at < usize::from(shape.managers);
            let number = if manager {
                at + 1
            } else {
                at + 1 - usize::from(shape.managers)
            };
            let role = if manager { "manager" } else { "node" };
            let name = format!("{role}-{number}");
            let folder = data_dir.join(&name);
            let mut settings = vec![
                format!("--name={name}"),
                format!("--data-dir={}", folder.display()),
                format!("--listen-public=127.0.0.1:{}", ports.public),
                format!("--listen-internal=127.0.0.1:{}", ports.internal),
                format!("--listen-admin=127.0.0.1:{}", ports.admin),
            ];
            if manager {
                settings.push(format!("--id={number}"));
                settings.push(format!("--initial-managers={}", initial.join(",")));
            } else {
                settings.push(format!("--managers={}", internal.join(",")));
            }
            Server {
                name,
                role,
                public: format!("127.0.0.1:{}", ports.public),
                settings,
                folder,
                child: None,
                pid: 0,
            }
        });
        let mut local = Local {
            servers: servers.collect(),
            data_dir: data_dir.clone(),
            keep: shape.keep,
        };
        for at in 0..local.servers.len() {
            local.restart(at)?;
        }
        Ok(local)
    }

    /// Where clients begin: the nodes, then the managers.
    pub fn endpoints(&self) -> Vec<String> {
        let nodes = self.servers.iter().filter(|server| server.role == "node");
        let managers = self.servers.iter().filter(|server| server.role != "node");
        nodes
            .chain(managers)
            .map(|server| format!("http://{}", server.public))
            .collect()
    }

    /// The server with this public address.
    pub fn at(&self, public: &str) -> Option<usize> {
        self.servers
            .iter()
            .position(|server| server.public == public)
    }

    pub fn by_name(&self, name: &str) -> anyhow::Result<usize> {
        let found = self.servers.iter().position(|server| server.name == name);
        found.with_context(|| format!("no process is called {name}"))
    }

    pub fn name(&self, server: usize) -> &str {
        &self.servers[server].name
    }

    pub fn pid(&self, server: usize) -> u32 {
        self.servers[server].pid
    }

    /// The process ids of the nodes that run.
    pub fn node_pids(&self) -> Vec<u32> {
        let nodes = self.servers.iter().filter(|server| server.role == "node");
        nodes
            .filter(|server| server.child.is_some())
            .map(|server| server.pid)
            .collect()
    }

    /// The process ids of all servers that run.
    pub fn pids(&self) -> Vec<u32> {
        let running = self.servers.iter().filter(|server| server.child.is_some());
        running.map(|server| server.pid).collect()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// SIGKILL: the process gets no chance to say good-bye.
    pub fn kill(&mut self, server: usize) -> anyhow::Result<()> {
        let server = &mut self.servers[server];
        let child = server.child.as_mut().context("the process does not run")?;
        child.kill()?;
        child.wait()?;
        server.child = None;
        Ok(())
    }

    pub fn restart(&mut self, server: usize) -> anyhow::Result<()> {
        let server = &mut self.servers[server];
        std::fs::create_dir_all(&server.folder)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(server.folder.with_extension("log"))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(server.role)
            .args(&server.settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        server.pid = child.id();
        server.child = Some(child);
        Ok(())
    }

    /// Stops every process.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for server in &mut self.servers {
            if let Some(mut child) = server.child.take() {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.data_dir);
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end();
    }
}

struct Ports {
    public: u16,
    internal: u16,
    admin: u16,
}

fn ports(base: u16, servers: usize) -> anyhow::Result<Vec<Ports>> {
    if base == 0 {
        // Held together, so that none is given out twice.
        let taken: Result<Vec<TcpListener>, _> = (0..servers * 3)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect();
        let ports: Result<Vec<u16>, _> = taken?
            .iter()
            .map(|taken| taken.local_addr().map(|address| address.port()))
            .collect();
        return Ok(ports?
            .chunks(3)
            .map(|three| Ports {
                public: three[0],
                internal: three[1],
                admin: three[2],
            })
            .collect());
    }
    let ports = (0..servers as u16).map(|at| {
        let public = base.checked_add(10 * at)?;
        Some(Ports {
            public,
            internal: public.checked_add(1)?,
            admin: public.checked_add(2)?,
        })
    });
    let ports: Option<Vec<Ports>> = ports.collect();
    ports.context("--port-base is too high")
}

/// How long a fresh cluster may take until it serves.
pub const START_PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is true, or for so long.
pub async fn wait_until(patience: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < patience {
        if ready() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ready()
}
