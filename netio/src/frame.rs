//! Frame buffers that the kernel writes into and reads from. Hot path. One mapping, cut into equal buffers, each able to
//! hold a whole 64 KiB GSO packet with its virtio header; untouched pages cost nothing. Never moves and never grows.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes of a buffer: virtio header (10), Ethernet (14), 65,535 of IPv4, rounded up to pages.
pub const BUFFER_LEN: usize = 69_632;
/// Of an Ethernet header without a tag.
pub(crate) const ETHERNET_LEN: usize = 14;

/// The number of a buffer in its pool.
pub type BufferId = u16;

/// The pool's memory.
#[derive(Debug)]
pub struct FramePool {
    first: NonNull<u8>,
    buffers: BufferId,
}

impl FramePool {
    /// Reserves `buffers` buffers.
    ///
    /// # Errors
    /// When address space or locked memory is exhausted.
    pub fn new(buffers: BufferId) -> io::Result<Self> {
        let len = usize::from(buffers.max(1)) * BUFFER_LEN;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private mapping aliases nothing.
        let first = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        Ok(Self { first: NonNull::new(first.cast()).expect("a mapping is never at address 0"), buffers })
    }

    /// How many buffers there are.
    #[must_use]
    pub fn buffers(&self) -> BufferId {
        self.buffers
    }

    /// Where a buffer is, for a request to the kernel.
    ///
    /// # Panics
    /// If there is no such buffer.
    #[must_use]
    pub fn address(&self, id: BufferId) -> *mut u8 {
        assert!(id < self.buffers, "buffer id out of range");
        // SAFETY: the offset lies within the mapping, whose size fits an isize.
        unsafe { self.first.as_ptr().add(usize::from(id) * BUFFER_LEN) }
    }

    /// A buffer's bytes.
    ///
    /// # Safety
    /// The kernel must not hold the buffer: it is neither offered for receiving nor part of a send under way.
    ///
    /// # Panics
    /// If there is no such buffer.
    pub unsafe fn bytes_mut(&mut self, id: BufferId) -> &mut [u8] {
        // SAFETY: mapped and initialised (the kernel zeroes pages); exclusive through `&mut self` and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.address(id), BUFFER_LEN) }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the owner has cancelled all requests that name a buffer.
        let unmapped = unsafe { munmap(self.first.as_ptr().cast(), usize::from(self.buffers.max(1)) * BUFFER_LEN) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_LEN, FramePool};

    #[test]
    fn buffers_do_not_overlap() {
        let mut pool = FramePool::new(3).expect("memory");
        for id in 0..3_u8 {
            // SAFETY: no kernel request names the buffers of this pool.
            unsafe { pool.bytes_mut(u16::from(id)) }.fill(id + 1);
        }
        for id in 0..3_u8 {
            // SAFETY: as above.
            let bytes = unsafe { pool.bytes_mut(u16::from(id)) };
            assert_eq!(bytes.len(), BUFFER_LEN);
            assert!(bytes.iter().all(|byte| *byte == id + 1));
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_buffer_outside_the_pool_is_refused() {
        let pool = FramePool::new(2).expect("memory");
        let _ = pool.address(2);
    }
}
