//! A forced promotion, for a person: what it would lose, and the command that names what was shown.
//!
//! Every copy of the shard is asked, the chosen one first. Nothing is remembered in between: the token stands for the row,
//! the choice and the ends of all copies that answered, and is made anew when the person decides.

use super::cluster::ClusterServer;
use super::tables::{nodes, pair, primary, unknown_namespace};
use crate::manager::{DutyAnswer, DutyQuestion};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::v1::{self, PromotionCopy};
use understudy_proto::{CopyId, Incarnation, Pair, ProcessId, ShardId};
use understudy_protocol::control::describe::{
    Beyond, DescribeRequest, DescribedCopy, LACKING_MAX, LogEnd, State, lacking,
};
use understudy_protocol::control::{Awaited, FailoverProgress};
use understudy_protocol::tables::{Command, Forced, NodeState, ShardEntry, Tables};

/// Lacking requests in an answer when the caller does not say.
const LACKING_DEFAULT: u32 = 100;
/// How long a copy may take to answer.
const COPY_LIMIT: Duration = Duration::from_secs(2);
/// How long who forces a promotion waits for it: twice the usual leases.
const PROMOTED_LIMIT: Duration = Duration::from_secs(5);
/// How long the leader may take to say what a failover waits for.
const PROGRESS_LIMIT: Duration = Duration::from_secs(1);

/// What all copies of a shard told.
struct Shown {
    shard: ShardId,
    entry: ShardEntry,
    chosen: CopyId,
    told: BTreeMap<CopyId, Result<DescribedCopy, String>>,
}

impl Shown {
    /// `None`: the chosen copy does not answer, or cannot serve.
    fn state(&self) -> Option<State> {
        let chosen = self.told.get(&self.chosen)?.as_ref().ok()?;
        if !chosen.complete {
            return None;
        }
        let end = |copy: &Result<DescribedCopy, String>| copy.as_ref().ok().map(|c| c.log.last);
        let ends = self.told.iter().map(|(copy, told)| (*copy, end(told)));
        State::of(self.shard, &self.entry, self.chosen, &ends.collect())
    }

    fn beyond(&self) -> BTreeMap<CopyId, Beyond> {
        let told = self.told.iter().filter_map(|(copy, told)| {
            let beyond = told.as_ref().ok()?.beyond.clone()?;
            Some((*copy, beyond))
        });
        told.filter(|(copy, _)| *copy != self.chosen).collect()
    }

    fn copy(&self, copy: CopyId) -> PromotionCopy {
        let entry = &self.entry;
        let role = if entry.primary.map(ProcessId::copy) == Some(copy) {
            "primary"
        } else if entry.is_secondary(copy) {
            "secondary"
        } else {
            "joining"
        };
        let mut shown = PromotionCopy {
            node: copy.node.0,
            store_id: copy.store.to_bytes().to_vec().into(),
            role: role.to_string(),
            candidate: entry.candidates().any(|candidate| candidate == copy),
            ..PromotionCopy::default()
        };
        match &self.told[&copy] {
            Err(why) => shown.why = why.clone(),
            Ok(told) => {
                shown.answered = true;
                shown.last = Some(pair(told.log.last));
                shown.orphans = told.orphans;
                shown.complete = told.complete;
                if let Some(beyond) = told.beyond.as_ref().filter(|_| copy != self.chosen) {
                    shown.cut = Some(pair(beyond.cut));
                    shown.records_beyond = beyond.records;
                    shown.trimmed = beyond.trimmed;
                }
            }
        }
        shown
    }
}

impl ClusterServer {
    pub(super) async fn show(
        &self,
        asked: v1::ShowPromotionRequest,
        limit: Duration,
    ) -> Result<v1::ShowPromotionResponse, Failure> {
        let most = match asked.limit {
            0 => LACKING_DEFAULT,
            most => most.min(LACKING_MAX as u32),
        };
        let after = asked.after.map(|p| Pair::new(p.epoch, p.version));
        let (shard, entry) = self.row(&asked.namespace, asked.shard, limit).await?;
        let chosen = chosen(&entry, asked.target_node)?;
        let shown = self.ask_copies(shard, entry, chosen, after, most).await;
        let (list, more) = lacking(&shown.beyond(), most as usize);
        let lacking = list.into_iter().map(|lacking| v1::LackingRequest {
            request_id: Some(super::wire::request_id(lacking.request)),
            pair: Some(pair(lacking.pair)),
            nodes: nodes(&lacking.at),
        });
        let entry = &shown.entry;
        let forced = entry.forcing().map_or(0, |forced| forced.copy.node.0);
        Ok(v1::ShowPromotionResponse {
            state: shown.state().map(|s| s.to_string()).unwrap_or_default(),
            epoch: entry.epoch.0,
            revision: entry.revision.0,
            copies: entry.copies().map(|copy| shown.copy(copy)).collect(),
            lacking: lacking.collect(),
            more,
            records_beyond: shown
                .beyond()
                .values()
                .map(|b| b.records)
                .max()
                .unwrap_or(0),
            primary: primary(entry),
            primary_incarnation: entry.primary.map_or(0, |p| p.incarnation.0),
            begun: entry.begun.is_some(),
            forced_node: forced,
            waits_for: self.waits_for(shard, entry).await,
        })
    }

