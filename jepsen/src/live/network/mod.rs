//! The network between places: one thread that carries every packet, and may lose, keep, repeat or turn it on the way.
//!
//! A fault is a rule for some directed links. Faults add up, each says how many packets met it, and without any a packet goes
//! straight on. Only IPv4 is carried: what else a device sends is its own chatter.

use crate::dice::Dice;
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread sleeps at most, so that it hears that it is to end.
const NAP: Duration = Duration::from_millis(50);
/// Packets of one device that are taken before the next device has its turn.
const TURN_PACKETS: usize = 64;
const PACKET_BYTES_MAX: usize = 1 << 16;
/// What may be under way; beyond it packets are lost, as in a router.
const HELD_BYTES_MAX: usize = 64 << 20;
/// How much a link of limited rate holds back before it drops, in time.
const RATE_QUEUE: Duration = Duration::from_millis(400);
/// By how much a packet falls behind those after it.
const REORDER_BY: Duration = Duration::from_millis(8);

/// What happens to the packets of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// All are lost.
    pub cut: bool,
    pub delay: Duration,
    /// Up to so much more, drawn for each packet.
    pub jitter: Duration,
    pub loss_permille: u32,
    pub duplicate_permille: u32,
    /// So many fall behind the next ones.
    pub reorder_permille: u32,
    /// 0: no bound.
    pub bytes_per_second: u64,
}

/// A directed link, by the numbers of its ends.
pub type Link = (usize, usize);

struct Fault {
    id: u64,
    links: Vec<Link>,
    rule: Rule,
    met: u64,
    /// For a rate: when the link is free again.
    free_at: Vec<Instant>,
}

#[derive(Default)]
struct Faults {
    all: Vec<Fault>,
    next_id: u64,
}

/// What the network did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    /// Lost for want of room here, by no fault.
    pub overflowed: u64,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    traffic: Mutex<Traffic>,
    stop: AtomicBool,
    /// Why the thread ended before it was told to.
    broken: Mutex<Option<String>>,
}

pub struct Network {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Joins the devices, each with the address behind it. Its number is its place in the list.
    pub fn start(ends: Vec<(Ipv4Addr, OwnedFd)>, dice: Dice) -> anyhow::Result<Network> {
        let shared: Arc<Shared> = Arc::default();
        let (addresses, devices) = ends.into_iter().unzip();
        let mut carrier = Carrier {
            shared: shared.clone(),
            addresses,
            devices,
            dice,
            held: BinaryHeap::new(),
            held_bytes: 0,
            order: 0,
        };
        let work = move || {
            if let Err(error) = carrier.run() {
                *lock(&carrier.shared.broken) = Some(format!("{error:#}"));
            }
        };
        let thread = std::thread::Builder::new().name("network".to_string());
        let thread = Some(thread.spawn(work)?);
        Ok(Network { shared, thread })
    }

    /// From now on the rule holds for these links; gives what to end it by.
    pub fn install(&self, links: Vec<Link>, rule: Rule) -> u64 {
        let mut faults = lock(&self.shared.faults);
        faults.next_id += 1;
        let id = faults.next_id;
        let free_at = vec![Instant::now(); links.len()];
        faults.all.push(Fault {
            id,
            links,
            rule,
            met: 0,
            free_at,
        });
        id
    }

    /// Ends it; tells how many packets met it.
    pub fn remove(&self, id: u64) -> u64 {
        let mut faults = lock(&self.shared.faults);
        let Some(index) = faults.all.iter().position(|fault| fault.id == id) else {
            return 0;
        };
        faults.all.remove(index).met
    }

    /// How many packets met it so far.
    pub fn met(&self, id: u64) -> u64 {
        let faults = lock(&self.shared.faults);
        let fault = faults.all.iter().find(|fault| fault.id == id);
        fault.map_or(0, |fault| fault.met)
    }

    pub fn traffic(&self) -> Traffic {
        *lock(&self.shared.traffic)
    }

    /// Why nothing is carried any more.
    pub fn broken(&self) -> Option<String> {
        lock(&self.shared.broken).clone()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet under way. The heap gives the largest first, so the order is turned round.
struct Held {
    due: Instant,
    /// Of two that are due at once the older one goes first.
    order: u64,
    to: usize,
    packet: Vec<u8>,
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> std::cmp::Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.order == other.order
    }
}

impl Eq for Held {}

struct Carrier {
    shared: Arc<Shared>,
    addresses: Vec<Ipv4Addr>,
    devices: Vec<OwnedFd>,
    dice: Dice,
    held: BinaryHeap<Held>,
    held_bytes: usize,
    order: u64,
}

impl Carrier {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        while !self.shared.stop.load(Ordering::SeqCst) {
            let ready = self.wait()?;
            for from in ready {
                self.take_turn(from, &mut packet)?;
            }
            self.deliver_due();
        }
        Ok(())
    }

