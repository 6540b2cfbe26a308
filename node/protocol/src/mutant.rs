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
    /// A token counts as reached by its number alone, whatever branch it lies on.
    TokenByNumber = "token-by-number";
    /// A copy's age counts from when a pulse of the primary arrived.
    AgeFromAnswer = "age-from-answer";
    /// A primary without a lease answers bounded reads, and tells copies that they are fresh.
    BoundedWithoutLease = "bounded-without-lease";
    /// A session read is answered by any copy as it is.
    SessionIgnoresToken = "session-ignores-token";
    /// A copy counts as fresh before it has what the primary's answer stands for.
    AgeBeforeReached = "age-before-reached";
    /// The undo of a record leaves its dedup entry.
    UndoKeepsDedup = "undo-keeps-dedup";
    /// A copy submits its orphans from the last to the first.
    SubmitInUndoOrder = "submit-in-undo-order";
    /// An orphan is applied where the old values are as it found them, whoever wrote them.
    ApplyWithoutLastWriter = "apply-without-last-writer";
    /// A last writer under another pair counts as the one that an orphan found when its request id is the same.
    LastWriterByIdOnly = "last-writer-by-id-only";
    /// An orphan leaves the orphan log when it was judged, before the record with its outcome is durable.
    DropOrphanEarly = "drop-orphan-early";
    /// A primary commits though the in-sync set is smaller than its minimum.
    CommitBelowMinInSync = "commit-below-min-in-sync";
    /// What a copy holds by its own word counts as acknowledged, by the version alone, before its branch was looked at.
    AckOfAnotherStream = "ack-of-another-stream";
    /// A primary asks to add a copy to the in-sync set and demands its acknowledgements only when it is a member.
    AskBeforeDemand = "ask-before-demand";
    /// A read in an in_sync namespace sees what is not committed.
    VisibleBeforeCommit = "visible-before-commit";
    /// In an in_sync namespace every full copy may be promoted.
    PromoteNotInSync = "promote-not-in-sync";
    /// Records of earlier epochs commit without the epoch start of the new one.
    EarlierEpochCommitsAlone = "earlier-epoch-commits-alone";
    /// A copy keeps the dedup entries that an expiry record removes.
    EachCopyForgetsByItself = "each-copy-forgets-by-itself";
    /// An orphan without an entry counts as one that did not run, whatever was forgotten since the branches parted.
    AskIdNotPair = "ask-id-not-pair";
    /// A request at or below its client's floor runs when it has no entry.
    ForgetFloor = "forget-floor";
    /// A copy lets itself be sealed while what it answered to a beacon may still give a lease.
    SealWithoutGrace = "seal-without-grace";
    /// A copy that restarted does not wait for what an earlier process of it may have answered.
    GraceNotFromStart = "grace-not-from-start";
    /// A copy answers the beacons of an epoch below its promise.
    AnswerBeaconAfterPromise = "answer-beacon-after-promise";
    /// A primary takes an empty witness set for one that answered.
    EmptySetGivesLease = "empty-set-gives-lease";
    /// The manager removes the last witness by itself.
    RemoveLastWitness = "remove-last-witness";
    /// A primary asks to add a witness and demands its answers only when it is one.
    WitnessBeforeDemand = "witness-before-demand";
    /// A beacon that says that the primary has no lease counts like one that says that it has one.
    LeaselessBeaconResets = "leaseless-beacon-resets";
    /// A delta does not say what was deleted.
    DeltaKeepsDeleted = "delta-keeps-deleted";
    /// A delta does not say which dedup entries were forgotten.
    DeltaKeepsForgotten = "delta-keeps-forgotten";
    /// A delta is switched in before the records brought all of it to one point.
    SwitchDeltaEarly = "switch-delta-early";
    /// A copy gets a delta while it may still be promoted.
    DeltaToSecondary = "delta-to-secondary";
    /// An agent's report of a process that ended counts for the node's newest process, whichever it names.
    ExitReportOfAnotherIncarnation = "exit-report-of-another-incarnation";
    /// A process that told that its store failed goes on as primary while it has a lease.
    ActWithFailedStore = "act-with-failed-store";
    /// A forced promotion waits for no lease.
    ForcedSkipsLeases = "forced-skips-leases";
    /// A forced promotion opens the cut that any failover opens: none in an in_sync shard, without the sealed copies in a lazy one.
    ForcedCutsLikeOthers = "forced-cuts-like-others";
    /// The next failover forgets that one was forced.
    ForgetForced = "forget-forced";
    /// A copy of an in_sync shard drops what it undoes after a forced promotion, too.
    DropForcedOrphans = "drop-forced-orphans";
    /// The resolution of a conflict that was cut off is applied also where the conflict is there no more.
    ResolveWhatIsGone = "resolve-what-is-gone";
    /// The policy to discard leaves no record of what it discards.
    DiscardInSilence = "discard-in-silence";
    /// What could be applied is applied, whatever the namespace's policy says.
    ApplyWhatIsHeld = "apply-what-is-held";
    /// The primary goes to whatever site leads at the moment, however shortly, and however lately it came where it is.
    FollowABurst = "follow-a-burst";
    /// What was asked of the managers stays asked when its reason is gone.
    KeepAsking = "keep-asking";
    /// Full copies go as fast as they are asked for.
    CopyAtAnyPace = "copy-at-any-pace";
    /// An orphan that came to the same as what stands under its id counts as the same record.
    KinByOutcome = "kin-by-outcome";
    /// A copy is compared before its disk is where the primary's page was read.
    ScrubComparesEarly = "scrub-compares-early";
    /// What was written, or deleted, after the primary was read counts as different.
    ScrubTakesNewerForOther = "scrub-takes-newer-for-other";
    /// A copy takes what an operation comes to on its own objects without comparing the checksum.
    OperationUnchecked = "operation-unchecked";
    /// A copy runs an operation on what is durable, not on the newest state.
    OperationOnWhatIsDurable = "operation-on-what-is-durable";
    /// A copy keeps what a record comes to on its own object though the primary's was sent with it.
    ObjectNotTaken = "object-not-taken";
    /// A primary sends operations to copies that are rebuilt, too, and they run them on what is staged.
    OperationWhileRebuilding = "operation-while-rebuilding";
}

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// What a binary adds to its version, so that one that can make mistakes is never taken for one that cannot.
pub const VERSION_SUFFIX: &str = if cfg!(feature = "mutants") {
    " (built with mutants: never for use)"
} else {
    ""
};

