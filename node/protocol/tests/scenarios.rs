//! The stories in `node/protocol/scenarios/`: commands and what the real replicas do upon them, as transcripts for people.
//!
//! One test a file. The replicas are the real ones, over the in-memory store; what is here only schedules, and writes down.
//! `docs/testing.md` has the commands. With `UNDERSTUDY_REWRITE=1` the expected parts are rewritten instead of compared.

mod scenarios {
    pub mod cast;
    pub mod command;
    pub mod machine;
    pub mod managers;
    pub mod network;
    pub mod script;
    pub mod show;
    pub mod trace;
    pub mod world;
}

use scenarios::{script::Script, world::World};
use std::path::{Path, PathBuf};

/// Cargo starts a test in its package's folder.
const FOLDER: &str = "scenarios";

macro_rules! stories {
    ($($name:ident)*) => {
        const STORIES: &[&str] = &[$(stringify!($name),)*];
        $(#[test] fn $name() { tell(stringify!($name)); })*
    };
}

stories! {
    a_lease_that_was_given_up_stays_so
    a_scrub_finds_what_a_copy_lost
    two_copies_agree_against_their_primary
    a_chain_of_failovers
    a_clean_hand_over
    a_copy_knows_how_old_it_is
    a_conflict_that_is_cut_off_comes_back_as_it_is
    a_copy_that_comes_back_is_not_taken_for_itself
    a_copy_that_was_left_out_for_a_while_subscribes_again
    a_copy_with_orphans_that_never_comes_back
    a_deleted_copy_keeps_its_promise
    a_client_that_ended_leaves_nothing
    a_failed_precondition_is_an_outcome
    a_failover_cuts_off_a_tail
    a_failover_while_orphans_go_back
    a_forced_promotion_keeps_what_was_acknowledged
    a_forced_promotion_passes_over_a_sealed_copy
    a_full_copy_goes_at_its_pace
    a_full_copy_is_interrupted_and_resumed
    a_promoted_copy_submits_its_own_orphans
    a_rebuilt_copy_keeps_its_orphans
    a_repeated_request_gets_the_first_answer
    a_restarted_primary_never_numbers_on
    a_secondary_takes_records_only_in_order
    a_session_read_waits_for_its_token
    a_session_that_saw_a_cut_off_tail_hears_forked
    a_write_streams_and_is_acknowledged
    an_expiry_that_was_cut_off_is_undone
    an_old_value_again_is_not_the_same_write
    an_orphan_leaves_the_orphan_log_once
    an_orphan_that_failed_comes_back_as_its_outcome
    an_orphan_of_a_forgotten_client_may_have_run
    an_orphan_that_read_what_changed_is_a_conflict
    an_orphan_that_the_client_repeated
    an_orphan_whose_object_changed_is_a_conflict
    an_undo_survives_a_crash
    in_sync_answers_when_every_member_has_it
    in_sync_commits_nothing_below_its_minimum
    in_sync_survives_its_primary
    orphans_are_applied_where_nothing_changed
    reads_see_the_disk_and_conditions_see_the_newest
    the_log_is_trimmed_by_age
    the_log_is_trimmed_by_need_and_size
    what_a_client_needs_no_more_is_forgotten_everywhere
    what_waits_at_a_copy_that_goes_is_sent_elsewhere
    the_request_id_alone_does_not_tell_the_last_writer
    two_old_primaries_with_different_tails
    without_a_lease_a_primary_answers_nothing
    witnesses_carry_a_primary_without_managers
    a_witness_waits_out_its_grace
    a_primary_without_a_lease_is_left
    a_witness_enters_when_it_is_demanded
    a_conflict_is_resolved_once
    a_resolution_that_was_cut_off_comes_back
    a_resolution_meets_another
    an_orphan_found_another_of_a_third_branch
    a_policy_holds_all_for_a_person
    a_discarded_record_that_is_cut_off
    a_policy_discards
    a_delta_brings_a_copy_up_that_missed_many_updates
    a_delta_carries_what_was_forgotten_and_what_conflicts
    a_delta_carries_what_was_decided
    a_delta_in_an_in_sync_shard
    a_delta_takes_back_what_was_not_committed
    a_delta_is_interrupted_and_resumed
    a_delta_leaves_a_candidate
    a_delta_over_a_damaged_copy_becomes_a_full_copy
    a_joining_copy_completes_while_others_write
    a_failover_in_the_middle_of_a_delta
    an_operation_is_run_again_at_each_copy
    an_object_is_forwarded_and_mends
    a_copy_that_is_rebuilt_gets_whole_records
    operations_in_an_in_sync_shard
}

#[test]
fn every_file_is_told() {
    let told: Vec<PathBuf> = STORIES.iter().map(|name| path_of(name)).collect();
    let mut untold: Vec<PathBuf> = std::fs::read_dir(FOLDER)
        .expect("the folder with the stories is there")
        .map(|entry| entry.expect("its entries can be read").path())
        .filter(|path| !told.contains(path))
        .collect();
    untold.sort();
    assert!(
        untold.is_empty(),
        "not in the list of stories of tests/scenarios.rs: {untold:?}"
    );
}

/// What running this text says; `None`: it is as it happens.
fn wrong_with(text: &str) -> Option<String> {
    let path = Path::new("a_story.txt");
    let told =
        Script::parse(text).and_then(|mut script| script.run(path, &mut World::new(), false));
    told.err()
}

#[test]
fn what_is_wrong_in_a_story_is_said_with_its_line() {
    let starts = "# A copy.\ncopies n1\n    n1 starts as process 1, at 0.0, promise 0\n";
    assert_eq!(wrong_with(starts), None);
    for (more, said) in [
        ("wait n1\n", ":4: wait n1\n    no command is called 'wait'"),
        ("tick n2\n", ":4: tick n2\n    there is no n2"),
        ("start n1 now\n", ":4: start n1 now\n    n1 runs"),
        (
            "network now\n",
            ":4: network now\n    'now' is not understood here",
        ),
        (
            "time 5 by=n1\n",
            ":4: time 5 by=n1\n    the option 'by=' is not understood here",
        ),
        (
            "persist n1\n",
            ":4: persist n1\n    n1 has nothing to persist",
        ),
        ("\n    n1 dies\n", ":5: this follows no command"),
        ("  n1 dies\n", ":4: what happens is indented by four spaces"),
        ("time 5\n    too much\n", ":4: time 5\n-    too much\n"),
        ("network\n", ":4: network\n+    nothing is under way\n"),
    ] {
        let wrong = wrong_with(&format!("{starts}{more}")).unwrap_or_default();
        assert!(wrong.starts_with(said), "{more:?} gives {wrong}");
    }
    assert!(wrong_with("copies n1\n").is_some_and(|wrong| wrong.contains("opens with a comment")));
}

fn path_of(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.txt"))
}

fn tell(name: &str) {
    choose_mutant();
    let path = path_of(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let wrong = |failure: String| format!("\n{}{failure}", path.display());
    let mut script = Script::parse(&text).unwrap_or_else(|failure| panic!("{}", wrong(failure)));
    let rewrite = std::env::var_os("UNDERSTUDY_REWRITE").is_some();
    let told = script.run(&path, &mut World::new(), rewrite);
    if rewrite && script.to_string() != text {
        std::fs::write(&path, script.to_string()).expect("the story can be rewritten");
    }
    told.unwrap_or_else(|failure| panic!("{}", wrong(failure)));
}

/// A mistake built in on purpose, to see which stories notice it.
#[cfg(feature = "mutants")]
fn choose_mutant() {
    if let Ok(name) = std::env::var("UNDERSTUDY_MUTANT") {
        understudy_protocol::mutant::choose(&name).expect("it names a mistake");
    }
}

#[cfg(not(feature = "mutants"))]
fn choose_mutant() {}
