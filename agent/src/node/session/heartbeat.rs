//! The volume's state on its way up: at once when it changes, else at every beat.

use std::path::Path;
use std::time::Duration;

use ec2mpi_proto::v1::volume_status::State;
use ec2mpi_proto::v1::{AgentMessage, Heartbeat, VolumeStatus, agent_message};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{Outgoing, message};
use crate::node::facts::{self, Phase};
use crate::node::paths::Paths;
use crate::volume::control;

/// How often a volume that is not mounted is looked at.
const IMPATIENCE: Duration = Duration::from_millis(100);
/// A third of what the coordinator waits for a sign of life, so that a volume that hangs does not silence its node.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// A volume that has never answered since the agent began so long ago has failed.
const STARTING_LIMIT: Duration = Duration::from_secs(60);
/// The end of the volume's log that is looked through for its last line, bytes.
const LOG_END: u64 = 2048;

/// Sends heartbeats until nobody takes them.
pub(super) async fn run(paths: Paths, beat: Duration, outgoing: Outgoing) {
    let began = Instant::now();
    let mut last: Option<(State, Instant)> = None;
    loop {
        let status = status(&paths, began.elapsed()).await;
        let state = status.state();
        if state == State::Mounted
            && let Err(error) = facts::reached(&paths, Phase::Mount)
        {
            warn!(error = format!("{error:#}"), "cannot note the mount");
        }
        if last.is_none_or(|(sent, at)| sent != state || at.elapsed() >= beat) {
            let heartbeat = Heartbeat { volume: Some(status) };
            if outgoing.send(message(agent_message::Message::Heartbeat(heartbeat))).await.is_err() {
                return;
            }
            last = Some((state, Instant::now()));
        }
        sleep(if state == State::Mounted { beat } else { IMPATIENCE.min(beat) }).await;
    }
}

/// The state as it is, out of turn. Only for a volume that has been mounted.
pub(super) async fn now(paths: &Paths) -> AgentMessage {
    let volume = Some(status(paths, STARTING_LIMIT).await);
    message(agent_message::Message::Heartbeat(Heartbeat { volume }))
}

async fn status(paths: &Paths, age: Duration) -> VolumeStatus {
    let answer = control::call(&paths.volume_socket(), &control::Request::Status, STATUS_LIMIT).await;
    let expected = facts::was_reached(paths, Phase::Mount) || age > STARTING_LIMIT;
    of_answer(answer, expected, || last_line(&paths.log("volume")))
}

/// `expected`: no answer means that the volume is gone, not that it is on its way. `complaint` is what it said last.
fn of_answer(
    answer: anyhow::Result<control::Answer>,
    expected: bool,
    complaint: impl FnOnce() -> Option<String>,
) -> VolumeStatus {
    match answer {
        Ok(answer) => VolumeStatus {
            state: if answer.ok { State::Mounted } else { State::Failed } as i32,
            dirty_files: answer.status.dirty_files,
            dirty_bytes: answer.status.dirty_bytes,
            failed_files: answer.status.failed_files,
            message: answer.error.unwrap_or_default(),
        },
        Err(error) => VolumeStatus {
            state: if expected { State::Failed } else { State::Starting } as i32,
            message: [Some(format!("{error:#}")), complaint()].into_iter().flatten().collect::<Vec<_>>().join("; "),
            ..VolumeStatus::default()
        },
    }
}

/// The last line of a log that says something.
fn last_line(path: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END))).ok()?;
    let mut end = Vec::new();
    file.take(LOG_END).read_to_end(&mut end).ok()?;
    String::from_utf8_lossy(&end).lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_silent_volume_is_starting_first_and_failed_when_it_should_be_there() {
        let silent = || Err(anyhow!("no volume answers"));
        assert_eq!(of_answer(silent(), false, || None).state(), State::Starting);
        let failed = of_answer(silent(), true, || Some("no such bucket".to_owned()));
        assert_eq!(failed.state(), State::Failed);
        assert_eq!(failed.message, "no volume answers; no such bucket");
    }

    #[test]
    fn an_answer_is_passed_on_with_its_numbers() {
        let status = control::Status { dirty_files: 3, dirty_bytes: 7, failed_files: 1, ..Default::default() };
        let mounted = of_answer(Ok(control::Answer::done(status.clone())), true, || None);
        assert_eq!((mounted.state(), mounted.dirty_files, mounted.failed_files), (State::Mounted, 3, 1));
        let failed = of_answer(Ok(control::Answer::failed("no space", status)), true, || None);
        assert_eq!((failed.state(), failed.message.as_str()), (State::Failed, "no space"));
    }

    #[test]
    fn the_last_line_is_that_of_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(last_line(&path), None);
        std::fs::write(&path, format!("{}\nerror: it broke\n\n", "x".repeat(5000))).unwrap();
        assert_eq!(last_line(&path).as_deref(), Some("error: it broke"));
    }
}
