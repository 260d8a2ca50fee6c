//! Who gets a handshake, asked before any is begun: only an address that has proved that it hears us (RFC 9000, 8.1.2), only
//! so many a second, in all and from one address, and only so many at a time. The rest is told nothing.
//! One judge per endpoint, asked in its accept loop.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::config::Counters;

/// So much of something at once, and so much a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    per_second: u32,
    burst: u32,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, tokens: f64::from(burst), at: Instant::now() }
    }

    /// Takes `count` tokens, or none if there are fewer.
    pub(super) fn take(&mut self, now: Instant, count: u32) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + since * f64::from(self.per_second)).min(f64::from(self.burst));
        let enough = self.tokens >= f64::from(count);
        if enough {
            self.tokens -= f64::from(count);
        }
        enough
    }

    fn is_full(&self) -> bool {
        self.tokens >= f64::from(self.burst)
    }
}

/// How long a handshake that came in may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// What an endpoint can bear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes under way.
    pub(super) under_way: usize,
    /// Handshakes begun, in a second and at once.
    pub(super) begun: (u32, u32),
    /// Of these, from one address.
    pub(super) begun_by_one: (u32, u32),
}

/// Handshakes with listed members: as many as a whole cluster makes that comes back at once.
pub(super) const MEMBERS: Limits = Limits { under_way: 32, begun: (50, 64), begun_by_one: (20, 20) };
/// Handshakes with everybody else.
pub(super) const STRANGERS: Limits = Limits { under_way: 8, begun: (20, 20), begun_by_one: (5, 5) };
/// Most addresses whose handshakes are counted apart; with more of them at a time, new ones wait.
const ADDRESSES_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    begun: Bucket,
    by_address: BTreeMap<IpAddr, Bucket>,
    under_way: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Admission {
    pub(super) fn new(limits: Limits, counters: Arc<Counters>) -> Self {
        let (per_second, burst) = limits.begun;
        let under_way = Arc::new(Semaphore::new(limits.under_way));
        Self { limits, begun: Bucket::new(per_second, burst), by_address: BTreeMap::new(), under_way, counters }
    }

    /// The handshake, and its place among those under way; `None` if there shall be none (now).
    pub(super) fn judge(&mut self, incoming: Incoming) -> Option<(Incoming, OwnedSemaphorePermit)> {
        if !incoming.remote_address_validated() {
            self.counters.retried.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            return None;
        }
        let place = Arc::clone(&self.under_way).try_acquire_owned().ok();
        let place = place.filter(|_| self.may_begin(incoming.remote_address().ip(), Instant::now()));
        let Some(place) = place else {
            self.counters.turned_away.fetch_add(1, Ordering::Relaxed);
            incoming.ignore();
            return None;
        };
        Some((incoming, place))
    }

    fn may_begin(&mut self, from: IpAddr, now: Instant) -> bool {
        if self.by_address.len() >= ADDRESSES_MAX {
            for bucket in self.by_address.values_mut() {
                bucket.take(now, 0);
            }
            self.by_address.retain(|_, bucket| !bucket.is_full());
        }
        let full = self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&from);
        let (per_second, burst) = self.limits.begun_by_one;
        !full
            && self.by_address.entry(from).or_insert_with(|| Bucket::new(per_second, burst)).take(now, 1)
            && self.begun.take(now, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_cannot_use_up_what_all_have_and_all_have_a_bound() {
        let mut admission = Admission::new(STRANGERS, Arc::default());
        let mut now = Instant::now();
        let host = |n: u8| IpAddr::from([10, 0, 0, n]);
        let begun = |admission: &mut Admission, n, now| (0..100).filter(|_| admission.may_begin(host(n), now)).count();
        assert_eq!((0..6).map(|n| begun(&mut admission, n, now)).collect::<Vec<_>>(), [5, 5, 5, 5, 0, 0]);
        now += Duration::from_secs(1);
        assert_eq!((0..6).map(|n| begun(&mut admission, n, now)).collect::<Vec<_>>(), [5, 5, 5, 5, 0, 0]);
    }

    #[tokio::test]
    async fn addresses_beyond_those_that_are_counted_wait_until_one_is_quiet() {
        let mut admission = Admission::new(Limits { begun: (1000, 10_000), ..STRANGERS }, Arc::default());
        let mut now = Instant::now();
        let hosts = u32::try_from(ADDRESSES_MAX).expect("small");
        let host = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(n));
        assert!((0..hosts).all(|n| admission.may_begin(host(n), now)));
        assert!(!admission.may_begin(host(hosts), now));
        now += Duration::from_secs(1);
        assert!(admission.may_begin(host(hosts), now));
        assert!(admission.by_address.len() <= ADDRESSES_MAX);
    }
}
