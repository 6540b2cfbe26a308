//! A cluster of etcd as a system under test: how its members are started, whether they are one, who leads.
//!
//! Each client speaks to one member for the whole run and follows nobody to another one: so an old leader has clients, too.

use crate::client::EtcdClient;
use crate::wire::{
    HASH, HashAt, Hashed, MOVE_LEADER, MemberStatus, MoveLeader, Nothing, STATUS, ask,
};
use anyhow::{Context, bail};
use futures::future::{BoxFuture, join_all};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use understudy_jepsen::live::process::Start;
use understudy_jepsen::live::system::{
    Change, Client, Host, Keeps, Member, Offers, Reads, Refused, Role, System,
};
use understudy_jepsen::live::workload::Shape;

/// How long members may take until they are a cluster.
const START_LIMIT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long a fault waits for somebody to lead: a member that was cut off and comes back makes etcd 3.4 elect again.
const ELECTION_LIMIT: Duration = Duration::from_secs(5);
/// Of the harness's own questions.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

pub struct Etcd {
    pub binary: PathBuf,
    pub members: usize,
    pub shape: Shape,
    /// Reads are answered by one member, without asking the others.
    pub serializable: bool,
    /// Once the harness has told where members run: to each of them.
    pub channels: OnceLock<Vec<Channel>>,
}

impl Etcd {
    fn channels(&self) -> anyhow::Result<&[Channel]> {
        let channels = self
            .channels
            .get()
            .context("the cluster was not prepared")?;
        Ok(channels)
    }

    /// What each member says of itself.
    async fn statuses(&self) -> anyhow::Result<Vec<Result<MemberStatus, String>>> {
        let asked = self.channels()?.iter().map(|channel| async {
            let asked = timeout(QUESTION_LIMIT, ask(channel, STATUS, Nothing {})).await;
            match asked {
                Ok(Ok(status)) => Ok(status),
                Ok(Err(status)) => Err(status.message().to_string()),
                Err(_) => Err("no answer".to_string()),
            }
        });
        Ok(join_all(asked).await)
    }

    /// Who leads, in which term, when all follow it and none lags behind.
    async fn is_healthy(&self) -> Result<String, String> {
        let statuses = self.statuses().await.map_err(|error| error.to_string())?;
        let mut first: Option<MemberStatus> = None;
        for (number, status) in (1..).zip(statuses) {
            let status = status.map_err(|why| format!("etcd-{number}: {why}"))?;
            if let Some(error) = status.errors.first() {
                return Err(format!("etcd-{number} reports {error}"));
            }
            if status.leader == 0 {
                return Err(format!("etcd-{number} knows no leader"));
            }
            match &first {
                None => first = Some(status),
                Some(first) if (status.leader, status.term) != (first.leader, first.term) => {
                    return Err(format!("etcd-{number} follows another leader than etcd-1"));
                }
                Some(first) if status.applied != first.applied => {
                    return Err(format!(
                        "etcd-{number} applied {}, etcd-1 {}",
                        status.applied, first.applied
                    ));
                }
                Some(_) => {}
            }
        }
        let first = first.ok_or("there are no members")?;
        Ok(format!("leader {:x} in term {}", first.leader, first.term))
    }

    /// The one that says so of itself in the highest term: an old leader that was cut off does not know yet.
    async fn leader(&self) -> anyhow::Result<(usize, Vec<Option<u64>>)> {
        let statuses = self.statuses().await?;
        let id = |status: &MemberStatus| status.header.as_ref().map(|header| header.member);
        let ids = statuses
            .iter()
            .map(|status| id(status.as_ref().ok()?))
            .collect();
        let leads = |(number, status): (usize, Result<MemberStatus, String>)| {
            let status = status.ok()?;
            (id(&status) == Some(status.leader)).then_some((status.term, number))
        };
        let leader = statuses.into_iter().enumerate().filter_map(leads).max();
        let (_, leader) = leader.context("nobody says that it leads")?;
        Ok((leader, ids))
    }

    async fn transfer(&self, pick: u64) -> Result<String, Refused> {
        let no = |error: anyhow::Error| Refused::No(format!("{error:#}"));
        let (leader, ids) = self.leader().await.map_err(no)?;
        let others = ids
            .iter()
            .enumerate()
            .filter(|(member, _)| *member != leader);
        let others: Vec<(usize, u64)> = others
            .filter_map(|(member, id)| Some((member, (*id)?)))
            .collect();
        if others.is_empty() {
            return Err(Refused::No("no other member answers".to_string()));
        }
        let (member, to) = others[pick as usize % others.len()];
        let channel = &self.channels().map_err(no)?[leader];
        let asked = ask::<_, Nothing>(channel, MOVE_LEADER, MoveLeader { to });
        match timeout(QUESTION_LIMIT, asked).await {
            Ok(Ok(_)) => Ok(format!("etcd-{} leads", member + 1)),
            Ok(Err(status)) => Err(Refused::Perhaps(status.message().to_string())),
            Err(_) => Err(Refused::Perhaps("no answer".to_string())),
        }
    }

