//! One pipelined stream to one node: questions go out in batches, answers come back by tag.
//!
//! Nobody gathers on a timer: whenever the connection can take another message, it gets all that waits (`Outgoing`), so a
//! lone request goes at once and a crowd goes together. One task per stream reads the answers; none per request.
//! A pipe that broke is never mended: its questions fail, and the next one opens a new pipe.

use crate::error::Trouble;
use crate::server::{ObjectsStub, trouble_of};
use crate::settings::Settings;
use crate::slots::Slots;
use futures::Stream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use understudy_proto::failure::{Applied, Failure, Reason};
use understudy_proto::v1::{self, stream_answer, stream_item};

type SharedSlots = Arc<Mutex<Slots<stream_answer::Kind>>>;

/// A question on its way, with the bytes that it counts for.
#[derive(Debug)]
struct Queued {
    item: v1::StreamItem,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    queue: mpsc::UnboundedSender<Queued>,
    slots: SharedSlots,
}

impl Pipe {
    /// Opens a stream; the connection is made when the first question goes out.
    pub fn open(stub: ObjectsStub, settings: &Settings) -> Pipe {
        let (queue, waiting) = mpsc::unbounded_channel();
        let slots = SharedSlots::default();
        let outgoing = Outgoing {
            queue: waiting,
            held: None,
            slots: slots.clone(),
            batch_max: settings.batch_max,
            batch_bytes_max: settings.batch_bytes_max,
        };
        tokio::spawn(read_answers(stub, outgoing, slots.clone()));
        Pipe { queue, slots }
    }

    pub fn closed(&self) -> bool {
        lock(&self.slots).closed()
    }

    /// Asks, and waits for the answer until then.
    pub async fn ask(
        &self,
        kind: stream_item::Kind,
        bytes: usize,
        until: Instant,
    ) -> Result<stream_answer::Kind, Trouble> {
        let (sender, mut receiver) = oneshot::channel();
        let broken = || Trouble::NotSent("the stream is broken".to_string());
        let tag = lock(&self.slots).reserve(sender).map_err(|_| broken())?;
        let place = Place {
            slots: &self.slots,
            tag,
        };
        let item = v1::StreamItem {
            tag,
            kind: Some(kind),
        };
        // When the reader is gone the slot was failed or is about to be: the receiver tells.
        let _ = self.queue.send(Queued { item, bytes });
        match timeout_at(until, &mut receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Trouble::Lost("the stream broke".to_string())),
            Err(_) => place.out_of_time(receiver),
        }
    }
}

/// A caller's place in the slab; freed when the caller goes, answered or not.
struct Place<'a> {
    slots: &'a SharedSlots,
    tag: u64,
}

impl Place<'_> {
    fn out_of_time(
        self,
        mut receiver: oneshot::Receiver<Result<stream_answer::Kind, Trouble>>,
    ) -> Result<stream_answer::Kind, Trouble> {
        let slot = lock(self.slots).take(self.tag);
        match slot {
            Some((_, true)) => Err(Trouble::Lost("the attempt's time passed".to_string())),
            Some((_, false)) => Err(Trouble::NotSent("the attempt's time passed".to_string())),
            // Answered at the last moment.
            None => receiver
                .try_recv()
                .unwrap_or_else(|_| Err(Trouble::Lost("the attempt's time passed".to_string()))),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(self.slots).take(self.tag);
    }
}

/// What the connection pulls: each time, all that waits.
#[derive(Debug)]
struct Outgoing {
    queue: mpsc::UnboundedReceiver<Queued>,
    /// The question that did not fit into the last message.
    held: Option<Queued>,
    slots: SharedSlots,
    batch_max: usize,
    batch_bytes_max: usize,
}

impl Outgoing {
    /// Fills the batch. `Ready`: the queue has ended.
    fn gather(&mut self, cx: &mut Context<'_>, items: &mut Vec<v1::StreamItem>) -> Poll<()> {
        let mut bytes = 0;
        while items.len() < self.batch_max {
            let next = match self.held.take() {
                Some(held) => held,
                None => match self.queue.poll_recv(cx) {
                    Poll::Ready(Some(next)) => next,
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                },
            };
            bytes += next.bytes;
            if bytes > self.batch_bytes_max && !items.is_empty() {
                self.held = Some(next);
                return Poll::Pending;
            }
            // A caller that went away meanwhile is not asked for.
            if lock(&self.slots).mark_sent(next.item.tag) {
                items.push(next.item);
            }
        }
        Poll::Pending
    }
}

impl Stream for Outgoing {
    type Item = v1::StreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut items = Vec::new();
        let ended = self.gather(cx, &mut items).is_ready();
        if !items.is_empty() {
            return Poll::Ready(Some(v1::StreamRequest { items }));
        }
        if ended {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

/// The pipe's one task: reads answers until the stream ends, then fails what still waits.
async fn read_answers(mut stub: ObjectsStub, outgoing: Outgoing, slots: SharedSlots) {
    let why = match stub.execute_stream(outgoing).await {
        Ok(response) => deliver_all(response.into_inner(), &slots).await,
        Err(status) => trouble_of(&status).to_string(),
    };
    let waiting = lock(&slots).close();
    for (sender, sent) in waiting {
        let trouble = if sent {
            Trouble::Lost(why.clone())
        } else {
            Trouble::NotSent(why.clone())
        };
        // A caller that is gone needs no answer.
        let _ = sender.send(Err(trouble));
    }
}

/// Delivers until the stream ends; tells why it did.
async fn deliver_all(
    mut answers: tonic::Streaming<v1::StreamResponse>,
    slots: &SharedSlots,
) -> String {
    let mut ready = Vec::new();
    loop {
        let message = match answers.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return "the server ended the stream".to_string(),
            Err(status) => return trouble_of(&status).to_string(),
        };
        {
            let mut slots = lock(slots);
            for answer in message.answers {
                if let Some((sender, _)) = slots.take(answer.tag) {
                    ready.push((sender, answer.kind));
                }
            }
        }
        for (sender, kind) in ready.drain(..) {
            let _ = sender.send(read_answer(kind));
        }
    }
}

fn read_answer(kind: Option<stream_answer::Kind>) -> Result<stream_answer::Kind, Trouble> {
    match kind {
        Some(stream_answer::Kind::Failure(failure)) => Err(stream_failure(failure)),
        Some(answer) => Ok(answer),
        None => Err(Trouble::Lost("an answer of no kind".to_string())),
    }
}

/// A failure of one item: the same as a status with ErrorInfo. A reason that is none of ours tells nothing.
fn stream_failure(wire: v1::StreamFailure) -> Trouble {
    let Some(reason) = Reason::parse(&wire.reason) else {
        return Trouble::Lost(format!("{}: {}", wire.reason, wire.message));
    };
    let mut metadata: std::collections::BTreeMap<_, _> = wire.metadata.into_iter().collect();
    let applied = match metadata.remove("applied").as_deref() {
        Some("no") => Applied::No,
        _ => Applied::Unknown,
    };
    Trouble::Failure(Failure {
        reason,
        applied,
        message: wire.message,
        metadata,
    })
}

/// A slab is whole between any two of its calls, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
