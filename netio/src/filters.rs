//! Which BPF programs judge what enters and leaves an interface, as the kernel lists them (rtnetlink, RTM_GETTFILTER). Only reads.
//! Asked by the guard, which must know whether it still stands.

use std::io;

use aya::programs::TcAttachType;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
/// The hooks of clsact: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and the same with TC_H_MIN_EGRESS.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
const HEADER: usize = 16;
const TCMSG: usize = 20;
/// The kernel answers at once; this bounds a wait for something unforeseen.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// The numbers of the programs at a hook of an interface of the calling thread's namespace; none if there is no
/// such interface or no clsact.
///
/// # Errors
/// If the kernel does not answer, or not in the format above.
pub(crate) fn programs_at(ifindex: u32, hook: TcAttachType) -> io::Result<Vec<u32>> {
    let parent = match hook {
        TcAttachType::Ingress => INGRESS,
        TcAttachType::Egress => EGRESS,
        TcAttachType::Custom(parent) => parent,
    };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut request = Vec::with_capacity(HEADER + TCMSG);
    request.extend(u32::try_from(HEADER + TCMSG).expect("36").to_ne_bytes());
    request.extend(RTM_GETTFILTER.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]); // sequence, port
    request.extend([0; 4]); // family, padding
    request.extend(ifindex.to_ne_bytes());
    request.extend([0; 4]); // handle
    request.extend(parent.to_ne_bytes());
    request.extend([0; 4]); // info
    send(&socket, &request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut messages = &buffer[..length];
        while let Some((kind, payload)) = message(&mut messages) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                RTM_NEWTFILTER => found.extend(payload.get(TCMSG..).and_then(program)),
                _ => {}
            }
        }
    }
}

/// Takes the first message off `rest`: its kind and what follows its header.
fn message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let payload = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, payload))
}

/// The program's number among a filter's attributes.
fn program(attributes: &[u8]) -> Option<u32> {
    let id = attribute(attribute(attributes, TCA_OPTIONS)?, TCA_BPF_ID)?;
    id.first_chunk().map(|id| u32::from_ne_bytes(*id))
}

fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        // The upper bits say how the value is nested and ordered.
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_filters_or_without_existence_has_no_program() {
        for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
            assert_eq!(programs_at(1, hook).expect("loopback"), []);
            assert_eq!(programs_at(0x7fff_fff0, hook).expect("no such interface"), []);
        }
    }

    #[test]
    fn cut_messages_and_attributes_end_the_reading() {
        let attributes = [8, 0, 1, 0, 1, 2, 3, 4, 12, 0, 2, 0, 8, 0, 11, 0, 7, 0, 0, 0];
        assert_eq!(program(&attributes), Some(7));
        for length in 0..attributes.len() {
            assert_eq!(program(&attributes[..length]), None, "length {length}");
        }
        assert_eq!(attribute(&[0, 0, 9, 0], 1), None, "an attribute shorter than its header");
    }
}
