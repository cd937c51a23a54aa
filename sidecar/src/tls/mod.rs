//! The tunnel's TLS: one type, [`Tls`], so that the way records are read and written can change without anyone noticing. rustls
//! makes the handshake, and afterwards a record layer of our own carries the bytes on pooled buffers, sealed from where they lie.
//! Measured against rustls' own buffered records it takes a third less CPU in bulk, and an
//! idle connection holds no buffer. Used by `path` and `proof`.
//!
//! What a record layer owes, and where it is paid: sequence numbers and usage limits (`cipher`), KeyUpdate both ways, alerts,
//! close_notify for each direction, and the ciphertext that the handshake left over (`stream`, `handshake`). RFC 8446 section 5.
mod cipher;
mod handshake;
mod stream;
mod tunnel;

use handshake::{Established, client, server};
use stream::Records;
pub use tunnel::{Framing, Proven, Tls, is_alert};

use std::cell::RefCell;

/// What is sent as a whole over the pooled framing: a record with the frame's header, four of the greatest size, a small one.
pub const WHOLE: usize = FIRST + 4 * cipher::LARGEST + LAST;
/// h2 puts a frame's header and the beginning of its content, this much together, into a write of their own.
const FIRST: usize = 1024;
const LAST: usize = 64;
/// One pooled buffer: the records of `WHOLE`.
pub const BUFFER: usize = cipher::sealed(FIRST) + 4 * cipher::sealed(cipher::LARGEST) + cipher::sealed(LAST);
/// Buffers that a thread keeps for reuse: 640 KiB. What is above goes back to the allocator (pools that kept all of theirs held
/// 45 MB).
const KEPT: usize = 10;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `BUFFER` bytes from the pool of this thread. Not zeroed: whoever takes it reads only what it wrote.
pub fn take_buffer() -> Box<[u8]> {
    let kept = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    kept.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

/// Gives a buffer back.
pub fn give_back(buffer: Box<[u8]>) {
    // A thread that is ending has no pool any more: then the allocator has it.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests;
