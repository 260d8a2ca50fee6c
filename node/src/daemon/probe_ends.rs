//! Hot path (the worker's end). The rings between the prober and a worker: packets of probes one way, answers the other.
//!
//! Neither waits for the other: what finds no room is dropped, and a connection sends it again, or fails. A worker takes so
//! many per turn at most.

use engine::delivered::Answer;
use engine::event::DropReason;
use engine::ids::BackendId;
use engine::worker::Worker;
use netio::bell::Ringer;
use netio::boottime::now_ns;
use netio::sync::spsc::{Consumer, Producer, ring};
use words::LeaseWords;

/// Packets between the prober and a worker.
const RING: usize = 1 << 12;
/// Packets of probes that one turn of a worker takes.
const PER_TURN: usize = 32;

/// A packet for a backend.
#[derive(Debug)]
pub struct ProbePacket {
    /// Whom.
    pub backend: BackendId,
    /// The attempt's port.
    pub port: u16,
    /// Room for an Ethernet header, and an IPv4 packet.
    pub frame: Vec<u8>,
}

/// What comes back.
#[derive(Debug)]
pub enum ProbeNews {
    /// A backend answered.
    Answer(Answer),
    /// A packet was not sent.
    NotSent {
        /// The attempt's port.
        port: u16,
        /// Why.
        reason: DropReason,
    },
}

/// The prober's end.
#[derive(Debug)]
pub struct ProberEnd {
    packets: Producer<ProbePacket>,
    told: Consumer<ProbeNews>,
    ringer: Ringer,
    rang: bool,
}

/// The worker's.
#[derive(Debug)]
pub struct WorkerEnd {
    packets: Consumer<ProbePacket>,
    told: Producer<ProbeNews>,
    ringer: Ringer,
}

/// Both ends, by the bells of worker and prober.
#[must_use]
pub fn ends(worker: Ringer, prober: Ringer) -> (ProberEnd, WorkerEnd) {
    let (to_worker, packets) = ring(RING);
    let (from_worker, told) = ring(RING);
    let prober_end = ProberEnd { packets: to_worker, told, ringer: worker, rang: true };
    (prober_end, WorkerEnd { packets, told: from_worker, ringer: prober })
}

impl ProberEnd {
    /// Whether it was taken; it is rung for by `ring`.
    pub fn send(&mut self, packet: ProbePacket) -> bool {
        self.rang = false;
        self.packets.push(packet).is_ok()
    }

    /// Wakes the worker if there is something for it.
    pub fn ring(&mut self) {
        if !std::mem::replace(&mut self.rang, true) {
            self.ringer.ring();
        }
    }

    /// What came back.
    pub fn take(&mut self) -> Option<ProbeNews> {
        self.told.pop()
    }

    /// Whether nothing is to be taken.
    pub fn is_idle(&mut self) -> bool {
        self.told.is_empty()
    }

    /// Whether the worker is gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.packets.is_closed()
    }
}

impl WorkerEnd {
    /// Hands packets of probes to the worker, so many at most.
    pub fn receive(&mut self, worker: &mut Worker, words: &impl LeaseWords) {
        for _ in 0..PER_TURN {
            let Some(ProbePacket { backend, port, mut frame }) = self.packets.pop() else { return };
            if let Err(reason) = worker.send_probe(now_ns(), words, backend, &mut frame) {
                // Without room the attempt runs out of time.
                let _ = self.told.push(ProbeNews::NotSent { port, reason });
                self.ringer.ring();
            }
        }
    }

    /// Hands answers over.
    pub fn deliver(&mut self, worker: &mut Worker) {
        let mut delivered = false;
        while let Some(answer) = worker.poll_answer() {
            // Without room it comes again.
            let _ = self.told.push(ProbeNews::Answer(answer));
            delivered = true;
        }
        if delivered {
            self.ringer.ring();
        }
    }

    /// Whether there is a packet to be sent.
    pub fn is_idle(&mut self) -> bool {
        self.packets.is_empty()
    }
}
