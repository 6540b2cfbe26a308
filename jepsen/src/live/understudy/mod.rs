//! Understudy as a system under test: managers, data nodes, one namespace of a chosen policy.
//!
//! It is asked through its own client like everybody else does; the harness's questions have a client of their own, so that
//! they wait for no worker.

mod clients;
mod inspect;
mod logs;

use super::process::Start;
use super::system::{Change, Client, Host, Keeps, Member, Offers, Reads, Refused, Role, System};
use super::workload::Shape;
use anyhow::{Context, bail};
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use understudy_client::proto::failure::Applied;
use understudy_client::v1::cluster_client::ClusterClient;
use understudy_client::v1::{NamespacePolicy, StatusRequest, namespace_policy};
use understudy_client::{ReadLevel, Settings};

pub const MANAGERS: &str = "managers";
pub const NODES: &str = "nodes";
const NAMESPACE: &str = "jepsen";
const COPIES: u32 = 3;
/// How long a fresh cluster may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Of a worker's operation: a few leases, so that a failover is waited for, and a worker is not idle for a whole fault.
const OPERATION_LIMIT: Duration = Duration::from_secs(4);
/// Of a question to the managers, who may be in the middle of an election.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Mode {
    #[value(name = "in_sync")]
    InSync,
    Lazy,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::InSync => "in_sync",
            Mode::Lazy => "lazy",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub binary: PathBuf,
    pub managers: usize,
    pub nodes: usize,
    pub mode: Mode,
    pub shards: u32,
    pub shape: Shape,
    pub level: ReadLevel,
    /// A mistake that the processes make on purpose, if they were built to.
    pub mutant: Option<String>,
}

pub struct Understudy {
    plan: Plan,
    /// Once they are known.
    hosts: OnceLock<Vec<Host>>,
    /// For the harness's own questions.
    asks: OnceLock<understudy_client::Client>,
    logs: Arc<logs::Logs>,
}

impl Understudy {
    pub fn new(plan: Plan) -> Understudy {
        Understudy {
            plan,
            hosts: OnceLock::new(),
            asks: OnceLock::new(),
            logs: Arc::default(),
        }
    }

    fn asks(&self) -> anyhow::Result<&understudy_client::Client> {
        self.asks.get().context("the cluster was not prepared")
    }

    fn endpoints(&self) -> anyhow::Result<Vec<String>> {
        let hosts = self.hosts.get().context("the cluster was not prepared")?;
        // Nodes first: they are asked in this order, and know the route.
        let (managers, nodes) = hosts.split_at(self.plan.managers);
        let hosts = nodes.iter().chain(managers);
        Ok(hosts
            .map(|host| format!("http://{}:{}", host.address, host.port))
            .collect())
    }

    fn member_at(&self, internal_address: &str) -> anyhow::Result<usize> {
        let hosts = self.hosts.get().context("the cluster was not prepared")?;
        let found = hosts
            .iter()
            .position(|host| internal(host) == internal_address);
        found.with_context(|| format!("no process of this run serves at {internal_address}"))
    }

    async fn node_ids(&self) -> anyhow::Result<Vec<(u64, usize)>> {
        let nodes = self.asks()?.cluster().nodes().await?.nodes;
        let ids = nodes.iter().map(|node| {
            let member = self.member_at(&node.internal_address)?;
            Ok((node.node, member))
        });
        ids.collect()
    }