    pub(super) async fn force(
        &self,
        asked: v1::ForcePromotionRequest,
        limit: Duration,
    ) -> Result<v1::ForcePromotionResponse, Failure> {
        let end = Instant::now() + limit;
        let state: State = asked
            .state
            .parse()
            .map_err(|why| Failure::field("state", why))?;
        let (shard, entry) = self.row(&asked.namespace, asked.shard, limit).await?;
        let named = || {
            let stopped = match asked.stopped_node {
                0 => None,
                node => Some(stopped(&entry, node, asked.stopped_incarnation)?),
            };
            Ok((chosen(&entry, asked.target_node)?, stopped))
        };
        let (chosen, stopped) = match named() {
            Ok(named) => named,
            // The row went on, and does not know any more whom the same call named when it was carried out.
            Err(_) if entry.revision > state.revision && self.ran(asked.request_id.as_ref())? => {
                return Ok(v1::ForcePromotionResponse {
                    promoted: entry.primary.is_some_and(|p| p.node.0 == asked.target_node),
                    epoch: entry.epoch.0,
                    primary: primary(&entry),
                    waits_for: self.waits_for(shard, &entry).await,
                });
            }
            Err(failure) => return Err(failure),
        };
        if state.revision > entry.revision {
            let why = "nothing was shown that has this state: look again";
            return Err(Failure::no(Reason::NotAllowed, why));
        }
        // With an older revision the tables refuse it, or know that it is the same call again.
        if entry.revision == state.revision {
            let shown = self.ask_copies(shard, entry, chosen, None, 0).await;
            let now = shown.state();
            if now != Some(state) {
                let why = "a copy is not where it was when it was shown, does not answer, or is broken: look again";
                return Err(Failure::no(Reason::NotAllowed, why));
            }
        }
        let command = Command::ForcePromotion {
            shard,
            revision: state.revision,
            forced: Forced {
                copy: chosen,
                least: state.least,
                stopped,
            },
        };
        let left = end.saturating_duration_since(Instant::now());
        self.desk.done(asked.request_id, command, left).await?;
        self.promoted(shard, chosen, end).await
    }

    /// Waits a while for it; then who asks is told what it waits for.
    async fn promoted(
        &self,
        shard: ShardId,
        chosen: CopyId,
        end: Instant,
    ) -> Result<v1::ForcePromotionResponse, Failure> {
        let end = end
            .checked_sub(PROGRESS_LIMIT * 2)
            .unwrap_or_else(Instant::now);
        let end = end.min(Instant::now() + PROMOTED_LIMIT);
        // Up to and with the command: this manager may be behind the one that answered it.
        let left = end.saturating_duration_since(Instant::now());
        let view = self.desk.group.read(left).await;
        // The command is written, whatever becomes of this look.
        let view = view.map_err(|failure| Failure {
            applied: Applied::Unknown,
            ..failure
        })?;
        let mut revisions = view.revisions();
        loop {
            revisions.borrow_and_update();
            let entry = view.look(|tables| tables.shard(shard).cloned());
            let entry = entry.ok_or_else(|| {
                Failure::unknown(Reason::NotFound, "the shard was deleted meanwhile")
            })?;
            let under_way = entry.forcing().is_some_and(|forced| forced.copy == chosen);
            let promoted = !under_way && entry.primary.map(ProcessId::copy) == Some(chosen);
            if !under_way || timeout_at(end, revisions.changed()).await.is_err() {
                let waits_for = match promoted {
                    true => Vec::new(),
                    false => self.waits_for(shard, &entry).await,
                };
                return Ok(v1::ForcePromotionResponse {
                    promoted,
                    epoch: entry.epoch.0,
                    primary: primary(&entry),
                    waits_for,
                });
            }
        }
    }

    /// Whether a command under that id was carried out.
    fn ran(&self, id: Option<&v1::RequestId>) -> Result<bool, Failure> {
        let Some(id) = id else { return Ok(false) };
        let id = super::tables::request_id(id)?;
        let view = self.desk.group.stale()?;
        Ok(view.look(|tables| tables.was_carried_out(id)))
    }

    async fn row(
        &self,
        namespace: &str,
        index: u32,
        limit: Duration,
    ) -> Result<(ShardId, ShardEntry), Failure> {
        let view = self.desk.group.read(limit).await?;
        view.look(|tables| {
            let row = tables.namespace_by_name(namespace);
            let row = row.ok_or_else(|| unknown_namespace(namespace))?;
            let none = || Failure::no(Reason::NotFound, format!("there is no shard {index}"));
            let shard = row.shard(index).ok_or_else(none)?;
            let entry = tables.shard(shard).ok_or_else(none)?;
            Ok((shard, entry.clone()))
        })
    }

