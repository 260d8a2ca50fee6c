//! Which frames a packet socket takes, as a classic BPF program (offsets count from the Ethernet header). Two rules: of several
//! workers each takes what is sent to the shards of its share, and the first what is sent to nobody's; and frames of a VLAN are
//! cut to their addresses. What a socket does not take costs no copy. Used by `socket` only.

use words::{Mac, Share};

/// What a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    /// IPv4.
    Ipv4,
    /// ARP.
    Arp,
    /// Members' questions to each other, whether the network passes frames (IEEE 802 local experimental 2).
    Sounding,
}

impl EtherType {
    /// The number in the frame, host byte order.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Arp => 0x0806,
            Self::Sounding => 0x88b6,
        }
    }
}

/// What is left of a frame that came with a VLAN tag: its addresses, less than any frame has.
pub(crate) const TAGGED_LEN: usize = 12;

const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
const OTHER_HOST: u32 = libc::PACKET_OTHERHOST as u32;
const GROUP: u32 = 1;
const WHOLE: u32 = u32::MAX;
const NOTHING: u32 = 0;

/// The program of a worker's socket on an interface of this address. All workers learn from ARP; members are answered and heard
/// by the first alone.
pub(crate) fn program(mac: [u8; 6], ether_type: EtherType, share: Share) -> Vec<libc::sock_filter> {
    let share = match ether_type {
        EtherType::Arp => Vec::new(),
        EtherType::Sounding if share.is_first() => Vec::new(),
        EtherType::Sounding => vec![give(NOTHING)],
        EtherType::Ipv4 if share == Share::WHOLE => Vec::new(),
        EtherType::Ipv4 => of_share(share),
    };
    [share, cut_tagged(mac).to_vec()].concat()
}

/// Falls through to what comes behind it if the frame is in the share.
fn of_share(share: Share) -> Vec<libc::sock_filter> {
    let [a, b, c, d] = Mac::VIRTUAL_PREFIX;
    // Past the end, or onto the last instruction.
    let to_nobody = if share.is_first() { 4 } else { 3 };
    vec![
        load(libc::BPF_W, 0),
        jump(libc::BPF_JEQ, 0, to_nobody, u32::from_be_bytes([a, b, c, d])),
        load(libc::BPF_H, 4),
        filter(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, share.workers().into()),
        jump(libc::BPF_JEQ, 1, 0, share.worker().into()),
        give(NOTHING),
    ]
}

/// Cuts frames with a VLAN tag to their addresses.
fn cut_tagged(mac: [u8; 6]) -> [libc::sock_filter; 10] {
    let [a, b, c, d, e, f] = mac;
    [
        load(libc::BPF_W, PACKET_TYPE),
        jump(libc::BPF_JEQ, 0, 7, OTHER_HOST),
        load(libc::BPF_B, 0),
        jump(libc::BPF_JSET, 4, 0, GROUP),
        load(libc::BPF_W, 0),
        jump(libc::BPF_JEQ, 0, 3, u32::from_be_bytes([a, b, c, d])),
        load(libc::BPF_H, 4),
        jump(libc::BPF_JEQ, 0, 1, u32::from(u16::from_be_bytes([e, f]))),
        give(u32::try_from(TAGGED_LEN).expect("a small number")),
        give(WHOLE),
    ]
}

fn load(size: u32, at: u32) -> libc::sock_filter {
    filter(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at)
}

fn jump(test: u32, then: u8, other: u8, value: u32) -> libc::sock_filter {
    filter(libc::BPF_JMP | test | libc::BPF_K, then, other, value)
}

/// So many octets of the frame.
fn give(octets: u32) -> libc::sock_filter {
    filter(libc::BPF_RET | libc::BPF_K, 0, 0, octets)
}

fn filter(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("BPF codes are small"), jt, jf, k }
}