impl Mutant {
    /// Those that no fault of the simulator leads to, because other rules keep it from there, or too seldom; stories
    /// (`node/protocol/scenarios`) and the tests of tables and controllers tell what they do.
    pub const BY_STORY: &'static [Mutant] = &[
        Mutant::AskIdNotPair,
        Mutant::KinByOutcome,
        Mutant::ForcedSkipsLeases,
        Mutant::ForgetForced,
        Mutant::ResolveWhatIsGone,
        Mutant::DropForcedOrphans,
        Mutant::FollowABurst,
        Mutant::CopyAtAnyPace,
        Mutant::KeepAsking,
        Mutant::DeltaToSecondary,
        // No disk of the simulator alters an object.
        Mutant::OperationUnchecked,
        Mutant::ObjectNotTaken,
    ];
}

/// Chooses the mistake of that name for the rest of the process; the first choice holds, an empty name is none.
///
/// # Errors
/// There is no such mistake, or this build cannot make any.
pub fn choose(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    let Some(mutant) = Mutant::parse(name) else {
        let names: Vec<&str> = Mutant::ALL.iter().map(|m| m.name()).collect();
        let names = names.join(", ");
        return Err(format!("there is no mutant '{name}'; there are {names}"));
    };
    #[cfg(feature = "mutants")]
    {
        let _ = CHOSEN.set(mutant);
        Ok(())
    }
    #[cfg(not(feature = "mutants"))]
    Err(format!(
        "this build cannot make the mistake {}: build it with --features mutants",
        mutant.name()
    ))
}

impl Mutant {
    /// Whether this build and this process make the mistake.
    #[cfg(feature = "mutants")]
    pub fn on(self) -> bool {
        CHOSEN.get() == Some(&self)
    }

    /// Whether this build and this process make the mistake.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn on(self) -> bool {
        let _ = self;
        false
    }
}