    /// The chosen copy first, then the others beside it.
    async fn ask_copies(
        &self,
        shard: ShardId,
        entry: ShardEntry,
        chosen: CopyId,
        after: Option<Pair>,
        limit: u32,
    ) -> Shown {
        let mut shown = Shown {
            shard,
            chosen,
            told: BTreeMap::new(),
            entry,
        };
        let own = self.ask_copy(shard, chosen, None, after, limit).await;
        let beside: Option<LogEnd> = own.as_ref().ok().map(|copy| copy.log.clone());
        shown.told.insert(chosen, own);
        let others: Vec<CopyId> = shown.entry.copies().filter(|c| *c != chosen).collect();
        let asking = others.iter().map(|copy| {
            let beside = beside.clone();
            async move {
                (
                    *copy,
                    self.ask_copy(shard, *copy, beside, after, limit).await,
                )
            }
        });
        let told = futures::future::join_all(asking).await;
        shown.told.extend(told);
        shown
    }

    async fn ask_copy(
        &self,
        shard: ShardId,
        copy: CopyId,
        beside: Option<LogEnd>,
        after: Option<Pair>,
        limit: u32,
    ) -> Result<DescribedCopy, String> {
        let view = self.desk.group.stale();
        let view = view.map_err(|failure| failure.message)?;
        let to = view.look(|tables| reachable(tables, copy))?;
        let request = DescribeRequest {
            to,
            shard,
            beside,
            after,
            limit,
        };
        let answer = self.desk.group.describe(&request, COPY_LIMIT).await?;
        answer
            .copy
            .ok_or_else(|| "it has no copy that can be read".to_string())
    }

    /// In words, as far as a leader tells it.
    async fn waits_for(&self, shard: ShardId, entry: &ShardEntry) -> Vec<String> {
        if entry.begun.is_none() {
            return Vec::new();
        }
        let question = DutyQuestion::Failover { shard };
        match self.desk.group.duty(question, PROGRESS_LIMIT).await {
            Ok(DutyAnswer::Failover(Some(progress))) => in_words(&progress, entry),
            _ => Vec::new(),
        }
    }
}

/// The copy of that node, which a person wants to be primary.
fn chosen(entry: &ShardEntry, node: u64) -> Result<CopyId, Failure> {
    let found = entry.full_copies().find(|copy| copy.node.0 == node);
    found.ok_or_else(|| {
        let joins = entry.joining.iter().any(|copy| copy.node.0 == node);
        let why = match joins {
            true => {
                "that node's copy joins: it may lack what all others have trimmed, and is never promoted"
            }
            false => "that node has no complete copy of the shard",
        };
        Failure::no(Reason::NotAllowed, why)
    })
}

/// A process of that node's copy; the tables judge whether it is the primary.
fn stopped(entry: &ShardEntry, node: u64, incarnation: u64) -> Result<ProcessId, Failure> {
    let copy = entry.copies().find(|copy| copy.node.0 == node);
    let copy = copy.ok_or_else(|| {
        let why =
            "the process that is said to be stopped is not of a node with a copy of the shard";
        Failure::no(Reason::NotAllowed, why)
    })?;
    Ok(ProcessId {
        node: copy.node,
        store: copy.store,
        incarnation: Incarnation(incarnation),
    })
}

/// The process to ask for that copy.
fn reachable(tables: &Tables, copy: CopyId) -> Result<ProcessId, String> {
    if tables.is_lost(copy) {
        return Err("a person declared its store lost".to_string());
    }
    let process = tables.process_of(copy);
    let process = process.ok_or("its node has another store now")?;
    let state = tables.node(copy.node).map(|node| node.state);
    match state {
        Some(NodeState::Down | NodeState::Removed) | None => Err("its node is down".to_string()),
        Some(_) => Ok(process),
    }
}

fn in_words(progress: &FailoverProgress, entry: &ShardEntry) -> Vec<String> {
    let list = |copies: &[CopyId]| {
        let nodes: Vec<String> = copies.iter().map(|copy| copy.node.to_string()).collect();
        nodes.join(", ")
    };
    let old = entry
        .primary
        .map_or_else(String::new, |p| format!("{}@{}", p.node, p.incarnation));
    let words = |awaited: &Awaited| match awaited {
        Awaited::TheTables => "the managers' tables take its beginning".to_string(),
        Awaited::OneOfTheCandidates(copies) => {
            format!(
                "one of the copies that may be promoted answers: nodes {}",
                list(copies)
            )
        }
        Awaited::Seal(copy) => format!(
            "the copy of node {} promises the new epoch, and is complete",
            copy.node
        ),
        Awaited::AsMuchAsShown { have, shown } => format!(
            "the chosen copy has {shown} again, as was shown; it has {have}: show it again and choose again"
        ),
        Awaited::OneOfTheWitnesses(copies) => format!(
            "one of the witnesses promises the new epoch (nodes {}), or the old primary {old} is reported as ended or said \
             to be stopped: until then it may have a lease from them",
            list(copies)
        ),
        Awaited::LeaseOfTheManagers { left } => format!(
            "the lease that the managers gave the old primary is over, in at most {} ms",
            left.as_millis()
        ),
    };
    progress.waits_for.iter().map(words).collect()
}
