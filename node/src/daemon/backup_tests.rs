use control::registry::Founder;
use engine::ids::NodeId;

use super::*;

fn state() -> Vec<u8> {
    let address = "192.0.2.1:7800".parse().expect("an address");
    let founder = Founder { node: NodeId(1), peer_addr: address, api_addr: address, key: [1; 32] };
    State::found([7; 16], &[founder], [1, 2]).encode().expect("small")
}

fn content(state: &[u8]) -> Content<'_> {
    Content { cluster: "demo", node: 1, made: "2026-01-31T12:00:00.000Z".to_owned(), state }
}

#[test]
fn a_backup_gives_back_the_state_and_the_whole_lines_of_every_log_file() {
    let scratch = tempfile::tempdir().expect("scratch");
    let log = scratch.path().join("nat.log");
    let logs = crate::nat_log::files(&log, 3);
    fs::write(&logs[0], "newest\nand a torn li").expect("written");
    fs::write(&logs[1], "older\n").expect("written");
    let path = scratch.path().join("backup");
    let state = state();
    let made = write(&path, &content(&state), &logs).expect("made");
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o077, 0, "others could read it");
    let again = read(&path).expect("sound");
    assert_eq!((&again.manifest, &again.state), (&made.manifest, &made.state));
    assert_eq!(again.state.encode().expect("small"), state);
    let restored = scratch.path().join("restored.log");
    assert_eq!(again.unpack_logs(&restored).expect("unpacked"), 2);
    let text = |path: &Path| fs::read_to_string(path).expect("there");
    assert_eq!(text(&restored), "newest\n");
    assert_eq!(text(&crate::nat_log::files(&restored, 1)[1]), "older\n");
    assert!(again.unpack_logs(&restored).is_err(), "written over a log");
}

#[test]
fn a_backup_is_never_written_over_another_and_a_failed_one_leaves_nothing() {
    let scratch = tempfile::tempdir().expect("scratch");
    let path = scratch.path().join("backup");
    let unsound = write(&path, &content(b"no state"), &[]).expect_err("an unsound state");
    assert!(format!("{unsound:#}").contains("control state"), "{unsound:#}");
    assert_eq!(fs::read_dir(scratch.path()).expect("there").count(), 0, "a draft stays");
    write(&path, &content(&state()), &[]).expect("made");
    let refused = write(&path, &content(&state()), &[]).expect_err("there already");
    assert!(refused.to_string().contains("never written over"), "{refused:#}");
}

#[test]
fn no_octet_of_a_backup_can_be_changed_or_cut_off_unnoticed() {
    let scratch = tempfile::tempdir().expect("scratch");
    let log = scratch.path().join("nat.log");
    fs::write(&log, "a line\n").expect("written");
    let path = scratch.path().join("backup");
    let made = write(&path, &content(&state()), &[log]).expect("made");
    let sound = fs::read(&path).expect("there");
    let bad = scratch.path().join("bad");
    for at in (0..sound.len()).step_by(7) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        fs::write(&bad, &bytes).expect("written");
        if let Ok(other) = read(&bad) {
            // Padding, and what tar says of owners and times, means nothing.
            assert_eq!((&other.manifest, &other.state), (&made.manifest, &made.state), "octet {at}");
        }
    }
    for length in (0..sound.len() - 1024).step_by(101) {
        fs::write(&bad, &sound[..length]).expect("written");
        assert!(read(&bad).is_err(), "cut to {length}");
    }
}
