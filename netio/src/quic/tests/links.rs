//! Links: who gets one, how soon it is back, and what it carries.

use super::*;

#[tokio::test]
async fn frames_carry_the_proved_sender_and_keep_their_order_per_channel() {
    let (one, mut two, _ca) = pair().await;
    for n in 0..1000u32 {
        assert_eq!(one.transport.send(2, n % 3, Bytes::copy_from_slice(&n.to_be_bytes())), SendOutcome::Queued);
    }
    let mut next = [0u32, 1, 2];
    for _ in 0..1000 {
        let Event::Frame { from: 1, channel, bytes } = two.next().await else { panic!("not a frame of node 1") };
        let index = usize::try_from(channel).expect("small");
        assert_eq!(*bytes, next[index].to_be_bytes());
        next[index] += 3;
    }
    let stats = one.transport.stats();
    assert_eq!((stats.frames_sent, stats.dropped_full, stats.dropped_down), (1000, 0, 0));
}

#[tokio::test]
async fn frames_flow_from_the_higher_number_too_and_the_longest_passes_whole() {
    let (mut one, two, _ca) = pair().await;
    let longest = Bytes::from(vec![0x5a; FRAME_BYTES_MAX]);
    assert_eq!(two.transport.send(1, 9, longest.clone()), SendOutcome::Queued);
    assert!(one.next().await == frame(2, 9, longest));
    assert_eq!(two.transport.send(1, 9, Bytes::from(vec![0; FRAME_BYTES_MAX + 1])), SendOutcome::TooLong);
    assert_eq!(two.transport.send(3, 9, Bytes::new()), SendOutcome::UnknownPeer);
}

/// A node on a thread and runtime of its own, which can be killed without a good-bye.
struct Life {
    events: mpsc::UnboundedReceiver<Event>,
    kill: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Life {
    fn begin(identity: Identity, listen: SocketAddr, of: BTreeMap<u32, SocketAddr>) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let (kill, killed) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let mut node = start(&identity, listen);
                node.transport.set_peers(&of);
                let forward = async {
                    while let Some(event) = node.events.recv().await {
                        tell.send(event).expect("the test listens");
                    }
                };
                tokio::select! { () = forward => {}, _ = killed => {} }
            });
            // Tasks vanish unpolled, so nothing is sent any more: as after SIGKILL.
            runtime.shutdown_background();
        });
        Self { events, kill, thread }
    }

    async fn expect(&mut self, wanted: Event) {
        assert_eq!(timeout(BOUND, self.events.recv()).await.expect("within the bound"), Some(wanted));
    }

    fn end(self) {
        self.kill.send(()).expect("alive until now");
        self.thread.join().expect("no panic");
    }
}

/// How soon a link must stand again when all that it takes is a few round trips.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Busy processors hold anybody up for longer now and then, and a rule that is broken does so each time.
const TRIES: usize = 5;

/// Whether a node that is restarted has the same key, by which its stateless resets are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restart {
    SameKey,
    AnotherKey,
}

