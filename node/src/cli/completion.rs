//! `understudy completion`: the script that completes our commands in a shell.

use super::exit::{Ended, Exit};
use super::output::print_raw;
use clap_complete::Shell;

/// Print the completion script of a shell.
///
/// For bash: understudy completion bash > ~/.local/share/bash-completion/completions/understudy
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: Args) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "understudy", &mut script);
    print_raw(&script)?;
    Ok(Exit::Done)
}
