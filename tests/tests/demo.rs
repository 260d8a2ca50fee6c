//! `scripts/demo`, as a newcomer runs it, with a smaller download. Needs root.

use std::path::Path;
use std::process::Command;

use qnat_tests::lab::binary;

#[test]
fn the_demo_kills_the_owner_of_a_download_and_the_download_is_right() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo");
    let mut demo = Command::new(script);
    let demo = demo.env("QNAT", binary()).env("QNAT_DEMO", "128M 20M").output().expect("bash");
    let said = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{said}{}", String::from_utf8_lossy(&demo.stderr));
    for part in ["carries it: SIGKILL", "the download finished, sha256 is right", "comes back as a new incarnation"] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
}
