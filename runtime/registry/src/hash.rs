//! Hashing on a second thread while the first one reads and writes.
//!
//! Buffers go round: filled by the caller, hashed by the thread, handed back empty. At most [`BUFFERS`] exist, so a slow hash makes
//! the caller wait and memory stays bounded. Small inputs never fill a buffer and are hashed in place, without a thread.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hasher};

/// Large enough that a system call is nothing beside the bytes it moves, small enough to stay in the second-level cache.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// One being filled, one being hashed, and two between them to even out hiccups of the disk.
const BUFFERS: usize = 4;

/// A hash that is fed whole buffers.
pub(crate) enum HashPipe {
    /// No full buffer yet, or no thread to be had.
    Inline(Hasher),
    /// The thread that hashes.
    Thread {
        filled: SyncSender<Vec<u8>>,
        emptied: Receiver<Vec<u8>>,
        made: usize,
        thread: JoinHandle<Hasher>,
    },
}

impl HashPipe {
    pub(crate) fn new() -> Self {
        HashPipe::Inline(Hasher::new())
    }

    /// Hashes the bytes of a full buffer and returns an empty one of the same kind.
    pub(crate) fn exchange(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        if let HashPipe::Inline(hasher) = self {
            match spawn(hasher.clone()) {
                Some(pipe) => *self = pipe,
                None => {
                    hasher.update(&buffer);
                    buffer.clear();
                    return buffer;
                }
            }
        }
        let HashPipe::Thread {
            filled, emptied, made, ..
        } = self
        else {
            return buffer;
        };
        // The thread ends only when `filled` is dropped, so it takes every buffer and gives each one back.
        filled
            .send(buffer)
            .expect("the hashing thread lives as long as the pipe");
        if *made < BUFFERS {
            *made += 1;
            return Vec::with_capacity(BUFFER_BYTES);
        }
        emptied.recv().expect("the hashing thread lives as long as the pipe")
    }

    /// Hashes the last bytes and returns the digest of all.
    pub(crate) fn finish(self, rest: &[u8]) -> Digest {
        let mut hasher = match self {
            HashPipe::Inline(hasher) => hasher,
            HashPipe::Thread { filled, thread, .. } => {
                drop(filled);
                thread.join().expect("hashing does not panic")
            }
        };
        hasher.update(rest);
        hasher.finish()
    }
}

fn spawn(mut hasher: Hasher) -> Option<HashPipe> {
    let (filled, to_hash) = sync_channel::<Vec<u8>>(BUFFERS);
    let (hand_back, emptied) = sync_channel(BUFFERS);
    let work = move || {
        for mut buffer in to_hash {
            hasher.update(&buffer);
            buffer.clear();
            // Nobody waits for a buffer any more once the caller is finishing.
            let _ = hand_back.send(buffer);
        }
        hasher
    };
    let thread = std::thread::Builder::new()
        .name("registry-hash".into())
        .spawn(work)
        .ok()?;
    Some(HashPipe::Thread {
        filled,
        emptied,
        made: 1,
        thread,
    })
}
