//! What becomes of blocks that come back (F5): who waits for ports is served, at the cost of what has changed.
//!
//! Comes to the same as `Allocation::settle` would (checked by `State::check`), without its walk over all backends. Called
//! by `apply` for reports of fences.

use std::collections::BTreeSet;
use std::rc::Rc;

use engine::ids::{BackendId, ControlIndex, FrontendId, PortBlock, ShardId};

use crate::allocation::{Allocation, Declared, Settle, Tally};
use crate::grants::{Grant, Grants};
use crate::places::blocks_on;
use crate::refusal::Refusal;

impl Allocation {
    /// Fences of these blocks were committed: the ports of those that still drain under exactly that index are free (F5).
    ///
    /// # Errors
    /// If none of them is; nothing has changed then.
    pub(crate) fn reclaim(
        &mut self,
        with: &Settle<'_>,
        shard: ShardId,
        blocks: &[(PortBlock, ControlIndex)],
    ) -> Result<(), Refusal> {
        let mut freed: BTreeSet<BackendId> = BTreeSet::new();
        let mut touched: BTreeSet<FrontendId> = BTreeSet::new();
        let mut why = None;
        for (block, reclaim_index) in blocks {
            match self.reclaimed(*block, *reclaim_index, shard) {
                Ok(backend) => {
                    freed.insert(backend);
                    touched.insert(block.frontend);
                }
                Err(refusal) => why = why.or(Some(refusal)),
            }
        }
        if freed.is_empty() {
            return Err(why.unwrap_or(Refusal::NoBlockNamed {}));
        }
        for id in &freed {
            self.unbind_if_drained(*id);
        }
        for frontend in &touched {
            self.give_address(*frontend);
        }
        let mut grants = Grants::new(with.desired, &self.frontends);
        self.serve_waiting(with, &mut grants, &freed, &mut touched);
        freed.iter().for_each(|id| self.send_home(*id, grants.shores()));
        for frontend in touched {
            self.places.touch(frontend, with.index);
            self.note_if_idle(frontend, with.stamped_unix_ms);
        }
        Ok(())
    }

    /// Backends that wait get what has become free: those whose own blocks have drained may be bound anew, the others are
    /// served only by the frontends that were touched, since nothing has changed elsewhere.
    fn serve_waiting(
        &mut self,
        with: &Settle<'_>,
        grants: &mut Grants<'_>,
        freed: &BTreeSet<BackendId>,
        touched: &mut BTreeSet<FrontendId>,
    ) {
        if self.places.waiting().next().is_none() {
            return;
        }
        let mut served: Vec<(BackendId, Rc<Grant>)> = Vec::new();
        for id in self.places.waiting() {
            let backend = &self.backends[&id];
            let grant = grants.of(backend);
            let near = match backend.frontend {
                Some(frontend) => touched.contains(&frontend),
                None => freed.contains(&id) || grant.frontends.iter().any(|frontend| touched.contains(frontend)),
            };
            if near {
                served.push((id, grant));
            }
        }
        let mut tally = Tally::default();
        for (id, grant) in &served {
            if self.backends[id].frontend.is_none() {
                for frontend in &grant.frontends {
                    tally.bound.entry(*frontend).or_insert_with(|| self.places.bound_count(*frontend));
                }
                self.bind(*id, grant, &mut tally, with);
                touched.extend(self.backends[id].frontend);
            }
        }
        for (id, grant) in &served {
            let backend = &self.backends[id];
            if let Some(frontend) = backend.frontend.filter(|frontend| grant.has(*frontend))
                && backend.ports() < grant.ports
            {
                tally.free.entry(frontend).or_insert_with(|| self.free_on(frontend));
                self.grow(*id, grant.ports, &mut tally, with.index);
            }
        }
        for (id, _) in &served {
            self.places.judge(*id, &self.backends[id]);
        }
        touched.extend(self.hasten_stuck(served.iter().map(|(id, _)| *id)));
    }

    /// As `unbind_drained` does for all.
    fn unbind_if_drained(&mut self, id: BackendId) {
        let backend = self.backends.get_mut(&id).expect("the owner of a draining block exists");
        if let Some(frontend) = backend.frontend
            && backend.lease.is_empty()
            && !self.drains.range(blocks_on(frontend)).any(|(_, drain)| drain.backend == id)
        {
            backend.frontend = None;
            self.places.unbind(id, frontend);
        }
        if backend.declared == Declared::No && !self.places.drains(id) {
            self.backends.remove(&id);
            self.places.forget(id);
        }
    }
}