    async fn make_namespace(&self) -> anyhow::Result<()> {
        let copies = COPIES.min(self.plan.nodes as u32);
        let policy = NamespacePolicy {
            shards: self.plan.shards,
            copies,
            mode: match self.plan.mode {
                Mode::InSync => namespace_policy::Mode::InSync.into(),
                Mode::Lazy => namespace_policy::Mode::Lazy.into(),
            },
            min_in_sync: match self.plan.mode {
                Mode::InSync => copies / 2 + 1,
                Mode::Lazy => 0,
            },
            cut_off: match self.plan.shape {
                // What is given back has another version then, and a value is to have one.
                Shape::Sessions => namespace_policy::CutOff::Discard.into(),
                _ => namespace_policy::CutOff::Unspecified.into(),
            },
            ..NamespacePolicy::default()
        };
        let until = Instant::now() + START_LIMIT;
        loop {
            let cluster = self.asks()?.cluster();
            let made = cluster.create_namespace(NAMESPACE, policy.clone(), true);
            match made.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(_) => sleep(ASK_EVERY).await,
            }
        }
    }

    /// The epochs of all shards and who leads, when all is well.
    async fn is_healthy(&self) -> Result<String, String> {
        let asks = self.asks().map_err(|error| error.to_string())?;
        let status = asks.cluster().status().await;
        let status = status.map_err(|error| error.to_string())?;
        let nodes = self.plan.nodes as u32;
        let whole = status.nodes_up >= nodes
            && status.shards_total > 0
            && status.shards_without_primary == 0
            && status.shards_short_of_copies == 0
            && status.open_cuts == 0
            && status.orphans == Some(0);
        match whole {
            true => self.all_agree(status.leader).await,
            false => Err(format!(
                "{} of {nodes} nodes are up; of {} shards {} lack a primary and {} lack copies; {} open cuts, {} orphans",
                status.nodes_up,
                status.shards_total,
                status.shards_without_primary,
                status.shards_short_of_copies,
                status.open_cuts,
                status
                    .orphans
                    .map_or("unknown".to_string(), |orphans| orphans.to_string()),
            )),
        }
    }

    /// Every manager answers for itself, and follows the leader that the client was told of.
    async fn all_agree(&self, leader: u64) -> Result<String, String> {
        let asks = self.asks().map_err(|error| error.to_string())?;
        let hosts = self.hosts.get().map_or(&[][..], Vec::as_slice);
        for (number, host) in (1..).zip(&hosts[..self.plan.managers]) {
            let asked = timeout(QUESTION_LIMIT, leader_of(host)).await;
            match asked {
                Err(_) => return Err(format!("manager-{number} does not answer")),
                Ok(Err(why)) => return Err(format!("manager-{number}: {why}")),
                Ok(Ok(known)) if known != leader => {
                    return Err(format!("manager-{number} follows {known}, not {leader}"));
                }
                Ok(Ok(_)) => {}
            }
        }
        let shards = asks.cluster().shards(Some(NAMESPACE)).await;
        let shards = shards.map_err(|error| error.to_string())?.shards;
        let mut epochs: Vec<String> = shards
            .iter()
            .map(|shard| format!("{}: {}", shard.index, shard.epoch))
            .collect();
        epochs.sort();
        Ok(format!("leader {leader}, epochs {}", epochs.join(", ")))
    }

    async fn client_of(&self, number: usize, level: ReadLevel) -> anyhow::Result<Box<dyn Client>> {
        let settings = Settings {
            deadline: OPERATION_LIMIT,
            // Every other one hears of a new primary only from the old one or after it was silent: who goes on to ask
            // the old one is who would see that it still answers.
            watch_routes: number.is_multiple_of(2),
            ..Settings::default()
        };
        let client = understudy_client::Client::connect_with(self.endpoints()?, settings).await?;
        let namespace = client.namespace(NAMESPACE);
        Ok(clients::client(
            self.plan.shape,
            client,
            namespace,
            level,
            self.logs.clone(),
        ))
    }

    async fn transfer(&self, pick: u64) -> Result<String, Refused> {
        let no = |error: anyhow::Error| Refused::No(format!("{error:#}"));
        let shard = (pick % u64::from(self.plan.shards)) as u32;
        let cluster = self.asks().map_err(no)?.cluster();
        match cluster.transfer(NAMESPACE, shard, None).await {
            Ok(done) => Ok(format!(
                "shard {shard} is with node {} in epoch {}",
                done.primary, done.epoch
            )),
            Err(error) if error.applied() == Applied::Unknown => {
                Err(Refused::Perhaps(error.to_string()))
            }
            Err(error) => Err(Refused::No(error.to_string())),
        }
    }

    async fn drain(&self, member: usize, undo: bool) -> Result<String, Refused> {
        let no = |error: anyhow::Error| Refused::No(format!("{error:#}"));
        let ids = self.node_ids().await.map_err(no)?;
        let id = ids.iter().find(|(_, known)| *known == member);
        let Some((id, _)) = id else {
            return Err(Refused::No("the managers do not know it".to_string()));
        };
        let cluster = self.asks().map_err(no)?.cluster();
        match cluster.drain_node(*id, undo).await {
            Ok(_) if undo => Ok(format!("node {id} is used again")),
            Ok(_) => Ok(format!("node {id} is to be empty")),
            Err(error) if error.applied() == Applied::Unknown => {
                Err(Refused::Perhaps(error.to_string()))
            }
            Err(error) => Err(Refused::No(error.to_string())),
        }
    }
}

/// Whom a manager follows, out of its own mouth: the client would go on to another one that answers.
async fn leader_of(host: &Host) -> Result<u64, String> {
    let at = format!("http://{}:{}", host.address, host.port);
    let stub = ClusterClient::connect(at).await;
    let mut stub = stub.map_err(|error| error.to_string())?;
    let status = stub.status(StatusRequest { stale: true }).await;
    let status = status.map_err(|error| error.to_string())?;
    Ok(status.into_inner().leader)
}

fn internal(host: &Host) -> String {
    format!("{}:{}", host.address, host.port + 1)
}

