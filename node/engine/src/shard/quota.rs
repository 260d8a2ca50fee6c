//! What one backend may take of its shard (R21): flows, and new flows per second. A quota refuses newcomers only: what has a
//! mapping is never asked (R22). Local to the owner; called by `judge` when a packet asks for a mapping.

use words::time::SECOND_NS;

use crate::ids::BackendId;
use crate::snapshot::{Map, Params};

/// Token buckets of the backends, each of one second's worth: a bucket is the time at which it will be full.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    full_ns: Map<BackendId, u64>,
}

impl Rates {
    pub(crate) fn is_empty(&self, now_ns: u64, params: &Params, backend: BackendId) -> bool {
        let full_ns = self.full_ns.get(&backend).copied().unwrap_or(0);
        full_ns.saturating_sub(now_ns) + token_ns(params) > SECOND_NS
    }

    /// Takes a token, even from an empty bucket.
    pub(crate) fn take(&mut self, now_ns: u64, params: &Params, backend: BackendId) {
        let full_ns = self.full_ns.entry(backend).or_default();
        *full_ns = (*full_ns).max(now_ns).saturating_add(token_ns(params));
    }

    /// Forgets one that is gone.
    pub(crate) fn forget(&mut self, backend: BackendId) {
        self.full_ns.remove(&backend);
    }

    /// Those that it knows, in no order.
    pub(crate) fn backends(&self) -> impl Iterator<Item = BackendId> {
        self.full_ns.keys().copied()
    }
}

fn token_ns(params: &Params) -> u64 {
    SECOND_NS / u64::from(params.new_flows_per_second_max.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_second_and_fills_evenly() {
        let params = Params { new_flows_per_second_max: 4, ..Params::default() };
        let (mut rates, id) = (Rates::default(), BackendId(1));
        let mut taken = |now_ns| {
            let mut n = 0;
            while !rates.is_empty(now_ns, &params, id) {
                rates.take(now_ns, &params, id);
                n += 1;
            }
            n
        };
        let start = 50 * SECOND_NS;
        assert_eq!((taken(start), taken(start), taken(start + SECOND_NS / 4)), (4, 0, 1));
        assert_eq!(
            (taken(start + SECOND_NS / 2 - 1), taken(start + SECOND_NS), taken(start + 60 * SECOND_NS)),
            (0, 3, 4)
        );
    }
}
