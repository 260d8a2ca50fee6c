//! A flood of strangers' QUIC handshakes: real ones, with a certificate of a foreign authority, that answer what they are
//! asked. Bounded in rate and time; runs in the namespace that it is given. Called by the drill `peer-flood`.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netio::ca::{self, ClusterCa};
use netio::netns;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, version::TLS13};

/// Handshakes that are kept under way; an older one is given up.
const UNDER_WAY: usize = 1_024;
/// Handshakes from one port.
const FROM_ONE_PORT: u64 = 512;
/// Handshakes that are begun before what they send is sent.
const AT_ONCE: u64 = 64;

/// Who floods whom.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) namespace: String,
    pub(super) from: Ipv4Addr,
    /// In turns.
    pub(super) targets: Vec<SocketAddr>,
}

impl Source {
    /// Begins `per_second` handshakes for so long; returns how many it began.
    pub(super) fn flood(&self, per_second: u32, lasts: Duration) -> Result<u64> {
        netns::run_in(&self.namespace, || self.run(per_second, lasts))?
    }

    fn run(&self, per_second: u32, lasts: Duration) -> Result<u64> {
        let (config, name) = (stranger()?, ca::node_name(2, "strangers"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let begun = runtime.block_on(async {
            let open = || quinn::Endpoint::client((self.from, 0).into()).context("the strangers' socket");
            let (mut endpoint, mut under_way, mut begun) = (open()?, VecDeque::new(), 0_u64);
            let began = Instant::now();
            while began.elapsed() < lasts {
                let due = began.elapsed().as_secs_f64() * f64::from(per_second);
                while (begun as f64) < due {
                    if begun % FROM_ONE_PORT == FROM_ONE_PORT - 1 {
                        endpoint = open()?;
                    }
                    let target = self.targets[usize::try_from(begun)? % self.targets.len()];
                    under_way.push_back(endpoint.connect_with(config.clone(), target, &name)?);
                    begun += 1;
                    if under_way.len() > UNDER_WAY {
                        under_way.pop_front();
                    }
                    if begun % AT_ONCE == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            anyhow::Ok(begun)
        });
        runtime.shutdown_background();
        begun
    }
}

/// A member of a cluster that nobody knows.
fn stranger() -> Result<quinn::ClientConfig> {
    let foreign = ClusterCa::create("strangers")?;
    let own = foreign.issue(7)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(foreign.pem.cert_pem.as_bytes())?)?;
    let certificate = CertificateDer::from_pem_slice(own.cert_pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut client = client.with_root_certificates(roots).with_client_auth_cert(vec![certificate], key)?;
    client.alpn_protocols = vec![netio::quic::ALPN.to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?)))
}
