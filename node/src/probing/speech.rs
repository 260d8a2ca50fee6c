//! What a probe says once it is connected, and what it makes of the answer: nothing (`tcp`), a request whose answer is to
//! be 200 (`http`), the same by TLS with whoever is there (`https`).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddrV4};
use std::sync::{Arc, LazyLock};

use engine::probes::{Ask, Failing};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// A status line is no longer: what goes on for longer is no HTTP.
const STATUS_LINE_MAX: usize = 512;
/// `HTTP/1.1 200`.
const STATUS_LEN: usize = 12;

/// One side of a conversation.
#[derive(Debug)]
pub(super) enum Speech {
    /// To be connected is all.
    Nothing,
    /// A request, and the beginning of its answer.
    Plain(Http),
    /// The same within TLS.
    Sealed(Box<ClientConnection>, Http),
    /// No TLS can be begun.
    Mute,
}

/// A request and what came of its answer.
#[derive(Debug, Default)]
pub(super) struct Http {
    /// What is left to be said.
    left: Vec<u8>,
    heard: Vec<u8>,
}

impl Speech {
    /// What `ask` says to `to`.
    pub(super) fn new(ask: &Ask, to: SocketAddrV4) -> Self {
        match ask {
            Ask::Tcp => Self::Nothing,
            Ask::Http(path) => Self::Plain(Http::get(path, to)),
            Ask::Https(path) => {
                let name = ServerName::from(IpAddr::V4(*to.ip()));
                match ClientConnection::new(Arc::clone(&ANYBODY), name) {
                    Ok(tls) => Self::Sealed(Box::new(tls), Http::get(path, to)),
                    Err(_) => Self::Mute,
                }
            }
        }
    }

    /// What there is to send now.
    ///
    /// # Errors
    /// If TLS fails.
    pub(super) fn say(&mut self) -> Result<Vec<u8>, Failing> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Plain(http) => Ok(std::mem::take(&mut http.left)),
            Self::Sealed(tls, http) => {
                let left = std::mem::take(&mut http.left);
                tls.writer().write_all(&left).map_err(|_| Failing::NoTls)?;
                let mut sealed = Vec::new();
                while tls.wants_write() {
                    tls.write_tls(&mut sealed).map_err(|_| Failing::NoTls)?;
                }
                Ok(sealed)
            }
            Self::Mute => Err(Failing::NoTls),
        }
    }

    /// Takes octets of the other side.
    ///
    /// # Errors
    /// If they are no TLS where it is to be.
    pub(super) fn hear(&mut self, mut octets: &[u8]) -> Result<(), Failing> {
        match self {
            Self::Nothing | Self::Mute => {}
            Self::Plain(http) => http.hear(octets),
            Self::Sealed(tls, http) => {
                while !octets.is_empty() {
                    tls.read_tls(&mut octets).map_err(|_| Failing::NoTls)?;
                    let told = tls.process_new_packets().map_err(|_| Failing::NoTls)?;
                    let mut plain = vec![0; told.plaintext_bytes_to_read()];
                    tls.reader().read_exact(&mut plain).map_err(|_| Failing::NoTls)?;
                    http.hear(&plain);
                }
            }
        }
        Ok(())
    }

    /// What has come of it so far; `None`: more has to be heard.
    pub(super) fn outcome(&self) -> Option<Result<(), Failing>> {
        match self {
            Self::Nothing => Some(Ok(())),
            Self::Mute => Some(Err(Failing::NoTls)),
            Self::Plain(http) | Self::Sealed(_, http) => match status(&http.heard)? {
                Ok(200) => Some(Ok(())),
                Ok(status) => Some(Err(Failing::Status(status))),
                Err(failing) => Some(Err(failing)),
            },
        }
    }

    /// What it is if the other side says nothing more.
    pub(super) fn ended(&self) -> Failing {
        match self {
            Self::Sealed(tls, _) if tls.is_handshaking() => Failing::NoTls,
            Self::Plain(http) | Self::Sealed(_, http) if !http.heard.is_empty() => Failing::NotHttp,
            Self::Nothing | Self::Mute | Self::Plain(_) | Self::Sealed(..) => Failing::Refused,
        }
    }
}

impl Http {
    fn get(path: &str, to: SocketAddrV4) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: qnat-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Self { left: request.into_bytes(), heard: Vec::new() }
    }

    fn hear(&mut self, octets: &[u8]) {
        let room = STATUS_LINE_MAX.saturating_sub(self.heard.len());
        self.heard.extend_from_slice(&octets[..octets.len().min(room)]);
    }
}

