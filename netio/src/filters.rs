//! Which BPF programs judge what enters and leaves an interface, as the kernel lists them (rtnetlink, RTM_GETTFILTER). Only reads.
//! Asked by the guard, which must know whether it still stands.

use std::io;

use aya::programs::TcAttachType;

use crate::netlink::{DUMP, ask, attribute};

const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// The hooks of clsact: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and the same with TC_H_MIN_EGRESS.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
const TCMSG: usize = 20;
const HANDLE: std::ops::Range<usize> = 8..12;

/// The numbers of the programs at a hook of an interface of the calling thread's namespace; none if there is no
/// such interface or no clsact.
///
/// # Errors
/// If the kernel does not answer, or not in the format above.
pub(crate) fn programs_at(ifindex: u32, hook: TcAttachType) -> io::Result<Vec<u32>> {
    Ok(filters_at(ifindex, hook)?.into_iter().flatten().collect())
}

/// The same of all filters of traffic control: `None` for one that is no such program.
///
/// # Errors
/// As above.
pub(crate) fn filters_at(ifindex: u32, hook: TcAttachType) -> io::Result<Vec<Option<u32>>> {
    let parent = match hook {
        TcAttachType::Ingress => INGRESS,
        TcAttachType::Egress => EGRESS,
        TcAttachType::Custom(parent) => parent,
    };
    let mut request = Vec::with_capacity(TCMSG);
    request.extend([0; 4]); // family, padding
    request.extend(ifindex.to_ne_bytes());
    request.extend([0; 4]); // handle
    request.extend(parent.to_ne_bytes());
    request.extend([0; 4]); // info
    let mut found = Vec::new();
    ask(RTM_GETTFILTER, DUMP, &request, |kind, payload| {
        // Those without a handle are the places where filters stand.
        if kind == RTM_NEWTFILTER && payload.get(HANDLE).is_some_and(|handle| handle != [0; 4]) {
            found.push(payload.get(TCMSG..).and_then(program));
        }
    })?;
    Ok(found)
}

/// The program's number among a filter's attributes.
fn program(attributes: &[u8]) -> Option<u32> {
    let id = attribute(attribute(attributes, TCA_OPTIONS)?, TCA_BPF_ID)?;
    id.first_chunk().map(|id| u32::from_ne_bytes(*id))
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
