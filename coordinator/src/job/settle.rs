//! A node that is just mounting its volume again is waited for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cluster::{ClusterPhase, ClusterView, NodePhase};
use crate::error::Error;

/// How long a node with a session may take to mount its volume, when nothing can be done without it: a volume whose
/// process died is mounted again within seconds.
const MOUNT_WAIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// What `decide` makes of the cluster. A refusal counts only when no node is on its way back to being ready, or after
/// [`MOUNT_WAIT`].
pub async fn settled<T>(
    view: impl Fn() -> Result<ClusterView, Error>,
    decide: impl Fn(&ClusterView) -> Result<T, Error>,
) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        let view = view()?;
        match decide(&view) {
            Err(_) if is_mounting(&view) && begun.elapsed() < MOUNT_WAIT => sleep(PAUSE).await,
            decision => return decision,
        }
    }
}

fn is_mounting(view: &ClusterView) -> bool {
    view.phase == ClusterPhase::Ready && view.nodes.iter().any(|node| node.phase == NodePhase::Joined)
}
