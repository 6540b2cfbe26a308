//! What the managers do to a shard's copies, as the file says it: rows of the naming table, leases, seals, deletions.

use super::command::{Parsed, Words, node, number, pair};
use super::machine::SHARD;
use super::world::World;
use std::collections::BTreeSet;
use understudy_proto::{ClientId, CopyId, Epoch, NodeId, Pair, ProcessId, Revision};
use understudy_protocol::effect::{Assignment, HandOver, InSyncSet, Input};
use understudy_protocol::invariants::Row;
use understudy_protocol::pace::CopyPace;
use understudy_protocol::tables::{ConflictPolicy, Forward};
use understudy_protocol::time::Duration;

/// A row of the naming table as the file gave it.
#[derive(Clone)]
pub struct NamedRow {
    assignment: Assignment,
    cuts: Vec<(Pair, Vec<NodeId>)>,
}

impl World {
    /// A new row of the naming table, told to every copy that runs, or to those of `to=`.
    pub(super) fn new_row(&mut self, words: &mut Words) -> Parsed<()> {
        let epoch = Epoch(words.number_option("epoch")?.ok_or("epoch= is missing")?);
        let primary = words
            .option("primary")
            .map(|text| self.process(text))
            .transpose()?;
        let secondaries = words.nodes_option("secondaries")?;
        let joining = words.nodes_option("joining")?;
        let cuts: Vec<_> = words
            .option("open-cuts")
            .map(|text| text.split(',').map(open_cut).collect())
            .transpose()?
            .unwrap_or_default();
        let members = words.nodes_option("in-sync")?;
        let witnesses = words.nodes_option("witnesses")?;
        let forced = words.number_option("forced")?.map(Epoch);
        let min: Option<u32> = words.number_option("min-in-sync")?;
        let in_sync = match min {
            Some(min) => Some(InSyncSet {
                members: self.copies_of(&members)?.into_iter().collect(),
                min,
            }),
            None => None,
        };
        let to = words.option("to").map(|text| match text {
            "nobody" => Ok(Vec::new()),
            text => text.split(',').map(node).collect::<Parsed<Vec<_>>>(),
        });
        let to = match to {
            Some(to) => to?,
            None => self.running(),
        };
        let revision = self
            .row
            .as_ref()
            .map_or(Revision::ZERO, |row| row.assignment.revision);
        let assignment = Assignment {
            revision: revision.next(),
            epoch,
            primary,
            secondaries: self.copies_of(&secondaries)?,
            joining: self.copies_of(&joining)?,
            oldest_open_cut: cuts.iter().map(|(cut, _)| *cut).min(),
            open_cut_lists_me: false,
            in_sync: in_sync.clone(),
            witnesses: self.copies_of(&witnesses)?.into_iter().collect(),
            forced,
        };
        let row = Row {
            epoch,
            primary,
            listed: self.copies_of(&listed(&cuts))?.into_iter().collect(),
            secondaries: assignment.secondaries.iter().copied().collect(),
            in_sync: in_sync.clone(),
            witnesses: assignment.witnesses.clone(),
            forced,
            ..Row::default()
        };
        let changed = self.invariants.on_row(SHARD, row);
        self.check(changed);
        self.row = Some(NamedRow { assignment, cuts });
        to.into_iter().try_for_each(|node| self.tell(node))
    }

    /// `n1` for the process that runs there, or ran last; `n1#1` for one of its starts.
    pub(super) fn process(&self, text: &str) -> Parsed<ProcessId> {
        let (name, incarnation) = match text.split_once('#') {
            Some((name, incarnation)) => (name, Some(number::<u64>(incarnation)?)),
            None => (text, None),
        };
        let process = self.machine(node(name)?)?.process();
        Ok(ProcessId {
            incarnation: incarnation.map_or(process.incarnation, Into::into),
            ..process
        })
    }

    pub(super) fn copies_of(&self, nodes: &[NodeId]) -> Parsed<Vec<CopyId>> {
        nodes
            .iter()
            .map(|node| Ok(self.machine(*node)?.copy()))
            .collect()
    }

    pub(super) fn tell(&mut self, node: NodeId) -> Parsed<()> {
        let row = self.row.clone().ok_or("there is no row yet")?;
        let mut assignment = row.assignment;
        assignment.open_cut_lists_me = listed(&row.cuts).contains(&node);
        self.say(format!(
            "n{node} hears of the row of epoch {}",
            assignment.epoch
        ));
        self.step(node, Input::Assignment(assignment))
    }

