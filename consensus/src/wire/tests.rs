//! Tests of the wire form: golden bytes, round trips, and bytes that nobody meant.

use proptest::prelude::*;

use super::*;

fn entry(kind: EntryType, term: u64, index: u64, data: &[u8], context: &[u8]) -> Entry {
    let mut e = Entry::default();
    e.entry_type = kind;
    e.term = term;
    e.index = index;
    e.data = Bytes::copy_from_slice(data);
    e.context = Bytes::copy_from_slice(context);
    e
}

fn append() -> Message {
    let mut m = Message::default();
    m.msg_type = MessageType::MsgAppend;
    (m.to, m.from, m.term, m.log_term, m.index, m.commit) = (2, 1, 7, 5, 9, 8);
    m.entries =
        vec![entry(EntryType::EntryNormal, 6, 10, b"ab", b""), entry(EntryType::EntryConfChangeV2, 7, 11, b"", b"c")]
            .into();
    m
}

fn snapshot() -> Message {
    let mut conf = ConfState::default();
    conf.voters = vec![1, 2];
    conf.voters_outgoing = vec![1, 3];
    conf.learners = vec![4];
    conf.learners_next = vec![3];
    let mut s = Snapshot::default();
    s.mut_metadata().index = 3;
    s.mut_metadata().term = 2;
    s.mut_metadata().conf_state = Some(conf).into();
    s.data = Bytes::from_static(b"state");
    let mut m = Message::default();
    m.msg_type = MessageType::MsgSnapshot;
    (m.to, m.from, m.term) = (2, 1, 7);
    m.snapshot = Some(s).into();
    m
}

