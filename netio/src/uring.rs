//! One io_uring with a ring of provided buffers: the memory and the requests that are shared with the kernel. Hot path.
//! Every request that names memory names a buffer of the one pool in here, and all of them are cancelled before the pool is
//! unmapped. What frames mean, and which are sent, is `packet`'s business; used by it only.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::frame::{BUFFER_LEN, BufferId, FramePool};

/// What the kernel finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A frame of `len` bytes, virtio header included, arrived on socket `socket` in `buffer`, which is ours now. Unless
    /// `armed`, it was the last one, and receiving has to be armed again.
    Received { socket: u8, buffer: BufferId, len: u32, armed: bool },
    /// Receiving on `socket` ended, with this errno; it has to be armed again.
    ReceiveEnded { socket: u8, errno: i32 },
    /// The send from `buffer` ended, with 0 or an errno; the buffer is ours again.
    Sent { socket: u8, buffer: BufferId, errno: i32 },
    /// The doorbell's descriptor became readable; it has to be armed again.
    Rung,
}

/// The ring. Belongs to the thread that created it.
pub struct Uring {
    ring: IoUring,
    offered: BufferRing,
    pool: FramePool,
    /// Which buffers the kernel may write to or read from at this moment.
    lent: Vec<bool>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("buffers", &self.pool.buffers()).finish_non_exhaustive()
    }
}

/// The group that all receive requests take buffers from.
const GROUP: u16 = 0;

// user_data: kind in the top byte, socket in the next, buffer in the lowest 16 bits.
const KIND_RECEIVE: u8 = 1;
const KIND_SEND: u8 = 2;
const KIND_BELL: u8 = 3;

/// Completions without a buffer that may wait at a time: one per socket, the bell, and room.
const OTHER_COMPLETIONS: u32 = 64;

/// How often a full submission queue is submitted again when a signal interrupts that.
const SUBMIT_TRIES: u32 = 8;

fn user_data(kind: u8, socket: u8, buffer: BufferId) -> u64 {
    u64::from(kind) << 56 | u64::from(socket) << 48 | u64::from(buffer)
}

impl Uring {
    /// A ring over `sockets` (known by their place from now on) and a pool of `buffers` buffers, of which up to `offered`
    /// (a power of two up to 32768) may be offered for receiving at a time. `requests` is the size of the submission queue.
    ///
    /// # Errors
    /// When the kernel has no io_uring, it is switched off, or memory is exhausted.
    pub fn new(sockets: &[RawFd], buffers: BufferId, offered: u16, requests: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            // Each buffer is in at most one request; a few completions more say that receiving ended, or the bell.
            .setup_cqsize((requests + u32::from(buffers) + OTHER_COMPLETIONS).next_power_of_two())
            .setup_clamp()
            .build(requests)?;
        let pool = FramePool::new(buffers)?;
        let offered = BufferRing::new(offered)?;
        ring.submitter().register_files(sockets)?;
        // SAFETY: the buffer ring is page-aligned, has that many entries, and is unmapped after the ring is closed.
        unsafe { ring.submitter().register_buf_ring_with_flags(offered.address(), offered.entries, GROUP, 0)? };
        Ok(Self { ring, offered, pool, lent: vec![false; usize::from(buffers)] })
    }

    /// Offers a buffer for receiving. Visible to the kernel after `publish_offers`.
    pub fn offer(&mut self, buffer: BufferId) {
        self.lend(buffer);
        self.offered.push(self.pool.address(buffer), buffer);
    }

    /// Makes all buffers offered so far available.
    pub fn publish_offers(&mut self) {
        self.offered.publish();
    }

    /// Starts receiving on a socket, until `ReceiveEnded`.
    ///
    /// # Errors
    /// When the kernel refuses a submission to make room.
    pub fn arm_receive(&mut self, socket: u8) -> io::Result<()> {
        let request = opcode::RecvMulti::new(Fixed(u32::from(socket)), GROUP).build();
        // SAFETY: the buffers come from the registered ring, whose memory outlives the requests (see `drop`).
        unsafe { self.push(request.user_data(user_data(KIND_RECEIVE, socket, 0))) }
    }

    /// Watches a descriptor once, until `Rung`. The descriptor must stay open as long as this ring.
    ///
    /// # Errors
    /// As `arm_receive`.
    pub fn arm_bell(&mut self, bell: RawFd) -> io::Result<()> {
        let request = opcode::PollAdd::new(Fd(bell), u32::from(libc::POLLIN.cast_unsigned())).build();
        // SAFETY: the request names no memory.
        unsafe { self.push(request.user_data(user_data(KIND_BELL, 0, 0))) }
    }

    /// Queues the first `len` bytes of a buffer, virtio header first, for sending. It leaves at the next `submit` or `wait`.
    /// Never waits for room in the socket: EAGAIN comes back instead, so the order of frames is kept.
    ///
    /// # Errors
    /// As `arm_receive`; the buffer is then still ours.
    pub fn send(&mut self, socket: u8, buffer: BufferId, len: u32) -> io::Result<()> {
        assert!(usize::try_from(len).is_ok_and(|len| len <= BUFFER_LEN), "frame longer than its buffer");
        self.lend(buffer);
        let request = opcode::Send::new(Fixed(u32::from(socket)), self.pool.address(buffer), len)
            .flags(libc::MSG_DONTWAIT)
            .build()
            .user_data(user_data(KIND_SEND, socket, buffer));
        // SAFETY: `len` bytes from there lie in the buffer, which is lent until the completion and mapped until `drop`.
        let pushed = unsafe { self.push(request) };
        if pushed.is_err() {
            self.lent[usize::from(buffer)] = false;
        }
        pushed
    }

