//! Backups (N6): one file, a tar archive, with the control state as of an index, and the address-translation log of the
//! member that made it. Behind them the manifest names each with its length and hash, and the last entry is the manifest's
//! own hash.
//!
//! A backup is checked when it is made, by the same code that reads it for a restore, and takes its name only then. It must
//! never be written over another. Made and read by `qnat cluster backup` and `restore`; the member only gives its state.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use control::limits::STATE_LEN_MAX;
use control::state::State;
use serde::{Deserialize, Serialize};

const FORMAT: &str = "qnat backup 1";
const STATE: &str = "control-state";
const MANIFEST: &str = "manifest.json";
const MANIFEST_HASH: &str = "manifest.json.b3";
/// Followed by the age of the file: 0 is the newest.
const LOG: &str = "nat-log.";
const MANIFEST_LEN_MAX: u64 = 1 << 20;
/// A log line is far shorter; a torn one at a file's end is left out.
const LINE_LEN_MAX: u64 = 64 << 10;

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// Name of the cluster.
    pub cluster: String,
    /// The member that made it: whose address-translation log it holds.
    pub node: u32,
    /// The control state is as of this index.
    pub control_index: u64,
    /// When it was made, UTC.
    pub made: String,
    /// All other entries.
    files: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    bytes: u64,
    blake3: String,
}

/// What goes into a backup besides the logs.
#[derive(Debug)]
pub struct Content<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// The member asked.
    pub node: u32,
    /// When, UTC.
    pub made: String,
    /// Its control state, encoded.
    pub state: &'a [u8],
}

/// A backup that was read to its end and found sound.
#[derive(Debug)]
pub struct Backup {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The control state.
    pub state: State,
}

/// Hashes what passes.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Writes a backup to `path`, with the logs `logs` (newest first), and checks it.
///
/// # Errors
/// If `path` is there already, something cannot be read or written, or what was written does not read back as a sound state.
pub fn write(path: &Path, content: &Content<'_>, logs: &[PathBuf]) -> Result<Backup> {
    ensure!(!path.exists(), "{} is there already: a backup is never written over another", path.display());
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = write_draft(&draft, content, logs).and_then(|()| read(&draft)).and_then(|backup| {
        fs::rename(&draft, path).with_context(|| path.display().to_string())?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| dir.display().to_string())?;
        Ok(Backup { path: path.to_owned(), ..backup })
    });
    if written.is_err() {
        // The draft is of no use; what went wrong is what is told.
        let _gone = fs::remove_file(&draft);
    }
    written
}

fn write_draft(draft: &Path, content: &Content<'_>, logs: &[PathBuf]) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft);
    let file = file.with_context(|| draft.display().to_string())?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    let mut files = Vec::new();
    let state = content.state;
    append(&mut archive, &mut files, STATE, u64::try_from(state.len())?, state)?;
    for (age, (path, file, bytes)) in open_logs(logs)?.into_iter().enumerate() {
        append(&mut archive, &mut files, &format!("{LOG}{age}"), bytes, file)
            .with_context(|| path.display().to_string())?;
    }
    let control_index = State::decode(state).context("the member's control state")?.index().0;
    let (cluster, made, node) = (content.cluster.to_owned(), content.made.clone(), content.node);
    let manifest = Manifest { format: FORMAT.to_owned(), cluster, node, control_index, made, files };
    let text = serde_json::to_vec_pretty(&manifest)?;
    let hash = blake3::hash(&text).to_hex();
    for (name, text) in [(MANIFEST, text.as_slice()), (MANIFEST_HASH, hash.as_bytes())] {
        append(&mut archive, &mut Vec::new(), name, u64::try_from(text.len())?, text)?;
    }
    let file = archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all().with_context(|| draft.display().to_string())
}

fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    files: &mut Vec<Entry>,
    name: &str,
    bytes: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    let mut hashing = Hashing { inner: content.take(bytes), hasher: blake3::Hasher::new() };
    archive.append_data(&mut header, name, &mut hashing)?;
    files.push(Entry { name: name.to_owned(), bytes, blake3: hashing.hasher.finalize().to_hex().to_string() });
    Ok(())
}