impl System for Understudy {
    fn members(&self) -> Vec<Member> {
        let named = |group, name: &str, count| {
            let members = (1..=count).map(|number| Member {
                name: format!("{name}-{number}"),
                group,
            });
            members.collect::<Vec<_>>()
        };
        let mut members = named(MANAGERS, "manager", self.plan.managers);
        members.extend(named(NODES, "node", self.plan.nodes));
        members
    }

    fn offers(&self) -> Offers {
        Offers {
            keeps: match self.plan.mode {
                Mode::InSync => Keeps::Always,
                Mode::Lazy => Keeps::GivenBack,
            },
            reads: match self.plan.level {
                ReadLevel::Primary => Reads::Fresh,
                ReadLevel::Session => Reads::OfSession,
                ReadLevel::Any | ReadLevel::Bounded(_) => Reads::Old,
            },
        }
    }

    fn start_of(&self, member: usize, hosts: &[Host]) -> Start {
        let host = &hosts[member];
        let managers = &hosts[..self.plan.managers];
        let managers: Vec<String> = managers.iter().map(internal).collect();
        let mut arguments = match member < self.plan.managers {
            true => {
                let initial: Vec<String> = (1..)
                    .zip(&managers)
                    .map(|(id, address)| format!("{id}@{address}"))
                    .collect();
                vec![
                    "manager".to_string(),
                    format!("--id={}", member + 1),
                    format!("--name=manager-{}", member + 1),
                    format!("--initial-managers={}", initial.join(",")),
                ]
            }
            false => vec![
                "node".to_string(),
                format!("--name=node-{}", member + 1 - self.plan.managers),
                format!("--managers={}", managers.join(",")),
                // Many processes share this machine.
                "--shard-threads=1".to_string(),
            ],
        };
        let ports = ["public", "internal", "admin"];
        for (offset, name) in (0..).zip(ports) {
            arguments.push(format!(
                "--listen-{name}={}:{}",
                host.address,
                host.port + offset
            ));
        }
        // No loopback addresses, in a network that nobody else is in.
        arguments.push("--insecure".to_string());
        arguments.push(format!("--data-dir={}", host.folder.display()));
        Start {
            program: self.plan.binary.clone(),
            arguments,
            environment: self
                .plan
                .mutant
                .iter()
                .map(|name| ("UNDERSTUDY_MUTANT".to_string(), name.clone()))
                .collect(),
            log: host.log.clone(),
        }
    }

    fn prepare(self: Arc<Self>, hosts: Vec<Host>) -> BoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move {
            if self.hosts.set(hosts).is_err() {
                bail!("prepared twice");
            }
            let settings = Settings {
                deadline: QUESTION_LIMIT,
                ..Settings::default()
            };
            let client = understudy_client::Client::connect_with(self.endpoints()?, settings);
            if self.asks.set(client.await?).is_err() {
                bail!("prepared twice");
            }
            self.make_namespace()
                .await
                .context("making the namespace")?;
            let until = Instant::now() + START_LIMIT;
            while let Err(waits) = self.is_healthy().await {
                if Instant::now() >= until {
                    bail!("the cluster does not get ready: {waits}");
                }
                sleep(ASK_EVERY).await;
            }
            Ok(())
        })
    }

    fn healthy(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(self.is_healthy())
    }

    fn client(&self, number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>> {
        Box::pin(self.client_of(number, self.plan.level))
    }

    fn last_client(&self, number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>> {
        Box::pin(self.client_of(number, ReadLevel::Primary))
    }

    fn holders(&self, role: Role) -> BoxFuture<'_, anyhow::Result<Vec<usize>>> {
        Box::pin(async move {
            let cluster = self.asks()?.cluster();
            if role == Role::Leader {
                let status = cluster.status().await?;
                let leader = status.managers.iter().find(|m| m.id == status.leader);
                let leader = leader.context("the managers name no leader")?;
                return Ok(vec![self.member_at(&leader.internal_address)?]);
            }
            let shards = cluster.shards(Some(NAMESPACE)).await?.shards;
            let ids = self.node_ids().await?;
            let member_of = |id: u64| ids.iter().find(|(known, _)| *known == id);
            let members = shards.iter().filter_map(|shard| member_of(shard.primary));
            Ok(members.map(|(_, member)| *member).collect())
        })
    }

    fn change(&self, change: Change) -> BoxFuture<'_, Result<String, Refused>> {
        match change {
            Change::Transfer { pick } => Box::pin(self.transfer(pick)),
            Change::Drain { member, undo } => Box::pin(self.drain(member, undo)),
        }
    }

    fn inspect(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        Box::pin(async move {
            let client = self.asks()?;
            let others = (COPIES as usize).min(self.plan.nodes) - 1;
            Ok(inspect::copies_agree(client, NAMESPACE, self.plan.shards, others).await)
        })
    }
}
