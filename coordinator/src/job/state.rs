//! Where a job stands, and the one function that moves it. No I/O, no clock.

use serde::{Deserialize, Serialize};

/// Exit code of a job that was cancelled: what a shell gives for SIGINT.
pub(super) const CANCELLED_CODE: i32 = 130;
/// Exit code of a job that did not come to an exit of its own.
pub(super) const NO_EXIT_CODE: i32 = 1;
/// Exit code of a job that lost a node: EX_TEMPFAIL of sysexits.h, "try again later". The program is not to blame.
pub(super) const LOST_CODE: i32 = 75;

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
    /// A node that it needed is gone.
    Lost {
        node: String,
        #[serde(default)]
        why: String,
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
    /// A node that the program needs is lost.
    NodeLost {
        node: String,
        why: String,
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
            (Cancelling { .. }, Event::NodeLost { node, why }) => Finishing { ending: Ending::Lost { node, why } },
            (Cancelling { .. }, Event::Exited { .. } | Event::Broke { .. } | Event::Killed) => {
                Finishing { ending: Ending::Cancelled }
            }
            // A program mostly fails by itself when it misses a node, before the node is known to be lost.
            (Finishing { ending: Ending::Exited { code } }, Event::NodeLost { node, why }) if code != 0 => {
                Finishing { ending: Ending::Lost { node, why } }
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
            Event::NodeLost { node, why } => Some(Self::Lost { node, why }),
            Event::Started | Event::CancelAsked | Event::Killed | Event::Settled { .. } => None,
        }
    }

    /// What a shell would see.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } | Self::Failed { code, .. } => *code,
            Self::Cancelled => CANCELLED_CODE,
            Self::Lost { .. } => LOST_CODE,
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
            Self::Lost { node, why } if why.is_empty() => format!("node {node} is lost, and the program with it"),
            Self::Lost { node, why } => format!("node {node} is lost, and the program with it: {why}"),
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
            Event::NodeLost { node: "demo-0".into(), why: "it ended".into() },
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
        // Columns: Started NotStarted Exited Broke NodeLost CancelAsked Killed Settled
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
            ("finish", ["finish", "finish", "finish", "finish", "finish-lost", "ended-unsettled", "finish", "ended"]),
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
    fn a_good_end_stays_good_when_a_node_goes_afterwards() {
        let good = JobState::Finishing { ending: Ending::Exited { code: 0 } };
        let lost = Event::NodeLost { node: "demo-1".into(), why: "it ended".into() };
        assert_eq!(good.clone().advance(lost), good);
    }

    #[test]
    fn a_lost_job_has_a_code_of_its_own_and_names_node_and_reason() {
        let lost = Ending::Lost { node: "demo-1".into(), why: "its machine ended".into() };
        assert_eq!(lost.exit_code(), 75);
        assert_eq!(lost.message(), "node demo-1 is lost, and the program with it: its machine ended");
        let old: Ending = serde_json::from_str(r#"{"ending":"lost","node":"demo-1"}"#).unwrap();
        assert_eq!(old.message(), "node demo-1 is lost, and the program with it");
    }

    #[test]
    fn states_survive_storage() {
        for state in states() {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<JobState>(&text).unwrap(), state, "{text}");
        }
    }
}
