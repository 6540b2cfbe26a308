//! All processes of a run, each in its place, and the network between them.
//!
//! Either each process, and this one, has a network of its own and every packet passes through [`Network`]; or all are on
//! the machine's loopback, and then nothing can be done to packets.

use super::network::Network;
use super::place::{Place, own_network};
use super::process::Process;
use super::system::{Host, Member, System};
use crate::dice::{Dice, Purpose};
use anyhow::{Context, bail};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Networks of different runs know nothing of each other, so all use the same addresses.
const ADDRESSES: [u8; 3] = [10, 86, 83];
/// The harness's own; members follow.
const OURS: u8 = 1;
const PORT: u16 = 7420;
/// Below the ports that the system gives to outgoing connections, so that a process that is down for a while finds its ports
/// free again.
const FREE_FROM: u64 = 20_000;
const FREE_TO: u64 = 32_000;

pub struct Machines {
    members: Vec<Member>,
    hosts: Vec<Host>,
    processes: Vec<Process>,
    network: Option<Network>,
}

/// The device behind the harness's own network, once the calling thread has one.
pub struct OwnEnd(OwnedFd);

/// Gives the calling thread, and all threads that it starts, the harness's end of the network.
pub fn enter_network() -> anyhow::Result<OwnEnd> {
    own_network(address(0)).map(OwnEnd)
}

/// Of the members by number, from 1; 0 is the harness.
fn address(number: usize) -> Ipv4Addr {
    let [a, b, c] = ADDRESSES;
    Ipv4Addr::new(a, b, c, OURS + number as u8)
}

impl Machines {
    /// Makes the places. `own_end`: from [`enter_network`], or `None` to stay on loopback.
    pub fn new(
        system: &dyn System,
        folder: &Path,
        own_end: Option<OwnEnd>,
        seed: u64,
    ) -> anyhow::Result<Machines> {
        let members = system.members();
        if members.len() > 200 {
            bail!("{} processes are more than addresses", members.len());
        }
        let data = folder.join("data");
        let mut dice = Dice::new(seed, Purpose::LivePackets, 1);
        let mut hosts = Vec::new();
        let mut places = Vec::new();
        let mut ends = Vec::new();
        // Held until all are found, so that no port is found twice.
        let mut held = Vec::new();
        for (number, member) in (1..).zip(&members) {
            let (address, port) = match own_end {
                Some(_) => (address(number), PORT),
                None => (Ipv4Addr::LOCALHOST, free_ports(&mut dice, &mut held)?),
            };
            let host = Host {
                address,
                port,
                folder: data.join(&member.name),
                log: folder.join(format!("{}.log", member.name)),
            };
            std::fs::create_dir_all(&host.folder)?;
            hosts.push(host);
            if own_end.is_some() {
                let (place, device) = Place::apart(&member.name, address)?;
                ends.push((address, device));
                places.push(place);
            } else {
                places.push(Place::shared(&member.name)?);
            }
        }
        let network = match own_end {
            Some(OwnEnd(device)) => {
                // Links are named by members, so the harness comes last.
                ends.push((address(0), device));
                let dice = Dice::new(seed, Purpose::LivePackets, 0);
                Some(Network::start(ends, dice)?)
            }
            None => None,
        };
        let processes = places.into_iter().enumerate();
        let processes = processes.map(|(member, place)| {
            let start = system.start_of(member, &hosts);
            Process::new(place, start)
        });
        let processes = processes.collect();
        Ok(Machines {
            members,
            processes,
            hosts,
            network,
        })
    }

    pub async fn start_all(&self) -> anyhow::Result<()> {
        for (member, process) in self.members.iter().zip(&self.processes) {
            process.start().await.with_context(|| member.name.clone())?;
        }
        Ok(())
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn process(&self, member: usize) -> &Process {
        &self.processes[member]
    }

    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// `None`: on loopback.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The names of some members.
    pub fn names(&self, members: &[usize]) -> String {
        let names: Vec<&str> = members
            .iter()
            .map(|member| self.members[*member].name.as_str())
            .collect();
        names.join(", ")
    }

    pub fn in_group(&self, group: &str) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        let members = members.filter(|(_, member)| member.group == group);
        members.map(|(index, _)| index).collect()
    }

    /// The groups, in the order of their first members.
    pub fn groups(&self) -> Vec<&'static str> {
        let mut groups = Vec::new();
        for member in &self.members {
            if !groups.contains(&member.group) {
                groups.push(member.group);
            }
        }
        groups
    }

    /// Lets everything run again: what is paused goes on, what is down is started.
    pub async fn heal(&self) -> anyhow::Result<()> {
        for (member, process) in self.members.iter().zip(&self.processes) {
            process
                .resume()
                .await
                .with_context(|| member.name.clone())?;
            if !process.runs() {
                process.start().await.with_context(|| member.name.clone())?;
            }
        }
        Ok(())
    }

    /// Ends everything; nothing is asked to end well, for nothing is left to be learned.
    pub async fn end(&self) {
        for process in &self.processes {
            // What cannot be killed dies with its place.
            let _ = process.kill().await;
        }
    }
}

/// Ten of loopback that nobody uses now.
fn free_ports(dice: &mut Dice, held: &mut Vec<TcpListener>) -> anyhow::Result<u16> {
    // From the process id too: two runs of one seed at a time must not meet.
    let shift = u64::from(std::process::id());
    for _ in 0..10_000 {
        let port =
            FREE_FROM + (dice.below(FREE_TO - FREE_FROM) + shift * 10) % (FREE_TO - FREE_FROM);
        let port = (port / 10 * 10) as u16;
        let three = (port..port + 3).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if let Ok(listeners) = three.collect::<Result<Vec<_>, _>>() {
            held.extend(listeners);
            return Ok(port);
        }
    }
    bail!("no free ports between {FREE_FROM} and {FREE_TO}");
}
