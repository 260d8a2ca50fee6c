//! What a connection proves: the handshake has verified the peer's chain and that it has the key.

use quinn::Connection;
use rustls::pki_types::CertificateDer;

use crate::ca::{key_hash, node_id_of};

/// The key of the peer's certificate.
pub(super) fn proved_key(connection: &Connection) -> Option<[u8; 32]> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_hash(identity.first()?)
}

/// The number in the peer's certificate; the handshake has verified its chain and its key.
pub(super) fn proved_id(connection: &Connection) -> Option<u32> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_id_of(identity.first()?)
}
