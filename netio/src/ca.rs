//! The cluster's certificate authority: one self-signed root per cluster, one certificate per member whose only subject
//! alternative name, `node-<id>.<cluster>.qnat`, binds the member's number. Transport peers are who this name says.
//!
//! Never trusts a certificate by itself: [`node_id_of`] reads a name, and the caller (`quic`) has had the chain verified by
//! rustls against the cluster's root before it asks. Called by cluster founding, by joins and by the transport.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long certificates are valid: ten years, so that no cluster dies of a forgotten renewal.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Validity begins this much in the past: members' wall clocks may differ when they are founded.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// Longest cluster name in bytes; with the prefix it stays one DNS label below the limit of 63 (RFC 1035, 2.3.4).
pub const CLUSTER_NAME_MAX: usize = 40;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The cluster name does not fit in a DNS label.
    #[error("cluster name {0:?}: use 1 to {CLUSTER_NAME_MAX} of a-z, 0-9 and inner hyphens")]
    ClusterName(String),
    /// Key generation, signing or encoding failed.
    #[error("certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// The authority's own certificate cannot be read, or names no cluster.
    #[error("the authority's certificate is not one of a qnat cluster")]
    NotAnAuthority,
    /// The key that was loaded with an authority's certificate is not its key.
    #[error("ca.key is not the key of this ca.pem")]
    KeyMismatch,
    /// A request names no member in the form that certificates have, or more than one.
    #[error("the request names no member: make it with `qnat join request`")]
    NamesNoMember,
    /// A request is for another cluster.
    #[error("the request is for cluster {wanted:?}, this authority signs for {own:?}")]
    OtherCluster {
        /// Whose certificate was asked for.
        wanted: String,
        /// Who was asked.
        own: String,
    },
    /// A certificate does not belong to the private key that it came with.
    #[error("the certificate is for another key than the private key beside it")]
    OtherKey,
    /// A certificate cannot be read.
    #[error("this is no certificate in PEM form")]
    NoCertificate,
    /// A certificate does not hold against the cluster's root: another root signed it, or its time is not now.
    #[error("the certificate is not valid in this cluster: {0}")]
    Invalid(rustls::Error),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct IssuedPem {
    /// The certificate, one `CERTIFICATE` block.
    pub cert_pem: String,
    /// The private key, PKCS #8. Secret.
    pub key_pem: String,
}

impl std::fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedPem").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The root of one cluster's trust.
#[derive(Debug)]
pub struct ClusterCa {
    cluster: String,
    /// The root certificate (public) and its key (secret).
    pub pem: IssuedPem,
}