    /// The hashes of all that the members have, as of the same revision.
    async fn copies_agree(&self) -> anyhow::Result<Vec<String>> {
        let revisions = self.statuses().await?.into_iter();
        let revision = |status: Result<MemberStatus, String>| Some(status.ok()?.header?.revision);
        let revision = revisions.filter_map(revision).min();
        let revision = revision.context("no member says how far it is")?;
        let mut hashes = Vec::new();
        for channel in self.channels()? {
            let asked = ask::<_, Hashed>(channel, HASH, HashAt { revision });
            hashes.push(timeout(QUESTION_LIMIT, asked).await??.hash);
        }
        match hashes.windows(2).all(|two| two[0] == two[1]) {
            true => Ok(Vec::new()),
            false => Ok(vec![format!(
                "the members differ at revision {revision}: {hashes:?}"
            )]),
        }
    }

    fn client_of(&self, number: usize, serializable: bool) -> anyhow::Result<Box<dyn Client>> {
        let at = self.channels()?;
        Ok(Box::new(EtcdClient {
            channel: at[number % at.len()].clone(),
            shape: self.shape,
            serializable,
        }))
    }
}

fn name(member: usize) -> String {
    format!("etcd-{}", member + 1)
}

/// Of what others, clients and members, ask it; the harness gives every member ten ports of its own.
fn for_clients(host: &Host) -> String {
    format!("http://{}:{}", host.address, host.port)
}

fn for_members(host: &Host) -> String {
    format!("http://{}:{}", host.address, host.port + 1)
}

fn channel_to(host: &Host) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(for_clients(host))?;
    Ok(endpoint.connect_timeout(CONNECT_LIMIT).connect_lazy())
}

impl System for Etcd {
    fn members(&self) -> Vec<Member> {
        let members = (0..self.members).map(|member| Member {
            name: name(member),
            group: "etcd",
        });
        members.collect()
    }

    fn offers(&self) -> Offers {
        Offers {
            keeps: Keeps::Always,
            reads: match self.serializable {
                true => Reads::Old,
                false => Reads::Fresh,
            },
        }
    }

    fn start_of(&self, member: usize, hosts: &[Host]) -> Start {
        let host = &hosts[member];
        let all = hosts.iter().enumerate();
        let all: Vec<String> = all
            .map(|(member, host)| format!("{}={}", name(member), for_members(host)))
            .collect();
        let arguments = [
            format!("--name={}", name(member)),
            format!("--data-dir={}", host.folder.display()),
            format!("--listen-client-urls={}", for_clients(host)),
            format!("--advertise-client-urls={}", for_clients(host)),
            format!("--listen-peer-urls={}", for_members(host)),
            format!("--initial-advertise-peer-urls={}", for_members(host)),
            format!("--initial-cluster={}", all.join(",")),
            "--logger=zap".to_string(),
            "--log-outputs=stderr".to_string(),
        ];
        Start {
            program: self.binary.clone(),
            arguments: arguments.to_vec(),
            environment: Vec::new(),
            log: host.log.clone(),
        }
    }

    fn prepare(self: Arc<Self>, hosts: Vec<Host>) -> BoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move {
            let channels: anyhow::Result<Vec<Channel>> = hosts.iter().map(channel_to).collect();
            if self.channels.set(channels?).is_err() {
                bail!("prepared twice");
            }
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
        Box::pin(async move { self.client_of(number, self.serializable) })
    }

    fn last_client(&self, number: usize) -> BoxFuture<'_, anyhow::Result<Box<dyn Client>>> {
        Box::pin(async move { self.client_of(number, false) })
    }

    /// Its leader decides and serves, so it is both.
    fn holders(&self, _role: Role) -> BoxFuture<'_, anyhow::Result<Vec<usize>>> {
        Box::pin(async move {
            let until = Instant::now() + ELECTION_LIMIT;
            loop {
                match self.leader().await {
                    Ok((leader, _)) => return Ok(vec![leader]),
                    Err(nobody) if Instant::now() >= until => return Err(nobody),
                    Err(_) => sleep(ASK_EVERY).await,
                }
            }
        })
    }

    fn change(&self, change: Change) -> BoxFuture<'_, Result<String, Refused>> {
        match change {
            Change::Transfer { pick } => Box::pin(self.transfer(pick)),
            other => {
                Box::pin(
                    async move { Err(Refused::No(format!("etcd has no such thing: {other:?}"))) },
                )
            }
        }
    }

    fn inspect(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        Box::pin(self.copies_agree())
    }
}
