//! What an interface may merge received segments to. A buffer holds an IPv4 packet of 65,535 octets and no more, while the
//! kernel merges to `gro_ipv4_max_size` (BIG TCP; above 65,536 with a total length of 0), so the limit is lowered to what IPv4
//! itself allows. By rtnetlink, once at start. Changes nothing else, and nothing on other hosts: what a virtual machine's host
//! or a veth's peer sends in such packets is dropped.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with};

use crate::link::Link;

/// The kernel's default, and the most that a length field of IPv4 goes with.
pub const LIMIT: u32 = 65_536;

const HEADER: usize = 16;
const INTERFACE: usize = 16;
/// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const GRO_IPV4_MAX_SIZE: u16 = 64;
/// An answer about one interface is shorter.
const ANSWER_MAX: usize = 32 << 10;

/// Lowers the limit of an interface of the calling thread's network namespace. Returns what it was, if it was higher; a
/// kernel that has no such limit (before 6.3) merges to no more.
///
/// # Errors
/// Without CAP_NET_ADMIN, or when the interface vanished.
pub fn limit(link: &Link) -> io::Result<Option<u32>> {
    match merged_at_most(link)? {
        Some(was) if was > LIMIT => merge_at_most(link, LIMIT).map(|()| Some(was)),
        Some(_) | None => Ok(None),
    }
}

/// Sets the limit, in octets.
///
/// # Errors
/// Without CAP_NET_ADMIN, when the interface vanished, or when the kernel has no such limit.
pub fn merge_at_most(link: &Link, octets: u32) -> io::Result<()> {
    let mut attribute = Vec::new();
    attribute.extend(8_u16.to_ne_bytes());
    attribute.extend(GRO_IPV4_MAX_SIZE.to_ne_bytes());
    attribute.extend(octets.to_ne_bytes());
    ask(link, RTM_SETLINK, REQUEST | ACKNOWLEDGE, &attribute).map(drop)
}

/// The limit as it is.
///
/// # Errors
/// When the interface vanished.
pub fn merged_at_most(link: &Link) -> io::Result<Option<u32>> {
    let answer = ask(link, RTM_GETLINK, REQUEST, &[])?;
    let mut rest = answer.get(HEADER + INTERFACE..).unwrap_or_default();
    while let Some((len, kind)) = word(rest, 0).zip(word(rest, 2)) {
        let len = usize::from(len);
        if kind == GRO_IPV4_MAX_SIZE {
            return Ok(rest.get(4..8).and_then(|value| value.first_chunk()).map(|value| u32::from_ne_bytes(*value)));
        }
        rest = rest.get(len.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

/// Sends one question and returns the kernel's answer to it.
fn ask(link: &Link, kind: u16, flags: u16, attribute: &[u8]) -> io::Result<Vec<u8>> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let len = u32::try_from(HEADER + INTERFACE + attribute.len()).expect("a short message");
    let mut message = Vec::new();
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender: the only question of this socket.
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(link.ifindex.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(attribute);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; ANSWER_MAX];
    let (len, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    answer.truncate(len);
    let error =
        answer.get(HEADER..HEADER + 4).and_then(|code| code.first_chunk()).map(|code| i32::from_ne_bytes(*code));
    match (word(&answer, 4), error) {
        (Some(RTM_NEWLINK), _) | (Some(NLMSG_ERROR), Some(0)) => Ok(answer),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|word| word.first_chunk()).map(|word| u16::from_ne_bytes(*word))
}
