//! Writes down what is known of one process, in order and off the threads that serve: a disk that hangs holds only this.

use super::state::{Saved, States};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A disk that takes longer is not waited for; it may still come to write it.
const LIMIT: Duration = Duration::from_secs(5);

type Written = oneshot::Sender<Result<(), String>>;

/// The handle of the task that writes. The task ends after the last write.
#[derive(Debug)]
pub struct Saver(mpsc::UnboundedSender<(Saved, Written)>);

impl Saver {
    pub fn start(states: States, name: String) -> Saver {
        // Starts are bounded by their pauses, and wishes by their queue: so few are written that none has to be refused.
        let (sender, inbox) = mpsc::unbounded_channel();
        tokio::spawn(write_all(states, name, inbox));
        Saver(sender)
    }

    /// Answered when it is on the disk.
    pub async fn save(&self, saved: Saved) -> Result<(), String> {
        let late = || "the disk does not answer".to_string();
        let written = timeout(LIMIT, self.note(saved)).await;
        written.map_err(|_| late())?.map_err(|_| late())?
    }

    /// The same for whoever does not wait.
    pub fn note(&self, saved: Saved) -> oneshot::Receiver<Result<(), String>> {
        let (written, answer) = oneshot::channel();
        // The task lives as long as this handle.
        let _ = self.0.send((saved, written));
        answer
    }
}

async fn write_all(
    states: States,
    name: String,
    mut inbox: mpsc::UnboundedReceiver<(Saved, Written)>,
) {
    while let Some((mut saved, written)) = inbox.recv().await {
        let mut waiting = vec![written];
        // Only the newest matters.
        while let Ok((newer, written)) = inbox.try_recv() {
            saved = newer;
            waiting.push(written);
        }
        let (states, file) = (states.clone(), name.clone());
        let writing = tokio::task::spawn_blocking(move || states.write(&file, &saved));
        let result = match writing.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &result {
            tracing::error!(name, error, "its state cannot be written");
        }
        for written in waiting {
            let _ = written.send(result.clone());
        }
    }
}
