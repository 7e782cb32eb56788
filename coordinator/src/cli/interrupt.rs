//! Ctrl-C.

use std::future::pending;

use ec2mpi_proto::v1::{CancelJobRequest, Job};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::connect::{Coordinator, is_lost, told};

/// 128 + SIGINT, as a shell has it.
pub(super) const EXIT_CODE: u8 = 130;

/// Returns at the first Ctrl-C.
pub(super) async fn first() {
    next(&mut interrupts()).await;
}

/// The first Ctrl-C cancels the job, as soon as it is known; the second leaves it and ends this process. Runs until it
/// is dropped.
pub(super) async fn cancel_then_leave(coordinator: Coordinator, cluster: String, job: watch::Receiver<Option<String>>) {
    let mut interrupts = interrupts();
    next(&mut interrupts).await;
    tokio::select! {
        () = cancel(&coordinator, &cluster, job.clone()) => next(&mut interrupts).await,
        () = next(&mut interrupts) => {}
    }
    match &*job.borrow() {
        Some(job) => eprintln!("leaving job {job}: `ec2mpi logs {cluster} {job} -f` picks it up"),
        None => eprintln!("leaving before the job was confirmed: `ec2mpi jobs {cluster}` tells whether it runs"),
    }
    std::process::exit(EXIT_CODE.into());
}

/// Returns when the job is being cancelled; its end is heard by whoever follows it.
async fn cancel(coordinator: &Coordinator, cluster: &str, mut job: watch::Receiver<Option<String>>) {
    let Ok(id) = job.wait_for(Option::is_some).await.map(|id| id.clone().unwrap_or_default()) else { return };
    eprintln!("cancelling job {id} (Ctrl-C again leaves without waiting for its end)");
    if let Err(error) = cancel_job(coordinator, cluster, &id).await {
        eprintln!("error: cannot cancel job {id}: {error:#}");
    }
}

/// Asks for the end of a job; a lost connection is made anew and the question repeated, once.
pub(super) async fn cancel_job(coordinator: &Coordinator, cluster: &str, job: &str) -> anyhow::Result<Job> {
    let request = CancelJobRequest { cluster: cluster.to_owned(), job_id: job.to_owned() };
    let mut client = coordinator.connect().await?;
    let answer = match client.cancel_job(request.clone()).await {
        Err(status) if is_lost(&status) => coordinator.reconnect().await?.cancel_job(request).await,
        answer => answer,
    };
    Ok(answer.map_err(told)?.into_inner())
}

/// None where signals cannot be had: then Ctrl-C ends the process, as without us.
fn interrupts() -> Option<Signal> {
    signal(SignalKind::interrupt()).ok()
}

async fn next(interrupts: &mut Option<Signal>) {
    let heard = match interrupts {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        pending::<()>().await;
    }
}
