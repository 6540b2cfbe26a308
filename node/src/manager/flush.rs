//! The log's writer thread: one synced flush of the write-ahead log for all that wait for one.
//!
//! Whoever hands something in has already written it (unsynced), so a flush that begins afterwards covers it. Answers
//! go out in the order of arrival. After a failed flush nobody knows what the disk holds: every later one fails too.

use super::types::TypeConfig;
use openraft::storage::IOFlushed;
use rocksdb::DB;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What waits for a flush.
pub(super) enum Waiter {
    Append(IOFlushed<TypeConfig>),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn answer(self, result: io::Result<()>) {
        match self {
            Waiter::Append(flushed) => flushed.io_completed(result),
            // Nobody waits any more when the group is being stopped.
            Waiter::Vote(answer) => drop(answer.send(result)),
        }
    }
}

pub(super) struct Flusher {
    queue: Option<mpsc::Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(db: Arc<DB>) -> io::Result<Flusher> {
        let (queue, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("raft-log".to_string())
            .spawn(move || run(&db, &waiting))?;
        Ok(Flusher {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Hands in what is written and waits to be durable.
    pub(super) fn submit(&self, waiter: Waiter) {
        let queue = self.queue.as_ref().expect("the queue is there until drop");
        if let Err(mpsc::SendError(waiter)) = queue.send(waiter) {
            waiter.answer(Err(io::Error::other("the log's writer thread has ended")));
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already answered to all that waited, by the closed channel.
            let _ = thread.join();
        }
    }
}

fn run(db: &DB, waiting: &mpsc::Receiver<Waiter>) {
    let mut failed: Option<String> = None;
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Waiter> = std::iter::once(first).chain(waiting.try_iter()).collect();
        if failed.is_none() {
            failed = db.flush_wal(true).err().map(|error| error.to_string());
            if let Some(why) = &failed {
                tracing::error!(%why, "the manager's log could not be flushed: this manager stops");
            }
        }
        for waiter in batch {
            waiter.answer(match &failed {
                None => Ok(()),
                Some(why) => Err(io::Error::other(why.clone())),
            });
        }
    }
}
