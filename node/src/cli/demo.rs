//! `understudy demo`: a failover under load, shown and checked.

use super::exit::{Ended, Exit, Trouble};

/// The flags of the demo.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args) -> Ended {
    let what = "the demo is not part of this build";
    Err(Trouble::new(
        Exit::Failed,
        what,
        "",
        "start a cluster with `understudy dev`",
    ))
}
