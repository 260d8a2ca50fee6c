//! Whether what leaves by an interface may be handed straight to its far end (`bpf_redirect_peer`): it is one end of a virtual
//! Ethernet pair whose other end is in another namespace, is up, and nothing queues or shapes what leaves by it. Only reads.
//!
//! What is handed over so passes by all that stands at the interface's egress, the guard among it: whoever does it looks at the
//! lease itself, last (L5).

use std::io;

use aya::programs::TcAttachType;

use crate::netlink::{REQUEST, ask, attribute, text};
use crate::{bpf, filters};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
/// Where its flags stand.
const FLAGS: usize = 8;
/// IFF_UP and IFF_LOWER_UP.
const UP: u32 = 0x1 | 0x1_0000;
const IFLA_QDISC: u16 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;

/// Whether it may, for the interface of this number in the calling thread's namespace; not if there is none. `own`: the one
/// program that may hang at its egress.
///
/// # Errors
/// If the kernel does not answer.
pub(crate) fn is_reachable(ifindex: u32, own: u32) -> io::Result<bool> {
    let mut request = [0; IFINFOMSG];
    request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let mut reachable = false;
    let asked = ask(RTM_GETLINK, REQUEST, &request, |kind, payload| {
        reachable |= kind == RTM_NEWLINK && leads_away(payload);
    });
    match asked {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        Err(error) => return Err(error),
    }
    let filters = filters::filters_at(ifindex, TcAttachType::Egress)?;
    Ok(reachable && filters.into_iter().chain(before_filters(ifindex)?).all(|program| program == Some(own)))
}

/// What hangs at its egress before all filters.
fn before_filters(ifindex: u32) -> io::Result<Vec<Option<u32>>> {
    match bpf::programs_at(ifindex, TcAttachType::Egress) {
        Ok(programs) => Ok(programs.into_iter().map(Some).collect()),
        // The kernel has no such place.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What the kernel says of a link.
fn leads_away(payload: &[u8]) -> bool {
    let flags = payload.get(FLAGS..).and_then(<[u8]>::first_chunk).map_or(0, |flags| u32::from_ne_bytes(*flags));
    let Some(attributes) = payload.get(IFINFOMSG..) else { return false };
    let kind = attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND)).map(text);
    flags & UP == UP
        && kind == Some(b"veth")
        && attribute(attributes, IFLA_QDISC).map(text) == Some(b"noqueue")
        // Where the other end is, as this namespace numbers them; absent if it is in this one.
        && attribute(attributes, IFLA_LINK_NETNSID).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_loopback_nor_what_is_not_there_has_a_far_end() {
        for ifindex in [1, 0x7fff_fff0] {
            assert!(!is_reachable(ifindex, 0).expect("an answer"), "{ifindex}");
        }
    }

    #[test]
    fn a_cut_answer_says_nothing() {
        let attributes: Vec<u8> = [
            [12, 0, 6, 0].as_slice(),
            b"noqueue\0",
            &[16, 0, 18, 0, 9, 0, 1, 0],
            b"veth\0\0\0\0",
            &[8, 0, 37, 0, 0, 0, 0, 0],
        ]
        .concat();
        let mut payload = vec![0; IFINFOMSG];
        payload[FLAGS..FLAGS + 4].copy_from_slice(&UP.to_ne_bytes());
        payload.extend(attributes);
        assert!(leads_away(&payload));
        for length in 0..payload.len() {
            assert!(!leads_away(&payload[..length]), "length {length}");
        }
        payload[FLAGS] = 0;
        assert!(!leads_away(&payload), "switched off");
    }
}
