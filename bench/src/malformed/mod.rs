//! `qnat-bench malformed`: the same packets through the kernel's masquerade and through qnat, with raw sockets on both sides:
//! what is passed on, what is dropped, and what leaves with the private source.

mod cases;
mod ends;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use qnat_lab::topology::{self, INET_ADDRESSES, INSIDE_GATEWAY};
use qnat_reference::packet::{addresses, shape};
use serde::{Deserialize, Serialize};

use crate::lab::{Counted, Lab};
use crate::machine::Machine;
use crate::nftables::{self, Masquerade};
use crate::printing::Printing;
use cases::{Case, From, Scene, Want};
use ends::{Ends, Place};

/// How long a drop may take to be counted: a fragment waits two seconds for the first of its datagram.
const COUNTED_WITHIN: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(50);

/// Arguments of `qnat-bench malformed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The executable under test.
    #[arg(long, default_value = "target/release/qnat")]
    binary: PathBuf,
    /// What becomes of the result.
    #[command(flatten)]
    pub printing: Printing,
}

/// What a gateway did with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Nothing came out.
    Dropped,
    /// It came out translated.
    Passed,
    /// It came out with the private address that it had, or had to be translated to.
    Leaked,
}

/// One packet of the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What is wrong with it.
    pub packet: String,
    /// Where it was sent: `inside` or `outside`.
    pub sent: String,
    /// Whether it is sound and has to pass.
    pub sound: bool,
    /// The kernel's masquerade.
    pub kernel: Fate,
    /// qnat.
    pub qnat: Fate,
    /// Why qnat dropped it, by its own counters.
    pub reason: Option<String>,
}

/// The whole set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MalformedResult {
    /// Where and when.
    pub machine: Machine,
    /// By packet.
    pub rows: Vec<Row>,
}

impl MalformedResult {
    /// How often a gateway did what with packets that had to be dropped (or passed).
    #[must_use]
    pub fn count(&self, fate_of: impl Fn(&Row) -> Fate, sound: bool, fate: Fate) -> usize {
        self.rows.iter().filter(|row| row.sound == sound && fate_of(row) == fate).count()
    }
}

/// Runs it.
///
/// # Errors
/// If a gateway does not come up, or a raw socket fails.
pub fn run(args: &Args) -> Result<MalformedResult> {
    let kernel = through_the_kernel()?;
    let qnat = through_qnat(&args.binary)?;
    let rows = kernel.into_iter().zip(qnat).map(|((case, kernel), (qnat, reason))| Row {
        packet: case.name.to_owned(),
        sent: if case.from == From::Inside { "inside" } else { "outside" }.to_owned(),
        sound: case.want == Want::Passed,
        kernel,
        qnat,
        reason,
    });
    let result = MalformedResult { rows: rows.collect(), machine: Machine::here()? };
    Ok(result)
}

fn through_the_kernel() -> Result<Vec<(Case, Fate)>> {
    let _gateway = Masquerade::up()?;
    let ends = Ends::new(&Place {
        inside: (nftables::CLIENT, "in"),
        outside: (nftables::SERVER, "out"),
        client: nftables::CLIENT_ADDRESS,
        gateway: INSIDE_GATEWAY,
        server: nftables::SERVER_ADDRESS,
    })?;
    cases::all(ends.scene).into_iter().map(|case| Ok((case.clone(), fate(&ends, &case)?))).collect()
}

fn through_qnat(binary: &std::path::Path) -> Result<Vec<(Fate, Option<String>)>> {
    let lab = Lab::up(binary, 3, &[])?;
    let ends = Ends::new(&Place {
        inside: ("qnat-b1", "eth0"),
        outside: (topology::INET, "eth0"),
        client: topology::backend_address(1),
        gateway: INSIDE_GATEWAY,
        server: INET_ADDRESSES[0],
    })?;
    let mut fates = Vec::new();
    for case in cases::all(ends.scene) {
        let before = lab.counted()?;
        let fate = fate(&ends, &case)?;
        let reason = if fate == Fate::Dropped { counted_as(&lab, &before)? } else { None };
        fates.push((fate, reason));
    }
    Ok(fates)
}

/// The reason under which a packet was dropped since `before`.
fn counted_as(lab: &Lab, before: &Counted) -> Result<Option<String>> {
    let begun = Instant::now();
    while begun.elapsed() < COUNTED_WITHIN {
        let mut drops = lab.counted()?.since(before).drops;
        if let Some((reason, _)) = drops.pop() {
            return Ok(Some(reason));
        }
        std::thread::sleep(POLL);
    }
    Ok(None)
}

fn fate(ends: &Ends, case: &Case) -> Result<Fate> {
    let out = match case.from {
        From::Inside => ends.send_out(&case.frame),
        From::Outside => ends.send_back(&case.frame),
    };
    let out = out.with_context(|| case.name.to_owned())?;
    // Each packet is judged by the first frame that came out for it.
    Ok(out.iter().find(|frame| shape(frame).is_some()).map_or(Fate::Dropped, |frame| judge(&ends.scene, case, frame)))
}

fn judge(scene: &Scene, case: &Case, frame: &[u8]) -> Fate {
    let leaked = match case.from {
        From::Inside => addresses(frame).0 != scene.public,
        // It already had the private address outside.
        From::Outside => addresses(&case.frame).1 == scene.client || addresses(frame).0 == scene.client,
    };
    if leaked { Fate::Leaked } else { Fate::Passed }
}
