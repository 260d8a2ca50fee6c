//! An address that is one backend's own (S2, S23), naively. What that backend begins leaves by its own port. What a remote begins
//! reaches it by the same port, if the guard lets it in (S26), and is no mapping before it is proved: a connection by who
//! acknowledges the backend's answer, a datagram or a ping by the answer (W3).
//!
//! Where a span of a mapping's life leaves open how it stands, `settle` takes the engine's word, if that is within the span: so
//! what is judged here is certain.

use engine::ids::{Link, Side};
use words::time::SECOND_NS;

use crate::bed::Left;
use crate::expect::{Judged, Outcome, expect, notice};
use crate::flow::{Cost, Flow};
use crate::half::Half;
use crate::model::Model;
use crate::packet::{ICMP, TCP, UDP};
use crate::sent::{Packet, to_backend, to_upstream};
use crate::world::{BACKENDS, OWN, OWNER, link_of};

/// How long what a remote began waits for its proof.
const PATIENCE_NS: u64 = 75 * SECOND_NS;
/// For so long a new owner believes that a connection which it does not know was let in before.
const BELIEF_NS: u64 = 75 * SECOND_NS;

/// How the engine says that a mapping stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stands {
    /// It lives.
    Live,
    /// It has ended, and nobody else gets its tuple.
    Held,
    /// There is none.
    Nowhere,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// It ends here: nothing is there for it.
    Nothing,
    /// The guard does not let it in.
    Denied,
    /// It passes by a live mapping.
    Live,
    /// It passes by an ended one, and changes nothing.
    Late,
    /// It passes by an ended one of the backend's, or brings that back, or is too late.
    Held,
    /// It brings an ended mapping back.
    Again,
    /// It opens one that the backend begins.
    Opens,
    /// It passes, and nothing is known but that.
    Begins,
    /// It passes, and answers what was begun.
    Answers,
    /// It proves what was begun.
    Proves,
}

/// Whether a packet from this side may begin a flow.
fn begins(side: Side, p: &Packet) -> bool {
    match p.proto {
        TCP => p.segment.opens(),
        ICMP => p.asker == side,
        _ => true,
    }
}

impl Model {
    /// Whether a packet that arrives on `side` is to or from the address that is a backend's own.
    #[must_use]
    pub fn is_own(&self, side: Side, p: &Packet) -> bool {
        match side {
            Side::Inside => self.world.own.is_some() && p.backend == OWNER,
            Side::Outside => p.public == OWN,
        }
    }

    fn own_flow(&self, p: &Packet) -> Option<usize> {
        self.flows.iter().position(|flow| flow.public == OWN && flow.is_of(p) && flow.port == p.near)
    }

    fn half(&self, now_ns: u64, p: &Packet) -> Option<&Half> {
        self.halves.iter().find(|half| half.is_of(p) && now_ns < half.since_ns + PATIENCE_NS)
    }

    /// Whether something was begun that a complaint may be about.
    pub(crate) fn has_half(&self, now_ns: u64, p: &Packet) -> bool {
        p.backend == OWNER && self.half(now_ns, p).is_some()
    }

    /// A packet between the ends of what a remote has begun, picked by `nth`, as `p` is otherwise.
    #[must_use]
    pub fn of_half(&self, nth: usize, p: &Packet) -> Option<Packet> {
        let all: Vec<&Half> = self.halves.iter().filter(|half| half.proto == p.proto).collect();
        let half = all.get(nth % all.len().max(1))?;
        let (remote, service) = half.remote;
        let asker = if p.proto == ICMP { Side::Outside } else { Side::Inside };
        Some(Packet { backend: OWNER, near: half.near, public: OWN, remote, service, asker, ..*p })
    }

    /// Before a packet of an own address is judged: the engine says how its mapping stands.
    ///
    /// # Errors
    /// If it cannot stand so.
    pub fn settle(&mut self, now_ns: u64, p: &Packet, stands: Stands) -> Result<(), String> {
        self.forget(now_ns);
        let Some(place) = self.own_flow(p) else {
            return if stands == Stands::Nowhere { Ok(()) } else { Err(format!("a mapping that is {stands:?}")) };
        };
        let life = &mut self.flows[place].life;
        let may_be = match stands {
            Stands::Live => life.may_live(now_ns),
            Stands::Held => !life.is_live(now_ns),
            Stands::Nowhere => life.may_be_gone(now_ns),
        };
        if !may_be {
            return Err(format!("a mapping is {stands:?}, and should be {:?}", self.flows[place]));
        }
        match stands {
            Stands::Live => life.lives(now_ns),
            Stands::Held => life.ended(now_ns),
            Stands::Nowhere => {
                self.flows.remove(place);
            }
        }
        Ok(())
    }

    /// Whether its backend may have one more mapping (R21): for sure, and at all.
    fn has_room(&self, now_ns: u64) -> (bool, bool) {
        let max = usize::try_from(self.world.flows_max).expect("64 bits");
        let own = self.flows.iter().filter(|flow| flow.inside.0 == OWNER);
        let there = own.clone().filter(|flow| flow.is_kept(now_ns)).count();
        (own.count() < max, there < max)
    }

