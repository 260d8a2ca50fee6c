//! TCP connections (RFC 5382, RFC 7857).

use std::time::{Duration, Instant};

use qnat_reference::packet::{TCP, UDP, tcp, udp};
use qnat_tests::lab::{Lab, wait_until};
use qnat_tests::resources::Changes;
use qnat_tests::shared::is_long;

use crate::Second;
use crate::bed::{Bed, SERVER, View, next, nothing_for};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// One connection of b1 to the server. The backend begins at 100, the remote at 500.
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) inside: u16,
    pub(crate) remote: u16,
    pub(crate) public: u16,
}

impl Connection {
    /// A SYN that leaves.
    pub(crate) fn begin(bed: &Bed<'_>, inside: u16, remote: u16) -> Self {
        let public = bed.segment(&bed.b1, (inside, remote), (100, 0), SYN, b"");
        Self { inside, remote, public }
    }

    pub(crate) fn establish(bed: &Bed<'_>, inside: u16, remote: u16) -> Self {
        let this = Self::begin(bed, inside, remote);
        this.comes(bed, (500, 101), SYN | ACK);
        this.leaves(bed, (101, 501), ACK, b"");
        this
    }

    /// A segment leaves from the same public port as ever.
    pub(crate) fn leaves(&self, bed: &Bed<'_>, numbers: (u32, u32), flags: u8, data: &[u8]) {
        let public = bed.segment(&bed.b1, (self.inside, self.remote), numbers, flags, data);
        assert_eq!(public, self.public, "the public port of a connection");
    }

    /// A segment comes in.
    pub(crate) fn comes(&self, bed: &Bed<'_>, numbers: (u32, u32), flags: u8) {
        bed.reply(&bed.b1, (self.remote, self.public, self.inside), numbers, flags);
    }

    /// Whether its mapping lives.
    fn is_live(&self, bed: &Bed<'_>) -> bool {
        !bed.lab.live_mappings("10.0.1.1", self.remote).is_empty()
    }
}

/// R12: the handshake, and data in both directions behind it.
pub(crate) fn a_handshake_may_be_finished(bed: &Bed<'_>) -> Second {
    let connection = Connection::begin(bed, 31_000, 8_001);
    Box::new(move |bed| {
        connection.comes(bed, (500, 101), SYN | ACK);
        connection.leaves(bed, (101, 501), ACK, b"");
        connection.leaves(bed, (101, 501), ACK, b"question");
        connection.comes(bed, (501, 109), ACK);
    })
}

/// R8: what looks like an address in a payload stays what it is, also where other gateways look for one.
pub(crate) fn addresses_in_payload_stay_what_they_are(bed: &Bed<'_>) -> Second {
    let connection = Connection::establish(bed, 31_850, 21);
    Box::new(move |bed| {
        let command = b"PORT 10,0,1,1,124,106\r\n";
        let segment = tcp((connection.inside, connection.remote), (101, 501), PSH | ACK, &[], command);
        assert_eq!(&View(&bed.out(&bed.b1, &bed.b1.packet(SERVER, TCP, &segment))).body()[20..], command);
        let request = b"INVITE sip:bob SIP/2.0\r\nContact: <sip:alice@10.0.1.1:31851>\r\n";
        let seen = bed.out(&bed.b1, &bed.b1.datagram(SERVER, (31_851, 5_060), request));
        assert_eq!(&View(&seen).body()[8..], request);
    })
}

/// D6: a closed connection's public tuple is nobody else's for a while; for another remote its port is free.
pub(crate) fn a_closed_tuple_is_held_and_its_port_is_free_for_others(bed: &Bed<'_>) -> Second {
    let closed = Connection::establish(bed, 31_860, 8_151);
    closed.leaves(bed, (101, 501), FIN | ACK, b"");
    closed.comes(bed, (501, 102), FIN | ACK);
    closed.leaves(bed, (102, 502), ACK, b"");
    // An earlier run on this lab left the other connection to this remote behind.
    let its_port = format!(":{}", closed.public);
    let lives = || bed.lab.live_mappings("10.0.1.1", closed.remote).iter().any(|public| public.ends_with(&its_port));
    wait_until("the mapping to close", Duration::from_secs(5), || !lives());
    Box::new(move |bed| {
        let same_remote = Connection::begin(bed, 31_861, 8_151);
        assert_ne!(same_remote.public, closed.public, "of the tuple that is held");
        let other_remote = Connection::begin(bed, 31_862, 8_152);
        assert_eq!(other_remote.public, closed.public, "the first port of the order");
    })
}

