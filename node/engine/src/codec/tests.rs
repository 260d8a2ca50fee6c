use super::*;
use crate::ids::{BackendId, FrontendId, PortBlock, Term, VnetId};
use crate::record::{Addr, CloseReason, Endpoint, HoldClass, InsideKey, Open, Proto, PublicKey, Scenario};
use proptest::prelude::*;

fn header() -> EntryHeader {
    EntryHeader {
        term: Term(7),
        stream: 2,
        sequence: 9,
        control_index: ControlIndex(5),
        holds_ended: [LogIndex(1); HOLD_CLASSES],
        orphan_grace_ms: 3000,
        hold_ms: [65_000; HOLD_CLASSES],
        records: 0,
    }
}

fn public() -> PublicKey {
    let remote = Endpoint { addr: Addr::from(std::net::Ipv4Addr::new(198, 51, 100, 1)), port: 443 };
    PublicKey { proto: Proto::Tcp, frontend: FrontendId(3), port: 2048, remote }
}

/// One of each kind.
fn records(scenario: Scenario) -> Vec<FlowRecord> {
    let endpoint = Endpoint { addr: Addr::from(std::net::Ipv4Addr::new(10, 0, 0, 4)), port: 5000 };
    let inside = InsideKey { vnet: VnetId(1), endpoint };
    vec![
        FlowRecord::Open(Open { public: public(), inside, backend: BackendId(8), scenario }),
        FlowRecord::Close { public: public(), reason: CloseReason::Fin },
        FlowRecord::Fence {
            block: PortBlock { frontend: FrontendId(3), start: 2048, len: 1024 },
            reclaim_index: ControlIndex(4),
        },
    ]
}

const FORMATS: [(Format, Scenario); 3] =
    [(Format::First, Scenario::Pool), (Format::Second, Scenario::OwnOut), (Format::Third, Scenario::OwnOut)];

fn encoder(format: Format) -> Encoder {
    let mut encoder = Encoder::new();
    encoder.set_format(format);
    encoder
}

fn scanned(scenario: Scenario) -> ScanRecord {
    let FlowRecord::Open(open) = records(scenario)[0] else { unreachable!("the first opens") };
    ScanRecord { open, held: Some(HoldClass::IdleStream), written_at: LogIndex(6) }
}

fn chunk_header() -> ChunkHeader {
    ChunkHeader {
        sequence: 0,
        base: LogIndex(0),
        control_index: ControlIndex(0),
        holds_ended: [LogIndex(0); HOLD_CLASSES],
        orphan_grace_ms: 0,
        grace_peak_ms: 0,
        hold_ms: [0; HOLD_CLASSES],
        records: 0,
    }
}

#[test]
fn an_entry_comes_back_as_it_was_packed() {
    for (format, scenario) in FORMATS {
        let packed = encoder(format).entry(header(), &records(scenario));
        let mut found = Vec::new();
        let decoded = decode_entry(Format::NEWEST, &packed, &mut found).expect("decodes");
        assert_eq!(decoded, EntryHeader { records: 3, ..header() });
        assert_eq!(found, records(scenario));
    }
}

#[test]
fn a_chunk_comes_back_as_it_was_packed() {
    for (format, scenario) in FORMATS {
        let all = [scanned(scenario); CHUNK_RECORDS_MAX];
        let chunk = encoder(format).chunk(chunk_header(), &all);
        assert!(chunk.len() <= ENTRY_MAX);
        let mut found = Vec::new();
        decode_chunk(Format::NEWEST, &chunk, &mut found).expect("decodes");
        assert_eq!(found, all);
    }
}