    /// Submits what is queued, without waiting.
    ///
    /// # Errors
    /// What the kernel refuses; interruption and a full completion queue are none.
    pub fn submit(&mut self) -> io::Result<()> {
        harmless(self.ring.submitter().submit().map(drop))
    }

    /// Submits what is queued and waits until something completes or `timeout` is over. Zero: only looks.
    ///
    /// # Errors
    /// As `submit`.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if timeout.is_zero() {
            return harmless(self.ring.submitter().submit_with_args(0, &SubmitArgs::new()).map(drop));
        }
        let timeout = Timespec::from(timeout);
        harmless(self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)).map(drop))
    }

    /// The next completion, if there is one.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            if let Some(completion) = self.understand(&entry) {
                return Some(completion);
            }
        }
    }

    /// The bytes of a buffer that is ours.
    ///
    /// # Panics
    /// If the buffer is lent to the kernel.
    pub fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        assert!(!self.lent[usize::from(buffer)], "the buffer is lent to the kernel");
        // SAFETY: not lent, as just checked: `lent` is set with every offer and send and cleared by its completion only.
        unsafe { self.pool.bytes_mut(buffer) }
    }

    fn understand(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let [kind, socket, .., b1, b0] = entry.user_data().to_be_bytes();
        let errno = if entry.result() < 0 { -entry.result() } else { 0 };
        match kind {
            KIND_RECEIVE => {
                if let (Some(buffer), Ok(len)) = (cqueue::buffer_select(entry.flags()), u32::try_from(entry.result())) {
                    self.take_back(buffer);
                    return Some(Completion::Received { socket, buffer, len, armed: cqueue::more(entry.flags()) });
                }
                Some(Completion::ReceiveEnded { socket, errno })
            }
            KIND_SEND => {
                let buffer = BufferId::from_be_bytes([b1, b0]);
                self.take_back(buffer);
                Some(Completion::Sent { socket, buffer, errno })
            }
            KIND_BELL => Some(Completion::Rung),
            _ => None,
        }
    }

    fn lend(&mut self, buffer: BufferId) {
        let lent = &mut self.lent[usize::from(buffer)];
        assert!(!*lent, "a buffer is lent once");
        *lent = true;
    }

    fn take_back(&mut self, buffer: BufferId) {
        let lent = &mut self.lent[usize::from(buffer)];
        assert!(*lent, "a buffer comes back once");
        *lent = false;
    }

    /// # Safety
    /// Memory that the request names must stay valid until its completion.
    unsafe fn push(&mut self, request: squeue::Entry) -> io::Result<()> {
        for _ in 0..SUBMIT_TRIES {
            // SAFETY: passed on to the caller.
            if unsafe { self.ring.submission().push(&request) }.is_ok() {
                return Ok(());
            }
            // Without SQPOLL this takes every entry, so there is room afterwards.
            self.submit()?;
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel must have let go of every buffer before the pool and the buffer ring are unmapped: closing the ring
        // alone ends requests some time later.
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let _ = self.ring.submitter().unregister_buf_ring(GROUP);
    }
}

/// What is no failure: an interrupted or timed-out wait; completions that have to be read first.
fn harmless(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) => {
            Ok(())
        }
        other => other,
    }
}

/// The ring in which buffers are offered to the kernel: entries of 16 bytes, the tail in the first one's last two.
#[derive(Debug)]
struct BufferRing {
    first: NonNull<BufRingEntry>,
    entries: u16,
    tail: u16,
}

impl BufferRing {
    fn new(entries: u16) -> io::Result<Self> {
        if !entries.is_power_of_two() || entries > 1 << 15 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer ring has 2^n ≤ 32768 entries"));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private mapping aliases nothing.
        let first =
            unsafe { mmap_anonymous(std::ptr::null_mut(), Self::bytes(entries), protection, MapFlags::PRIVATE) }?;
        Ok(Self { first: NonNull::new(first.cast()).expect("a mapping is never at address 0"), entries, tail: 0 })
    }

    const fn bytes(entries: u16) -> usize {
        entries as usize * size_of::<BufRingEntry>()
    }

    fn address(&self) -> u64 {
        u64::try_from(self.first.as_ptr().addr()).expect("addresses fit 64 bits")
    }

    fn push(&mut self, address: *mut u8, buffer: BufferId) {
        let index = usize::from(self.tail & (self.entries - 1));
        // SAFETY: `index` is below `entries`; the kernel does not read this entry before `publish`, since there are never
        // more buffers offered than entries (the pool lends each once and `packet` offers at most `entries`).
        let entry = unsafe { &mut *self.first.as_ptr().add(index) };
        entry.set_addr(u64::try_from(address.addr()).expect("addresses fit 64 bits"));
        entry.set_len(u32::try_from(BUFFER_LEN).expect("a buffer's length fits 32 bits"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the mapping is valid and starts with the first entry; the tail is a u16 that both sides access whole.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.first.as_ptr()).cast_mut()) };
        // Release: the kernel that sees the tail sees the entries.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; unregistered, or its io_uring closed, before (field order in `Uring`).
        let unmapped = unsafe { munmap(self.first.as_ptr().cast(), Self::bytes(self.entries)) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping");
    }
}
