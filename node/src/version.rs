//! What this binary is: its version, and whether mistakes were built into it on purpose.

use understudy_protocol::mutant;

/// The version that a person is shown; a build that can make mistakes says so.
pub fn version() -> String {
    format!("{}{}", env!("CARGO_PKG_VERSION"), mutant::VERSION_SUFFIX)
}

/// Makes the mistake that `UNDERSTUDY_MUTANT` names, if any, for the rest of the process.
///
/// # Errors
/// There is no such mistake, or this build cannot make any.
pub fn choose_mistake() -> Result<(), String> {
    let name = std::env::var("UNDERSTUDY_MUTANT").unwrap_or_default();
    mutant::choose(&name)
}
