//! ICMP errors, naively (R16, R17): found by what they quote, built anew around it. They change nothing (R9, I18).

use engine::ids::{Link, Side};

use crate::bed::Left;
use crate::expect::{Judged, Outcome, expect};
use crate::flow::Flow;
use crate::model::Model;
use crate::packet::ICMP;
use crate::sent::{Complaint, Packet, ROUTER, to_backend, to_upstream};
use crate::world::{BACKENDS, PUBLIC, link_of};

/// Larger than any error.
const MTU: u16 = u16::MAX;

impl Model {
    /// Judges what the engine did with a complaint.
    ///
    /// # Errors
    /// What the engine should have done instead.
    pub fn judge_complaint(&mut self, now_ns: u64, side: Side, complaint: &Complaint, left: &[Left]) -> Judged {
        self.forget(now_ns);
        match side {
            Side::Inside => self.judge_complaint_out(now_ns, complaint, left),
            Side::Outside => self.judge_complaint_in(now_ns, complaint, left),
        }
    }

    fn judge_complaint_in(&self, now_ns: u64, complaint: &Complaint, left: &[Left]) -> Judged {
        let p = &complaint.about;
        let is_about =
            |flow: &&Flow| flow.is_of(p) && (flow.public, flow.port) == (p.public, p.near) && !flow.is_silent(now_ns);
        let Some(flow) = self.flows.iter().find(is_about).filter(|_| !is_of_anothers_ping(p)) else {
            return refused(left);
        };
        if left.is_empty() {
            return missing(flow.lets_in(now_ns));
        }
        let inside = BACKENDS[flow.inside.0];
        let quoted = (true, ((inside, flow.inside.1), (p.remote, p.service)));
        let wanted = complaint.translated(to_backend(flow.inside.0), (ROUTER, inside), quoted);
        expect(left, link_of(flow.inside.0), &wanted, MTU, false)?;
        Ok(Outcome::Error)
    }

    fn judge_complaint_out(&self, now_ns: u64, complaint: &Complaint, left: &[Left]) -> Judged {
        let p = &complaint.about;
        // The public port that what it is about came in by, and whether it surely would again.
        let own = |flow: &&Flow| flow.proto == p.proto && flow.inside == (p.backend, p.near);
        let by_itself = self.flows.iter().filter(own).find(|flow| flow.remote == (p.remote, p.service));
        let found = by_itself.map(|flow| (flow.port, flow.is_kept(now_ns))).or_else(|| {
            let ports = self.flows.iter().filter(own).map(|flow| flow.port);
            let mut let_in = ports.map(|port| (port, self.receivers(now_ns, p.proto, port, (p.remote, p.service))));
            let_in.find(|(_, receivers)| receivers.reach((p.backend, p.near))).map(|(port, r)| (port, r.surely()))
        });
        let half = self.has_half(now_ns, p);
        let found = found.or(half.then_some((p.near, true))).filter(|_| !is_of_anothers_ping(p));
        let Some((port, surely)) = found else { return refused(left) };
        let surely = surely || half;
        if p.remote != PUBLIC {
            if left.is_empty() {
                return missing(surely);
            }
            let public = self.world.public_of(p.backend);
            let quoted = (false, ((p.remote, p.service), (public, port)));
            let wanted = complaint.translated(to_upstream(), (public, p.remote), quoted);
            expect(left, Link::Outside, &wanted, MTU, false)?;
            return Ok(Outcome::Error);
        }
        let sent_it = |flow: &&Flow| {
            (flow.proto, flow.port, flow.remote) == (p.proto, p.service, (PUBLIC, port)) && !flow.is_silent(now_ns)
        };
        let Some(sender) = self.flows.iter().find(sent_it) else { return refused(left) };
        if left.is_empty() {
            return missing(surely && sender.lets_in(now_ns));
        }
        let ip = BACKENDS[sender.inside.0];
        let quoted = (false, ((ip, sender.inside.1), (PUBLIC, port)));
        let wanted = complaint.translated(to_backend(sender.inside.0), (PUBLIC, ip), quoted);
        expect(left, link_of(sender.inside.0), &wanted, MTU, false)?;
        Ok(Outcome::ErrorTurned)
    }
}

/// Of a ping from outside nobody complains: what is quoted would be no request, or the request of somebody else.
fn is_of_anothers_ping(p: &Packet) -> bool {
    p.proto == ICMP && p.asker == Side::Outside
}

fn refused(left: &[Left]) -> Judged {
    if left.is_empty() { Ok(Outcome::ErrorRefused) } else { Err("an error passed without a mapping".into()) }
}

fn missing(surely: bool) -> Judged {
    if surely { Err("an error about a mapping that is there was dropped".into()) } else { Ok(Outcome::ErrorRefused) }
}
