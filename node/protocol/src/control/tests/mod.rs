//! Tests of the controllers: one by one per rule, and a random walk over a modelled cluster.

mod cuts;
mod forced;
mod node;
mod rules;
mod walk;
mod world;

/// The mistake that `UNDERSTUDY_MUTANT` names, in a build with the feature: each has to make some test fail.
pub(crate) fn choose_mutant() {
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("UNDERSTUDY_MUTANT") {
        crate::mutant::choose(&name).expect("it names a mistake");
    }
}