impl ClusterCa {
    /// Makes a new root for the cluster called `cluster_name`, which becomes part of every member's name.
    ///
    /// # Errors
    /// If the name is no DNS label of at most [`CLUSTER_NAME_MAX`] bytes, or key generation fails.
    pub fn create(cluster_name: &str) -> Result<Self, CaError> {
        if !is_cluster_name(cluster_name) {
            return Err(CaError::ClusterName(cluster_name.to_owned()));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, authority_name(cluster_name));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, SystemTime::now() - BACKDATED, SystemTime::now() + LIFETIME);
        let cert = params.self_signed(&key)?;
        let pem = IssuedPem { cert_pem: cert.pem(), key_pem: key.serialize_pem() };
        Ok(Self { cluster: cluster_name.to_owned(), pem })
    }

    /// Takes up a root that [`ClusterCa::create`] made before.
    ///
    /// # Errors
    /// If either PEM is unreadable or the certificate is not a cluster root.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| CaError::NotAnAuthority)?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(|_| CaError::NotAnAuthority)?;
        let common_name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let cluster = common_name.and_then(|name| name.strip_suffix(".qnat")).and_then(|name| name.strip_prefix("ca."));
        let cluster = cluster.filter(|name| is_cluster_name(name)).ok_or(CaError::NotAnAuthority)?.to_owned();
        let key = KeyPair::from_pem(key_pem)?;
        if key.subject_public_key_info() != cert.public_key().raw {
            return Err(CaError::KeyMismatch);
        }
        Ok(Self { cluster, pem: IssuedPem { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned() } })
    }

    /// The cluster whose root this is.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Issues the certificate of member `node_id`, valid from yesterday for ten years.
    ///
    /// # Errors
    /// If key generation or signing fails.
    pub fn issue(&self, node_id: u32) -> Result<IssuedPem, CaError> {
        self.issue_valid(node_id, SystemTime::now() - BACKDATED, SystemTime::now() + LIFETIME)
    }

    /// Issues the certificate of member `node_id` with validity bounds of the caller's choice, to the second.
    ///
    /// # Errors
    /// If key generation or signing fails.
    pub fn issue_valid(&self, node_id: u32, from: SystemTime, until: SystemTime) -> Result<IssuedPem, CaError> {
        let key = KeyPair::generate()?;
        let cert = self.params(node_id, from, until)?.signed_by(&key, &self.issuer()?)?;
        Ok(IssuedPem { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a request that [`request`] made: the certificate, and whose it is. Of the request only the name and the key
    /// count, and the key's signature over them.
    ///
    /// # Errors
    /// If the request cannot be read, is not signed by its own key, or names no member of this cluster.
    pub fn sign(&self, request_pem: &str) -> Result<(Member, String), CaError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let names = request.params.subject_alt_names.as_slice();
        let [rcgen::SanType::DnsName(name)] = names else { return Err(CaError::NamesNoMember) };
        let member = member_by_name(name.as_str()).ok_or(CaError::NamesNoMember)?;
        if member.cluster != self.cluster {
            return Err(CaError::OtherCluster { wanted: member.cluster, own: self.cluster.clone() });
        }
        let now = SystemTime::now();
        let params = self.params(member.node_id, now - BACKDATED, now + LIFETIME)?;
        let cert = params.signed_by(&request.public_key, &self.issuer()?)?;
        Ok((member, cert.pem()))
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        Ok(Issuer::from_ca_cert_pem(&self.pem.cert_pem, KeyPair::from_pem(&self.pem.key_pem)?)?)
    }

    /// What a member's certificate says.
    fn params(&self, node_id: u32, from: SystemTime, until: SystemTime) -> Result<CertificateParams, CaError> {
        let mut params = named(&node_name(node_id, &self.cluster))?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A member is server to those who dial it and client to those whom it dials.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, from, until);
        Ok(params)
    }
}

fn named(name: &str) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// A new key for member `node_id` of `cluster`, and the request to have it certified. The key stays where it was made.
#[derive(Clone)]
pub struct Request {
    /// The request, one `CERTIFICATE REQUEST` block.
    pub request_pem: String,
    /// The private key, PKCS #8. Secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("request_pem", &self.request_pem).finish_non_exhaustive()
    }
}

/// Makes a key and a request for it.
///
/// # Errors
/// If the cluster's name is none, or key generation fails.
pub fn request(node_id: u32, cluster: &str) -> Result<Request, CaError> {
    if !is_cluster_name(cluster) {
        return Err(CaError::ClusterName(cluster.to_owned()));
    }
    let key = KeyPair::generate()?;
    let request = named(&node_name(node_id, cluster))?.serialize_request(&key)?;
    Ok(Request { request_pem: request.pem()?, key_pem: key.serialize_pem() })
}

/// Checks what a member would prove itself with, as its peers will: signed by the root, at a time when it is valid, for the
/// key beside it. Says whose it is.
///
/// # Errors
/// With the first thing that peers would refuse.
pub fn check_identity(ca_pem: &str, cert_pem: &str, key_pem: &str, now: SystemTime) -> Result<Member, CaError> {
    let root = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|_| CaError::NotAnAuthority)?;
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| CaError::NoCertificate)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).map_err(|_| CaError::NotAnAuthority)?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(std::sync::Arc::new(roots), provider);
    let verifier = verifier.build().map_err(|_| CaError::NotAnAuthority)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    verifier.verify_client_cert(&cert, &[], now).map_err(CaError::Invalid)?;
    let (_, parsed) = X509Certificate::from_der(&cert).map_err(|_| CaError::NoCertificate)?;
    if KeyPair::from_pem(key_pem)?.subject_public_key_info() != parsed.public_key().raw {
        return Err(CaError::OtherKey);
    }
    member_of(&cert).ok_or(CaError::NamesNoMember)
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo): stays the same when a certificate is renewed for its key.
#[must_use]
pub fn key_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, cert) = X509Certificate::from_der(certificate).ok()?;
    let digest = ring::digest::digest(&ring::digest::SHA256, cert.public_key().raw);
    digest.as_ref().try_into().ok()
}

/// [`key_hash`] of a certificate in PEM form.
///
/// # Errors
/// If it cannot be read.
pub fn key_hash_of_pem(cert_pem: &str) -> Result<[u8; 32], CaError> {
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| CaError::NoCertificate)?;
    key_hash(&cert).ok_or(CaError::NoCertificate)
}

