//! One link's life: the connection that carries it, the readers and writers of its streams.
//! Must tell `Down` of a link before `Up` of its successor, and let no frame of a link out before `Up` or after `Down`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quinn::{Connection, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::close::{CLOSE_GOODBYE, CLOSE_MALFORMED, CLOSE_REMOVED, CLOSE_REPLACED};
use super::event::{Event, Inbound};
use super::frame::{Batch, FRAME_BYTES_MAX, FrameReader, StreamEnd, StreamKey, StreamKind};
use super::proof::proved_key;
use super::queue::{Outbound, SendOutcome};
use super::shared::{Live, Peer, Shared};

/// How much one write takes from a queue at most: long enough to fill GSO batches, short enough to stay fair.
const WRITE_BYTES: usize = 256 << 10;

/// Which end of a connection we are.
#[derive(Debug)]
pub(super) enum Role {
    /// Told when the link is up, dropped if it never is.
    Dialer(oneshot::Sender<()>),
    Acceptor,
}

/// Makes `connection` the link to `peer`, in place of any other, and carries it until it ends.
pub(super) async fn run_link(shared: Arc<Shared>, peer: Arc<Peer>, connection: Connection, role: Role) {
    let generation = {
        let mut state = peer.state();
        if let Some(live) = &state.live {
            live.connection.close(CLOSE_REPLACED, b"replaced");
        }
        // A removed peer has generation MAX: nothing is newer, nothing gets in.
        state.newest_generation = state.newest_generation.saturating_add(1);
        state.newest_generation
    };
    let _turn = peer.turn.lock().await;
    if matches!(role, Role::Acceptor) && greet(&connection).await.is_none() {
        return;
    }
    {
        let mut state = peer.state();
        if state.newest_generation != generation || generation == u64::MAX || connection.close_reason().is_some() {
            connection.close(CLOSE_REPLACED, b"replaced");
            return;
        }
        // Again, behind the lock: the key may have become known since the connection was taken.
        if state.key.is_some_and(|key| proved_key(&connection) != Some(key)) {
            connection.close(CLOSE_REMOVED, b"another key");
            return;
        }
        let channels = BTreeMap::new();
        state.live = Some(Live { connection: connection.clone(), generation, since: Instant::now(), channels });
    }
    match role {
        // The dialer may have been aborted; the link is then closed by whoever did that.
        Role::Dialer(installed) => drop(installed.send(())),
        Role::Acceptor => peer.wake_dialer.notify_one(),
    }
    shared.counters.links_up.fetch_add(1, Ordering::Relaxed);
    if shared.events.send((Event::Up(peer.id), None)).await.is_ok() {
        carry(&shared, &peer, &connection).await;
        connection.close(CLOSE_GOODBYE, b"");
        take_down(&peer, generation);
        // Nobody listens any more if this fails, and the transport is going down.
        let _gone = shared.events.send((Event::Down(peer.id), None)).await;
    } else {
        take_down(&peer, generation);
    }
    peer.wake_dialer.notify_one();
}

/// Ends the queues of link `generation`.
fn take_down(peer: &Peer, generation: u64) {
    let mut state = peer.state();
    if let Some(live) = state.live.take_if(|live| live.generation == generation) {
        live.channels.values().for_each(|outbound| outbound.close());
    }
}

/// The acceptor's first stream tells the dialer that it is taken: in TLS 1.3 a client is done before the server has judged
/// its certificate, and a link must not be called up before.
async fn greet(connection: &Connection) -> Option<()> {
    let mut stream = connection.open_uni().await.ok()?;
    stream.write_all(&StreamKey::GREETING.encode()).await.ok()?;
    stream.finish().ok()
}

/// Waits for the acceptor's greeting.
pub(super) async fn await_greeting(connection: &Connection) -> Option<()> {
    // Streams are accepted in the order of their opening, and this one was opened first.
    let stream = connection.accept_uni().await.ok()?;
    let header = FrameReader::new(stream, FRAME_BYTES_MAX).header().await.ok()?;
    (header == StreamKey::GREETING).then_some(())
}

/// Reads all streams until the connection ends; when this returns, no reader runs any more.
async fn carry(shared: &Arc<Shared>, peer: &Arc<Peer>, connection: &Connection) {
    let budget = usize::try_from(shared.config.receive_bytes_max).unwrap_or(usize::MAX);
    let frames_budget = Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS)));
    let bulk_budget = Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS)));
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                let Ok(stream) = stream else { break };
                let reader = Reader {
                    shared: Arc::clone(shared),
                    from: peer.id,
                    frames_budget: Arc::clone(&frames_budget),
                    bulk_budget: Arc::clone(&bulk_budget),
                };
                readers.spawn(reader.run(FrameReader::new(stream, FRAME_BYTES_MAX)));
            }
            Some(ended) = readers.join_next() => {
                if let Ok(StreamEnd::Malformed) = ended {
                    tracing::warn!(peer = peer.id, "malformed stream");
                    connection.close(CLOSE_MALFORMED, b"malformed");
                }
            }
        }
    }
    readers.shutdown().await;
}