/// The status of an answer (RFC 9112 4) by its first octets; `None`: there have to be more.
fn status(heard: &[u8]) -> Option<Result<u16, Failing>> {
    let form = b"HTTP/1.";
    let known = heard.len().min(form.len());
    if heard[..known] != form[..known] {
        return Some(Err(Failing::NotHttp));
    }
    let line = heard.get(..STATUS_LEN)?;
    let digits = std::str::from_utf8(&line[9..]).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_digit()));
    let is_version = line[7].is_ascii_digit() && line[8] == b' ';
    match digits.filter(|_| is_version).and_then(|digits| digits.parse().ok()) {
        // The number ends here, or the line does.
        Some(status) => match heard.get(STATUS_LEN) {
            None => None,
            Some(b' ' | b'\r' | b'\n') => Some(Ok(status)),
            Some(_) => Some(Err(Failing::NotHttp)),
        },
        None => Some(Err(Failing::NotHttp)),
    }
}

/// TLS with whoever answers.
static ANYBODY: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.expect("the provider knows the protocol's suites").dangerous();
    let mut config = config.with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
});

/// Believes every certificate: a probe asks whether an instance serves, not who it is, and says nothing that is secret.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_soon_as_it_is_there_and_nothing_else_passes_for_one() {
        type Status = Option<Result<u16, Failing>>;
        let cases: [(&[u8], Status); 12] = [
            (b"", None),
            (b"HTT", None),
            (b"HTTP/1.1 20", None),
            (b"HTTP/1.1 200", None),
            (b"HTTP/1.1 200 OK", Some(Ok(200))),
            (b"HTTP/1.0 503\r\n", Some(Ok(503))),
            (b"HTTP/1.1 2000 ", Some(Err(Failing::NotHttp))),
            (b"HTTP/1.1 2x0 OK", Some(Err(Failing::NotHttp))),
            (b"HTTP/1.1  200 O", Some(Err(Failing::NotHttp))),
            (b"HTTP/2 200 OK\r\n", Some(Err(Failing::NotHttp))),
            (b"SSH-2.0-OpenSSH_9", Some(Err(Failing::NotHttp))),
            (b"200", Some(Err(Failing::NotHttp))),
        ];
        for (heard, status_of) in cases {
            assert_eq!(status(heard), status_of, "{}", String::from_utf8_lossy(heard));
        }
    }

    #[test]
    fn a_request_says_where_it_goes_and_that_nothing_follows() {
        let to = SocketAddrV4::new([10, 0, 1, 1].into(), 8080);
        let mut speech = Speech::new(&Ask::Http("/healthz?full=1".into()), to);
        let said = String::from_utf8(speech.say().expect("no TLS")).expect("ASCII");
        assert!(said.starts_with("GET /healthz?full=1 HTTP/1.1\r\nHost: 10.0.1.1:8080\r\n"), "{said}");
        assert!(said.contains("\r\nConnection: close\r\n") && said.ends_with("\r\n\r\n"), "{said}");
        assert_eq!(speech.say(), Ok(Vec::new()), "once");
        assert_eq!((speech.outcome(), speech.ended()), (None, Failing::Refused));
        speech.hear(b"HTTP/1.1 5").expect("plain");
        assert_eq!((speech.outcome(), speech.ended()), (None, Failing::NotHttp));
        speech.hear(b"00 Internal Server Error\r\n").expect("plain");
        assert_eq!(speech.outcome(), Some(Err(Failing::Status(500))));
        let mut endless = Speech::new(&Ask::Http("/".into()), to);
        (0..1_000).for_each(|_| endless.hear(&[b'x'; 1_000]).expect("plain"));
        assert!(matches!(&endless, Speech::Plain(http) if http.heard.len() == STATUS_LINE_MAX));
    }

    #[test]
    fn what_is_no_tls_is_told_apart() {
        let to = SocketAddrV4::new([10, 0, 1, 1].into(), 443);
        let mut speech = Speech::new(&Ask::Https("/".into()), to);
        let hello = speech.say().expect("a hello");
        assert_eq!(hello[..2], [22, 3], "a handshake record");
        assert_eq!(speech.ended(), Failing::NoTls);
        assert_eq!(speech.hear(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Err(Failing::NoTls));
    }
}
