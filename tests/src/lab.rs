//! The S3 lab: a proxy in front of any S3 server on 127.0.0.1 that is as slow, as unreliable or as dead as it is told.
//!
//! It speaks HTTP/1.1 on both sides and knows nothing of S3 but the look of its errors. Headers go through as they are,
//! `Host` too, so that signatures hold; bodies are streamed, so that memory is flat. Each connection of a client has one
//! of its own to the server. What goes wrong is decided request by request by a seeded generator ([`faults`]); the
//! faults can be changed at any time.

mod exchange;
mod faults;
mod pace;
mod traffic;

pub use self::faults::{Counts, Faults, Outage};
pub use self::traffic::Traffic;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use self::exchange::Link;
use self::faults::Plan;

/// Enough for a proxy that only passes bytes on.
const THREADS: usize = 2;

/// A running proxy. Dropped, it is gone.
#[derive(Debug)]
pub struct Lab {
    address: SocketAddr,
    plan: Arc<Plan>,
    runtime: Option<Runtime>,
}

impl Lab {
    /// A proxy to `server` on a port of its own. The same seed gives the same faults to the same order of requests.
    ///
    /// # Errors
    ///
    /// When there is no port or no thread.
    pub fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), server, seed)
    }

    /// [`Lab::start`] at a given address.
    ///
    /// # Errors
    ///
    /// When the address is taken.
    pub fn start_at(listen: SocketAddr, server: SocketAddr, seed: u64) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("s3-lab").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(listen))?;
        let address = listener.local_addr()?;
        let plan = Arc::new(Plan::new(seed));
        runtime.spawn(accept(listener, server, Arc::clone(&plan)));
        Ok(Self { address, plan, runtime: Some(runtime) })
    }

    /// What an S3 client calls its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this goes wrong.
    pub fn set(&self, faults: Faults) {
        self.plan.set(faults);
    }

    /// Requests and bytes so far, by kind.
    pub fn traffic(&self) -> Traffic {
        self.plan.traffic.read()
    }

    /// What was passed on, and what went wrong so far.
    pub fn counts(&self) -> Counts {
        self.plan.counts()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, plan: Arc<Plan>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(serve(stream, server, Arc::clone(&plan)));
    }
}

async fn serve(stream: TcpStream, server: SocketAddr, plan: Arc<Plan>) {
    if let Ok(link) = Link::new(&stream, server, plan) {
        link.serve(stream).await;
    }
}