fn encoded(m: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode_message(m, &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn words(values: &[u64]) -> String {
    values.iter().map(|v| hex(&v.to_le_bytes())).collect()
}

#[test]
fn golden_append_keeps_its_bytes() {
    let scalars = words(&[2, 1, 7, 5, 9, 8, 0, 0, 0, 0, 0]);
    let first = "00".to_owned() + &words(&[6, 10]) + "02000000" + "6162" + "00000000";
    let second = "02".to_owned() + &words(&[7, 11]) + "00000000" + "01000000" + "63";
    assert_eq!(hex(&encoded(&append())), format!("010300{scalars}0000000002000000{first}{second}"));
}

#[test]
fn golden_snapshot_keeps_its_bytes() {
    let scalars = words(&[2, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    let conf =
        format!("02000000{}01000000{}02000000{}01000000{}00", words(&[1, 2]), words(&[4]), words(&[1, 3]), words(&[3]));
    let body = words(&[3, 2]) + &conf + "05000000" + &hex(b"state");
    assert_eq!(hex(&encoded(&snapshot())), format!("010702{scalars}0000000000000000{body}"));
}

#[test]
fn golden_envelope_keeps_its_bytes() {
    // CRC-32 (IEEE) of 02 07 04 00 00 00 "qnat".
    assert_eq!(hex(&seal(7, b"qnat")), "514e020704000000681510bd716e6174");
    assert_eq!(open(&seal(7, b"qnat")), Ok((7, &b"qnat"[..])));
}

#[test]
fn message_codes_follow_no_reordering_in_raft() {
    for (code, kind) in MESSAGE_TYPES.iter().enumerate() {
        assert_eq!(usize::from(message_type_code(*kind)), code);
        assert_eq!(*kind as usize, code, "raft's own numbering, the origin of ours");
    }
    assert_eq!(message_type(19), Err(WireError::Unknown { what: "message type", value: 19 }));
}

#[test]
fn entry_data_shares_the_frame() {
    let frame = Bytes::from(encoded(&append()));
    let range = frame.as_ptr_range();
    let m = decode_message_bytes(&frame).expect("valid");
    assert!(range.contains(&m.entries[0].data.as_ptr()));
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    for m in [append(), snapshot()] {
        let bytes = encoded(&m);
        for len in 0..bytes.len() {
            assert!(decode_message(&bytes[..len]).is_err(), "cut at {len}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(decode_message(&long), Err(WireError::Trailing(1)));
        let sealed = seal(1, &bytes);
        for len in 0..sealed.len() {
            assert!(open(&sealed[..len]).is_err(), "envelope cut at {len}");
        }
    }
}

#[test]
fn every_flipped_bit_of_an_envelope_is_found() {
    let sealed = seal(1, &encoded(&append()));
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn length_bombs_allocate_nothing() {
    let mut bytes = encoded(&append());
    let count_at = 3 + 11 * 8 + 4;
    bytes[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode_message(&bytes), Err(WireError::Truncated { .. })));
    let mut bytes = encoded(&append());
    bytes[count_at - 4..count_at].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode_message(&bytes), Err(WireError::Truncated { .. })));
}

#[test]
fn contradictions_between_fields_are_refused() {
    let refused = |change: &dyn Fn(&mut Message), base: Message| {
        let mut m = base;
        change(&mut m);
        matches!(decode_message(&encoded(&m)), Err(WireError::Invalid(_)))
    };
    assert!(refused(&|m| m.entries[1].index = 12, append()), "gap");
    assert!(refused(&|m| m.entries[0].index = 9, append()), "does not follow the message's index");
    assert!(refused(&|m| m.entries[1].term = 5, append()), "term falls");
    assert!(refused(&|m| m.entries[1].term = 8, append()), "term above the message's");
    assert!(refused(&|m| m.log_term = 8, append()), "previous term above the message's");
    assert!(refused(&|m| m.index = MAX_NUMBER + 1, append()), "index near overflow");
    assert!(refused(&|m| m.msg_type = MessageType::MsgHeartbeat, append()), "entries in a heartbeat");
    assert!(
        refused(&|m| m.msg_type = MessageType::MsgReadIndex, {
            let mut m = append();
            m.entries.clear();
            m
        }),
        "empty request"
    );
    assert!(refused(&|m| m.snapshot = None.into(), snapshot()), "snapshot message without one");
    assert!(refused(&|m| m.msg_type = MessageType::MsgHeartbeat, snapshot()), "snapshot in a heartbeat");
    assert!(refused(&|m| m.term = 1, snapshot()), "snapshot of a later term");
    assert!(refused(&|m| m.mut_snapshot().mut_metadata().index = 0, snapshot()), "snapshot at 0");
    let conf = |change: &dyn Fn(&mut ConfState)| {
        refused(&|m| change(m.mut_snapshot().mut_metadata().mut_conf_state()), snapshot())
    };
    assert!(conf(&|c| c.voters.clear()), "no voters");
    assert!(conf(&|c| c.voters.push(1)), "twice");
    assert!(conf(&|c| c.voters.push(0)), "id 0");
    assert!(conf(&|c| c.learners.push(2)), "learner and voter");
    assert!(conf(&|c| c.learners_next.push(9)), "demoted stranger");
    assert!(
        conf(&|c| {
            c.voters_outgoing.clear();
            c.learners_next.clear();
            c.auto_leave = true;
        }),
        "auto-leave without joint"
    );
}

#[test]
fn local_kinds_never_come_from_peers() {
    let allowed: Vec<_> = MESSAGE_TYPES.into_iter().filter(|k| peer_message(*k).is_some()).collect();
    assert_eq!(allowed.len(), 10);
    for local in
        [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgReadIndex, MessageType::MsgTransferLeader]
    {
        assert!(!allowed.contains(&local));
    }
}

/// Messages that this crate would send: fields free, entries consecutive and terms in order.
fn message() -> impl Strategy<Value = Message> {
    let number = 0..=MAX_NUMBER / 4;
    let blob = prop::collection::vec(any::<u8>(), 0..40);
    (
        0_usize..19,
        prop::collection::vec(number, 9),
        any::<(u64, i64, bool)>(),
        prop::collection::vec((0_u8..3, blob.clone(), blob.clone()), 1..6),
        blob,
    )
        .prop_map(|(kind, n, (priority, signed, reject), entries, context)| {
            let mut m = Message::default();
            m.msg_type = MESSAGE_TYPES[kind];
            (m.to, m.from, m.index, m.commit) = (n[0], n[1], n[2], n[3]);
            (m.commit_term, m.request_snapshot, m.reject_hint) = (n[4], n[5], n[6]);
            m.log_term = n[7].min(n[8]);
            m.term = n[7].max(n[8]) + 100;
            (m.deprecated_priority, m.priority, m.reject) = (priority, signed, reject);
            m.context = Bytes::from(context);
            if m.msg_type == MessageType::MsgSnapshot {
                let mut s = Snapshot::default();
                s.data = Bytes::from(entries[0].1.clone());
                s.mut_metadata().index = n[2] + 1;
                s.mut_metadata().term = m.term;
                s.mut_metadata().mut_conf_state().voters = vec![n[0] + 1, n[0] + 2];
                m.snapshot = Some(s).into();
            }
            let with_entries = [
                MessageType::MsgAppend,
                MessageType::MsgPropose,
                MessageType::MsgReadIndex,
                MessageType::MsgReadIndexResp,
            ];
            if with_entries.contains(&m.msg_type) {
                let (mut index, mut term) = (m.index, m.log_term);
                for (kind, data, context) in entries {
                    index += 1;
                    term += 1;
                    m.entries.push(entry(entry_type(kind).expect("0..3"), term, index, &data, &context));
                }
            }
            m
        })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(m in message()) {
        prop_assert_eq!(decode_message(&encoded(&m)).expect("a valid message"), m);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = open(&bytes);
        let _ = decode_message(&bytes);
        let _ = decode_entry(&Bytes::from(bytes.clone()));
        let _ = decode_conf_state(&bytes);
    }

    /// Valid messages with a few bytes changed reach deeper than noise; whatever is still accepted has one encoding only.
    #[test]
    fn damaged_messages_are_refused_or_canonical(m in message(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = encoded(&m);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(decoded) = decode_message(&bytes) {
            prop_assert_eq!(encoded(&decoded), bytes);
        }
    }
}
