//! What the kernel does with a loaded BPF program on request (bpf(2)), as far as the loader has no call for it: hang it first at a
//! hook of an interface, for longer than the process lives; take it away; run it upon a frame.
//!
//! The hooks are those that the kernel asks before all filters of traffic control (tcx, Linux 6.6). A program that a link holds
//! there would go with its process; one that hangs there itself stays until it is taken away, as a filter does.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

pub use aya::programs::TcAttachType;

const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
/// Programs at one hook at most, as the kernel has it.
const AT_ONE_HOOK: usize = 64;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Before the one that is named; none is: before all.
const BPF_F_BEFORE: u32 = 1 << 3;
/// Frames are not only judged, but go where the program says.
const LIVE_FRAMES: u32 = 1 << 1;

/// The parts of `union bpf_attr` (linux/bpf.h) that are used here.
#[repr(C)]
#[derive(Default)]
struct Hang {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct Test {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

const _: () = assert!(size_of::<Hang>() == 32 && size_of::<Query>() == 64 && size_of::<Test>() == 80);

/// # Safety
/// Whatever `attribute` points to must live until the call returns, and have the lengths that it says.
unsafe fn call<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is as long as is said; the rest is the caller's.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

const fn hook(side: TcAttachType) -> u32 {
    match side {
        TcAttachType::Ingress => BPF_TCX_INGRESS,
        TcAttachType::Egress => BPF_TCX_EGRESS,
        // No such hook: the kernel refuses it.
        TcAttachType::Custom(_) => u32::MAX,
    }
}

/// The numbers of the programs at the hook of an interface of the calling thread's namespace, in their order; none if there is no such
/// interface.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if the kernel has no such hooks, and whatever else it answers.
pub fn programs_at(ifindex: u32, side: TcAttachType) -> io::Result<Vec<u32>> {
    let mut numbers = [0_u32; AT_ONE_HOOK];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: hook(side),
        prog_ids: numbers.as_mut_ptr() as u64,
        count: u32::try_from(AT_ONE_HOOK).expect("few"),
        ..Query::default()
    };
    // SAFETY: there is room for as many numbers as the attribute says.
    match unsafe { call(BPF_PROG_QUERY, &mut query) } {
        Ok(_) => Ok(numbers.into_iter().take(query.count as usize).collect()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A program that the kernel has.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl From<OwnedFd> for Program {
    /// `fd` is one's.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Program {
    /// The one of this number.
    ///
    /// # Errors
    /// If there is none, or privilege is missing.
    pub fn of(number: u32) -> io::Result<Self> {
        // The number, where to go on, flags.
        let mut attribute = [number, 0, 0];
        // SAFETY: it points to nothing.
        let fd = unsafe { call(BPF_PROG_GET_FD_BY_ID, &mut attribute) }?;
        // SAFETY: the kernel has just made it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }))
    }

    fn fd(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }

    /// Hangs it before all others at the hook of an interface of the calling thread's namespace, where it stays until it is taken
    /// away, or the interface goes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the kernel has no such hooks, and whatever else it answers.
    pub fn put_first(&self, ifindex: u32, side: TcAttachType) -> io::Result<()> {
        self.hang(BPF_PROG_ATTACH, ifindex, side, BPF_F_BEFORE)
    }

    /// Takes it away from there.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it does not hang there, and whatever else the kernel answers.
    pub fn take_away(&self, ifindex: u32, side: TcAttachType) -> io::Result<()> {
        self.hang(BPF_PROG_DETACH, ifindex, side, 0)
    }

    fn hang(&self, command: libc::c_int, ifindex: u32, side: TcAttachType, attach_flags: u32) -> io::Result<()> {
        let mut hang = Hang {
            target_ifindex: ifindex,
            attach_bpf_fd: self.fd(),
            attach_type: hook(side),
            attach_flags,
            ..Hang::default()
        };
        // SAFETY: it points to nothing.
        unsafe { call(command, &mut hang) }.map(|_| ())
    }

    /// What a classifier says of a frame that comes in by an interface, and makes of it; nothing is sent.
    ///
    /// # Errors
    /// If the kernel does not take the frame, or the program.
    pub fn judge(&self, ifindex: u32, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
        /// `struct __sk_buff`, of which nothing else is told.
        const CONTEXT: u32 = 192;
        const IFINDEX: usize = 40;
        let mut context = [0_u8; CONTEXT as usize];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let len = u32::try_from(frame.len()).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let mut out = vec![0_u8; frame.len()];
        let mut test = Test {
            prog_fd: self.fd(),
            data_size_in: len,
            data_size_out: len,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            ctx_size_in: CONTEXT,
            ctx_in: context.as_ptr() as u64,
            repeat: 1,
            ..Test::default()
        };
        // SAFETY: all buffers that it points to live here, and have the lengths that it says.
        unsafe { call(BPF_PROG_TEST_RUN, &mut test) }?;
        out.truncate(test.data_size_out as usize);
        Ok((test.retval, out))
    }

    /// Has the kernel call an XDP program for so many frames that come from an interface, and do what it says with each, so many at
    /// once; how long one took on average times their number: to prepare it is not in it.
    ///
    /// # Errors
    /// If the kernel does not take the frame, or the program.
    pub fn send(&self, ifindex: u32, frame: &[u8], (count, batch): (u32, u32)) -> io::Result<Duration> {
        /// `struct xdp_md`: where the frame begins, ends, and comes from.
        const CONTEXT: u32 = 24;
        let len = u32::try_from(frame.len()).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let context = [0, len, 0, ifindex, 0, 0];
        const { assert!(size_of::<[u32; 6]>() == CONTEXT as usize) };
        let mut test = Test {
            prog_fd: self.fd(),
            data_size_in: len,
            data_in: frame.as_ptr() as u64,
            repeat: count,
            ctx_size_in: CONTEXT,
            ctx_in: context.as_ptr() as u64,
            flags: LIVE_FRAMES,
            batch_size: batch,
            ..Test::default()
        };
        // SAFETY: both buffers that it points to live here; nothing is written but the attribute.
        unsafe { call(BPF_PROG_TEST_RUN, &mut test) }?;
        Ok(Duration::from_nanos(test.duration.into()) * count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_no_number_and_nothing_hangs_on_it() {
        assert!(Program::of(u32::MAX).is_err());
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            // A kernel without such hooks, or a caller without privilege, says so.
            if let Ok(programs) = programs_at(0x7fff_fff0, side) {
                assert_eq!(programs, []);
            }
        }
    }
}