struct Reader {
    shared: Arc<Shared>,
    from: u32,
    frames_budget: Arc<Semaphore>,
    bulk_budget: Arc<Semaphore>,
}

impl Reader {
    async fn run(self, mut stream: FrameReader) -> StreamEnd {
        match self.read(&mut stream).await {
            Ok(()) => StreamEnd::Over,
            Err(end) => end,
        }
    }

    async fn read(&self, stream: &mut FrameReader) -> Result<(), StreamEnd> {
        let key = stream.header().await?;
        let (budget, queue) = match key.kind {
            StreamKind::Greeting | StreamKind::Join => return Err(StreamEnd::Malformed),
            StreamKind::Frames => (&self.frames_budget, &self.shared.events),
            StreamKind::Bulk => (&self.bulk_budget, &self.shared.bulk),
        };
        loop {
            let bytes = stream.next().await?;
            let len = bytes.len();
            let permit = self.permit(budget, len).await?;
            let (from, channel) = (self.from, key.channel);
            let event = match key.kind {
                StreamKind::Bulk => Event::Bulk { from, channel, bytes },
                StreamKind::Frames | StreamKind::Greeting | StreamKind::Join => Event::Frame { from, channel, bytes },
            };
            let counters = &self.shared.counters;
            counters.frames_received.fetch_add(1, Ordering::Relaxed);
            counters.bytes_received.fetch_add(u64::try_from(len).unwrap_or(u64::MAX), Ordering::Relaxed);
            push(queue, (event, Some(permit))).await?;
        }
    }

    /// Waits until the owner has taken enough of what this peer sent before.
    async fn permit(&self, budget: &Arc<Semaphore>, len: usize) -> Result<OwnedSemaphorePermit, StreamEnd> {
        let permits = u32::try_from(len).unwrap_or(u32::MAX).clamp(1, self.shared.config.receive_bytes_max);
        if let Ok(permit) = Arc::clone(budget).try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        Arc::clone(budget).acquire_many_owned(permits).await.map_err(|_| StreamEnd::Over)
    }
}

async fn push(queue: &mpsc::Sender<Inbound>, inbound: Inbound) -> Result<(), StreamEnd> {
    queue.send(inbound).await.map_err(|_| StreamEnd::Over)
}

/// The queue of stream `key` of the link to `peer`; opens the stream at first use.
pub(super) fn outbound(shared: &Arc<Shared>, peer: &Peer, key: StreamKey) -> Result<Arc<Outbound>, SendOutcome> {
    let mut state = peer.state();
    let config = &shared.config;
    let refused = || {
        shared.counters.dropped_down.fetch_add(1, Ordering::Relaxed);
        SendOutcome::Down
    };
    let live = state.live.as_mut().ok_or_else(refused)?;
    if let Some(outbound) = live.channels.get(&key) {
        return Ok(Arc::clone(outbound));
    }
    if live.channels.len() >= usize::try_from(config.channels_max).unwrap_or(usize::MAX) {
        tracing::warn!(peer = peer.id, "more channels than channels_max");
        return Err(refused());
    }
    let outbound = Arc::new(Outbound::new(config.queue_frames_max, config.queue_bytes_max));
    live.channels.insert(key, Arc::clone(&outbound));
    let writer = write_loop(Arc::clone(shared), live.connection.clone(), key, Arc::clone(&outbound));
    shared.runtime.spawn(writer);
    Ok(outbound)
}

/// Moves frames from a queue to its stream until the link ends.
async fn write_loop(shared: Arc<Shared>, connection: Connection, key: StreamKey, outbound: Arc<Outbound>) {
    let opened = connection.open_uni().await;
    if let Ok(mut stream) = opened {
        // Fails only on a stream that is gone already, which the next write tells.
        let _gone = stream.set_priority(key.priority());
        write_frames(&shared, &mut stream, key, &outbound).await;
    }
    outbound.close();
}

async fn write_frames(shared: &Shared, stream: &mut SendStream, key: StreamKey, outbound: &Outbound) {
    let mut batch = Batch::default();
    let mut taken = Vec::new();
    batch.push_header(key);
    while outbound.take(WRITE_BYTES, &mut taken).await.is_some() {
        let frames = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        let mut bytes = 0;
        for frame in taken.drain(..) {
            bytes += u64::try_from(frame.len()).unwrap_or(u64::MAX);
            batch.push(frame);
        }
        let chunks = batch.chunks();
        if stream.write_all_chunks(chunks).await.is_err() {
            return;
        }
        chunks.clear();
        shared.counters.frames_sent.fetch_add(frames, Ordering::Relaxed);
        shared.counters.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }
}
