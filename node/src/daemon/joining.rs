//! A new machine gets in: a key and a request on the machine itself, a signature where the authority's key is, and the
//! certificate back on the machine (N5).
//!
//! The key never leaves the machine that made it. It must never write over a key or a configuration, and never put a
//! certificate in place that peers would refuse. Called by `qnat join`, `qnat cluster sign` and the lab.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use netio::ca::{self, ClusterCa, Member};

use super::config::NodeConfig;
use super::data_config::DataConfig;
use super::founding::{make_dir, node_config, replace_file, usable_peer, write_new};

/// Name of the request in a member's directory.
pub const REQUEST_FILE: &str = "node.csr";

/// A machine that wants to be a member, and where its files go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinSpec {
    /// The cluster's name.
    pub cluster: String,
    /// The node; never 0.
    pub id: u32,
    /// Where it listens for peers.
    pub peer: SocketAddr,
    /// Where its API listens: loopback.
    pub api: SocketAddr,
    /// Members to ask; one that is up will do, and tells where the others are.
    pub members: Vec<(u32, SocketAddr)>,
    /// Its directory: gets `node.toml`, `tls/` and `node.csr`.
    pub dir: PathBuf,
    /// Its data interfaces.
    pub data: DataConfig,
}

/// Makes the key, the request for its certificate and `node.toml`. Returns where the request is.
///
/// # Errors
/// If names or addresses are refused, or anything is there already or cannot be written.
pub fn request(spec: &JoinSpec) -> Result<PathBuf> {
    let id = spec.id;
    ensure!(id != 0, "node 0: count nodes from 1");
    ensure!(spec.api.ip().is_loopback(), "node {id}: API address {} is not loopback", spec.api);
    usable_peer(id, spec.peer)?;
    ensure!(!spec.members.is_empty(), "no member to ask: name at least one that is up with --member ID=PEER_ADDR");
    for (member, address) in &spec.members {
        ensure!(*member != id, "node {id} is the one that wants to join: name others with --member");
        usable_peer(*member, *address)?;
    }
    let asked = ca::request(id, &spec.cluster)?;
    let config = node_config(&spec.cluster, &spec.dir, (id, spec.peer, spec.api), &spec.members, &spec.data);
    NodeConfig::parse(&config.file, &config.to_toml())?;
    let place = spec.dir.join(REQUEST_FILE);
    ensure!(
        !config.file.exists(),
        "{}: this directory is a node's already; choose another, or go on with {}",
        config.file.display(),
        place.display()
    );
    make_dir(&spec.dir.join("tls"))?;
    write_new(&spec.dir.join("tls/node.key"), &asked.key_pem, 0o600)?;
    write_new(&place, &asked.request_pem, 0o644)?;
    // Last: who finds it finds all.
    write_new(&config.file, &config.to_toml(), 0o644)?;
    Ok(place)
}

/// Signs a request with the authority in `ca_dir`. Returns whose it is, and what goes back: the certificate and the root.
///
/// # Errors
/// If the authority or the request cannot be read, or do not belong together.
pub fn sign(ca_dir: &Path, request: &Path) -> Result<(Member, String)> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
    let (root, key) = (read(&ca_dir.join("ca.pem"))?, read(&ca_dir.join("ca.key"))?);
    let authority = ClusterCa::load(&root, &key).with_context(|| ca_dir.display().to_string())?;
    let signed = authority.sign(&read(request)?);
    let (member, cert) = signed.with_context(|| request.display().to_string())?;
    Ok((member, format!("{cert}{root}")))
}

/// Puts what [`sign`] returned in place, if peers will take it: for this node, this cluster, this key, now. A certificate that
/// is there already is renewed.
///
/// # Errors
/// With what peers would refuse, or what cannot be written.
pub fn accept(dir: &Path, signed: &Path) -> Result<Member> {
    let place = || signed.display().to_string();
    let config = NodeConfig::load(&dir.join("node.toml"))?;
    let text = fs::read_to_string(signed).with_context(place)?;
    let (cert, root) = two_blocks(&text)
        .with_context(|| format!("{}: no certificate and root: take what `qnat cluster sign` wrote", place()))?;
    let tls = &config.tls;
    let key = fs::read_to_string(&tls.key).with_context(|| tls.key.display().to_string())?;
    let member = ca::check_identity(root, cert, &key, SystemTime::now()).with_context(place)?;
    ensure!(
        member.node_id == config.node_id && member.cluster == config.cluster,
        "{}: it is for node {} of cluster {}, this is node {} of {}",
        place(),
        member.node_id,
        member.cluster,
        config.node_id,
        config.cluster
    );
    if let Ok(present) = fs::read_to_string(&tls.ca) {
        ensure!(present == root, "{}: signed by another root than {}", place(), tls.ca.display());
    }
    replace_file(&tls.ca, root, 0o644)?;
    replace_file(&tls.cert, cert, 0o644)?;
    Ok(member)
}

/// The first two PEM blocks of a text.
fn two_blocks(text: &str) -> Option<(&str, &str)> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let first = text.find(END)? + END.len();
    let second = text[first..].find(END)? + END.len();
    Some((&text[..first], &text[first..first + second]))
}

#[cfg(test)]
mod tests {
    use super::super::founding::{Begin, FounderSpec, found_cluster};
    use super::*;

