//! `qnat dump`, and `qnat explain` out of what it wrote: a cluster at a moment in one file, and what would have become of packets
//! then, asked of no member.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, ensure};

use super::asking::Asking;
use super::output::{Output, print};
use super::target::Target;
use crate::answers::Dump;
use crate::client::ClientError;
use crate::daemon::request::Request;
use crate::nat_log::time_text;
use crate::replay::Replay;

/// Longest dump that is read: more than one can become.
const DUMP_LEN_MAX: u64 = 512 << 20;

/// `qnat dump`.
#[derive(Debug, clap::Args)]
pub(super) struct DumpArgs {
    /// The file: must not be there yet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Only the mappings of this instance, or of one instance/ip_configuration; may be said several times.
    #[arg(long = "backend", value_name = "NAME")]
    backends: Vec<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn perform(args: &DumpArgs) -> Result<ExitCode> {
    let path = args.to.display();
    ensure!(!args.to.exists(), "{path} is there already: a dump is never written over another file");
    let answer = args.target.call(&Request::Dump { backends: args.backends.clone() })?;
    let dump: Dump = serde_json::from_value(answer).context("an answer of another version")?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.to).with_context(|| path.to_string())?;
    file.write_all(&serde_json::to_vec(&dump)?).with_context(|| path.to_string())?;
    file.sync_all().with_context(|| path.to_string())?;
    print(&summary(&dump, &args.to))?;
    Ok(ExitCode::SUCCESS)
}

fn summary(dump: &Dump, path: &Path) -> String {
    let mappings: usize = dump.shards.iter().map(|shard| shard.mappings.len()).sum();
    let mut text = format!(
        "{}: cluster {} as of control index {}, {}: {mappings} mappings of {} shards, gathered by n{}\nnot in it:\n",
        path.display(),
        dump.cluster,
        dump.control_index,
        time_text(dump.unix_ms),
        dump.shards.len(),
        dump.node,
    );
    for line in &dump.left_out {
        text += &format!("  {line}\n");
    }
    text + &format!(
        "explain a packet out of it, as in: qnat explain --from {} 10.0.1.1 203.0.113.10:80\n",
        path.display()
    )
}

/// Answers `request`, a question about a packet, out of a dump.
pub(super) fn explain(from: &Path, request: &Request, asking: &Asking) -> Result<ExitCode> {
    let path = from.display().to_string();
    let mut text = String::new();
    let file = File::open(from).with_context(|| path.clone())?;
    file.take(DUMP_LEN_MAX).read_to_string(&mut text).with_context(|| path.clone())?;
    let refused = |failure| Error::from(ClientError::Refused(failure)).context(path.clone());
    let mut replay = Replay::of(&text).map_err(refused)?;
    let Request::Explain { of } = request else { anyhow::bail!("only packets are explained out of a dump") };
    let told = replay.explain(of).map_err(refused)?;
    if asking.output == Output::Table {
        let dump = replay.dump();
        let (cluster, index, when) = (&dump.cluster, dump.control_index, time_text(dump.unix_ms));
        print(&format!("out of {path}: cluster {cluster} as of control index {index}, {when}"))?;
    }
    asking.show(request, &serde_json::to_value(told)?)
}
