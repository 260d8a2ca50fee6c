//! AF_PACKET sockets: raw frames of one interface and one EtherType, each behind its virtio header (PACKET_VNET_HDR), so
//! that 64 KB super-packets pass whole. Sending goes through the interface's clsact egress, where the guard stands (L5):
//! PACKET_QDISC_BYPASS stays off. One socket per EtherType, since one bound to all types would see frames before tc ingress
//! takes them, at a quarter of the throughput.
//!
//! Frames of a VLAN come in cut: the kernel takes the tag off before such a socket sees them, and no auxiliary data tells of it;
//! but it counts a frame whose VLAN no device takes as another host's, also if it was sent to this one or to all. Those to a
//! shard's virtual MAC look like others: the guard drops them on ingress. What a socket takes of its frames is said by
//! `socket_filter`. Used by `packet` only.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use words::Share;

use crate::link::Link;
use crate::socket_filter::program;

pub use crate::socket_filter::EtherType;

/// Kernel buffers of a socket, in bytes. The kernel counts the whole of each packet's memory, not only its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferLimits {
    /// Frames that wait for us; more are dropped by the kernel and counted.
    pub receive_bytes: u32,
    /// Frames that wait for the device; more are refused and counted.
    pub send_bytes: u32,
}

/// Frames that the kernel handed over and those that it dropped because the receive buffer was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// Delivered or dropped.
    pub packets: u64,
    /// Dropped.
    pub drops: u64,
}

/// One bound socket.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    ifindex: i32,
}

/// How long a MAC address in a membership request may be.
const ADDRESS_MAX: usize = 8;

impl PacketSocket {
    /// Opens a socket and binds it.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when the interface vanished.
    pub fn open(link: &Link, ether_type: EtherType, limits: BufferLimits) -> io::Result<Self> {
        Self::open_shared(link, ether_type, limits, Share::WHOLE)
    }

    /// The same for one of several workers: it takes what belongs to the worker's share.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_shared(link: &Link, ether_type: EtherType, limits: BufferLimits, share: Share) -> io::Result<Self> {
        // Protocol 0 receives nothing until `bind` names one, so no frame comes without its virtio header. Not
        // O_NONBLOCK: io_uring would then answer EAGAIN instead of waiting.
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let ifindex = i32::try_from(link.ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let socket = Self { fd, ifindex };
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        socket.set_filter(program(link.mac, ether_type, share))?;
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, limits.receive_bytes)?;
        socket.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, limits.send_bytes)?;
        socket.bind(ether_type)?;
        Ok(socket)
    }

    /// Lets the device accept frames for another unicast address, as long as this socket lives.
    ///
    /// # Errors
    /// When the device has no room or vanished.
    pub fn add_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &self.membership(libc::PACKET_MR_UNICAST, mac))
    }

    /// Takes an address back.
    ///
    /// # Errors
    /// When it was not added.
    pub fn remove_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_DROP_MEMBERSHIP, &self.membership(libc::PACKET_MR_UNICAST, mac))
    }

    /// Lets the device accept every frame, as long as this socket lives: for devices without a filter for several
    /// addresses.
    ///
    /// # Errors
    /// When the device vanished.
    pub fn set_promiscuous(&self) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &self.membership(libc::PACKET_MR_PROMISC, [0; 6]))
    }

    /// The kernel's counts **since the last call**.
    ///
    /// # Errors
    /// Never on an open packet socket.
    pub fn take_counts(&self) -> io::Result<KernelCounts> {
        let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = socklen::<libc::tpacket_stats>();
        // SAFETY: the option fills a tpacket_stats of `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(KernelCounts { packets: u64::from(counts.tp_packets), drops: u64::from(counts.tp_drops) })
    }

    /// How much of the memory for what waits to be received is in use, in percent.
    ///
    /// # Errors
    /// Never on an open socket.
    pub fn full_percent(&self) -> io::Result<u32> {
        // As include/uapi/linux/sock_diag.h has them: SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_RCVBUF, and seven others.
        let mut memory = [0_u32; 9];
        let mut len = socklen::<[u32; 9]>();
        // SAFETY: the option fills at most `len` octets of `memory`.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                memory.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let [in_use, room, ..] = memory.map(u64::from);
        Ok(u32::try_from(in_use * 100 / room.max(1)).unwrap_or(u32::MAX))
    }

    /// Whether the socket still hangs on the interface that it was bound to: one that was deleted takes its sockets along.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        // SAFETY: sockaddr_ll is plain old data, for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut len = socklen::<libc::sockaddr_ll>();
        // SAFETY: the call fills at most `len` bytes of `address`.
        let result = unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
        result == 0 && address.sll_ifindex == self.ifindex
    }

    /// The raw descriptor, for registration with io_uring.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn set_filter(&self, mut program: Vec<libc::sock_filter>) -> io::Result<()> {
        let len = u16::try_from(program.len()).expect("a short program");
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &libc::sock_fprog { len, filter: program.as_mut_ptr() })
    }

    fn bind(&self, ether_type: EtherType) -> io::Result<()> {
        // SAFETY: sockaddr_ll is plain old data, for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("AF_PACKET is 17");
        address.sll_protocol = ether_type.number().to_be();
        address.sll_ifindex = self.ifindex;
        // SAFETY: `address` is a sockaddr_ll of the length given.
        let result =
            unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_ll>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn membership(&self, kind: libc::c_int, mac: [u8; 6]) -> libc::packet_mreq {
        let mut address = [0; ADDRESS_MAX];
        address[..6].copy_from_slice(&mac);
        libc::packet_mreq {
            mr_ifindex: self.ifindex,
            mr_type: libc::c_ushort::try_from(kind).expect("membership kinds are small"),
            mr_alen: 6,
            mr_address: address,
        }
    }

    /// Beyond the system's limit with CAP_NET_ADMIN, else up to it.
    fn set_buffer(&self, forced: libc::c_int, limited: libc::c_int, bytes: u32) -> io::Result<()> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        self.set(libc::SOL_SOCKET, forced, &bytes).or_else(|_| self.set(libc::SOL_SOCKET, limited, &bytes))
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is readable for the length given; callers pair each option with its type.
        let result = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), socklen::<T>())
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("socket options are small")
}
