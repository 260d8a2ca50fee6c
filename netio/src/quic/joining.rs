//! The channel for joining: how a node that is no peer yet asks the members to be taken in. A connection of its own, told
//! apart by its ALPN, that carries one question of a node with a certificate of the cluster, and the answers to it.
//!
//! Never carries any other frame, never becomes a link, and is bounded: few guests at a time, one per node, each for a few
//! seconds, with a handful of small frames. Called by the transport.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use quinn::Connection;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::close::{CLOSE_BUSY, CLOSE_GOODBYE, CLOSE_MALFORMED};
use super::event::Event;
use super::frame::{Batch, FrameReader, StreamEnd, StreamKey};
use super::guests::{FRAMES_MAX, Guests};
use super::proof::proved_id;
use super::shared::Shared;
use crate::ca::node_name;

/// Longest frame on the channel for joining, in bytes.
pub const JOIN_FRAME_BYTES_MAX: usize = 4096;
/// The member's end: hands the question to the owner, and its answers back, for `life` at most. `None`: refused.
pub(super) async fn receive(
    guests: &Guests,
    questions: &mpsc::Sender<Event>,
    connection: &Connection,
    life: Duration,
) -> Option<()> {
    let from = proved_id(connection)?;
    let Some((place, mut answered)) = guests.enter(from) else {
        connection.close(CLOSE_BUSY, b"too many nodes ask to join");
        return None;
    };
    let asked = async {
        tokio::join!(hear(from, questions, connection), tell(&mut answered, connection));
    };
    // A guest that has its answer closes the connection, and one that has none asks again.
    tokio::select! {
        _over = timeout(life, asked) => {}
        _closed = connection.closed() => {}
    }
    guests.leave(from, &place);
    connection.close(CLOSE_GOODBYE, b"");
    Some(())
}

/// Reads one stream of the guest's.
async fn hear(from: u32, questions: &mpsc::Sender<Event>, connection: &Connection) {
    let Ok(stream) = connection.accept_uni().await else { return };
    let mut reader = FrameReader::new(stream, JOIN_FRAME_BYTES_MAX);
    let read = async {
        if reader.header().await? != StreamKey::JOIN {
            return Err(StreamEnd::Malformed);
        }
        for _ in 0..FRAMES_MAX {
            let bytes = reader.next().await?;
            if questions.send(Event::Join { from, bytes }).await.is_err() {
                return Err(StreamEnd::Over);
            }
        }
        Err(StreamEnd::Malformed)
    };
    if let Err::<(), _>(StreamEnd::Malformed) = read.await {
        tracing::debug!(from, "malformed question on the channel for joining");
        connection.close(CLOSE_MALFORMED, b"malformed");
    }
}

/// Writes the answers as they come.
async fn tell(answered: &mut mpsc::Receiver<Bytes>, connection: &Connection) {
    let mut batch = Batch::default();
    batch.push_header(StreamKey::JOIN);
    let Ok(mut stream) = connection.open_uni().await else { return };
    while let Some(answer) = answered.recv().await {
        batch.push(answer);
        if stream.write_all_chunks(batch.chunks()).await.is_err() {
            return;
        }
        batch.chunks().clear();
    }
}

/// The guest's end: puts one question to the member `to` and hands its answers to the owner.
pub(super) async fn ask(shared: &Shared, to: u32, address: SocketAddr, question: Bytes) {
    let asked = async {
        // The name makes rustls refuse anybody else at that address.
        let name = node_name(to, &shared.cluster);
        let connecting = shared.endpoint.connect_with(shared.join_client.clone(), address, &name).ok()?;
        let connection = connecting.await.ok().filter(|connection| proved_id(connection) == Some(to))?;
        let mut batch = Batch::default();
        batch.push_header(StreamKey::JOIN);
        batch.push(question);
        let mut stream = connection.open_uni().await.ok()?;
        stream.write_all_chunks(batch.chunks()).await.ok()?;
        stream.finish().ok()?;
        let mut reader = FrameReader::new(connection.accept_uni().await.ok()?, JOIN_FRAME_BYTES_MAX);
        if reader.header().await.ok()? == StreamKey::JOIN {
            // One answer is all that a question gets; what goes wrong after it is asked anew.
            let bytes = reader.next().await.ok()?;
            shared.questions.send(Event::Join { from: to, bytes }).await.ok()?;
        }
        connection.close(CLOSE_GOODBYE, b"");
        Some(())
    };
    if !matches!(timeout(shared.config.question_life, asked).await, Ok(Some(()))) {
        tracing::debug!(to, "no answer on the channel for joining");
    }
}
