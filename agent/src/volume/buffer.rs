//! Memory for answers to large reads, used again: fresh memory would be cleared twice, by the kernel and by us, for
//! every answer.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// What is kept, however long nobody reads.
const KEPT: usize = 4;
/// The largest request of the kernel.
const LARGE: usize = 1 << 20;
/// Answers of less are cheap.
const SMALL: usize = 64 << 10;

/// Buffers that nobody uses now, each of [`LARGE`] bytes.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// Bytes of an answer.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Option<Arc<Buffers>>,
}

impl Buffers {
    /// So many bytes; what is in them is of no meaning.
    pub(crate) fn lend(self: &Arc<Self>, length: usize) -> Buffer {
        if !(SMALL..=LARGE).contains(&length) {
            return Buffer { bytes: vec![0; length], length, home: None };
        }
        let bytes = self.0.lock().pop().unwrap_or_else(|| vec![0; LARGE]);
        Buffer { bytes, length, home: Some(self.clone()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut kept = home.0.lock();
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_not_too_many_are_kept() {
        let buffers = Arc::new(Buffers::default());
        let lent: Vec<Buffer> = [0, 10, SMALL, LARGE, LARGE, LARGE, LARGE, LARGE, LARGE + 1]
            .into_iter()
            .map(|length| {
                let buffer = buffers.lend(length);
                assert_eq!(buffer.len(), length);
                buffer
            })
            .collect();
        drop(lent);
        assert_eq!(buffers.0.lock().len(), KEPT);
        let again = buffers.lend(SMALL);
        assert_eq!((again.len(), buffers.0.lock().len()), (SMALL, KEPT - 1));
    }
}