/// R12, R13: a SYN from outside that nobody waits for yet stays without an answer, and passes as soon as the backend has sent
/// its own.
pub(crate) fn both_ends_may_open_at_once(bed: &Bed<'_>) -> Second {
    // The first port of the lease, which a flow to another remote will have too (S8).
    let public = Connection::begin(bed, 31_100, 8_101).public;
    let early = bed.answer(SERVER, &bed.b1, TCP, &tcp((8_102, public), (500, 0), SYN, &[], b""));
    bed.inet.send(&early).expect("sending");
    bed.nothing(&bed.inet, "an answer to a SYN", |p| p.ports().1 == 8_102);
    let connection = Connection::begin(bed, 31_101, 8_102);
    assert_eq!(connection.public, public);
    Box::new(move |bed| {
        connection.comes(bed, (500, 0), SYN);
        connection.leaves(bed, (100, 501), SYN | ACK, b"");
        connection.comes(bed, (500, 101), SYN | ACK);
        connection.leaves(bed, (101, 501), ACK, b"data");
        connection.comes(bed, (501, 105), ACK);
    })
}

/// R12: after the backend's FIN the remote may go on, and both FINs may be repeated.
pub(crate) fn a_half_closed_connection_goes_on_the_other_way(bed: &Bed<'_>) -> Second {
    let connection = Connection::establish(bed, 31_200, 8_201);
    connection.leaves(bed, (101, 501), FIN | ACK, b"");
    connection.comes(bed, (501, 102), ACK);
    Box::new(move |bed| {
        connection.leaves(bed, (101, 501), FIN | ACK, b"");
        connection.comes(bed, (501, 102), ACK);
        connection.leaves(bed, (102, 501), ACK, b"");
        connection.comes(bed, (501, 102), FIN | ACK);
        connection.leaves(bed, (102, 502), ACK, b"");
        connection.comes(bed, (501, 102), FIN | ACK);
        connection.leaves(bed, (102, 502), ACK, b"");
    })
}

/// R12: the last segment of the handshake never came; data is as good.
pub(crate) fn a_connection_goes_on_whose_last_acknowledgment_was_lost(bed: &Bed<'_>) -> Second {
    let connection = Connection::begin(bed, 31_300, 8_301);
    connection.comes(bed, (500, 101), SYN | ACK);
    Box::new(move |bed| {
        connection.comes(bed, (500, 101), SYN | ACK);
        connection.leaves(bed, (101, 501), ACK, b"data");
        connection.comes(bed, (501, 105), ACK);
        // The member that is asked may follow: it learns what is committed with the owner's next message.
        wait_until("the mapping at the member that is asked", Duration::from_secs(2), || connection.is_live(bed));
    })
}

/// R13: no answer for six seconds, and none afterwards.
pub(crate) fn a_syn_that_nobody_waits_for_is_not_answered(_: &Bed<'_>) -> Second {
    Box::new(|bed| {
        let frame = bed.answer(SERVER, &bed.b1, TCP, &tcp((8_401, 1_999), (500, 0), SYN, &[], b""));
        bed.inet.send(&frame).expect("sending");
        let time = if is_long() { Duration::from_secs(8) } else { Duration::from_millis(300) };
        nothing_for(&bed.inet, "an answer to a SYN", time, |p| p.ports().1 == 8_401 || p.kind().is_some());
        bed.nothing(&bed.b1.end, "a SYN that nobody waits for", |p| p.ports().0 == 8_401);
    })
}

