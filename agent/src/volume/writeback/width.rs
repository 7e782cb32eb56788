//! How many things are asked of S3 side by side: more as long as it answers, half as many when it does not.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits, as many as S3 bears.
#[derive(Debug)]
pub(super) struct Width {
    permits: Arc<Semaphore>,
    most: usize,
    least: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many permits there are, once `owed` are gone.
    now: usize,
    /// Permits to be taken away as they come back.
    owed: usize,
    /// Successes since the last permit was added.
    answered: usize,
    /// So many come back that were taken before the last time it was narrowed.
    older: usize,
}

impl Width {
    /// Begins with `most`, and never has fewer than `least` of them.
    pub(super) fn new(least: usize, most: usize) -> Self {
        let state = Mutex::new(State { now: most, owed: 0, answered: 0, older: 0 });
        Self { permits: Arc::new(Semaphore::new(most)), most, least, state }
    }

    /// Waits for a permit; none when the volume ends.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Gives a permit back, and says what became of what it was for.
    pub(super) fn leave(&self, permit: OwnedSemaphorePermit, answered: bool) {
        let mut state = self.state.lock();
        match (answered, state.older) {
            (true, _) => self.widen(&mut state),
            (false, 0) => self.narrow(&mut state),
            // It failed together with the one that was counted.
            (false, _) => {}
        }
        state.older = state.older.saturating_sub(1);
        if state.owed > 0 {
            state.owed -= 1;
            permit.forget();
        }
    }

    /// A permit more after as many successes as there are permits.
    fn widen(&self, state: &mut State) {
        state.answered += 1;
        if state.answered >= state.now && state.now < self.most {
            state.answered = 0;
            state.now += 1;
            if state.owed > 0 {
                state.owed -= 1;
            } else {
                self.permits.add_permits(1);
            }
        }
    }

    /// Half as many.
    fn narrow(&self, state: &mut State) {
        let less = state.now - (state.now / 2).max(self.least).min(state.now);
        state.older = state.now + state.owed - self.permits.available_permits();
        state.answered = 0;
        state.now -= less;
        state.owed += less - self.permits.forget_permits(less);
    }

    #[cfg(test)]
    fn now(&self) -> usize {
        self.state.lock().now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(width: &Width, count: usize) -> Vec<OwnedSemaphorePermit> {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(width.enter().await.unwrap());
        }
        permits
    }

    #[tokio::test]
    async fn failures_halve_it_once_and_answers_bring_it_back() {
        let width = Width::new(2, 16);
        for permit in take(&width, 16).await {
            width.leave(permit, false);
        }
        assert_eq!((width.now(), width.permits.available_permits()), (8, 8));
        for _ in 0..10 {
            let permit = width.enter().await.unwrap();
            width.leave(permit, false);
        }
        assert_eq!((width.now(), width.permits.available_permits()), (2, 2));
        for _ in 0..300 {
            let permit = width.enter().await.unwrap();
            width.leave(permit, true);
        }
        assert_eq!((width.now(), width.permits.available_permits()), (16, 16));
    }
}
