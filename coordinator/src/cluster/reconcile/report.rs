//! What is known of one node: the records, the registry, and the cloud when asked.

use std::time::Duration;

use ec2mpi_proto::id::InstanceId;

use super::{Board, load};
use crate::cluster::plan::Intent;
use crate::cluster::why::{self, Answers, Heard, NodeReport};
use crate::cluster::{Inner, host_name, now};
use crate::error::Error;
use crate::provider::{Instance, ProviderError};
use crate::state::NodeRecord;

/// What the cloud may take to answer somebody who waits.
const CLOUD_LIMIT: Duration = Duration::from_secs(15);

/// The report on a node, given by its index or its name.
pub(in crate::cluster) async fn report(inner: &Inner, board: &Board, node: &str) -> Result<NodeReport, Error> {
    let name = board.name();
    let intent = load(inner, board.id())?;
    let intent = intent.ok_or_else(|| Error::NotFound(format!("cluster {name} has been destroyed")))?;
    let record = find(&intent, node)?;
    let view = board.view().nodes.into_iter().find(|view| view.index == record.index);
    let view = view.ok_or_else(|| Error::Internal(format!("node {node} of {name} is in no view")))?;
    let (heard, answers) = (heard(inner, record), ask(inner, &intent, record).await);
    Ok(why::report(&intent, record, view, &heard, answers, now()))
}

fn find<'a>(intent: &'a Intent, node: &str) -> Result<&'a NodeRecord, Error> {
    let name = &intent.cluster.spec.name;
    let is_it = |record: &&NodeRecord| node == record.index.to_string() || node == host_name(name, record.index);
    let found = intent.nodes.iter().find(is_it);
    found.ok_or_else(|| {
        let last = intent.nodes.len().saturating_sub(1);
        Error::NotFound(format!("cluster {name} has no node {node:?}: say an index from 0 to {last}, or {name}-INDEX"))
    })
}

fn heard(inner: &Inner, node: &NodeRecord) -> Heard {
    let Some(instance) = &node.instance else { return Heard::default() };
    Heard {
        liveness: inner.registry.liveness(instance),
        silence: inner.registry.silence(instance),
        word: inner.registry.last_word(instance),
    }
}

async fn ask(inner: &Inner, intent: &Intent, node: &NodeRecord) -> Answers {
    let Some(instance) = &node.instance else {
        let never = ProviderError::Gone("it never had a machine".to_owned());
        return Answers { machine: Ok(None), console: Err(never) };
    };
    let listed = async {
        let all = inner.provider.describe(&intent.cluster.id).await?;
        Ok(all.into_iter().find(|listed: &Instance| listed.id == *instance))
    };
    let console = inner.provider.console_output(instance);
    let (machine, console) = tokio::join!(in_time(instance, listed), in_time(instance, console));
    Answers { machine, console }
}

async fn in_time<T>(
    instance: &InstanceId,
    call: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let late = || ProviderError::Unknown(format!("nothing about {instance} within {} s", CLOUD_LIMIT.as_secs()));
    tokio::time::timeout(CLOUD_LIMIT, call).await.unwrap_or_else(|_| Err(late()))
}
