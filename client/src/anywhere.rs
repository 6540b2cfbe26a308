//! Calls that several servers can answer: each is asked in turn, until one does or the deadline passes.
//!
//! For everything but the pipelined reads and writes: scans, watches, the request log, naming, the cluster. The same
//! ledger judges what came back, so the classes of errors are the same everywhere.

use crate::client::Shared;
use crate::error::{Error, Trouble};
use crate::retry::Ledger;
use crate::server::trouble_of;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Response, Status};
use understudy_proto::RequestId;
use understudy_proto::failure::{Failure, Reason};

/// What a second attempt may do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Idempotent {
    /// Nothing is changed.
    Read,
    /// The command bears this id and runs once.
    WithId(RequestId),
    /// A second run leaves what the first one made.
    Repeatable,
    /// A second run could do something else: an unknown outcome is told at once.
    Once,
}

#[derive(Debug)]
pub(crate) struct Call {
    servers: Vec<String>,
    deadline: Instant,
    kind: Idempotent,
    patient: bool,
}

impl Call {
    pub fn new(servers: Vec<String>, deadline: Instant, kind: Idempotent) -> Call {
        Call {
            servers,
            deadline,
            kind,
            patient: false,
        }
    }

    /// One attempt may take all the time.
    pub fn patient(mut self) -> Call {
        self.patient = true;
        self
    }

    /// When an attempt that begins now ends.
    fn attempt_until(&self, shared: &Shared) -> Instant {
        if self.patient {
            return self.deadline;
        }
        self.deadline
            .min(Instant::now() + shared.settings.attempt_timeout)
    }

    fn ledger(&self) -> Ledger {
        match self.kind {
            Idempotent::Read => Ledger::new(None, false),
            Idempotent::WithId(id) => Ledger::new(Some(id), true),
            Idempotent::Repeatable | Idempotent::Once => Ledger::new(None, true),
        }
    }
}

/// Asks server after server, round after round.
pub(crate) async fn call<T, F, R>(shared: &Arc<Shared>, call: Call, ask: F) -> Result<T, Error>
where
    F: Fn(Channel) -> R,
    R: Future<Output = Result<Response<T>, Status>>,
{
    let mut ledger = call.ledger();
    let mut rounds = 0;
    loop {
        if let Some(answer) = one_round(shared, &call, &mut ledger, &ask).await? {
            return Ok(answer);
        }
        let pause = Instant::now() + shared.settings.backoff.after(rounds, rand::random());
        rounds += 1;
        sleep_until(pause.min(call.deadline)).await;
        if Instant::now() >= call.deadline {
            return Err(ledger.give_up());
        }
    }
}

/// Asks each server once. `None`: nobody could answer, and a later round may do better.
async fn one_round<T, F, R>(
    shared: &Arc<Shared>,
    call: &Call,
    ledger: &mut Ledger,
    ask: &F,
) -> Result<Option<T>, Error>
where
    F: Fn(Channel) -> R,
    R: Future<Output = Result<Response<T>, Status>>,
{
    let mut turn: VecDeque<String> = call.servers.iter().cloned().collect();
    let mut asked: Vec<String> = Vec::new();
    let mut not_here = NotHere::default();
    while let Some(address) = turn.pop_front() {
        if Instant::now() >= call.deadline {
            return Err(ledger.give_up());
        }
        if asked.contains(&address) {
            continue;
        }
        let trouble = match attempt(shared, &address, call.attempt_until(shared), ask).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(trouble) => trouble,
        };
        asked.push(address);
        if let Some(leader) = leader(&trouble) {
            turn.push_front(leader);
        }
        if let Some(trouble) = not_here.set_aside(trouble)
            && let Some(error) = ledger.note(trouble)
        {
            return Err(error);
        }
        if matches!(call.kind, Idempotent::Once) && ledger.may_have_run() {
            return Err(ledger.give_up());
        }
    }
    match not_here.verdict().and_then(|trouble| ledger.note(trouble)) {
        Some(error) => Err(error),
        None => Ok(None),
    }
}

/// Refusals that another kind of server, or one that is less behind, may better.
#[derive(Default)]
struct NotHere {
    refusal: Option<Failure>,
    others: bool,
}

impl NotHere {
    /// Gives back what is no such refusal.
    fn set_aside(&mut self, trouble: Trouble) -> Option<Trouble> {
        match trouble {
            Trouble::Failure(failure)
                if matches!(
                    failure.reason,
                    Reason::Unimplemented | Reason::NamespaceUnknown
                ) =>
            {
                self.refusal = Some(failure);
                None
            }
            other => {
                self.others = true;
                Some(other)
            }
        }
    }

    /// Nobody knew better. That a server has no such call says nothing about those that could not be asked.
    fn verdict(self) -> Option<Trouble> {
        let refusal = self.refusal?;
        let final_word = !self.others || refusal.reason == Reason::NamespaceUnknown;
        final_word.then_some(Trouble::Failure(refusal))
    }
}

async fn attempt<T, F, R>(
    shared: &Arc<Shared>,
    address: &str,
    until: Instant,
    ask: &F,
) -> Result<T, Trouble>
where
    F: Fn(Channel) -> R,
    R: Future<Output = Result<Response<T>, Status>>,
{
    let server = shared.servers.at(address)?;
    match timeout_at(until, ask(server.channel())).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(trouble_of(&status)),
        Err(_) => Err(Trouble::Lost("the attempt's time passed".to_string())),
    }
}

/// Who can answer, when a refusal says so.
fn leader(trouble: &Trouble) -> Option<String> {
    let failure = trouble.failure()?;
    let follows = matches!(
        failure.reason,
        Reason::NotLeader | Reason::NotPrimary | Reason::StaleEpoch
    );
    let address = failure.metadata.get("address")?;
    (follows && !address.is_empty()).then(|| address.clone())
}