    pub(super) fn lease(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let epoch: Option<u64> = words.number_option("epoch")?;
        let length: Option<u64> = words.number_option("for")?;
        let until = length.map(|ms| self.now + Duration::from_millis(ms));
        if epoch.is_none() && words.next("epoch=, or none,")? != "none" {
            return Err("a lease has an epoch=, or there is none".to_string());
        }
        let lease = &mut self.machine_mut(node)?.lease;
        (lease.epoch, lease.until) = (epoch.map(Epoch), until);
        Ok(())
    }

    /// From now on the nodes make progress, and their beacons ask for so much; `none`: they make none.
    pub(super) fn beacons(&mut self, words: &mut Words) -> Parsed<()> {
        let length: Option<u64> = words.number_option("lease")?;
        for node in words.all_nodes()? {
            self.machine_mut(node)?.lease.beacon = length.map(Duration::from_millis);
        }
        Ok(())
    }

    /// From now on the node sends no more of full copies than so many bytes in a second.
    pub(super) fn set_pace(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let rate = words.number_option("bytes")?.ok_or("bytes= is missing")?;
        let pace = CopyPace::new(rate, self.now);
        self.machine_mut(node)?.pace.replace(pace);
        Ok(())
    }

    pub(super) fn seal(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let epoch = Epoch(words.number_option("epoch")?.ok_or("epoch= is missing")?);
        let to = words.nodes_option("hand-over")?;
        let within: u64 = words.number_option("within")?.unwrap_or(1_000);
        let hand_over = match to[..] {
            [] => None,
            [to] => Some(HandOver {
                to: self.machine(to)?.copy(),
                give_up_at: self.now + Duration::from_millis(within),
            }),
            _ => return Err("a hand-over has one target".to_string()),
        };
        // Without it the old primary's leases are over.
        let grace: Option<u64> = words.number_option("grace")?;
        let grace = grace.map(Duration::from_millis);
        let caller = self.call("the managers".to_string(), None);
        self.say(format!("n{node} is sealed for epoch {epoch}"));
        self.step(
            node,
            Input::Seal {
                caller,
                epoch,
                hand_over,
                grace,
            },
        )
    }

    /// The permission counts as long as the copy knows no newer row than that `row=`, of all rows so far.
    pub(super) fn delete(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let row: Option<u64> = words.number_option("row")?;
        let newest = self.row.as_ref().ok_or("there is no row yet")?;
        let revision = row.map_or(newest.assignment.revision, Revision);
        self.say(format!("n{node} may be deleted"));
        self.step(node, Input::Delete { revision })
    }

    /// What a process knows of clients: how much is kept of them, and which have ended; and of the namespace's settings.
    pub(super) fn know_clients(&mut self, words: &mut Words) -> Parsed<()> {
        let node = words.next_node()?;
        let entries: Option<u32> = words.number_option("keep")?;
        let age_ms: Option<u64> = words.number_option("age")?;
        let revision: Option<u64> = words.number_option("revision")?;
        let ended: Option<u64> = words.number_option("ended")?;
        let policy = match words.option("cut-off") {
            None => None,
            Some("reapply") => Some(ConflictPolicy::ReapplyIfUnchanged),
            Some("discard") => Some(ConflictPolicy::Discard),
            Some("hold") => Some(ConflictPolicy::HoldForAPerson),
            Some(other) => return Err(format!("'{other}' is no policy: reapply, discard, hold")),
        };
        let forward = match words.option("forward") {
            None => None,
            Some("components") => Some(Forward::Components),
            Some("operation") => Some(Forward::Operation),
            Some("object") => Some(Forward::Object),
            Some(other) => {
                return Err(format!(
                    "'{other}' is not forwarded: components, operation, object"
                ));
            }
        };
        let known = &mut self.machine_mut(node)?.clients;
        known.forward = forward.unwrap_or(known.forward);
        known.conflicts = policy.unwrap_or(known.conflicts);
        if let Some(entries) = entries {
            known.keep.entries = entries;
        }
        if let Some(age_ms) = age_ms {
            known.keep.age = Duration::from_millis(age_ms);
        }
        if let Some(revision) = revision {
            known.revision = Revision(revision);
        }
        known
            .ended
            .extend(ended.map(|number| ClientId(number.into())));
        Ok(())
    }
}

/// `1.5:n1+n2`: what came after 1.5 may be only in the stores of n1 and n2.
fn open_cut(text: &str) -> Parsed<(Pair, Vec<NodeId>)> {
    let (cut, stores) = text
        .split_once(':')
        .ok_or("an open cut is written as 1.5:n1+n2")?;
    Ok((
        pair(cut)?,
        stores.split('+').map(node).collect::<Parsed<_>>()?,
    ))
}

fn listed(cuts: &[(Pair, Vec<NodeId>)]) -> Vec<NodeId> {
    let listed: BTreeSet<NodeId> = cuts
        .iter()
        .flat_map(|(_, stores)| stores.iter().copied())
        .collect();
    listed.into_iter().collect()
}
