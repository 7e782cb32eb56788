//! Where an operation runs: at once on the thread that read its request as far as it need not wait, else in a task.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::runtime::Handle;

/// Most operations are answered from memory or from the cache file: a task for each would cost more than they do.
pub(super) fn start(tasks: &Handle, work: impl Future<Output = ()> + Send + 'static) {
    let _inside = tasks.enter();
    let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    let first = AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    match catch_unwind(first) {
        // Whoever woke it meanwhile missed nobody: a task begins with looking again.
        Ok(true) => drop(tasks.spawn(work)),
        Ok(false) => {}
        Err(_) => tracing::error!("an operation panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_goes_on_in_a_task() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (done, told) = std::sync::mpsc::channel();
        let (go, gate) = tokio::sync::oneshot::channel();
        let (quick, slow) = (done.clone(), done);
        start(runtime.handle(), async move { quick.send((1, std::thread::current().id())).unwrap() });
        assert_eq!(told.try_recv().unwrap(), (1, std::thread::current().id()));
        let work = async move {
            let () = gate.await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            slow.send((2, std::thread::current().id())).unwrap();
        };
        start(runtime.handle(), work);
        start(runtime.handle(), async { panic!("on purpose") });
        go.send(()).unwrap();
        let (number, thread) = told.recv().unwrap();
        assert!(number == 2 && thread != std::thread::current().id());
    }
}
