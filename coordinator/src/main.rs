//! The executable `ec2mpi`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ec2mpi::cli::run()
}
