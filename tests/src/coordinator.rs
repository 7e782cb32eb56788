//! A coordinator that a test starts itself, to end it when it likes.

use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::outcome::{Outcome, Running};
use crate::site::Site;
use crate::wait::{seconds, until};

/// Where a coordinator kills itself when told so by `EC2MPI_FAILPOINT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailPoint {
    /// The launch is written down; the cloud has not been asked.
    LaunchBeforeCall,
    /// The cloud has answered; the answer is not stored.
    LaunchAfterCall,
    /// Half of the nodes have joined.
    JoinHalf,
}

impl FailPoint {
    fn name(self) -> &'static str {
        match self {
            Self::LaunchBeforeCall => "launch-before-call",
            Self::LaunchAfterCall => "launch-after-call",
            Self::JoinHalf => "join-half",
        }
    }
}

/// `ec2mpi serve` in the foreground. Killed when dropped.
#[derive(Debug)]
pub struct Coordinator {
    process: Running,
}

impl Coordinator {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(site: &Site, failpoint: Option<FailPoint>) -> Self {
        let mut command = site.command(&["serve"]);
        if let Some(point) = failpoint {
            command.env("EC2MPI_FAILPOINT", point.name());
        }
        let mut process = site.start_command(command);
        until(seconds(30), "the coordinator answers", || {
            assert!(process.is_running(), "the coordinator ended: {}", process.stderr());
            UnixStream::connect(site.socket()).ok()
        });
        Self { process }
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub fn kill(self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(seconds(10));
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        // The limit counts from the start.
        self.process.wait(seconds(120))
    }
}