/// How long node `restarted` takes from its second start until both ends are linked again.
async fn link_again_after_kill(restarted: u32, how: Restart) -> Duration {
    let ca = ClusterCa::create("test").expect("ca");
    let stayer_id = 3 - restarted;
    let stayer_config = if how == Restart::SameKey { patient(any()) } else { config(any()) };
    let (identity, address) = (member(&ca, restarted), free_address());
    let mut stayer = start_as(stayer_config, &member(&ca, stayer_id));
    stayer.transport.set_peers(&peers(&[(restarted, address)]));
    let of = peers(&[(stayer_id, stayer.address)]);
    let mut first = Life::begin(identity.clone(), address, of.clone());
    stayer.expect(&Event::Up(restarted)).await;
    first.expect(Event::Up(stayer_id)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.end();

    let began = Instant::now();
    let identity = if how == Restart::SameKey { identity } else { member(&ca, restarted) };
    let mut second = Life::begin(identity, address, of);
    second.expect(Event::Up(stayer_id)).await;
    stayer.expect(&Event::Down(restarted)).await;
    stayer.expect(&Event::Up(restarted)).await;
    let took = began.elapsed();
    println!("node {restarted} back after {took:?}");
    assert_eq!(stayer.transport.send(restarted, 0, Bytes::from_static(b"hello")), SendOutcome::Queued);
    second.expect(frame(stayer_id, 0, &b"hello"[..])).await;
    second.end();
    took
}

#[tokio::test]
async fn a_killed_and_restarted_peer_is_linked_again_within_a_few_round_trips() {
    for restarted in [1, 2] {
        let mut took = Vec::new();
        while took.last().is_none_or(|took| *took >= AT_ONCE) {
            assert!(took.len() < TRIES, "node {restarted} back after {took:?}");
            took.push(link_again_after_kill(restarted, Restart::SameKey).await);
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_restarted_with_another_key_is_linked_again_long_before_its_old_link_times_out() {
    let bound = config(any()).idle_timeout / 2;
    for restarted in [1, 2] {
        let mut took = Vec::new();
        while took.last().is_none_or(|took| *took >= bound) {
            assert!(took.len() < TRIES, "node {restarted} back after {took:?}");
            took.push(link_again_after_kill(restarted, Restart::AnotherKey).await);
        }
    }
}

/// How long node `late` takes from its start until both ends are linked, if the other one has dialed in vain before.
async fn link_after_absence(late: u32) -> Duration {
    let (ca, address) = (ClusterCa::create("test").expect("ca"), free_address());
    let mut stayer = start_patient(&member(&ca, 3 - late), any());
    stayer.transport.set_peers(&peers(&[(late, address)]));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let mut life = Life::begin(member(&ca, late), address, peers(&[(3 - late, stayer.address)]));
    stayer.expect(&Event::Up(late)).await;
    life.expect(Event::Up(3 - late)).await;
    let took = began.elapsed();
    println!("node {late} linked after {took:?}");
    life.end();
    stayer.transport.shutdown().await;
    took
}

#[tokio::test]
async fn a_peer_that_returns_after_a_long_absence_is_linked_at_once_in_spite_of_backoff() {
    for late in [1, 2] {
        let mut took = Vec::new();
        while took.last().is_none_or(|took| *took >= AT_ONCE) {
            assert!(took.len() < TRIES, "node {late} linked after {took:?}");
            took.push(link_after_absence(late).await);
        }
    }
}

/// Links `stranger`, who believes to be a member, with an honest node 1; nothing may come of it.
async fn assert_refused(ca: &ClusterCa, stranger: &Identity, claimed: u32) {
    let mut honest = start(&member(ca, 1), any());
    let mut stranger = start(stranger, any());
    honest.transport.set_peers(&peers(&[(claimed, stranger.address)]));
    stranger.transport.set_peers(&peers(&[(1, honest.address)]));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(honest.events.try_recv(), None);
    assert_eq!(stranger.events.try_recv(), None);
    assert!(!honest.transport.is_up(claimed));
    assert_eq!(honest.transport.send(claimed, 0, Bytes::new()), SendOutcome::Down);
    assert!(honest.transport.stats().refused > 0, "the stranger's own attempts never reached us");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_even_with_equal_names() {
    let (ca, foreign) = (ClusterCa::create("test").expect("ca"), ClusterCa::create("test").expect("ca"));
    let issued = foreign.issue(2).expect("issue");
    // One stranger trusts only its own authority, the other trusts ours and still has no certificate of it.
    assert_refused(&ca, &identity(&foreign, &issued), 2).await;
    assert_refused(&ca, &identity(&ca, &issued), 2).await;
}

#[tokio::test]
async fn a_member_at_another_members_address_is_refused() {
    let ca = ClusterCa::create("test").expect("ca");
    assert_refused(&ca, &member(&ca, 3), 2).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = ClusterCa::create("test").expect("ca");
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let expired = ca.issue_valid(2, now - 2 * hour, now - hour).expect("issue");
    assert_refused(&ca, &identity(&ca, &expired), 2).await;
}

#[tokio::test]
async fn a_certificate_without_its_private_key_cannot_be_used() {
    let ca = ClusterCa::create("test").expect("ca");
    let (one, two) = (ca.issue(1).expect("issue"), ca.issue(2).expect("issue"));
    let mixed = IssuedPem { cert_pem: one.cert_pem, key_pem: two.key_pem };
    assert!(matches!(Transport::start(config(any()), &identity(&ca, &mixed)), Err(StartError::Identity(_))));
}

#[tokio::test]
async fn stalled_bulk_neither_blocks_frames_nor_loses_anything() {
    let (one, mut two, _ca) = pair().await;
    let chunk = Bytes::from(vec![1; 1 << 20]);
    // Nobody takes bulk at node 2: queues and windows fill until send_bulk waits.
    let mut sent = 0u32;
    while timeout(Duration::from_millis(500), one.transport.send_bulk(2, 7, chunk.clone())).await.is_ok() {
        sent += 1;
        assert!(sent < 1000, "bulk is not bounded");
    }
    assert_eq!(one.transport.send(2, 7, Bytes::from_static(b"heartbeat")), SendOutcome::Queued);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(two.next().await == frame(1, 7, &b"heartbeat"[..]), "the frame is not there, or behind bulk");
    for _ in 0..sent {
        assert!(two.next().await == Event::Bulk { from: 1, channel: 7, bytes: chunk.clone() });
    }
    let resumed = timeout(BOUND, one.transport.send_bulk(2, 7, chunk.clone())).await.expect("room again");
    assert_eq!(resumed, Ok(()));
}

#[tokio::test]
async fn removal_and_shutdown_show_as_down_at_once() {
    let (one, mut two, _ca) = pair().await;
    one.transport.set_peers(&BTreeMap::new());
    two.expect(&Event::Down(1)).await;
    assert_eq!(one.transport.send(2, 0, Bytes::new()), SendOutcome::UnknownPeer);
    assert_eq!(two.transport.send(1, 0, Bytes::new()), SendOutcome::Down);
    assert_eq!(two.transport.send_bulk(1, 0, Bytes::new()).await, Err(BulkError::Down));

    one.transport.set_peers(&peers(&[(2, two.address)]));
    two.expect(&Event::Up(1)).await;
    let began = Instant::now();
    one.transport.shutdown().await;
    two.expect(&Event::Down(1)).await;
    assert!(began.elapsed() < Duration::from_millis(500), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn an_address_can_change_while_running() {
    let ca = ClusterCa::create("test").expect("ca");
    let mut one = start(&member(&ca, 1), any());
    let mut two = start(&member(&ca, 2), any());
    one.transport.set_peers(&peers(&[(2, free_address())]));
    two.transport.set_peers(&peers(&[(1, free_address())]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!one.transport.is_up(2));
    one.transport.set_peers(&peers(&[(2, two.address)]));
    one.expect(&Event::Up(2)).await;
    two.expect(&Event::Up(1)).await;
}

/// Passes datagrams between its own address and `to`, while `open`.
async fn relay(socket: Arc<tokio::net::UdpSocket>, to: SocketAddr, open: Arc<std::sync::atomic::AtomicBool>) {
    let outer = tokio::net::UdpSocket::bind(any()).await.expect("bind");
    let (mut inward, mut outward) = (vec![0; 65536], vec![0; 65536]);
    let mut caller = None;
    loop {
        let (length, payload, socket, target) = tokio::select! {
            Ok((length, from)) = socket.recv_from(&mut inward) => {
                caller = Some(from);
                (length, &inward, &outer, Some(to))
            }
            Ok((length, _)) = outer.recv_from(&mut outward) => (length, &outward, &*socket, caller),
        };
        if let Some(target) = target.filter(|_| open.load(Ordering::Relaxed)) {
            socket.send_to(&payload[..length], target).await.expect("relay");
        }
    }
}

/// Raft notices a silence long before the transport does; what counts is how soon frames flow after it.
#[tokio::test]
async fn frames_flow_again_soon_after_a_silence() {
    let ca = ClusterCa::create("test").expect("ca");
    let mut one = start(&member(&ca, 1), any());
    let mut two = start(&member(&ca, 2), any());
    let socket = Arc::new(tokio::net::UdpSocket::bind(any()).await.expect("bind"));
    let through = socket.local_addr().expect("address");
    let open = Arc::new(std::sync::atomic::AtomicBool::new(true));
    tokio::spawn(relay(socket, two.address, Arc::clone(&open)));
    one.transport.set_peers(&peers(&[(2, through)]));
    two.transport.set_peers(&peers(&[(1, one.address)]));
    one.expect(&Event::Up(2)).await;
    two.expect(&Event::Up(1)).await;
    for (silence_ms, bound_ms) in [(200u64, 100u64), (1000, 100), (4000, 1500)] {
        open.store(false, Ordering::Relaxed);
        for _ in 0..silence_ms / 10 {
            one.transport.send(2, 0, Bytes::from_static(b"before"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while two.events.try_recv().is_some() {}
        open.store(true, Ordering::Relaxed);
        let healed = Instant::now();
        while !matches!(two.events.try_recv(), Some(Event::Frame { .. })) {
            assert!(healed.elapsed() < BOUND, "nothing came after a silence of {silence_ms} ms");
            one.transport.send(2, 0, Bytes::from_static(b"after"));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("after {silence_ms} ms of silence frames came in {:?}", healed.elapsed());
        assert!(healed.elapsed() < Duration::from_millis(bound_ms), "took {:?}", healed.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Half of a measured round trip counts two wakes of the runtime, TLS and two system calls on each side. The bound is
/// loose, for unoptimised builds on busy machines; the figure is printed.
#[tokio::test]
async fn a_round_trip_over_loopback_is_short() {
    let (mut one, mut two, _ca) = pair().await;
    let mut trips = Vec::new();
    for n in 0..2000u32 {
        let began = Instant::now();
        assert_eq!(one.transport.send(2, 0, Bytes::copy_from_slice(&n.to_be_bytes())), SendOutcome::Queued);
        let Event::Frame { bytes, .. } = two.next().await else { panic!("not a frame") };
        assert_eq!(two.transport.send(1, 0, bytes), SendOutcome::Queued);
        one.expect(&frame(2, 0, Bytes::copy_from_slice(&n.to_be_bytes()))).await;
        trips.push(began.elapsed());
    }
    trips.sort_unstable();
    println!("round trip p50 {:?}, p99 {:?}, max {:?}", trips[1000], trips[1980], trips[1999]);
    assert!(trips[1000] < Duration::from_millis(5), "median round trip {:?}", trips[1000]);
}