    fn believes(&self, now_ns: u64) -> bool {
        now_ns < self.owner_since_ns + BELIEF_NS
    }

    fn way_in(&self, now_ns: u64, p: &Packet) -> Way {
        let Some(guard) = self.world.own else { return Way::Nothing };
        let (first, half) = (begins(Side::Outside, p), self.half(now_ns, p));
        if let Some(flow) = self.own_flow(p).map(|place| &self.flows[place]) {
            if flow.life.is_live(now_ns) {
                return Way::Live;
            }
            match flow.begun {
                // Until its tuple is free somebody's new connection is not taken for it.
                Side::Inside if first && p.proto == TCP => return Way::Nothing,
                Side::Outside if first || half.is_some() => {}
                Side::Inside | Side::Outside => return Way::Late,
            }
        }
        if !guard.admits(p.proto, p.remote, p.near) {
            return Way::Denied;
        }
        let plain = p.proto == TCP && !p.segment.leaves() && !p.segment.answers();
        match half {
            _ if first => Way::Begins,
            Some(half) if !p.segment.answers() && half.is_proved_by(p.segment) => Way::Proves,
            Some(_) if p.segment.leaves() => Way::Begins,
            None if plain && self.believes(now_ns) => Way::Proves,
            Some(_) | None => Way::Nothing,
        }
    }

    fn way_out(&self, now_ns: u64, p: &Packet) -> Way {
        let flow = self.own_flow(p).map(|place| &self.flows[place]);
        if flow.is_some_and(|flow| flow.life.is_live(now_ns)) {
            return Way::Live;
        }
        let (first, answers) = (begins(Side::Inside, p), p.segment.answers());
        match (p.proto, self.half(now_ns, p)) {
            (UDP, Some(_)) => return Way::Proves,
            (ICMP, Some(_)) if !first => return Way::Proves,
            (TCP, Some(_)) if answers || p.segment.leaves() => return Way::Answers,
            (TCP, Some(_)) if !first => return Way::Nothing,
            (TCP, None) if answers && self.believes(now_ns) && flow.is_none_or(|f| f.begun == Side::Outside) => {
                // Its question may have come to an owner before.
                let admits = self.world.own.is_some_and(|guard| guard.admits(p.proto, p.remote, p.near));
                return if admits { Way::Answers } else { Way::Denied };
            }
            _ => {}
        }
        match flow.map(|flow| flow.begun) {
            Some(_) if first => Way::Again,
            Some(Side::Outside) => Way::Late,
            Some(Side::Inside) => Way::Held,
            None if first => Way::Opens,
            None => Way::Nothing,
        }
    }

