//! The one binary, `understudy`: server roles, a cluster for trying out, and the client verbs.

use std::process::ExitCode;

fn main() -> ExitCode {
    understudy_node::cli::main()
}
