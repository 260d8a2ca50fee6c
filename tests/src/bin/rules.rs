//! Prints `RULES.md`.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::path::Path;

use anyhow::Result;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    print!("{}", qnat_tests::rules::write(root)?);
    Ok(())
}
