//! The way in to a node's shards: each shard lives on one thread, and everything for it goes into that thread's mailbox.
//!
//! Nothing here decides anything. A write that reached the mailbox is finished whatever becomes of the call.

use super::driver::{Command, Driver, Known, Outside};
use super::mailbox::Mailbox;
use super::responder::{ReadResponder, Responder};
use crate::clock;
use crate::storage::Writer;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};
use understudy_proto::failure::{Failure, Reason};
use understudy_proto::limits::SHARD_MAILBOX_MAX;
use understudy_proto::{NodeId, RequestId, Revision, ShardId};
use understudy_protocol::control::message::{Claim, HandOver};
use understudy_protocol::effect::{Assignment, Report, SealedCopy};
use understudy_protocol::request::Request;
use understudy_protocol::shard::message::Message;
use understudy_protocol::shard::{Freshness, LogView, ReadLevel, ScrubbedPage};
use understudy_protocol::store::StoreError;
use understudy_protocol::time::{Duration, Instant};

/// How much longer than the copies a page may take.
const SCRUB_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// The shard threads of one node.
pub struct ShardHost {
    lanes: Vec<Lane>,
}

struct Lane {
    mailbox: Arc<Mailbox<Command>>,
    /// When the thread last turned, on the node's clock in microseconds.
    turned: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What a reader of the log or of ranges needs to know of a copy.
#[derive(Clone, Debug)]
pub struct ShardView {
    pub log: LogView,
    pub report: Report,
}

/// Which read.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Answered or refused at once.
    Now(ReadLevel),
    /// Waits until the copy is fresh enough, no longer than this.
    Fresh(Freshness, Instant),
}

impl ShardHost {
    /// Starts the threads and opens every shard that the store holds.
    pub fn start(
        threads: usize,
        outside: Outside,
        writer: &Writer,
    ) -> Result<ShardHost, StoreError> {
        assert!(threads > 0, "a node has at least one shard thread");
        let present = outside.database.shards()?;
        let mut lanes = Vec::with_capacity(threads);
        for index in 0..threads {
            let mailbox = Arc::new(Mailbox::new());
            let turned = Arc::new(AtomicU64::new(0));
            let mut driver = Driver::new(outside.clone(), writer, mailbox.clone(), turned.clone());
            for shard in present
                .iter()
                .filter(|shard| lane_of(**shard, threads) == index)
            {
                driver.open(*shard)?;
            }
            let thread = std::thread::Builder::new()
                .name(format!("shards-{index}"))
                .spawn(move || driver.run())
                .map_err(|error| StoreError::Io(format!("cannot start a shard thread: {error}")))?;
            lanes.push(Lane {
                mailbox,
                turned,
                thread: Some(thread),
            });
        }
        Ok(ShardHost { lanes })
    }

    fn lane(&self, shard: ShardId) -> &Mailbox<Command> {
        &self.lanes[lane_of(shard, self.lanes.len())].mailbox
    }

    /// When the slowest of the threads last turned.
    pub fn last_turn(&self) -> Instant {
        Instant(
            self.lanes
                .iter()
                .map(|lane| lane.turned.load(Relaxed))
                .min()
                .unwrap_or(0),
        )
    }

    /// Hands a client's update over; the responder gets the answer. `site`: where it comes from, if that is to be counted.
    pub fn write(
        &self,
        shard: ShardId,
        request: Request,
        copies: u32,
        deadline: Instant,
        responder: Responder,
        site: Option<Box<str>>,
    ) {
        let command = Command::Write {
            shard,
            request,
            copies,
            deadline,
            responder,
            site,
        };
        if let Err(Command::Write { responder, .. }) =
            self.lane(shard).push_bounded(command, SHARD_MAILBOX_MAX)
        {
            responder.send(Err(overloaded()));
        }
    }

    pub fn read(&self, shard: ShardId, keys: Vec<Bytes>, wanted: Wanted, responder: ReadResponder) {
        let command = Command::Read {
            shard,
            keys,
            wanted,
            responder,
        };
        if let Err(Command::Read { responder, .. }) =
            self.lane(shard).push_bounded(command, SHARD_MAILBOX_MAX)
        {
            responder.send(Err(overloaded()));
        }
    }