/// The log's files that are there, newest first, each with its length up to its last whole line. A file that gets another
/// name meanwhile is taken once.
fn open_logs(paths: &[PathBuf]) -> Result<Vec<(PathBuf, File, u64)>> {
    let mut seen = Vec::new();
    let mut opened = Vec::new();
    for path in paths {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.with_context(|| path.display().to_string())?,
        };
        let inode = file.metadata().map(|meta| (meta.dev(), meta.ino())).with_context(|| path.display().to_string())?;
        if seen.contains(&inode) {
            continue;
        }
        seen.push(inode);
        let bytes = whole_lines(&mut file).with_context(|| path.display().to_string())?;
        opened.push((path.clone(), file, bytes));
    }
    Ok(opened)
}

fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LINE_LEN_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    Read::by_ref(file).take(length - from).read_to_end(&mut end)?;
    file.rewind()?;
    let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(if whole == 0 { 0 } else { from + u64::try_from(whole).unwrap_or(0) })
}

/// Reads a whole backup and checks everything in it.
///
/// # Errors
/// If it is torn, changed, of another format, or its state is unsound.
pub fn read(path: &Path) -> Result<Backup> {
    let place = || format!("backup {}", path.display());
    let mut found = Vec::new();
    let mut state = None;
    let (mut text, mut hash) = (Vec::new(), None);
    for_each(path, |name, bytes, content| {
        ensure!(hash.is_none(), "{name:?} comes behind the end");
        if name == MANIFEST || name == MANIFEST_HASH {
            ensure!(bytes <= MANIFEST_LEN_MAX, "{name} is {bytes} bytes long");
            let mut body = Vec::new();
            content.read_to_end(&mut body)?;
            if name == MANIFEST {
                text = body
            } else {
                hash = Some(body)
            }
            return Ok(());
        }
        ensure!(text.is_empty(), "{name:?} comes behind the manifest");
        let mut hashing = Hashing { inner: content, hasher: blake3::Hasher::new() };
        if name == STATE {
            ensure!(bytes <= u64::try_from(STATE_LEN_MAX)?, "the control state is {bytes} bytes long");
            let mut body = Vec::new();
            hashing.read_to_end(&mut body)?;
            state = Some(body);
        } else {
            io::copy(&mut hashing, &mut io::sink())?;
        }
        found.push(Entry { name: name.to_owned(), bytes, blake3: hashing.hasher.finalize().to_hex().to_string() });
        Ok(())
    })
    .with_context(place)?;
    let hash = hash.context("it has no end: the backup was cut off").with_context(place)?;
    ensure!(blake3::hash(&text).to_hex().as_bytes() == hash, "{}: the manifest was changed", place());
    let manifest: Manifest = serde_json::from_slice(&text).context(MANIFEST).with_context(place)?;
    ensure!(manifest.format == FORMAT, "{}: format {:?}, this version reads {FORMAT:?}", place(), manifest.format);
    for (said, is) in manifest.files.iter().zip(&found) {
        ensure!(said == is, "{}: {} was changed since the backup was made", place(), said.name);
    }
    ensure!(manifest.files.len() == found.len(), "{}: files are missing, or were added", place());
    let state = state.context("it holds no control state").with_context(place)?;
    let state = State::decode(&state).with_context(place)?;
    state.check().with_context(|| format!("{}: the control state is unsound", place()))?;
    ensure!(state.index().0 == manifest.control_index, "{}: its state is of another index than it says", place());
    Ok(Backup { path: path.to_owned(), manifest, state })
}

fn for_each(path: &Path, mut each: impl FnMut(&str, u64, &mut dyn Read) -> Result<()>) -> Result<()> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(path)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let bytes = entry.size();
        each(&name, bytes, &mut entry)?;
    }
    Ok(())
}

impl Backup {
    /// Writes the address-translation log that the backup holds to `log` and, for older files, beside it. The files must
    /// not be there.
    ///
    /// # Errors
    /// If one is there, or cannot be written.
    pub fn unpack_logs(&self, log: &Path) -> Result<usize> {
        let mut unpacked = 0;
        for_each(&self.path, |name, _, content| {
            let Some(age) = name.strip_prefix(LOG) else { return Ok(()) };
            let Ok(age) = age.parse::<u32>() else { bail!("{name:?} is no file of a log") };
            let to = crate::nat_log::files(log, age).pop().context("a log has files")?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to);
            let mut file = BufWriter::new(file.with_context(|| format!("{} (it must not exist yet)", to.display()))?);
            io::copy(content, &mut file)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            unpacked += 1;
            Ok(())
        })?;
        Ok(unpacked)
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
