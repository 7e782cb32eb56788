//! Where a job stands, and the one function that moves it. No I/O, no clock.

use serde::{Deserialize, Serialize};

/// Exit code of a job that was cancelled: what a shell gives for SIGINT.
pub(super) const CANCELLED_CODE: i32 = 130;
/// Exit code of a job that did not come to an exit of its own.
pub(super) const NO_EXIT_CODE: i32 = 1;

/// Where a job stands. Written down before what it says is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// Opening barrier, hostfile, and the call that starts the program.
    Preparing,
    /// The node has confirmed the start.
    Running,
    /// Someone asked for its end. `started`: the node had confirmed the start before.
    Cancelling { started: bool },
    /// The program is over; leftovers are ended, the closing barrier runs.
    Finishing { ending: Ending },
    /// All is over. `not_in_s3`: the closing barrier failed, and why.
    Ended { ending: Ending, not_in_s3: Option<String> },
}

/// How a program came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "snake_case")]
pub enum Ending {
    /// By itself, or by a signal (128 + signal).
    Exited {
        code: i32,
    },
    /// It could not be started, or what ran it broke.
    Failed {
        why: String,
        code: i32,
    },
    Cancelled,
    /// Its node is gone.
    Lost {
        node: String,
    },
}

/// What moves a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Started,
    NotStarted {
        why: String,
    },
    Exited {
        code: i32,
    },
    /// Neither running nor exited by itself: the node says why.
    Broke {
        why: String,
        code: i32,
    },
    NodeGone {
        node: String,
    },
    CancelAsked,
    /// Every signal was sent and every process of the job ended, as far as nodes answer.
    Killed,
    /// Leftovers are ended and the closing barrier is over.
    Settled {
        not_in_s3: Option<String>,
    },
}

impl JobState {
    /// The state after an event. An event that means nothing in a state leaves it as it is.
    #[must_use]
    pub fn advance(self, event: Event) -> Self {
        use JobState::{Cancelling, Ended, Finishing, Preparing, Running};
        match (self, event) {
            (Preparing, Event::Started) => Running,
            (Preparing, Event::CancelAsked) => Cancelling { started: false },
            (Running, Event::CancelAsked) => Cancelling { started: true },
            (state @ (Preparing | Running), event) => match Ending::of(event) {
                Some(ending) => Finishing { ending },
                None => state,
            },
            (Cancelling { started: false }, Event::Killed) => Ended { ending: Ending::Cancelled, not_in_s3: None },
            (Cancelling { .. }, Event::NodeGone { node }) => Finishing { ending: Ending::Lost { node } },
            (Cancelling { .. }, Event::Exited { .. } | Event::Broke { .. } | Event::Killed) => {
                Finishing { ending: Ending::Cancelled }
            }
            (Finishing { ending }, Event::Settled { not_in_s3 }) => Ended { ending, not_in_s3 },
            (Finishing { ending }, Event::CancelAsked) => {
                Ended { ending, not_in_s3: Some("cancelled before every file was known to be in S3".into()) }
            }
            (state @ (Cancelling { .. } | Finishing { .. } | Ended { .. }), _) => state,
        }
    }

    /// Whether nothing more will happen.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }
}

impl Ending {
    fn of(event: Event) -> Option<Self> {
        match event {
            Event::Exited { code } => Some(Self::Exited { code }),
            Event::NotStarted { why } => Some(Self::Failed { why, code: NO_EXIT_CODE }),
            Event::Broke { why, code } => Some(Self::Failed { why, code }),
            Event::NodeGone { node } => Some(Self::Lost { node }),
            Event::Started | Event::CancelAsked | Event::Killed | Event::Settled { .. } => None,
        }
    }