    /// The devices that have packets, or none when something under way is due.
    fn wait(&self) -> anyhow::Result<Vec<usize>> {
        let due = self.held.peek().map(|held| held.due);
        let nap = due.map_or(NAP, |due| {
            NAP.min(due.saturating_duration_since(Instant::now()))
        });
        let mut polled: Vec<PollFd<'_>> = self
            .devices
            .iter()
            .map(|device| PollFd::new(device, PollFlags::IN))
            .collect();
        let nap = Timespec {
            tv_sec: 0,
            tv_nsec: nap.as_nanos() as _,
        };
        match poll(&mut polled, Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for packets"),
        }
        let ready = polled.iter().enumerate();
        let ready = ready.filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|(index, _)| index).collect())
    }

    fn take_turn(&mut self, from: usize, packet: &mut [u8]) -> anyhow::Result<()> {
        for _ in 0..TURN_PACKETS {
            let length = match rustix::io::read(&self.devices[from], &mut *packet) {
                Ok(length) => length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
                Err(error) => return Err(error).context("reading a packet"),
            };
            if let Some(to) = self.destination(&packet[..length]) {
                self.carry((from, to), &packet[..length]);
            }
        }
        Ok(())
    }

    fn destination(&self, packet: &[u8]) -> Option<usize> {
        let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        if packet[0] >> 4 != 4 {
            return None;
        }
        let address = Ipv4Addr::from(address);
        self.addresses.iter().position(|known| *known == address)
    }

    fn carry(&mut self, link: Link, packet: &[u8]) {
        {
            let mut traffic = lock(&self.shared.traffic);
            traffic.packets += 1;
            traffic.bytes += packet.len() as u64;
        }
        let now = Instant::now();
        let fate = {
            let mut faults = lock(&self.shared.faults);
            faults.fate_of(link, packet.len(), now, &mut self.dice)
        };
        for due in fate {
            match due <= now {
                true => self.hand_over(link.1, packet),
                false => self.hold(due, link.1, packet),
            }
        }
    }

    fn hold(&mut self, due: Instant, to: usize, packet: &[u8]) {
        if self.held_bytes + packet.len() > HELD_BYTES_MAX {
            lock(&self.shared.traffic).overflowed += 1;
            return;
        }
        self.held_bytes += packet.len();
        self.order += 1;
        self.held.push(Held {
            due,
            order: self.order,
            to,
            packet: packet.to_vec(),
        });
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|held| held.due <= now) {
            let Some(held) = self.held.pop() else { return };
            self.held_bytes -= held.packet.len();
            self.hand_over(held.to, &held.packet);
        }
    }

    fn hand_over(&mut self, to: usize, packet: &[u8]) {
        // The device is not up while its place is being made ready; networks lose packets, and TCP knows that.
        if rustix::io::write(&self.devices[to], packet).is_err() {
            lock(&self.shared.traffic).overflowed += 1;
        }
    }
}

impl Faults {
    /// When the packet arrives, once for each time that it does.
    fn fate_of(
        &mut self,
        link: Link,
        length: usize,
        now: Instant,
        dice: &mut Dice,
    ) -> smallvec::SmallVec<[Instant; 2]> {
        let mut due = now;
        let mut copies = 1;
        for fault in &mut self.all {
            let Some(index) = fault.links.iter().position(|other| *other == link) else {
                continue;
            };
            let rule = fault.rule;
            let lost = rule.cut || dice.permille(rule.loss_permille);
            let doubled = dice.permille(rule.duplicate_permille);
            let behind = dice.permille(rule.reorder_permille);
            let mut later = rule.delay;
            if rule.jitter > Duration::ZERO {
                later += Duration::from_micros(dice.below(rule.jitter.as_micros() as u64 + 1));
            }
            if behind {
                later += REORDER_BY;
            }
            let mut dropped = lost;
            if let Some(takes) = nanoseconds(length, rule.bytes_per_second) {
                let begins = fault.free_at[index].max(now);
                if begins.duration_since(now) > RATE_QUEUE {
                    dropped = true;
                } else {
                    fault.free_at[index] = begins + takes;
                    later += fault.free_at[index] - now;
                }
            }
            if dropped || doubled || later > Duration::ZERO {
                fault.met += 1;
            }
            if dropped {
                return smallvec::SmallVec::new();
            }
            copies += usize::from(doubled);
            due += later;
        }
        smallvec::SmallVec::from_elem(due, copies)
    }
}

/// What a packet takes on a link of that rate.
fn nanoseconds(length: usize, bytes_per_second: u64) -> Option<Duration> {
    let takes = (length as u64 * 1_000_000_000).checked_div(bytes_per_second)?;
    Some(Duration::from_nanos(takes))
}

/// Each guarded value is whole between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