    /// Judges what the engine did with a packet of a remote to the own address, and takes note of it.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub(crate) fn judge_own_in(&mut self, now_ns: u64, p: &Packet, left: &[Left]) -> Judged {
        self.forget(now_ns);
        let (way, mtu) = (self.way_in(now_ns, p), self.world.mtu[0]);
        if let Some(judged) = ends_here(way, left) {
            return judged;
        }
        if let Some(notice) = notice(p, Side::Outside, mtu) {
            self.local().notices.judge(now_ns, (Link::Outside, p.remote), !left.is_empty())?;
            return notice.judge(left);
        }
        if let Some(judged) = self.judge_room(now_ns, way, left)? {
            return Ok(judged);
        }
        let ends = ((p.remote, p.service), (BACKENDS[OWNER], p.near));
        let wanted = p.translated(p.asks(Side::Outside), to_backend(OWNER), ends, self.world.mss_max);
        expect(left, link_of(OWNER), &wanted, mtu, false)?;
        Ok(self.came_in(now_ns, p, way))
    }

    fn came_in(&mut self, now_ns: u64, p: &Packet, way: Way) -> Outcome {
        match way {
            Way::Live => {
                let (rule, place) = (self.rule(OWNER), self.own_flow(p).expect("it lives"));
                self.flows[place].passed_in(now_ns, &rule, p);
                Outcome::In
            }
            Way::Begins if p.segment.resets() => {
                self.halves.retain(|half| !half.is_of(p));
                Outcome::Begun
            }
            Way::Begins => {
                if self.half(now_ns, p).is_none() {
                    self.wait(now_ns, p, None);
                }
                Outcome::Begun
            }
            Way::Proves => {
                self.open(now_ns, Side::Outside, Side::Outside, p);
                Outcome::LetInside
            }
            Way::Late => Outcome::In,
            Way::Nothing | Way::Denied | Way::Held | Way::Again | Way::Opens | Way::Answers => {
                unreachable!("nothing comes in so")
            }
        }
    }

    /// What a remote has begun waits from now on.
    fn wait(&mut self, now_ns: u64, p: &Packet, proof: Option<(u32, u32)>) {
        self.halves.retain(|half| !half.is_of(p) && now_ns < half.since_ns + PATIENCE_NS);
        let (proto, near, remote) = (p.proto, p.near, (p.remote, p.service));
        self.halves.push(Half { proto, near, remote, since_ns: now_ns, proof });
    }

    /// A mapping, begun from this side, opens by a packet that arrived on `arrived`.
    fn open(&mut self, now_ns: u64, begun: Side, arrived: Side, p: &Packet) {
        self.halves.retain(|half| !half.is_of(p));
        let (rule, owner) = (self.rule(OWNER), Packet { backend: OWNER, public: OWN, ..*p });
        if let Some(place) = self.own_flow(p) {
            self.flows.remove(place);
        }
        self.flows.push(Flow::own(now_ns, &rule, (begun, arrived), &owner));
    }

    /// Judges what the engine did with a packet of the backend that has the own address, and takes note of it.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub(crate) fn judge_own_out(&mut self, now_ns: u64, p: &Packet, left: &[Left]) -> Judged {
        let (way, mtu) = (self.way_out(now_ns, p), self.world.mtu[1]);
        if let Some(judged) = ends_here(way, left) {
            return judged;
        }
        if let Some(judged) = self.judge_room(now_ns, way, left)? {
            return Ok(judged);
        }
        if way == Way::Held {
            let flow = &self.flows[self.own_flow(p).expect("it is held")];
            if left.is_empty() && flow.may_refuse_late(now_ns, p) {
                return Ok(Outcome::Refused);
            }
            if flow.refuses_late(now_ns, p) {
                return Err(format!("a late packet passed by port {}, which others may have within 16 s", p.near));
            }
        }
        let ends = ((OWN, p.near), (p.remote, p.service));
        let wanted = p.translated(p.asks(Side::Inside), to_upstream(), ends, self.world.mss_max);
        expect(left, Link::Outside, &wanted, mtu, !p.whole || p.first.is_some())?;
        Ok(self.went_out(now_ns, p, way))
    }

    fn went_out(&mut self, now_ns: u64, p: &Packet, way: Way) -> Outcome {
        match way {
            Way::Opens => {
                self.open(now_ns, Side::Inside, Side::Inside, p);
                self.pay(now_ns, Cost::One);
                Outcome::Opened
            }
            Way::Proves => {
                self.open(now_ns, Side::Outside, Side::Inside, p);
                Outcome::LetInside
            }
            Way::Answers => {
                let s = p.seen();
                if s.answers() {
                    self.wait(now_ns, p, Some((s.seq + 1, s.seq + 1 + s.len)));
                } else if s.resets() {
                    self.halves.retain(|half| !half.is_of(p));
                }
                Outcome::Answered
            }
            Way::Live | Way::Held | Way::Again => {
                let (rule, place) = (self.rule(OWNER), self.own_flow(p).expect("there is one"));
                let (flow, held) = (&mut self.flows[place], way != Way::Live);
                let cost = flow.passed_out(now_ns, &rule, p);
                let (begun, again) = (flow.begun, held && cost != Cost::None);
                if begun == Side::Inside {
                    self.pay(now_ns, cost);
                }
                if again {
                    self.halves.retain(|half| !half.is_of(p));
                }
                Outcome::Out
            }
            Way::Late => Outcome::Out,
            Way::Nothing | Way::Denied | Way::Begins => unreachable!("nothing goes out so"),
        }
    }

    fn pay(&mut self, now_ns: u64, cost: Cost) {
        self.rate(OWNER).pay(now_ns, cost);
    }

    /// Whether a mapping that would open was rightly refused for want of room or of tokens; of those that remotes begin nobody
    /// counts how many there are in a second.
    fn judge_room(&mut self, now_ns: u64, way: Way, left: &[Left]) -> Result<Option<Outcome>, String> {
        if !matches!(way, Way::Opens | Way::Proves) {
            return Ok(None);
        }
        let (sure, may) = self.has_room(now_ns);
        let (sure_rate, may_rate) = if way == Way::Opens { self.rate(OWNER).allows(now_ns) } else { (true, true) };
        match left.is_empty() {
            true if !sure => Ok(Some(Outcome::OverQuota)),
            true if !sure_rate => Ok(Some(Outcome::OverRate)),
            false if !may || !may_rate => Err("one more flow than its backend may have".into()),
            true | false => Ok(None),
        }
    }
}

/// The verdict on what may not pass.
fn ends_here(way: Way, left: &[Left]) -> Option<Judged> {
    let outcome = match way {
        Way::Nothing => Outcome::Refused,
        Way::Denied => Outcome::Denied,
        Way::Live | Way::Late | Way::Held | Way::Again | Way::Opens | Way::Begins | Way::Answers | Way::Proves => {
            return None;
        }
    };
    Some(if left.is_empty() { Ok(outcome) } else { Err(format!("it passed at an own address: {outcome:?}")) })
}
