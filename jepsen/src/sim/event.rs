//! What happens in the world, and what is sent in it.

use super::network::Place;
use bytes::Bytes;
use std::collections::BTreeSet;
use understudy_proto::failure::Failure;
use understudy_proto::{ClientId, Pair, RequestId, Revision, ShardId};
use understudy_protocol::control::message::{
    ExitReport, HandOverAnswer, HandOverRequest, HeartbeatAnswer, HeartbeatRequest, SealAnswer,
    SealRequest,
};
use understudy_protocol::effect::Answer;
use understudy_protocol::forwarded::Forwarded;
use understudy_protocol::request::Request;
use understudy_protocol::shard::message::Message;
use understudy_protocol::shard::{Freshness, ReadLevel};
use understudy_protocol::tables::{Answer as Told, Command, LaunchId, Refusal, ShardEntry};

/// One event of the queue.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Most events are deliveries: a box for each would cost more than it saves.
pub enum Event {
    Deliver {
        from: Place,
        to: Place,
        parcel: Box<Parcel>,
    },
    Node {
        node: usize,
        run: u64,
        what: NodeEvent,
    },
    /// The process starts (again) when nothing holds it down.
    StartNode {
        node: usize,
    },
    /// The managers' group takes a step: contact, elections, application.
    Raft,
    /// A proposal of that manager in that term may have found its quorum.
    Commit {
        manager: usize,
        term: u64,
    },
    ManagerTick {
        manager: usize,
        run: u64,
    },
    Client {
        client: usize,
        wake: Wake,
    },
    FaultBegins {
        fault: usize,
    },
    FaultEnds {
        fault: usize,
    },
    /// The agent of that machine tells the managers of a process that it saw end, and so many times more.
    AgentReports {
        node: usize,
        report: ExitReport,
        more: u32,
    },
    /// The person of that fault looks at its shard.
    Person {
        fault: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeEvent {
    Tick,
    /// The sync that takes so many batches is done.
    Synced {
        batches: usize,
    },
    /// The driver hears of it.
    Persisted {
        shard: ShardId,
        number: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    Next,
    Retry { call: u64 },
    TimedOut { call: u64 },
}

/// One message.
#[derive(Clone, Debug)]
pub enum Parcel {
    Shard {
        shard: ShardId,
        message: Message,
    },
    Heartbeat(HeartbeatRequest),
    HeartbeatAnswer(HeartbeatAnswer),
    Seal(SealRequest),
    SealAnswer(SealAnswer),
    HandOver(HandOverRequest),
    HandOverAnswer(HandOverAnswer),
    Exit(ExitReport),
    /// A command to the tables, under the caller's id.
    Propose {
        id: RequestId,
        command: Command,
    },
    Told {
        id: RequestId,
        answer: Result<Told, Refusal>,
    },
    NotLeading {
        id: RequestId,
    },
    /// What changed after the revision.
    Fetch {
        after: Revision,
    },
    /// What changed after one revision, up to another.
    Rows {
        after: Revision,
        revision: Revision,
        rows: Vec<(ShardId, ShardEntry)>,
        /// All clients whose sessions have ended, as of that revision.
        ended: BTreeSet<ClientId>,
    },
    Execute {
        call: u64,
        shard: ShardId,
        request: Request,
        copies: u32,
        patience_us: u64,
    },
    Read {
        call: u64,
        shard: ShardId,
        keys: Vec<Bytes>,
        level: ReadLevel,
        /// Instead of the level: what the copy must have, and how long the read may wait for it.
        freshness: Option<(Freshness, u64)>,
    },
    Answered {
        call: u64,
        answer: Result<Done, Failure>,
    },
    Locate {
        call: u64,
        shard: ShardId,
    },
    Located {
        call: u64,
        shard: ShardId,
        copies: Vec<usize>,
    },
    /// To a machine's agent: the process of that launch is to be started anew.
    Restart(LaunchId),
}

/// What a client's call came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    Written(Answer),
    Read { token: Pair, found: Vec<bool> },
}

impl Parcel {
    /// A few words for the trace: what it is, and the ids that it is judged by.
    pub fn brief(&self) -> String {
        match self {
            Parcel::Shard { shard, message } => format!("s{shard} {}", brief_message(message)),
            Parcel::Heartbeat(h) => {
                let (claims, asks) = (h.claims.count, &h.asks);
                format!("heartbeat {} claims {claims} asks {asks:?}", h.sequence)
            }
            Parcel::HeartbeatAnswer(a) => {
                format!("heartbeat answer {} {}", a.sequence, brief_outcome(a))
            }
            Parcel::Seal(seal) => format!("seal term {} {:?}", seal.term, seal.seals),
            Parcel::SealAnswer(answer) => format!("sealed {:?}", answer.seals),
            Parcel::HandOver(request) => format!("hand over {:?}", request.hand_overs),
            Parcel::HandOverAnswer(answer) => format!("handed over {:?}", answer.hand_overs),
            Parcel::Exit(exit) => format!("exit of {} {:?}", exit.launch.0, exit.process),
            Parcel::Restart(launch) => format!("restart {}", launch.0),
            Parcel::Propose { id, .. } => format!("propose {}", id.sequence),
            Parcel::Told { id, answer } => format!("told {} {:?}", id.sequence, answer.is_ok()),
            Parcel::NotLeading { id } => format!("not leading {}", id.sequence),
            Parcel::Fetch { after } => format!("fetch after {after}"),
            Parcel::Rows {
                after,
                revision,
                rows,
                ..
            } => format!("{} rows after {after} at {revision}", rows.len()),
            Parcel::Execute {
                call,
                shard,
                request,
                ..
            } => {
                format!("call {call} execute s{shard} #{}", request.id.sequence)
            }
            Parcel::Read {
                call,
                shard,
                level,
                freshness,
                ..
            } => match freshness {
                None => format!("call {call} read s{shard} {level:?}"),
                Some((freshness, _)) => format!("call {call} read s{shard} {freshness:?}"),
            },
            Parcel::Answered { call, answer } => match answer {
                Ok(Done::Written(a)) => {
                    let again = if a.duplicate { " again" } else { "" };
                    format!(
                        "call {call} done {}{again} copies {}",
                        a.pair, a.copies_durable
                    )
                }
                Ok(Done::Read { token, .. }) => format!("call {call} read at {token}"),
                Err(failure) => {
                    format!(
                        "call {call} {} applied {}",
                        failure.reason,
                        failure.applied.as_str()
                    )
                }
            },
            Parcel::Locate { call, shard } => format!("call {call} locate s{shard}"),
            Parcel::Located { call, copies, .. } => format!("call {call} located {copies:?}"),
        }
    }
}

fn brief_outcome(answer: &HeartbeatAnswer) -> String {
    use understudy_protocol::control::message::HeartbeatOutcome;
    match &answer.outcome {
        HeartbeatOutcome::Taken(taken) => format!("term {} {:?}", taken.term, taken.grants),
        HeartbeatOutcome::Refused(why) => format!("{why:?}"),
    }
}

fn brief_message(message: &Message) -> String {
    match message {
        Message::Scrub(s) => format!("scrub e{} page {} at {}", s.epoch, s.number, s.at),
        Message::Scrubbed(s) => {
            let entries = s.entries.len();
            format!(
                "scrubbed e{} page {} at {} same {} of {entries}",
                s.epoch, s.number, s.at, s.same
            )
        }
        Message::Subscribe(s) => {
            let (epoch, stream, position) = (s.epoch, s.stream & 0xffff, s.position);
            let whole = if s.whole { " whole" } else { "" };
            format!(
                "subscribe e{epoch} stream {stream} at {position} copying {:?}{whole}",
                s.copying
            )
        }
        Message::Branch(b) => {
            format!(
                "branch e{} stream {} cut {} {:?}",
                b.epoch,
                b.stream & 0xffff,
                b.cut,
                b.mode
            )
        }
        Message::Records(r) => {
            let form = |record: &Forwarded| match record {
                Forwarded::Record(_) => "",
                Forwarded::Operation(_) => " operation",
                Forwarded::WithObjects(..) => " with objects",
            };
            let records = r.records.iter();
            let sent = records.map(|record| format!("{}{}", record.pair(), form(record)));
            let sent: Vec<String> = sent.collect();
            format!(
                "records e{} stream {} [{}]",
                r.epoch,
                r.stream & 0xffff,
                sent.join(", ")
            )
        }
        Message::Ack(a) => format!(
            "ack e{} stream {} {}",
            a.epoch,
            a.stream & 0xffff,
            a.position
        ),
        Message::CopyChunk(c) => format!(
            "chunk e{} stream {} {:?} -> {:?} from {} at {}",
            c.epoch,
            c.stream & 0xffff,
            c.continues,
            c.then,
            c.from,
            c.at
        ),
        Message::Delta(d) => format!(
            "delta e{} stream {} {:?} -> {:?} since {} upto {} at {}, {} objects, {} entries",
            d.epoch,
            d.stream & 0xffff,
            d.continues,
            d.then,
            d.since,
            d.upto,
            d.at,
            d.objects.len(),
            d.dedup.len()
        ),
        Message::Pulse(p) => format!(
            "pulse e{} {} base {} echo {:?}",
            p.epoch,
            p.position,
            p.base,
            p.echo.map(|echo| echo.sent)
        ),
        Message::Reject(r) => format!("reject e{}", r.epoch),
        Message::Submit(s) => {
            let pairs: Vec<Pair> = s.orphans.iter().map(|o| o.record.pair).collect();
            format!("submit e{} {pairs:?}", s.epoch)
        }
        Message::Submitted(s) => {
            let fates = s
                .fates
                .iter()
                .map(|f| format!(" {} {:?} {}", f.pair, f.kind, f.stands));
            let fates: String = fates.collect();
            format!("submitted e{} everywhere {}{fates}", s.epoch, s.everywhere)
        }
    }
}
