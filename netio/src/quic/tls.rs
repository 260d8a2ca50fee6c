//! Who we are and whom we believe: rustls and quinn configurations. TLS 1.3 only, both sides show a certificate, the only
//! root is the cluster's, no resumption and no early data.

use std::sync::Arc;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use ring::hmac;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, version::TLS13};

use super::config::{StartError, TransportConfig};
use crate::ca::{Member, member_of};

/// What members speak with each other, as TLS names it.
pub const ALPN: &[u8] = b"qnat/1";
/// Of the channel for joining.
const ALPN_JOIN: &[u8] = b"qnat-join/1";

/// What a member proves itself with, all PEM.
#[derive(Clone)]
pub struct Identity {
    /// The cluster's root certificate.
    pub ca_cert_pem: String,
    /// The own certificate.
    pub cert_pem: String,
    /// The own private key. Secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

pub(super) struct Configs {
    pub(super) member: Member,
    pub(super) endpoint: quinn::EndpointConfig,
    /// For listed members.
    pub(super) server: quinn::ServerConfig,
    /// For everybody else: small windows, short life.
    pub(super) strangers: quinn::ServerConfig,
    pub(super) client: quinn::ClientConfig,
    pub(super) join_client: quinn::ClientConfig,
}

pub(super) fn configs(identity: &Identity, config: &TransportConfig) -> Result<Configs, StartError> {
    let bad = |what: &str, e: &dyn std::fmt::Display| StartError::Identity(format!("{what}: {e}"));
    let root = certificate(&identity.ca_cert_pem).map_err(|e| bad("cluster root", &e))?;
    let own = certificate(&identity.cert_pem).map_err(|e| bad("own certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| bad("own key", &e))?;
    let member = member_of(&own).ok_or_else(|| bad("own certificate", &"names no member"))?;

    let mut roots = RootCertStore::empty();
    roots.add(root).map_err(|e| bad("cluster root", &e))?;
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let verifier = verifier.build().map_err(|e| bad("cluster root", &e))?;

    let reset_key = reset_key(key.secret_der());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
    let server = server.map_err(|e| bad("tls", &e))?.with_client_cert_verifier(verifier);
    let mut server = server.with_single_cert(vec![own.clone()], key.clone_key()).map_err(|e| bad("own key", &e))?;
    server.alpn_protocols = vec![ALPN.to_vec(), ALPN_JOIN.to_vec()];
    server.max_early_data_size = 0;
    server.send_tls13_tickets = 0;

    let client = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let client = client.map_err(|e| bad("tls", &e))?.with_root_certificates(roots);
    let mut client = client.with_client_auth_cert(vec![own], key).map_err(|e| bad("own key", &e))?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.enable_early_data = false;
    client.resumption = rustls::client::Resumption::disabled();

    let transport = Arc::new(transport(config));
    let server = QuicServerConfig::try_from(server).map_err(|e| bad("tls", &e))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server.migration(false).max_incoming(64);
    let mut strangers = server.clone();
    server.transport_config(Arc::clone(&transport));
    strangers.transport_config(Arc::new(strangers_transport())).max_incoming(16).incoming_buffer_size_total(1 << 20);
    let mut join_client = client.clone();
    join_client.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    let [client, join_client] = [client, join_client].map(|config| {
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
        client.transport_config(Arc::clone(&transport));
        Ok::<_, NoInitialCipherSuite>(client)
    });
    let (client, join_client) = (client.map_err(|e| bad("tls", &e))?, join_client.map_err(|e| bad("tls", &e))?);

    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    // The default generator marks its identifiers with a key of this life and ignores those of an earlier one, which
    // are just the packets that must be answered with a reset.
    endpoint.cid_generator(|| Box::new(RandomCid));
    endpoint.min_reset_interval(std::time::Duration::from_millis(1));
    Ok(Configs { member, endpoint, server, strangers, client, join_client })
}

/// Whether the one who dialed asks for the channel for joining.
pub(super) fn is_join(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(ALPN_JOIN))
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, rustls::pki_types::pem::Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
}

/// Random eight-byte connection identifiers.
#[derive(Debug)]
struct RandomCid;

impl quinn::ConnectionIdGenerator for RandomCid {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        use ring::rand::SecureRandom;
        let mut bytes = [0; 8];
        ring::rand::SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
        quinn::ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// The key of stateless reset tokens, the same in each life of a member (RFC 9000, 10.3.2): derived from its private key.
fn reset_key(private_key: &[u8]) -> hmac::Key {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, private_key);
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, b"qnat/1 stateless reset").as_ref())
}

/// What a connection may cost that carries a question to join.
fn strangers_transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let idle = quinn::IdleTimeout::from(quinn::VarInt::from_u32(3_000));
    transport
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(1u8.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .stream_receive_window((8u32 << 10).into())
        .receive_window((8u32 << 10).into())
        .send_window(32 << 10);
    transport
}

fn transport(config: &TransportConfig) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    // The acknowledgement delay is part of every loss probe's timer; its default of 25 ms is half a vote timeout.
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.max_ack_delay(Some(config.ack_delay_max));
    let mut cubic = CubicConfig::default();
    cubic.initial_window(256 << 10);
    let idle = quinn::IdleTimeout::try_from(config.idle_timeout).unwrap_or_else(|_| quinn::VarInt::MAX.into());
    transport
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams((config.channels_max + 1).into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(config.keep_alive))
        .initial_rtt(config.initial_rtt)
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(cubic))
        // A silence between members is a cut link or a frozen peer, not congestion. Collapsing the window to two packets
        // for it would leave heartbeats waiting for backed-off probes when the next silence ends.
        .persistent_congestion_threshold(1_000_000)
        // Per stream, not per connection: a stalled bulk channel must not take the credit of the others.
        .stream_receive_window((4u32 << 20).into())
        .receive_window(quinn::VarInt::MAX)
        .send_window(32 << 20);
    transport
}
