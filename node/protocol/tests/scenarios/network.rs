//! Messages under way: a queue for each pair of copies, out of which the file takes, loses, repeats and defers.

use super::command::{Parsed, Words, link};
use super::trace;
use super::world::World;
use std::collections::VecDeque;
use understudy_proto::NodeId;
use understudy_protocol::effect::Input;
use understudy_protocol::shard::message::Message;

/// Rounds after which `settle` gives up.
const ROUNDS_MAX: usize = 1_000;

impl World {
    pub(super) fn deliver(&mut self, words: &mut Words) -> Parsed<()> {
        let (from, to) = link(words.next("a link, such as n1->n2,")?)?;
        let waiting = self.under_way(from, to)?.len();
        for _ in 0..words.next_number()?.unwrap_or(waiting).min(waiting) {
            let message = self
                .under_way(from, to)?
                .pop_front()
                .expect("as many were counted");
            self.take(from, to, message)?;
        }
        Ok(())
    }

    pub(super) fn take(&mut self, from: NodeId, to: NodeId, message: Message) -> Parsed<()> {
        let text = trace::message(&message);
        if self.machine(to)?.replica.is_none() {
            self.say(format!("n{to} is down and misses: {text}"));
            return Ok(());
        }
        self.say(format!("n{to} takes from n{from}: {text}"));
        self.step(to, Input::Message { from, message })
    }

    pub(super) fn drop_messages(&mut self, words: &mut Words) -> Parsed<()> {
        let (from, to) = link(words.next("a link, such as n1->n2,")?)?;
        let count = words.next_number()?.unwrap_or(usize::MAX);
        let waiting = self.under_way(from, to)?;
        let lost: Vec<Message> = waiting.drain(..count.min(waiting.len())).collect();
        for message in lost {
            self.say(format!("lost: {}", trace::message(&message)));
        }
        Ok(())
    }

    /// The oldest message arrives, and is under way once more.
    pub(super) fn repeat(&mut self, words: &mut Words) -> Parsed<()> {
        let (from, to) = link(words.next("a link, such as n1->n2,")?)?;
        let message = self
            .under_way(from, to)?
            .front()
            .cloned()
            .expect("a queue is never empty");
        self.take(from, to, message)
    }

    /// The oldest message falls behind all others of its link.
    pub(super) fn defer(&mut self, words: &mut Words) -> Parsed<()> {
        let (from, to) = link(words.next("a link, such as n1->n2,")?)?;
        let waiting = self.under_way(from, to)?;
        waiting.rotate_left(1);
        let text = trace::list(waiting.iter(), "; ", trace::message);
        self.say(format!("n{from} -> n{to}: {text}"));
        Ok(())
    }

    pub(super) fn show_network(&mut self) {
        let mut lines = Vec::new();
        for ((from, to), waiting) in &self.network {
            for message in waiting {
                lines.push(format!("n{from} -> n{to}: {}", trace::message(message)));
            }
        }
        if lines.is_empty() {
            lines.push("nothing is under way".to_string());
        }
        lines.into_iter().for_each(|line| self.say(line));
    }

    pub(super) fn under_way(&mut self, from: NodeId, to: NodeId) -> Parsed<&mut VecDeque<Message>> {
        let waiting = self
            .network
            .get_mut(&(from, to))
            .filter(|waiting| !waiting.is_empty());
        waiting.ok_or_else(|| format!("nothing is under way from n{from} to n{to}"))
    }

    /// Disks and network do what they have to do, in the order of their names, until there is nothing left.
    pub(super) fn settle(&mut self) -> Parsed<()> {
        for _ in 0..ROUNDS_MAX {
            let disks: Vec<NodeId> = self
                .machines
                .values()
                .filter(|machine| !machine.unsynced.is_empty())
                .map(|machine| machine.node)
                .collect();
            for node in &disks {
                self.sync(*node, None)?;
                self.report(*node)?;
            }
            self.network.retain(|_, waiting| !waiting.is_empty());
            let links: Vec<_> = self.network.keys().copied().collect();
            for (from, to) in &links {
                while let Ok(waiting) = self.under_way(*from, *to) {
                    let message = waiting.pop_front().expect("it is not empty");
                    self.take(*from, *to, message)?;
                }
            }
            if disks.is_empty() && links.is_empty() {
                return Ok(());
            }
        }
        Err("there is always something left to do".to_string())
    }
}