#[test]
fn the_layout_has_the_lengths_that_the_bounds_are_computed_from() {
    let empty = Encoder::new().entry(header(), &[]);
    assert_eq!(empty.len(), ENVELOPE_LEN + HEADER_LEN);
    let chunk = Encoder::new().chunk(chunk_header(), &[]);
    assert_eq!(chunk.len(), ENVELOPE_LEN + CHUNK_HEADER_LEN);
    let one = encoder(Format::First).entry(header(), &records(Scenario::Pool)[..1]);
    assert_eq!(one.len() - empty.len(), first::RECORD_MAX_LEN);
    let one = encoder(Format::First).chunk(chunk_header(), &[scanned(Scenario::Pool)]);
    assert_eq!(one.len() - chunk.len(), first::SCAN_RECORD_LEN);
    // With IPv4 and a remote outside the second format is shorter than its bound: two addresses, one virtual network.
    let one = Encoder::new().entry(header(), &records(Scenario::Pool)[..1]);
    assert_eq!(one.len() - empty.len(), second::RECORD_MAX_LEN - 2 * 12 - 4);
    let one = Encoder::new().chunk(chunk_header(), &[scanned(Scenario::Pool)]);
    assert_eq!(one.len() - chunk.len(), second::SCAN_RECORD_MAX_LEN - 2 * 12 - 4);
}

/// Golden bytes: the layout is protocol, a change needs a new version.
#[test]
fn the_bytes_of_version_4_are_frozen() {
    let packed = encoder(Format::First).entry(header(), &records(Scenario::Pool));
    assert_eq!(crc32fast::hash(&packed), 2_398_216_323);
    assert_eq!(&packed[..8], &[0x51, 0x4e, 4, 32, 222, 0, 0, 0]);
}

