use super::*;
use proptest::prelude::*;

fn packet(flags: u8, seq: u32, ack: u32, payload_len: u32) -> TcpFields {
    TcpFields { flags: TcpFlags(flags), seq, ack, payload_len }
}
const SYN: u8 = 2;
const ACK: u8 = 16;
const FINACK: u8 = 17;
const RST: u8 = 4;
use Direction::{In, Out};

/// The backend's next octet is 111, the remote's 0.
fn established() -> Track {
    let mut t = Track::NEW;
    t.observe(Out, &packet(SYN, 100, 0, 0));
    t.observe(In, &packet(SYN | ACK, u32::MAX, 101, 0));
    t.observe(Out, &packet(ACK, 101, 0, 10));
    t
}

#[test]
fn only_the_second_fin_finishes_and_a_repeated_one_does_not() {
    let mut t = established();
    assert_eq!(t.observe(Out, &packet(FINACK, 111, 0, 0)), Progress::Open);
    assert_eq!(t.observe(Out, &packet(FINACK, 111, 0, 0)), Progress::Open);
    assert_eq!(t.observe(In, &packet(ACK, 0, 112, 50)), Progress::Open, "half close carries data");
    assert_eq!(t.phase(), Phase::Closing);
    assert_eq!(t.observe(In, &packet(FINACK, 50, 112, 0)), Progress::Finished);
}

#[test]
fn a_fin_that_overtook_data_counts_when_the_backend_acknowledges_it() {
    let mut t = established();
    t.observe(Out, &packet(FINACK, 111, 0, 0));
    assert_eq!(t.observe(In, &packet(FINACK, 50, 112, 10)), Progress::Open, "50 octets are missing");
    assert_eq!(t.observe(In, &packet(ACK, 0, 112, 50)), Progress::Open);
    assert_eq!(t.observe(Out, &packet(ACK, 112, 61, 0)), Progress::Finished);
}

#[test]
fn a_reset_off_the_expected_sequence_changes_nothing() {
    let mut t = established();
    for seq in [1, 50, u32::MAX, 100] {
        let before = t;
        assert_eq!(t.observe(In, &packet(RST, seq, 0, 0)), Progress::Ignored);
        assert_eq!(t, before);
    }
    t.observe(In, &packet(RST, 0, 0, 0));
    assert_eq!(t.phase(), Phase::Reset);
}

#[test]
fn a_refused_connection_is_believed_by_its_acknowledgement() {
    let mut t = Track::NEW;
    t.observe(Out, &packet(SYN, 100, 0, 0));
    assert_eq!(t.observe(In, &packet(RST | ACK, 0, 100, 0)), Progress::Ignored);
    assert_eq!(t.phase(), Phase::HalfOpen);
    t.observe(In, &packet(RST | ACK, 0, 101, 0));
    assert_eq!(t.phase(), Phase::Reset);
    t.observe(Out, &packet(SYN, 900, 0, 0));
    assert_eq!(t.phase(), Phase::HalfOpen, "a new SYN starts over");
}

#[test]
fn a_forged_segment_moves_nothing_that_a_reset_is_judged_by() {
    for seq in [1, 500, 1 << 20, 1 << 30, 0x9000_0000] {
        let mut t = established();
        t.observe(In, &packet(ACK, seq, 0x7000_0000, 100));
        assert_eq!(t, established(), "R18: {seq:#x}");
        t.observe(In, &packet(FINACK, seq, 0, 0));
        assert_eq!(t.phase(), Phase::Established, "nor does a forged FIN close");
        t.observe(In, &packet(RST, seq.wrapping_add(100), 0, 0));
        assert_eq!(t.phase(), Phase::Established);
    }
}

#[test]
fn a_reset_behind_data_that_is_not_acknowledged_yet_is_believed() {
    let mut t = established();
    t.observe(In, &packet(ACK, 0, 111, 300));
    t.observe(In, &packet(RST, 300, 0, 0));
    assert_eq!(t.phase(), Phase::Reset);
    let mut t = established();
    t.observe(In, &packet(ACK, 0, 111, 300));
    t.observe(In, &packet(RST, 0, 0, 0));
    assert_eq!(t.phase(), Phase::Reset, "the data may have been lost behind us");
}

#[test]
fn a_host_that_forgot_resets_at_the_remotes_acknowledgement() {
    let mut t = established();
    t.observe(In, &packet(ACK, 0, 105, 0));
    assert_eq!(t.observe(Out, &packet(RST, 103, 0, 0)), Progress::Ignored);
    t.observe(Out, &packet(RST, 105, 0, 0));
    assert_eq!(t.phase(), Phase::Reset);
}

#[test]
fn traffic_of_its_sender_takes_a_reset_back() {
    let mut t = established();
    t.observe(In, &packet(RST, 0, 0, 0));
    t.observe(Out, &packet(ACK, 111, 0, 10));
    assert_eq!(t.phase(), Phase::Reset, "the other side's data may have crossed it");
    t.observe(In, &packet(ACK, 700, 121, 10));
    assert_eq!(t.phase(), Phase::Reset, "a stranger's segment is no sign of life");
    t.observe(In, &packet(ACK, 0, 121, 10));
    assert_eq!(t.phase(), Phase::Established, "RFC 6146 3.5.2.2");
}

