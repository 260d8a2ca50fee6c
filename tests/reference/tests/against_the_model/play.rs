//! One run: the same packets at the same times for the engine and for the model, which must agree on every one.

use std::collections::BTreeMap;

use engine::ids::{Link, Side};
use engine::status::{FlowState, FlowView};
use proptest::prelude::*;
use qnat_reference::bed::{BACKENDS, Bed, Left, network_of, place_of};
use qnat_reference::expect::Outcome;
use qnat_reference::model::Model;
use qnat_reference::own::Stands;
use qnat_reference::packet::{ETH, piece};
use qnat_reference::sent::{Complaint, Packet};
use qnat_reference::world::{OWNER, World};

use crate::steps::Step;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Packets.
    pub(crate) compared: u64,
    /// What became of them, and what was special about them.
    pub(crate) of: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.of.entry(what).or_default() += 1;
    }
}

/// A fragment on its way.
#[derive(Clone, Debug)]
struct OnTheWay {
    side: Side,
    packet: Packet,
    start: usize,
    end: usize,
}

struct Run<'a> {
    bed: Bed,
    model: Model,
    on_the_way: Vec<OnTheWay>,
    mss_max: u16,
    seen: &'a mut Tally,
}

/// In a world, in which `bed` stands.
pub(crate) fn play(world: &World, bed: Bed, steps: &[Step], seen: &mut Tally) -> Result<(), TestCaseError> {
    let model = Model::new(world);
    let mut run = Run { bed, model, on_the_way: Vec::new(), mss_max: world.mss_max, seen };
    for (number, step) in steps.iter().enumerate() {
        run.step(step).map_err(|why| TestCaseError::fail(format!("step {number}, {step:?}: {why}")))?;
    }
    *run.seen.of.entry("Carried").or_default() += run.bed.carried;
    run.table().map_err(TestCaseError::fail)
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let (side, packet) = match step {
            Step::Out(packet) => (Side::Inside, Some(*packet)),
            Step::In(packet) => (Side::Outside, Some(*packet)),
            Step::Of(side, nth, packet) => (*side, self.model.of_flow(*side, nth.index(1 << 20), packet)),
            Step::Aside(nth, packet, far) => {
                let to = self.model.of_flow(Side::Outside, nth.index(1 << 20), packet);
                let service = packet.service;
                let aside = |to: Packet| Packet { remote: if *far { packet.remote } else { to.remote }, service, ..to };
                (Side::Outside, to.map(aside))
            }
            Step::OfHalf(side, nth, packet) => (*side, self.model.of_half(nth.index(1 << 20), packet)),
            // What the own address's backend sends to its neighbours' public ends is not asked about.
            Step::Turn(_, packet) if self.model.is_own(Side::Inside, packet) => return Ok(()),
            Step::Turn(nth, packet) => (Side::Inside, self.model.to_public(nth.index(1 << 20), packet)),
            Step::Astray(nth, packet) => {
                let of_flow = nth.and_then(|nth| self.model.of_flow(Side::Inside, nth.index(1 << 20), packet));
                return self.astray(&of_flow.unwrap_or(*packet));
            }
            Step::Complaint(side, complaint) => return self.complain(*side, complaint),
            Step::ComplaintOf(side, nth, complaint) => {
                let about = self.model.of_flow(*side, nth.index(1 << 20), &complaint.about);
                return about.map_or(Ok(()), |about| self.complain(*side, &Complaint { about, ..*complaint }));
            }
            Step::ComplaintOfHalf(nth, complaint) => {
                let about = self.model.of_half(nth.index(1 << 20), &complaint.about);
                return about.map_or(Ok(()), |about| self.complain(Side::Inside, &Complaint { about, ..*complaint }));
            }
            Step::Split(side, nth, packet, step) => {
                self.split(*side, nth.map(|nth| nth.index(1 << 20)), packet, usize::from(*step));
                return Ok(());
            }
            Step::Piece(nth, shift, again) => return self.piece(nth.index(1 << 20), usize::from(*shift), *again),
            Step::Wait(ms) => return self.wait(*ms),
            Step::Takeover => return self.take_over(),
        };
        match packet {
            Some(packet) => self.send(side, &packet),
            None => Ok(()),
        }
    }

    fn count(&mut self, outcome: Outcome) {
        self.seen.compared += 1;
        self.seen.count(name(outcome));
    }

    /// What is special about a packet, and not told by its outcome.
    fn count_special(&mut self, packet: &Packet, outcome: Outcome, left: &[Left]) {
        let specials = [
            (outcome == Outcome::Told && packet.ttl <= 1, "HopsRanOut"),
            (outcome == Outcome::Told && packet.ttl > 1, "TooLong"),
            (packet.first.is_none() && left.len() > 1, "Cut"),
            (packet.first.is_some() && !left.is_empty(), "First"),
            (packet.first.is_some() && left.len() > 1, "WaitedFor"),
            (packet.mss.is_some_and(|(_, mss)| mss > self.mss_max) && self.mss_max > 0 && !left.is_empty(), "Clamped"),
            (packet.unsummed && !left.is_empty(), "Unsummed"),
            (packet.asker == Side::Outside && outcome == Outcome::LetInside, "PingedInside"),
        ];
        for (_, name) in specials.iter().filter(|(is, _)| *is) {
            self.seen.count(name);
        }
    }

    fn inject(&mut self, link: Link, frame: &[u8]) -> Vec<Left> {
        let mut left = self.bed.inject(link, frame);
        left.retain(|one| !one.is_arp());
        left
    }

    fn send(&mut self, side: Side, packet: &Packet) -> Result<(), String> {
        if self.model.is_own(side, packet) {
            let near = Packet { backend: OWNER, ..*packet };
            let stands = self.bed.flows().iter().find(|flow| is_of(flow, &near)).map_or(Stands::Nowhere, stands);
            self.model.settle(self.bed.now_ns, packet, stands)?;
        }
        let left = self.inject(packet.link(side), &packet.frame(side));
        let bed = &self.bed;
        let table = || bed.flows().iter().find(|flow| is_of(flow, packet)).map(|flow| flow.public.2);
        let outcome = self.model.judge(bed.now_ns, side, packet, table, &left)?;
        self.count(outcome);
        self.count_special(packet, outcome, &left);
        Ok(())
    }

    /// A backend's packet comes by the other network, if that has nobody of its address.
    fn astray(&mut self, packet: &Packet) -> Result<(), String> {
        let Some(network) = Model::stranger_in(packet.backend) else { return Ok(()) };
        let left = self.inject(Link::Inside(network), &packet.frame(Side::Inside));
        let outcome = self.model.judge_astray(self.bed.now_ns, &left)?;
        self.count(outcome);
        Ok(())
    }

    fn complain(&mut self, side: Side, complaint: &Complaint) -> Result<(), String> {
        let left = self.inject(complaint.about.link(side), &complaint.frame(side));
        let outcome = self.model.judge_complaint(self.bed.now_ns, side, complaint, &left)?;
        self.count(outcome);
        Ok(())
    }

    fn split(&mut self, side: Side, nth: Option<usize>, packet: &Packet, step: usize) {
        let packet = nth.and_then(|nth| self.model.of_flow(side, nth, packet)).unwrap_or(*packet);
        let packet = Packet { id: packet.id, ..packet };
        let len = packet.size() - 20;
        let step = step.max((len / 16).next_multiple_of(8));
        let pieces = (0..len).step_by(step).map(|start| (start, len.min(start + step)));
        self.on_the_way.extend(pieces.map(|(start, end)| OnTheWay { side, packet, start, end }));
    }

    fn piece(&mut self, nth: usize, shift: usize, again: bool) -> Result<(), String> {
        if self.on_the_way.is_empty() {
            return Ok(());
        }
        // Mostly those that have been on their way for long.
        let place = nth % self.on_the_way.len().min(12);
        let one = if again { self.on_the_way[place].clone() } else { self.on_the_way.remove(place) };
        let whole = one.packet.frame(one.side);
        let len = whole.len() - ETH - 20;
        let (start, end) = (one.start + shift, len.min(one.end + shift));
        if start >= end || (start, end) == (0, len) {
            return Ok(());
        }
        if start == 0 {
            let first = Packet { first: Some(u16::try_from(end).expect("a frame")), ..one.packet };
            return self.send(one.side, &first);
        }
        let frame = piece(&whole, start, end);
        let link = one.packet.link(one.side);
        let left = self.inject(link, &frame);
        let outcome = self.model.judge_later(self.bed.now_ns, link, &frame, &left)?;
        self.count(outcome);
        Ok(())
    }

    /// Lets time pass as a driver does: in steps no longer than the engine's timers ask for, if much time is to pass.
    fn wait(&mut self, ms: u64) -> Result<(), String> {
        let end = self.bed.now_ns + ms * 1_000_000;
        let step = if ms > 20_000 { 1_000_000_000 } else { 100_000_000 };
        while self.bed.now_ns < end {
            let next = (end - self.bed.now_ns).min(step);
            nothing_left(&self.bed.pass_time(next))?;
        }
        if ms > 60_000 {
            self.table()?;
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<(), String> {
        let left = self.bed.take_over();
        nothing_left(&left)?;
        self.model.take_over(self.bed.now_ns);
        self.seen.count("Takeover");
        Ok(())
    }

    /// The engine's own list of its flows.
    fn table(&mut self) -> Result<(), String> {
        let place = |flow: &FlowView| place_of(flow.inside.vnet, flow.inside.endpoint.addr.ipv4()?);
        let flows = self.bed.flows();
        let rows = flows.iter().map(|flow| {
            let inside = (place(flow).expect("one of them"), flow.inside.endpoint.port);
            let remote = (flow.remote.addr.ipv4().expect("IPv4"), flow.remote.port);
            (flow.proto as u8, inside, remote, flow.public.2)
        });
        let rows: Vec<_> = rows.collect();
        self.model.judge_table(self.bed.now_ns, &rows)
    }
}

fn nothing_left(left: &[Left]) -> Result<(), String> {
    match left.iter().find(|one| !one.is_arp()) {
        Some(one) => Err(format!("a packet left by itself: {:02x?}", one.frame)),
        None => Ok(()),
    }
}

fn is_of(flow: &FlowView, p: &Packet) -> bool {
    flow.proto as u8 == p.proto
        && flow.inside.vnet == network_of(p.backend)
        && flow.inside.endpoint.addr.ipv4() == Some(BACKENDS[p.backend])
        && flow.inside.endpoint.port == p.near
        && (flow.remote.addr.ipv4(), flow.remote.port) == (Some(p.remote), p.service)
}

fn stands(flow: &FlowView) -> Stands {
    match flow.state {
        FlowState::Held(_) => Stands::Held,
        FlowState::Opening | FlowState::Live | FlowState::Closing => Stands::Live,
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Opened => "Opened",
        Outcome::Out => "Out",
        Outcome::In => "In",
        Outcome::LetIn => "LetIn",
        Outcome::Filtered => "Filtered",
        Outcome::Refused => "Refused",
        Outcome::NoPort => "NoPort",
        Outcome::OverQuota => "OverQuota",
        Outcome::OverRate => "OverRate",
        Outcome::Turned => "Turned",
        Outcome::TurnedAway => "TurnedAway",
        Outcome::Told => "Told",
        Outcome::Untold => "Untold",
        Outcome::Error => "Error",
        Outcome::ErrorTurned => "ErrorTurned",
        Outcome::ErrorRefused => "ErrorRefused",
        Outcome::Followed => "Followed",
        Outcome::Waits => "Waits",
        Outcome::Copy => "Copy",
        Outcome::Overlap => "Overlap",
        Outcome::Tiny => "Tiny",
        Outcome::Lost => "Lost",
        Outcome::Begun => "Begun",
        Outcome::Answered => "Answered",
        Outcome::LetInside => "LetInside",
        Outcome::Denied => "Denied",
        Outcome::Astray => "Astray",
    }
}
