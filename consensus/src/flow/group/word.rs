//! The lease word of a replica (L2, L4): written before anything leaves that depends on it.

use raft::StateRole;
use words::{LeaseWord, Term};

use super::{Effects, FlowGroup};
use crate::event::FlowEffect;

impl FlowGroup {
    pub(super) fn write_word(&mut self, word: LeaseWord, out: &mut Effects) {
        if self.word == word {
            return;
        }
        self.word = word;
        out.push_back(FlowEffect::Word { group: self.group(), word });
    }

    /// The lease ends, the grace stays (L4).
    pub(super) fn clear_lease(&mut self, out: &mut Effects) {
        self.write_word(self.word.without_lease(), out);
    }

    /// Nothing may leave any more.
    pub(super) fn clear_word(&mut self, out: &mut Effects) {
        self.write_word(LeaseWord { lease_until_ns: 0, grace_until_ns: 0, ..self.word }, out);
    }

    /// A successor leads in `term`: the grace of an ex-owner ends (L4).
    pub(crate) fn successor_known(&mut self, term: u64, out: &mut Effects) {
        if Term(term) > self.word.term && self.leading.is_none() {
            self.clear_word(out);
        }
    }

    /// Writes the lease, if this replica may have one (L2, N4), as far as its worker's turns allow (L1).
    pub(super) fn publish_lease(&mut self, now_ns: u64, out: &mut Effects) {
        let until = self.lease.until_ns().min(self.lease_bound_ns);
        let Some(leadership) = &self.leading else { return };
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader && raft.term == leadership.term;
        if !leads || leadership.timeout_sent_ns.is_some() || now_ns < self.wait_until_ns || until <= now_ns {
            return;
        }
        let (incarnation, term) = (self.me, Term(leadership.term));
        let grace_until_ns = until + self.timing.orphan_grace_ns;
        self.write_word(LeaseWord { incarnation, term, lease_until_ns: until, grace_until_ns }, out);
    }
}
