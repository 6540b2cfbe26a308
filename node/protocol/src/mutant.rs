//! Named mistakes that can be built in on purpose (feature `mutants`), to prove that the checks catch them.
//!
//! Without the feature [`Mutant::on`] is a constant false and the mistakes are compiled away. The choice is made once,
//! before the first step of a process (`--mutant NAME` or `UNDERSTUDY_MUTANT`), and never changes after that.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One named mistake.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant { $($(#[$doc])* $name,)* }

        impl Mutant {
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            pub fn parse(text: &str) -> Option<Mutant> {
                match text { $($text => Some(Mutant::$name),)* _ => None }
            }
        }
    };
}

mutants! {
    /// A primary answers a write before its record is durable.
    AnswerBeforePersisting = "answer-before-persisting";
    /// A copy takes records of an older epoch than it promised.
    SkipEpochCheck = "skip-epoch-check";
    /// The batch of a write lacks its dedup entry.
    ForgetDedupEntry = "forget-dedup-entry";
    /// A restarted primary goes on numbering in its old epoch.
    NumberOnAfterRestart = "number-on-after-restart";
    /// The manager promotes the least advanced of the sealed copies.
    PromoteLeastAdvanced = "promote-least-advanced";
    /// A primary serves without looking at its lease.
    SkipLeaseCheck = "skip-lease-check";
    /// The manager grants leases for shards whose failover it has begun.
    DropLatch = "drop-latch";
    /// A secondary applies the records of a message without looking at their order.
    ApplyOutOfOrder = "apply-out-of-order";
    /// A full copy arrives without its dedup entries.
    LoseDedupInFullCopy = "lose-dedup-in-full-copy";
    /// A new leader promotes without waiting out the leases that its predecessor may have granted.
    NewLeaderDoesNotWait = "new-leader-does-not-wait";
    /// The returning copy drops its tail instead of moving it to the orphan log.
    DropOrphans = "drop-orphans";
    /// The tail of a returning copy is undone from the first record to the last.
    UndoInWrongOrder = "undo-in-wrong-order";
    /// A new primary serves before its epoch-start record is durable.
    ServeBeforeEpochStart = "serve-before-epoch-start";
    /// A new leader grants leases before it applied the first entry of its own term.
    GrantBeforeOwnTerm = "grant-before-own-term";
    /// A leader grants leases though no quorum acknowledged a recent append.
    GrantWithoutQuorum = "grant-without-quorum";
    /// A compare-and-set of the tables does not compare.
    SkipCompareAndSet = "skip-compare-and-set";
    /// An open cut closes though its stores did not come back.
    CloseCutsEarly = "close-cuts-early";
    /// A holder counts its lease from the answer, not from when it sent the heartbeat.
    CountLeaseFromAnswer = "count-lease-from-answer";
    /// An agent's report of a process that ended counts for the node's newest process, whichever it names.
    ExitReportOfAnotherIncarnation = "exit-report-of-another-incarnation";
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::sync::OnceLock;

    static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();

    /// Chooses the mistake for the rest of the process; the first choice holds.
    pub fn choose(mutant: Option<Mutant>) {
        let _ = CHOSEN.set(mutant);
    }

    pub(super) fn is(mutant: Mutant) -> bool {
        CHOSEN.get().copied().flatten() == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub use chosen::choose;

impl Mutant {
    /// Whether this build and this process make the mistake.
    #[cfg(feature = "mutants")]
    pub fn on(self) -> bool {
        chosen::is(self)
    }

    /// Whether this build and this process make the mistake.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn on(self) -> bool {
        let _ = self;
        false
    }
}