    fn spec(dir: &Path, cluster: &str) -> JoinSpec {
        JoinSpec {
            cluster: cluster.to_owned(),
            id: 4,
            peer: "198.18.0.4:7800".parse().expect("an address"),
            api: "127.0.0.1:7880".parse().expect("an address"),
            members: vec![(1, "198.18.0.1:7800".parse().expect("an address"))],
            dir: dir.join("n4"),
            data: DataConfig::default(),
        }
    }

    fn found(dir: &Path, name: &str) -> PathBuf {
        let (peer, api) = ("198.18.0.1:7800".parse().expect("one"), "127.0.0.1:7880".parse().expect("one"));
        let founder = FounderSpec { id: 1, peer, api, dir: dir.join("n1") };
        found_cluster(
            name,
            &[founder],
            &dir.join("ca"),
            &DataConfig::default(),
            Begin::Anew { level: words::level::NEWEST },
        )
        .expect("founded");
        dir.join("ca")
    }

    #[test]
    fn a_machine_that_asked_and_was_signed_has_all_that_a_member_needs_and_its_key_was_never_elsewhere() {
        let scratch = tempfile::tempdir().expect("scratch");
        let ca = found(scratch.path(), "prod");
        let spec = spec(scratch.path(), "prod");
        let asked = request(&spec).expect("asked");
        let key = fs::read_to_string(spec.dir.join("tls/node.key")).expect("its key");
        let mode = fs::metadata(spec.dir.join("tls/node.key")).expect("its key").permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o077, 0, "the key is readable");
        assert!(!fs::read_to_string(&asked).expect("the request").contains("PRIVATE"));
        let (member, text) = sign(&ca, &asked).expect("signed");
        assert_eq!((member.node_id, text.contains("PRIVATE")), (4, false));
        let signed = scratch.path().join("n4.pem");
        fs::write(&signed, text).expect("carried over");
        for round in ["first", "renewal"] {
            accept(&spec.dir, &signed).expect(round);
        }
        let config = NodeConfig::load(&spec.dir.join("node.toml")).expect("good");
        assert_eq!((config.node_id, config.peer.len(), config.peer[0].id), (4, 1, 1));
        let read = |path: &Path| fs::read_to_string(path).expect("there");
        let own = ca::check_identity(&read(&config.tls.ca), &read(&config.tls.cert), &key, SystemTime::now());
        assert_eq!(own.expect("an identity").node_id, 4);
        assert!(request(&spec).expect_err("asked over a node").to_string().contains("a node's already"));
    }

    #[test]
    fn what_does_not_belong_together_is_refused_and_named() {
        let scratch = tempfile::tempdir().expect("scratch");
        let ca = found(scratch.path(), "prod");
        let spec = spec(scratch.path(), "prod");
        let asked = request(&spec).expect("asked");
        let other = tempfile::tempdir().expect("scratch");
        let foreign = found(other.path(), "prod");
        let place = scratch.path().join("signed.pem");
        let refused = |text: &str| {
            fs::write(&place, text).expect("written");
            format!("{:#}", accept(&spec.dir, &place).expect_err("taken"))
        };
        let good = sign(&ca, &asked).expect("signed").1;
        assert!(refused("nonsense").contains("qnat cluster sign"));
        let theirs = JoinSpec { dir: other.path().join("n4"), ..spec.clone() };
        let stolen = sign(&ca, &request(&theirs).expect("asked")).expect("signed").1;
        assert!(refused(&stolen).contains("another key"), "{}", refused(&stolen));
        fs::write(&place, &good).expect("written");
        accept(&spec.dir, &place).expect("good");
        let foreign_root = sign(&foreign, &asked).expect("the same name, another authority").1;
        assert!(refused(&foreign_root).contains("another root"), "{}", refused(&foreign_root));
        let mixed = format!("{}{}", two_blocks(&foreign_root).expect("two").0, two_blocks(&good).expect("two").1);
        assert!(refused(&mixed).contains("not valid in this cluster"), "{}", refused(&mixed));
        let elsewhere = JoinSpec { dir: other.path().join("n5"), cluster: "test".to_owned(), ..spec.clone() };
        let wrong = sign(&ca, &request(&elsewhere).expect("asked")).expect_err("signed");
        assert!(format!("{wrong:#}").contains("is for cluster \"test\""), "{wrong:#}");
        assert!(format!("{:#}", sign(other.path(), &asked).expect_err("no authority")).contains("ca.pem"));
    }

    #[test]
    fn a_machine_that_could_not_be_found_or_asks_nobody_is_refused_before_anything_is_written() {
        let scratch = tempfile::tempdir().expect("scratch");
        let refused = |change: fn(&mut JoinSpec)| {
            let mut spec = spec(scratch.path(), "prod");
            change(&mut spec);
            let error = request(&spec).expect_err("asked").to_string();
            assert!(!spec.dir.exists(), "{error}");
            error
        };
        assert!(refused(|s| s.id = 0).contains("from 1"));
        assert!(refused(|s| s.peer.set_port(0)).contains("no address"));
        assert!(refused(|s| s.members.clear()).contains("--member"));
        assert!(refused(|s| s.members[0].0 = 4).contains("name others"));
        assert!(refused(|s| s.api = s.peer).contains("not loopback"));
        assert!(refused(|s| s.cluster = "No".to_owned()).contains("cluster name"));
    }
}
