//! The command line: one file a verb, one call, one print.

use std::process::ExitCode;

/// Parses the arguments of this process, does what they say, and gives the exit code.
pub fn run() -> ExitCode {
    todo!()
}
