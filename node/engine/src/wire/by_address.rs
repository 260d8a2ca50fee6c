//! Hot path. GRE, ESP and SCTP: protocols of which a translator changes nothing but the addresses around them. No checksum of theirs
//! covers an address, so none is looked at: it passes as it was, and its receiver judges it. Called by the rest of `wire`.

use words::{ChecksumState, FrameMeta, Gso};

use super::transport::Transport;
use crate::event::DropReason;
use crate::record::Proto;

/// Octets of the shortest header: of GRE without options (RFC 2784 2.1), of ESP index and number (RFC 4303 2), of SCTP the common
/// one (RFC 9260 3.1). 0 for what is not translated so.
pub(super) const fn len(proto: Proto) -> u16 {
    match proto {
        Proto::Gre => 4,
        Proto::Esp => 8,
        Proto::Sctp => 12,
        Proto::Icmp | Proto::Tcp | Proto::Udp => 0,
    }
}

/// Reads the header of a whole packet of a protocol of this number.
pub(super) fn parse_whole(
    number: u8,
    payload: &[u8],
    l4: u16,
    meta: &FrameMeta,
) -> Result<(Proto, Transport), DropReason> {
    let proto = Proto::of_number(number).filter(|proto| proto.is_by_address()).ok_or(DropReason::UnknownProtocol)?;
    // What was merged is to be cut into packets with this header again, which no header of a device can say.
    if meta.gso != Gso::None {
        return Err(DropReason::SuperPacket);
    }
    let transport = parse(proto, payload)?;
    match meta.checksum {
        // What a tunnel carries may have one that a device completes: it covers nothing that changes.
        ChecksumState::Partial { start, offset } => {
            let field = usize::from(start) + usize::from(offset);
            let carried = start >= l4 + len(proto) && field + 2 <= usize::from(l4) + payload.len();
            if proto != Proto::Gre || !carried {
                return Err(DropReason::Malformed);
            }
        }
        ChecksumState::Unverified | ChecksumState::Valid => {}
    }
    Ok((proto, transport))
}

/// Reads the header of a first fragment.
pub(super) fn parse(proto: Proto, payload: &[u8]) -> Result<Transport, DropReason> {
    if payload.len() < usize::from(len(proto)) {
        return Err(DropReason::Truncated);
    }
    let (src_port, dst_port) = ports(proto, *payload.first_chunk().ok_or(DropReason::Truncated)?);
    Ok(Transport { src_port, dst_port, tcp: None, icmp: None })
}

/// What its first octets say of ports.
pub(super) fn ports(proto: Proto, [s0, s1, d0, d1]: [u8; 4]) -> (u16, u16) {
    if proto.has_ports() { (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])) } else { (0, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L4: u16 = 34;

    fn told(number: u8, checksum: ChecksumState, gso: Gso) -> Result<(u16, u16), DropReason> {
        let payload: Vec<u8> = (1..=40).collect();
        let read = parse_whole(number, &payload, L4, &FrameMeta { checksum, gso, ..FrameMeta::default() });
        read.map(|(_, transport)| (transport.src_port, transport.dst_port))
    }

    #[test]
    fn only_sctp_has_ports() {
        for (number, ports) in [(47, (0, 0)), (50, (0, 0)), (132, (0x0102, 0x0304))] {
            for checksum in [ChecksumState::Unverified, ChecksumState::Valid] {
                assert_eq!(told(number, checksum, Gso::None), Ok(ports), "{number}");
            }
        }
        for number in [0, 1, 6, 17, 51, 136] {
            assert_eq!(
                told(number, ChecksumState::Unverified, Gso::None),
                Err(DropReason::UnknownProtocol),
                "{number}"
            );
        }
    }

    #[test]
    fn what_was_merged_is_refused_and_a_device_completes_nothing_but_what_a_tunnel_carries() {
        for number in [47, 50, 132] {
            for gso in [Gso::Tcp4 { size: 1000 }, Gso::Udp { size: 1000 }] {
                assert_eq!(told(number, ChecksumState::Unverified, gso), Err(DropReason::SuperPacket), "{number}");
            }
            for (start, offset, inside) in [
                (L4 + 4, 16, true),
                (L4 + 22, 16, true),
                (L4 + 23, 16, false),
                (L4 + 3, 16, false),
                (u16::MAX, 1, false),
            ] {
                let read = told(number, ChecksumState::Partial { start, offset }, Gso::None);
                let wanted = if number == 47 && inside { Ok((0, 0)) } else { Err(DropReason::Malformed) };
                assert_eq!(read, wanted, "{number} {start} {offset}");
            }
        }
    }
}
