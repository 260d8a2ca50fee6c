//! The two sockets behind the peer port, and the kernel's choice between them: a datagram from the exact address of a listed
//! member comes to the members' socket, any other to the strangers'. So a stranger costs the thread of the members' links
//! nothing, however much it sends; who writes in a member's name is bounded behind the door (`sieve.rs`).
//!
//! Both are bound to one interface, so that other interfaces cannot reach the port at its address (RFC 1122, 3.3.4.2, weak
//! end system). Opened at the transport's start; never reads or sends.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Most addresses that the kernel's program compares; members beyond them come in by the strangers' door.
const LISTED_MAX: usize = 256;

/// The open sockets.
pub(super) struct Doors {
    pub(super) members: UdpSocket,
    pub(super) strangers: UdpSocket,
    pub(super) porter: Porter,
}

impl Doors {
    /// Opens both sockets at `listen`, with buffers of `buffer` bytes, on `interface` only if there is one.
    ///
    /// # Errors
    /// What the kernel says, above all if the address is in use, by a socket that shares its port too.
    pub(super) fn open(listen: SocketAddr, interface: Option<&str>, buffer: usize) -> io::Result<Self> {
        // Sockets that share a port would let any other of this user in: first it must be free for one that does not.
        let probe = socket(listen)?;
        rustix::net::bind(&probe, &listen)?;
        let address = UdpSocket::from(probe).local_addr()?;
        let open = || {
            let socket = socket(address)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            if let Some(name) = interface {
                // Before the binding: a change of device later would take the socket out of the group that shares the port.
                bind_to_device(&socket, name)?;
            }
            rustix::net::bind(&socket, &address)?;
            let socket = UdpSocket::from(socket);
            socket.set_nonblocking(true)?;
            if sockopt::set_socket_recv_buffer_size_force(&socket, buffer).is_err() {
                sockopt::set_socket_recv_buffer_size(&socket, buffer)?;
            }
            sockopt::set_socket_send_buffer_size(&socket, buffer)?;
            Ok::<_, io::Error>(socket)
        };
        // The program below counts sockets in the order of their binding.
        let (members, strangers) = (open()?, open()?);
        let porter = Porter { socket: members.as_fd().try_clone_to_owned()?, listed: Mutex::default() };
        porter.install(&[])?;
        Ok(Self { members, strangers, porter })
    }
}

fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Says which addresses are members'.
#[derive(Debug)]
pub(super) struct Porter {
    socket: OwnedFd,
    listed: Mutex<Vec<SocketAddr>>,
}

impl Porter {
    /// From now on datagrams of exactly these addresses come to the members' socket. Costs nothing if they are the same.
    pub(super) fn list(&self, mut addresses: Vec<SocketAddr>) -> io::Result<()> {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(LISTED_MAX);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if *listed != addresses {
            self.install(&addresses)?;
            *listed = addresses;
        }
        Ok(())
    }

    fn install(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        let mut program = program(addresses);
        let len = u16::try_from(program.len()).expect("LISTED_MAX addresses are some thousand instructions");
        let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
        set_option(&self.socket, libc::SO_ATTACH_REUSEPORT_CBPF, std::ptr::from_ref(&program), size_of_val(&program))
    }
}

/// A classic BPF program over a datagram's headers that says 0 for a listed sender, 1 for any other. The headers are found
/// from the network header; an IPv6 packet with extension headers is a stranger's.
fn program(addresses: &[SocketAddr]) -> Vec<libc::sock_filter> {
    const NET: u32 = 0xfff0_0000; // SKF_NET_OFF
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_BEHIND: u16 = 0x48; // at X
    const LOAD_WORD: u16 = 0x20;
    const HEADER_TO_X: u16 = 0xb1; // X = 4 × (octet & 15)
    const AND: u16 = 0x54;
    const IF_EQUAL: u16 = 0x15;
    const JUMP: u16 = 0x05;
    const RETURN: u16 = 0x06;
    let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let unless = |k, skip| libc::sock_filter { code: IF_EQUAL, jt: 0, jf: skip, k };
    let (mut four, mut six) = (vec![step(HEADER_TO_X, NET)], Vec::new());
    for address in addresses {
        let port = u32::from(address.port());
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => four.extend([
                step(LOAD_HALF_BEHIND, NET),
                unless(port, 3),
                step(LOAD_WORD, NET + 12),
                unless(u32::from(ip), 1),
                step(RETURN, 0),
            ]),
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                six.extend([step(LOAD_HALF, NET + 40), unless(port, 9)]);
                for ((word, at), skip) in octets.chunks_exact(4).zip([8, 12, 16, 20]).zip([7, 5, 3, 1]) {
                    let word = word.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet));
                    six.extend([step(LOAD_WORD, NET + at), unless(word, skip)]);
                }
                six.push(step(RETURN, 0));
            }
        }
    }
    four.push(step(RETURN, 1));
    six.push(step(RETURN, 1));
    let to_six = u32::try_from(four.len()).expect("some thousand instructions");
    let mut all = vec![step(LOAD_BYTE, NET), step(AND, 0xf0), unless(0x60, 1), step(JUMP, to_six)];
    all.extend(four);
    all.extend(six);
    all
}

fn bind_to_device(socket: &OwnedFd, name: &str) -> io::Result<()> {
    set_option(socket, libc::SO_BINDTODEVICE, name.as_ptr(), name.len())
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: *const T, len: usize) -> io::Result<()> {
    let len = libc::socklen_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `value` points to `len` readable bytes that outlive the call, which copies them (for a program: the
    // instructions that it points to as well, which the caller keeps).
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(from: &UdpSocket, to: SocketAddr, doors: &Doors) -> &'static str {
        from.send_to(b"x", to).expect("send");
        let mut byte = [0; 8];
        match (doors.members.recv(&mut byte), doors.strangers.recv(&mut byte)) {
            (Ok(_), Err(_)) => "members",
            (Err(_), Ok(_)) => "strangers",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_exact_address_of_a_listed_member_comes_to_the_members_socket() {
        for loopback in ["127.0.0.1", "::1"] {
            let any: SocketAddr = SocketAddr::new(loopback.parse().expect("an address"), 0);
            let doors = Doors::open(any, Some("lo"), 1 << 16).expect("sockets");
            let at = doors.members.local_addr().expect("address");
            assert_eq!(doors.strangers.local_addr().expect("address"), at);
            let senders: Vec<_> = (0..20).map(|_| UdpSocket::bind(any).expect("a sender")).collect();
            let address = |n: usize| senders[n].local_addr().expect("address");
            assert_eq!(sent(&senders[0], at, &doors), "strangers", "nobody is listed yet");
            let other_host = SocketAddr::new("127.0.0.9".parse().expect("an address"), address(11).port());
            let listed = (0..10).map(address).chain([other_host]).collect();
            doors.porter.list(listed).expect("list");
            for (n, sender) in senders.iter().enumerate() {
                let wanted = if n < 10 { "members" } else { "strangers" };
                assert_eq!(sent(sender, at, &doors), wanted, "sender {n} over {loopback}");
            }
            doors.porter.list(vec![address(12)]).expect("list");
            assert_eq!(sent(&senders[0], at, &doors), "strangers", "no longer listed");
            assert_eq!(sent(&senders[12], at, &doors), "members");
        }
    }

    #[test]
    fn a_port_that_is_in_use_is_not_shared_with_its_user() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let doors = Doors::open(any, None, 1 << 16).expect("sockets");
        let at = doors.members.local_addr().expect("address");
        let second = Doors::open(at, None, 1 << 16).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(second, Err(io::ErrorKind::AddrInUse));
    }
}