#[test]
fn half_open_ends_with_an_answer_even_if_the_final_ack_is_lost() {
    let mut t = Track::NEW;
    t.observe(Out, &packet(SYN, 100, 0, 0));
    t.observe(Out, &packet(SYN, 100, 0, 0));
    assert_eq!(t.phase(), Phase::HalfOpen);
    t.observe(In, &packet(SYN | ACK, 7, 55, 0));
    assert_eq!(t.phase(), Phase::HalfOpen, "an answer to another SYN");
    t.observe(In, &packet(SYN | ACK, 7, 101, 0));
    assert_eq!(t.phase(), Phase::Established, "R12");
}

#[test]
fn data_with_the_syn_may_be_refused() {
    for ack in [101, 301] {
        let mut t = Track::NEW;
        t.observe(Out, &packet(SYN, 100, 0, 200));
        t.observe(In, &packet(SYN | ACK, 7, ack, 0));
        assert_eq!(t.phase(), Phase::Established, "RFC 7413: {ack}");
    }
}

#[test]
fn simultaneous_open_establishes() {
    let mut t = Track::NEW;
    t.observe(Out, &packet(SYN, 100, 0, 0));
    t.observe(In, &packet(SYN, 500, 0, 0));
    assert_eq!(t.phase(), Phase::HalfOpen, "anybody could have sent that");
    t.observe(In, &packet(RST, 501, 0, 0));
    assert_eq!(t.phase(), Phase::HalfOpen);
    t.observe(Out, &packet(SYN | ACK, 100, 501, 0));
    assert_eq!(t.phase(), Phase::Established);
    t.observe(In, &packet(SYN | ACK, 500, 101, 0));
    assert_eq!(t.phase(), Phase::Established);
    t.observe(In, &packet(RST, 501, 0, 0));
    assert_eq!(t.phase(), Phase::Reset);
}

#[test]
fn a_syn_amid_a_connection_cuts_nobody_and_forgets_the_numbers() {
    let mut t = established();
    t.observe(Out, &packet(SYN, 5000, 0, 0));
    assert_eq!(t.phase(), Phase::Established);
    assert_eq!(t.observe(In, &packet(RST, 0, 0, 0)), Progress::Ignored);
    t.observe(In, &packet(SYN | ACK, 70, 5001, 0));
    t.observe(In, &packet(RST, 71, 0, 0));
    assert_eq!(t.phase(), Phase::Reset, "learned again");
}

#[test]
fn after_a_takeover_knowledge_is_learned_again_and_nobody_is_cut() {
    let mut t = Track::NEW;
    assert_eq!(t.phase(), Phase::Established);
    assert_eq!(t.observe(In, &packet(RST, 0, 0, 0)), Progress::Ignored);
    assert_eq!(t.observe(Out, &packet(RST, 0, 0, 0)), Progress::Ignored);
    assert_eq!((t, t.reset_sequence(In)), (Track::NEW, None), "no reset without knowledge");
    // A forged segment comes first.
    t.observe(In, &packet(ACK, 0x4000_0000, 1, 10));
    t.observe(Out, &packet(ACK, 111, 700, 10));
    assert_eq!((t.reset_sequence(In), t.reset_sequence(Out)), (Some(700), Some(121)));
    t.observe(In, &packet(ACK, 700, 121, 50));
    assert_eq!(t.observe(In, &packet(RST, 0x4000_000a, 0, 0)), Progress::Ignored);
    t.observe(In, &packet(RST, 750, 0, 0));
    assert_eq!(t.phase(), Phase::Reset);
}

proptest! {
    /// Whoever cannot see the connection and does not hit the exact number ends nothing (I17), with any history of forgery.
    #[test]
    fn blind_segments_never_end_a_connection(
        forged in prop::collection::vec(
            (any::<u32>(), any::<u32>(), 0..3000_u32, prop::sample::select(vec![ACK, FINACK, RST, RST | ACK, SYN, SYN | ACK])),
            0..60,
        ),
        near in any::<bool>(),
    ) {
        let mut t = established();
        for (seq, ack, len, flags) in forged {
            // Even in the midst of the window, as long as it is not the one number.
            let seq = if near { seq % 5000 } else { seq }.max(1);
            t.observe(In, &packet(flags, seq, ack, if flags & SYN == 0 { len } else { 0 }));
            prop_assert_eq!(t.phase(), Phase::Established);
            prop_assert_eq!(t.reset_sequence(In), Some(0));
        }
        t.observe(In, &packet(RST, 0, 0, 0));
        prop_assert_eq!(t.phase(), Phase::Reset, "and the exact one still does");
    }
}

#[test]
fn what_was_learned_in_an_earlier_term_is_not_known() {
    let mut t = Track::NEW.known_in(Term(7));
    t.observe(Out, &packet(SYN, 100, 0, 0));
    assert_eq!((t.known_in(Term(7)), t.phase()), (t, Phase::HalfOpen));
    assert_eq!(t.known_in(Term(8)).phase(), Phase::Established, "nobody is cut off");
    assert_eq!(t.known_in(Term(8)).reset_sequence(Out), None);
}