/// Golden bytes: as `second` draws them.
#[test]
fn the_bytes_of_version_5_are_frozen() {
    let packed = encoder(Format::Second).entry(header(), &records(Scenario::OwnOut));
    let body = &packed[ENVELOPE_LEN + HEADER_LEN..];
    let public = [0, 3, 0, 0, 0, 0, 8, 0, 4, 198, 51, 100, 1, 187, 1];
    let open = [&[0, 6, 2, 8, 0, 0, 0][..], &public, &[1, 0, 0, 0, 4, 10, 0, 0, 4, 136, 19]].concat();
    let close = [&[1, 6, 0][..], &public].concat();
    let fence = [2, 3, 0, 0, 0, 0, 8, 0, 4, 4, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(body, [open, close, fence.to_vec()].concat());
    assert_eq!(packed[2], 5);
    let chunk = encoder(Format::Second).chunk(chunk_header(), &[scanned(Scenario::OwnOut)]);
    let head = [6, 2, 4, 6, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
    let inside = [1, 0, 0, 0, 4, 10, 0, 0, 4, 136, 19];
    assert_eq!(&chunk[ENVELOPE_LEN + CHUNK_HEADER_LEN..], [&head[..], &public, &inside].concat());
}

/// Golden bytes: those of version 5, with the numbers of the protocols that it does not have.
#[test]
fn the_bytes_of_version_6_are_frozen() {
    for (number, proto) in [(47, Proto::Gre), (50, Proto::Esp), (132, Proto::Sctp)] {
        let packed = encoder(Format::Third).entry(header(), &by_address(proto));
        let public = [0, 3, 0, 0, 0, 0, 8, 0, 4, 198, 51, 100, 1, 187, 1];
        let open = [&[0, number, 2, 8, 0, 0, 0][..], &public, &[1, 0, 0, 0, 4, 10, 0, 0, 4, 136, 19]].concat();
        let close = [&[1, number, 2][..], &public].concat();
        assert_eq!(&packed[ENVELOPE_LEN + HEADER_LEN..], [open, close].concat());
        assert_eq!(packed[2], 6);
        let mut found = Vec::new();
        decode_entry(Format::NEWEST, &packed, &mut found).expect("decodes");
        assert_eq!(found, by_address(proto));
    }
}

/// A mapping that opens and closes.
fn by_address(proto: Proto) -> Vec<FlowRecord> {
    let FlowRecord::Open(open) = records(Scenario::OwnOut)[0] else { unreachable!("the first opens") };
    let public = PublicKey { proto, ..open.public };
    vec![FlowRecord::Open(Open { public, ..open }), FlowRecord::Close { public, reason: CloseReason::Idle }]
}

#[test]
fn who_knows_a_lower_level_alone_refuses_what_is_written_at_a_higher_one() {
    for (level, format, found, read) in [(1, Format::Second, 5, 4), (1, Format::Third, 6, 4), (2, Format::Third, 6, 5)]
    {
        let packed = encoder(format).entry(header(), &records(Scenario::Pool));
        let refused = decode_entry(Format::of_level(level), &packed, &mut Vec::new());
        assert_eq!(refused, Err(CodecError::Envelope(EnvelopeError::Version { found, read })));
        let chunk = encoder(format).chunk(chunk_header(), &[scanned(Scenario::Pool)]);
        assert!(decode_chunk(Format::of_level(level), &chunk, &mut Vec::new()).is_err());
    }
}

/// C2: what version 5 has no number for is damage there, and is asked about before anything is written.
#[test]
fn only_the_third_format_carries_protocols_that_are_translated_by_address_alone() {
    for proto in Proto::ALL {
        let is_new = [Proto::Gre, Proto::Esp, Proto::Sctp].contains(&proto);
        for (format, carries) in [(Format::First, !is_new), (Format::Second, !is_new), (Format::Third, true)] {
            assert_eq!(format.carries(proto), carries, "{proto:?} {format:?}");
        }
        let packed = encoder(Format::Second).entry(header(), &by_address(proto));
        assert_eq!(decode_entry(Format::NEWEST, &packed, &mut Vec::new()).is_err(), is_new, "{proto:?}");
        let FlowRecord::Open(open) = by_address(proto)[0] else { unreachable!("the first opens") };
        let chunk = encoder(Format::Second).chunk(chunk_header(), &[ScanRecord { open, ..scanned(Scenario::OwnOut) }]);
        assert_eq!(decode_chunk(Format::NEWEST, &chunk, &mut Vec::new()).is_err(), is_new, "{proto:?}");
    }
}

/// The layout has room for what this build does not translate: it refuses it, and reads nothing else into it.
#[test]
fn an_end_or_a_protocol_that_is_not_translated_is_refused() {
    let packed = Encoder::new().entry(header(), &records(Scenario::Pool)[..1]);
    let body = &packed[ENVELOPE_LEN..];
    for (format, protocol) in [(Format::Second, 47), (Format::Second, 51), (Format::Third, 51)] {
        // Protocol, scenario, public end, remote end, its address, the inside address.
        for (at, value) in [(1, protocol), (2, 6), (7, 1), (14, 1), (15, 6), (26, 6)] {
            let mut body = body.to_vec();
            body[HEADER_LEN + at] = value;
            let packed = envelope::seal(format as u8, Kind::Entry as u8, &body);
            assert_eq!(decode_entry(Format::NEWEST, &packed, &mut Vec::new()), Err(CodecError::Body), "octet {at}");
        }
    }
}

#[test]
fn a_count_that_promises_more_than_there_is_is_refused() {
    let mut body = Encoder::new().entry(header(), &records(Scenario::Pool))[ENVELOPE_LEN..].to_vec();
    body[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&u32::MAX.to_le_bytes());
    let packed = envelope::seal(Format::NEWEST as u8, Kind::Entry as u8, &body);
    assert_eq!(decode_entry(Format::NEWEST, &packed, &mut Vec::new()), Err(CodecError::Body));
}

proptest! {
    #[test]
    fn decoding_never_panics_on_any_body(body in proptest::collection::vec(any::<u8>(), 0..400), kind in 31u8..35, version in 3u8..8) {
        let bytes = envelope::seal(version, kind, &body);
        let _ = decode_entry(Format::NEWEST, &bytes, &mut Vec::new());
        let _ = decode_chunk(Format::NEWEST, &bytes, &mut Vec::new());
    }

    #[test]
    fn a_flipped_or_missing_byte_is_refused(at in 0usize..200, bit in 0u8..8, cut in 1usize..200) {
        let packed = Encoder::new().entry(header(), &records(Scenario::Pool));
        let mut flipped = packed.to_vec();
        let at = at % flipped.len();
        flipped[at] ^= 1 << bit;
        prop_assert!(decode_entry(Format::NEWEST, &flipped, &mut Vec::new()).is_err());
        prop_assert!(decode_entry(Format::NEWEST, &packed[..packed.len() - cut.min(packed.len())], &mut Vec::new()).is_err());
    }
}
