//! `understudy gen man`: the manual pages, one for each verb, made from the same words as `--help`.

use super::exit::{Ended, Exit, Trouble};
use super::output::print_raw;
use clap::Subcommand;
use std::path::{Path, PathBuf};

/// Make documents from this program.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The manual pages
    Man {
        /// Write one page for each verb into this folder; without it the main page goes to standard output
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

pub fn run(args: Args) -> Ended {
    let What::Man { dir } = args.what;
    match dir {
        Some(dir) => write_all(&dir)?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(super::command()).render(&mut page)?;
            print_raw(&page)?;
        }
    }
    Ok(Exit::Done)
}

fn write_all(dir: &Path) -> Result<(), Trouble> {
    let written =
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(super::command(), dir));
    written.map_err(|error| {
        let what = format!("the manual pages cannot be written to {}", dir.display());
        Trouble::new(
            Exit::Failed,
            what,
            error.to_string(),
            "name another folder with --dir",
        )
    })
}