    /// Checks that the copy may be read at that level, and tells where its log is.
    pub async fn view(&self, shard: ShardId, level: ReadLevel) -> Result<ShardView, Failure> {
        self.ask(shard, |reply| Command::View {
            shard,
            level,
            reply,
        })
        .await?
    }

    /// What the copy, whatever its role, durably knows of a request.
    pub async fn dedup(&self, shard: ShardId, id: RequestId) -> Result<Known, Failure> {
        self.ask(shard, |reply| Command::Dedup { shard, id, reply })
            .await?
    }

    /// Follows how far the copy's log is durable.
    pub async fn follow(&self, shard: ShardId) -> Result<watch::Receiver<LogView>, Failure> {
        self.ask(shard, |reply| Command::Follow { shard, reply })
            .await?
    }

    /// Compares a page of objects with those of the other copies; whoever did not answer in time was not compared.
    pub async fn scrub(
        &self,
        shard: ShardId,
        after: Option<Bytes>,
        bytes_max: usize,
        limit: std::time::Duration,
    ) -> Result<ScrubbedPage, Failure> {
        let (reply, answer) = oneshot::channel();
        let deadline = clock::now() + Duration(limit.as_micros() as u64);
        self.lane(shard).push(Command::Scrub {
            shard,
            after,
            bytes_max,
            deadline,
            reply,
        });
        let none = |_| {
            Failure::no(Reason::NotPrimary, "this node has no copy of the shard")
                .with("shard", shard.to_string())
        };
        // A little more than the copies have: a page that is never answered must not hold up those of other shards.
        let answer = tokio::time::timeout(limit + SCRUB_GRACE, answer).await;
        let late = |_| {
            Failure::no(
                Reason::DeadlinePassed,
                "the shard's thread did not compare in time",
            )
        };
        answer.map_err(late)?.map_err(none)?
    }

    /// What every copy here says of itself.
    pub async fn reports(&self) -> Vec<(ShardId, Report)> {
        let mut all = Vec::new();
        for lane in &self.lanes {
            let (reply, answer) = oneshot::channel();
            lane.mailbox.push(Command::Reports { reply });
            all.extend(answer.await.unwrap_or_default());
        }
        all.sort_by_key(|(shard, _)| *shard);
        all
    }

    pub fn assign(&self, shard: ShardId, row: Assignment) {
        self.lane(shard).push(Command::Assign { shard, row });
    }

    pub fn delete(&self, shard: ShardId, revision: Revision) {
        self.lane(shard).push(Command::Delete { shard, revision });
    }

    pub fn deliver(&self, shard: ShardId, from: NodeId, message: Message) {
        // A full mailbox loses messages, as a network does; whoever waits asks again.
        let _ = self.lane(shard).push_bounded(
            Command::Message {
                shard,
                from,
                message,
            },
            SHARD_MAILBOX_MAX,
        );
    }

    /// `None`: the node has no such copy.
    pub async fn seal(&self, wanted: Claim, grace: Option<Duration>) -> Option<SealedCopy> {
        self.ask(wanted.shard, |reply| Command::Seal {
            wanted,
            grace,
            reply,
        })
        .await
        .ok()
    }

    /// `None`: this process is not meant, or not any more.
    pub async fn hand_over(&self, wanted: HandOver, give_up_at: Instant) -> Option<SealedCopy> {
        self.ask(wanted.shard, |reply| Command::HandOver {
            wanted,
            give_up_at,
            reply,
        })
        .await
        .ok()
    }

    async fn ask<T>(
        &self,
        shard: ShardId,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.lane(shard).push(command(reply));
        answer
            .await
            .map_err(|_| Failure::unknown(Reason::Stopping, "this node is stopping; ask another"))
    }

    /// Ends the threads once everything that waits is handled.
    pub fn stop(&mut self) {
        for lane in &self.lanes {
            lane.mailbox.push(Command::Stop);
        }
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take() {
                // A panic there was already told by its own message.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for ShardHost {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lane_of(shard: ShardId, lanes: usize) -> usize {
    (shard.0 % lanes as u64) as usize
}

fn overloaded() -> Failure {
    Failure::no(
        Reason::Overloaded,
        "too many requests wait for this shard; ask again a little later",
    )
}
