//! `understudy bench`: a load generator.

use super::exit::{Ended, Exit, Trouble};

/// The flags of the load generator.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args) -> Ended {
    let what = "the load generator is not part of this build";
    Err(Trouble::new(Exit::Failed, what, "", "use a later build"))
}