/// R18: a reset that does not hit the expected number ends nothing, however long nobody speaks; one that does is believed
/// if both ends are silent afterwards.
pub(crate) fn a_reset_off_the_expected_sequence_cuts_nobody_off(bed: &Bed<'_>) -> Second {
    let [blind, spoken, ended] =
        [8_501, 8_502, 8_503].map(|remote| Connection::establish(bed, remote + 23_000, remote));
    Box::new(move |bed| {
        for connection in [blind, spoken, ended] {
            // A successor learns the numbers from what the backend sends.
            connection.leaves(bed, (101, 501), ACK, b"data");
            connection.comes(bed, (501, 105), ACK);
        }
        blind.comes(bed, (501 + 5_000, 0), RST);
        spoken.comes(bed, (501, 0), RST);
        spoken.leaves(bed, (105, 501), ACK, b"still here");
        spoken.comes(bed, (501, 115), ACK);
        ended.comes(bed, (501, 0), RST);
        if is_long() {
            bed.ends(ended.remote, Duration::from_secs(25), |bed| {
                // A successor learns the numbers again.
                ended.leaves(bed, (105, 501), ACK, b"still here");
                ended.comes(bed, (501, 0), RST);
            });
        }
        assert!(blind.is_live(bed) && spoken.is_live(bed));
        blind.leaves(bed, (105, 501), ACK, b"data");
        blind.comes(bed, (501, 109), ACK);
    })
}

/// R27: who sends in a connection that nobody knows hears it from the gateway; the internet hears nothing.
pub(crate) fn a_segment_of_no_connection_is_reset_inside_alone(_: &Bed<'_>) -> Second {
    Box::new(|bed| {
        let segment = tcp((31_900, 8_601), (700, 900), ACK, &[], b"in mid-stream");
        let frame = bed.b1.packet(SERVER, TCP, &segment);
        let reset = |p: View<'_>| p.is_tcp(|ports| ports == (8_601, 31_900)) && p.body()[13] == RST;
        let told = bed.provokes((&bed.b1.end, &bed.b1.end), &frame, reset);
        assert_eq!(View(&told).body()[4..8], 900_u32.to_be_bytes(), "RFC 9293 3.10.7.1");
        bed.nothing(&bed.inet, "a segment of no connection", |p| p.is_tcp(|ports| ports.1 == 8_601));
    })
}

/// S13, R4, R5, R27: four minutes without a packet from inside end a flow, and no shorter time does: what comes from outside
/// passes, and keeps no datagram flow; and both ends of a connection are told, if the rule says so.
pub(crate) fn what_idles_for_four_minutes_ends_and_its_ends_are_told(lab: &Lab) {
    Changes { rule: "enable_tcp_reset = true", ..Changes::default() }.apply();
    let bed = &Bed::new(lab);
    let [_silent, answered, _kept] = [0, 1, 2].map(|n| bed.open(&bed.b1, SERVER, (35_000 + n, 8_900 + n)));
    let connection = Connection::establish(bed, 35_003, 8_903);
    let established = Instant::now();
    let reset = |p: View<'_>| p.is_tcp(|ports| ports.0 == 8_903 || ports.1 == 8_903) && p.body()[13] & RST != 0;
    let sequence = |frame: &[u8]| View(frame).body()[4..8].to_vec();
    // Each takeover gives all its time again (I48), and a machine that stands still may cause one.
    let told = (0..24).find_map(|round| {
        if round < 5 {
            let _passes = bed.back(&bed.b1, &bed.answer(SERVER, &bed.b1, UDP, &udp(8_901, answered, b"still here")));
        }
        let _refreshes = bed.open(&bed.b1, SERVER, (35_002, 8_902));
        next(&bed.b1.end, Duration::from_secs(46), reset, &mut Vec::new())
    });
    let told = told.expect("a reset within 18 minutes");
    let silent = established.elapsed();
    assert!(silent >= Duration::from_secs(239), "{silent:?}");
    assert_eq!((View(&told).ports(), sequence(&told)), ((8_903, 35_003), 501_u32.to_be_bytes().to_vec()));
    let told = bed.wait(&bed.inet, "a reset", reset);
    assert_eq!((View(&told).ports(), sequence(&told)), ((connection.public, 8_903), 101_u32.to_be_bytes().to_vec()));
    // After a takeover, ends are spread over a tenth of the time.
    wait_until("all silent flows to end", Duration::from_secs(30), || {
        [8_900, 8_901, 8_903].iter().all(|port| lab.live_mappings("10.0.1.1", *port).is_empty())
    });
    assert!(!lab.live_mappings("10.0.1.1", 8_902).is_empty(), "a packet from inside keeps a flow");
}