    /// What a shell would see.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } | Self::Failed { code, .. } => *code,
            Self::Cancelled => CANCELLED_CODE,
            Self::Lost { .. } => NO_EXIT_CODE,
        }
    }

    /// Whether the program came to its own end with success, so that it left nothing behind.
    pub fn is_clean(&self) -> bool {
        *self == Self::Exited { code: 0 }
    }

    /// What people should know beside the exit code; empty when there is nothing.
    pub fn message(&self) -> String {
        match self {
            Self::Exited { .. } => String::new(),
            Self::Failed { why, .. } => why.clone(),
            Self::Cancelled => "cancelled".into(),
            Self::Lost { node } => format!("node {node} is gone, and the program with it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Vec<JobState> {
        let ending = Ending::Exited { code: 7 };
        vec![
            JobState::Preparing,
            JobState::Running,
            JobState::Cancelling { started: false },
            JobState::Cancelling { started: true },
            JobState::Finishing { ending: ending.clone() },
            JobState::Ended { ending, not_in_s3: None },
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Started,
            Event::NotStarted { why: "w".into() },
            Event::Exited { code: 0 },
            Event::Broke { why: "b".into(), code: 127 },
            Event::NodeGone { node: "demo-0".into() },
            Event::CancelAsked,
            Event::Killed,
            Event::Settled { not_in_s3: None },
        ]
    }

    fn short(state: &JobState) -> &'static str {
        match state {
            JobState::Preparing => "prepare",
            JobState::Running => "run",
            JobState::Cancelling { started: false } => "cancel-early",
            JobState::Cancelling { started: true } => "cancel",
            JobState::Finishing { ending: Ending::Cancelled } => "finish-cancelled",
            JobState::Finishing { ending: Ending::Lost { .. } } => "finish-lost",
            JobState::Finishing { ending: Ending::Failed { .. } } => "finish-failed",
            JobState::Finishing { .. } => "finish",
            JobState::Ended { ending: Ending::Cancelled, .. } => "ended-cancelled",
            JobState::Ended { not_in_s3: Some(_), .. } => "ended-unsettled",
            JobState::Ended { .. } => "ended",
        }
    }

    #[test]
    fn every_state_and_event() {
        // Columns: Started NotStarted Exited Broke NodeGone CancelAsked Killed Settled
        let table: [(&str, [&str; 8]); 6] = [
            (
                "prepare",
                [
                    "run",
                    "finish-failed",
                    "finish",
                    "finish-failed",
                    "finish-lost",
                    "cancel-early",
                    "prepare",
                    "prepare",
                ],
            ),
            ("run", ["run", "finish-failed", "finish", "finish-failed", "finish-lost", "cancel", "run", "run"]),
            (
                "cancel-early",
                [
                    "cancel-early",
                    "cancel-early",
                    "finish-cancelled",
                    "finish-cancelled",
                    "finish-lost",
                    "cancel-early",
                    "ended-cancelled",
                    "cancel-early",
                ],
            ),
            (
                "cancel",
                [
                    "cancel",
                    "cancel",
                    "finish-cancelled",
                    "finish-cancelled",
                    "finish-lost",
                    "cancel",
                    "finish-cancelled",
                    "cancel",
                ],
            ),
            ("finish", ["finish", "finish", "finish", "finish", "finish", "ended-unsettled", "finish", "ended"]),
            ("ended", ["ended"; 8]),
        ];
        for (state, (name, row)) in states().into_iter().zip(table) {
            assert_eq!(short(&state), name);
            for (event, expected) in events().into_iter().zip(row) {
                let after = state.clone().advance(event.clone());
                assert_eq!(short(&after), expected, "{state:?} + {event:?}");
            }
        }
    }

    #[test]
    fn the_ending_is_kept_to_the_end() {
        let ending = Ending::Exited { code: 7 };
        let after = JobState::Running
            .advance(Event::Exited { code: 7 })
            .advance(Event::Settled { not_in_s3: Some("demo-2: away".into()) });
        assert_eq!(after, JobState::Ended { ending: ending.clone(), not_in_s3: Some("demo-2: away".into()) });
        assert_eq!(ending.exit_code(), 7);
    }

    #[test]
    fn states_survive_storage() {
        for state in states() {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<JobState>(&text).unwrap(), state, "{text}");
        }
    }
}
