//! Where a reconcile loop shows its cluster, and where users ring it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ec2mpi_proto::id::{ClusterId, ClusterName};
use tokio::sync::{Notify, watch};

use crate::cluster::{ClusterPhase, ClusterView, Proof};

/// One cluster's view and bell.
#[derive(Debug)]
pub(in crate::cluster) struct Board {
    name: ClusterName,
    id: ClusterId,
    view: watch::Sender<ClusterView>,
    bell: Notify,
    /// Raised with every new wish of the user: a pass that began before it must not show what was before it.
    generation: AtomicU64,
    destroy_news: AtomicBool,
}

impl Board {
    pub(super) fn new(view: ClusterView) -> Self {
        Self {
            name: view.spec.name.clone(),
            id: view.id.clone(),
            view: watch::Sender::new(view),
            bell: Notify::new(),
            generation: AtomicU64::new(0),
            destroy_news: AtomicBool::new(false),
        }
    }

    pub(in crate::cluster) fn name(&self) -> ClusterName {
        self.name.clone()
    }

    pub(in crate::cluster) fn id(&self) -> &ClusterId {
        &self.id
    }

    pub(in crate::cluster) fn view(&self) -> ClusterView {
        self.view.borrow().clone()
    }

    pub(in crate::cluster) fn subscribe(&self) -> watch::Receiver<ClusterView> {
        self.view.subscribe()
    }

    pub(in crate::cluster) fn wake(&self) {
        self.bell.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.bell.notified().await;
    }

    /// Shows the wish to destroy at once, so that nobody who watches from now on sees the cluster as ready.
    pub(in crate::cluster) fn announce_destroy(&self) -> ClusterView {
        self.view.send_modify(|view| {
            self.generation.fetch_add(1, Ordering::SeqCst);
            view.phase = ClusterPhase::Destroying { waiting_for: "the first look at its nodes".to_owned() };
            view.message = String::new();
        });
        self.destroy_news.store(true, Ordering::SeqCst);
        self.wake();
        self.view()
    }

    /// Whether a destroy was asked for (again) since the last call.
    pub(super) fn take_destroy_news(&self) -> bool {
        self.destroy_news.swap(false, Ordering::SeqCst)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Shows what a pass saw that began at `generation`.
    pub(super) fn publish(&self, generation: u64, new: ClusterView) {
        self.view.send_if_modified(|view| {
            let news = self.generation.load(Ordering::SeqCst) == generation && *view != new;
            if news {
                *view = new;
            }
            news
        });
    }

    /// Shows the end.
    pub(super) fn publish_end(&self, proof: Proof) {
        self.view.send_modify(|view| {
            self.generation.fetch_add(1, Ordering::SeqCst);
            view.message = String::new();
            view.phase = ClusterPhase::Destroyed { proof };
        });
    }
}