/// Who a certificate says its holder is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The member's number.
    pub node_id: u32,
    /// The cluster it belongs to.
    pub cluster: String,
}

/// The one DNS name of member `node_id` of `cluster`.
#[must_use]
pub fn node_name(node_id: u32, cluster: &str) -> String {
    format!("node-{node_id}.{cluster}.qnat")
}

/// The member that a certificate names; `None` unless exactly one name, in canonical form, is in it.
/// Proves nothing by itself: verify the chain first.
#[must_use]
pub fn member_of(certificate: &CertificateDer<'_>) -> Option<Member> {
    let (_, cert) = X509Certificate::from_der(certificate).ok()?;
    let names = &cert.subject_alternative_name().ok()??.value.general_names;
    let [GeneralName::DNSName(name)] = names.as_slice() else { return None };
    member_by_name(name)
}

fn member_by_name(name: &str) -> Option<Member> {
    let (node, cluster) = name.strip_prefix("node-")?.strip_suffix(".qnat")?.split_once('.')?;
    let node_id: u32 = node.parse().ok()?;
    // "007" and "+7" parse too; only one spelling may stand for a member.
    (node_name(node_id, cluster) == name && is_cluster_name(cluster))
        .then(|| Member { node_id, cluster: cluster.to_owned() })
}

/// When a certificate in PEM ends, in seconds of the Unix epoch; one that ended before 1970 counts as 1970. `None` if it is
/// no certificate.
#[must_use]
pub fn ends_unix_s(pem: &str) -> Option<u64> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    Some(u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0))
}

/// The number of the member that a certificate names, see [`member_of`].
#[must_use]
pub fn node_id_of(certificate: &CertificateDer<'_>) -> Option<u32> {
    member_of(certificate).map(|member| member.node_id)
}

fn authority_name(cluster: &str) -> String {
    format!("ca.{cluster}.qnat")
}

fn is_cluster_name(name: &str) -> bool {
    let label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=CLUSTER_NAME_MAX).contains(&name.len())
        && name.bytes().all(label)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// X.509 times have whole seconds; a time before 1970 counts as 1970.
fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let whole_secs = |t: SystemTime| Duration::from_secs(t.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    params.not_before = date_time_ymd(1970, 1, 1) + whole_secs(from);
    params.not_after = date_time_ymd(1970, 1, 1) + whole_secs(until);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("own PEM parses")
    }

    #[test]
    fn issued_certificate_names_its_member_and_cluster() {
        let ca = ClusterCa::create("alpha-1").expect("valid name");
        for node_id in [0, 1, 7, 4_000_000_000] {
            let issued = ca.issue(node_id).expect("issue");
            assert_eq!(member_of(&der(&issued.cert_pem)), Some(Member { node_id, cluster: "alpha-1".to_owned() }));
            assert_eq!(node_id_of(&der(&issued.cert_pem)), Some(node_id));
        }
    }

    #[test]
    fn the_root_itself_names_no_member() {
        let ca = ClusterCa::create("alpha").expect("valid name");
        assert_eq!(node_id_of(&der(&ca.pem.cert_pem)), None);
        assert_eq!(node_id_of(&CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x01])), None);
    }

    #[test]
    fn a_reloaded_root_issues_under_the_same_name() {
        let ca = ClusterCa::create("beta").expect("valid name");
        let again = ClusterCa::load(&ca.pem.cert_pem, &ca.pem.key_pem).expect("load");
        assert_eq!(again.cluster(), "beta");
        assert_eq!(node_id_of(&der(&again.issue(3).expect("issue").cert_pem)), Some(3));
        let member = ca.issue(1).expect("issue");
        assert!(matches!(ClusterCa::load(&member.cert_pem, &member.key_pem), Err(CaError::NotAnAuthority)));
    }

    #[test]
    fn names_that_are_no_label_are_refused() {
        for name in ["", "-a", "a-", "A", "a.b", "ä", "a b", &"x".repeat(CLUSTER_NAME_MAX + 1)] {
            assert!(matches!(ClusterCa::create(name), Err(CaError::ClusterName(_))), "{name:?} was taken");
        }
    }

    #[test]
    fn second_spellings_of_a_member_are_refused() {
        let key = KeyPair::generate().expect("key");
        let names: [&[&str]; 4] =
            [&["node-007.a.qnat"], &["node-7.a.qnat", "node-8.a.qnat"], &["node-7.a.b.qnat"], &["node-.a.qnat"]];
        for names in names {
            let owned: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let cert = CertificateParams::new(owned).expect("params").self_signed(&key).expect("sign");
            assert_eq!(node_id_of(cert.der()), None, "{names:?} was taken");
        }
    }

    #[test]
    fn a_request_is_signed_for_the_member_and_cluster_that_it_names_and_for_its_own_key() {
        let ca = ClusterCa::create("alpha").expect("valid name");
        let asked = request(4, "alpha").expect("a request");
        let (member, cert) = ca.sign(&asked.request_pem).expect("signed");
        assert_eq!((member.node_id, member.cluster.as_str()), (4, "alpha"));
        let own = |cert: &str, key: &str| check_identity(&ca.pem.cert_pem, cert, key, SystemTime::now());
        assert_eq!(own(&cert, &asked.key_pem).expect("an identity"), member);
        let again = ca.sign(&asked.request_pem).expect("signed again").1;
        assert_eq!(key_hash_of_pem(&cert).expect("read"), key_hash_of_pem(&again).expect("read"), "a renewal");
        let other = request(4, "alpha").expect("a request");
        assert!(matches!(own(&cert, &other.key_pem), Err(CaError::OtherKey)));
        let other = ca.sign(&other.request_pem).expect("signed").1;
        assert_ne!(key_hash_of_pem(&cert).expect("read"), key_hash_of_pem(&other).expect("read"), "another holder");
    }

    #[test]
    fn requests_for_others_or_altered_are_not_signed() {
        let ca = ClusterCa::create("alpha").expect("valid name");
        let foreign = request(4, "beta").expect("a request");
        assert!(matches!(ca.sign(&foreign.request_pem), Err(CaError::OtherCluster { wanted, .. }) if wanted == "beta"));
        let key = KeyPair::generate().expect("key");
        let ask = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let params = CertificateParams::new(names).expect("params");
            params.serialize_request(&key).expect("a request").pem().expect("PEM")
        };
        for names in [&["node-1.alpha.qnat", "node-2.alpha.qnat"][..], &["example.org"], &[]] {
            assert!(matches!(ca.sign(&ask(names)), Err(CaError::NamesNoMember)), "{names:?}");
        }
        let mut altered = pem_bytes(&request(4, "alpha").expect("a request").request_pem);
        let name = altered.windows(6).position(|at| at == b"node-4").expect("its name");
        altered[name + 5] = b'5';
        let altered = rcgen::CertificateSigningRequestParams::from_der(&altered.into());
        assert!(altered.is_err(), "the key did not sign that");
        assert!(matches!(ca.sign("nonsense"), Err(CaError::Rcgen(_))));
        assert!(matches!(request(1, "no.label"), Err(CaError::ClusterName(_))));
    }

    fn pem_bytes(text: &str) -> Vec<u8> {
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).expect("PEM").to_vec()
    }

    #[test]
    fn what_peers_would_refuse_is_refused_before_they_are_asked() {
        let (ca, other) = (ClusterCa::create("alpha").expect("name"), ClusterCa::create("alpha").expect("name"));
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let refused = |root: &ClusterCa, issued: &IssuedPem, at| {
            let checked = check_identity(&root.pem.cert_pem, &issued.cert_pem, &issued.key_pem, at);
            checked.expect_err("taken").to_string()
        };
        let good = ca.issue(1).expect("issued");
        assert!(refused(&other, &good, now).contains("not valid in this cluster"), "a foreign root of the same name");
        let brief = ca.issue_valid(1, now - hour, now + hour).expect("issued");
        assert!(refused(&ca, &brief, now + 2 * hour).contains("xpired"), "{}", refused(&ca, &brief, now + 2 * hour));
        assert!(refused(&ca, &brief, now - 2 * hour).contains("alid"), "not valid yet");
        let foreign_key = IssuedPem { key_pem: other.pem.key_pem.clone(), ..good.clone() };
        assert!(refused(&ca, &foreign_key, now).contains("another key"));
        assert!(matches!(ClusterCa::load(&ca.pem.cert_pem, &other.pem.key_pem), Err(CaError::KeyMismatch)));
        assert!(matches!(key_hash_of_pem("nonsense"), Err(CaError::NoCertificate)));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let ca = ClusterCa::create("alpha").expect("valid name");
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }
}
