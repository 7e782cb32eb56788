//! `ec2mpi stop`.

use super::connect::{Coordinator, Found, info};
use super::{OK, daemon};

pub(super) async fn run(coordinator: &Coordinator) -> anyhow::Result<u8> {
    match coordinator.dial().await? {
        Found::Nobody => eprintln!("no coordinator is running"),
        Found::Running(mut client) => {
            let pid = info(&mut client).await?.pid;
            daemon::stop(&mut client, pid).await?;
            eprintln!("the coordinator (pid {pid}) has ended; clusters and jobs go on");
        }
    }
    Ok(OK)
}
