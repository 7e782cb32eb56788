//! GetConsoleOutput: the last 64 KiB of what a machine's boot printed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;

use super::answer::time;
use super::error::ApiError;
use super::params::Params;
use super::{Api, describe_instances};

const LIMIT: u64 = 64 * 1024;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    instance_id: String,
    timestamp: String,
    /// Base64.
    output: String,
}

pub(super) fn run(api: &Api, params: &Params) -> Result<Answer, ApiError> {
    let id = params.instance_id()?;
    // The local cloud's output is always the latest.
    params.boolean("Latest")?;
    describe_instances::by_id(api, std::slice::from_ref(&id))?;
    let output = tail(&api.fleet.layout().machine(&id).console())?;
    Ok(Answer { instance_id: id.to_string(), timestamp: time(Timestamp::now()), output: STANDARD.encode(output) })
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LIMIT)))?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
