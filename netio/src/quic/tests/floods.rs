//! Handshakes at line rate, in strangers' names and in members'.

use super::*;

/// Begins `per_second` handshakes with `at` from a thread of its own, with a certificate of a foreign authority, until
/// `over`; says how many it began.
fn flood(at: SocketAddr, per_second: u32, over: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let foreign = ClusterCa::create("test").expect("ca");
        let configs = tls::configs(&member(&foreign, 7), &config(any())).expect("configs");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let begun = runtime.block_on(async {
            let mut endpoint = quinn::Endpoint::client(any()).expect("endpoint");
            let (mut begun, began, mut under_way) = (0u32, Instant::now(), std::collections::VecDeque::new());
            while !over.load(Ordering::Relaxed) {
                let due = began.elapsed().as_secs_f64() * f64::from(per_second);
                while f64::from(begun) < due {
                    if begun % 512 == 511 {
                        endpoint = quinn::Endpoint::client(any()).expect("endpoint");
                    }
                    let name = node_name_of_two();
                    under_way.push_back(endpoint.connect_with(configs.client.clone(), at, &name).expect("dial"));
                    begun += 1;
                    if under_way.len() > 512 {
                        under_way.pop_front();
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            u64::from(begun)
        });
        runtime.shutdown_background();
        begun
    })
}

fn node_name_of_two() -> String {
    crate::ca::node_name(2, "test")
}

/// The 99th of 100 round trips, of `count`.
async fn echo_p99(one: &mut Node, two: &mut Node, count: u32) -> Duration {
    let mut trips = Vec::new();
    for n in 0..count {
        let began = Instant::now();
        let bytes = Bytes::copy_from_slice(&u64::from(n).to_be_bytes());
        assert_eq!(one.transport.send(2, 0, bytes.clone()), SendOutcome::Queued);
        two.expect(&frame(1, 0, bytes.clone())).await;
        assert_eq!(two.transport.send(1, 0, bytes.clone()), SendOutcome::Queued);
        one.expect(&frame(2, 0, bytes)).await;
        trips.push(began.elapsed());
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    trips.sort_unstable();
    println!(
        "echo p50 {:?}, p99 {:?}, max {:?}",
        trips[trips.len() / 2],
        trips[trips.len() * 99 / 100],
        trips[trips.len() - 1]
    );
    trips[trips.len() * 99 / 100]
}

/// The lease is 40 ms, and a heartbeat's echo must fit in it many times. Three thousand strangers' handshakes a second took
/// 99 of 100 parts of the thread that carries the links, when it heard them.
#[tokio::test]
async fn a_flood_of_strangers_handshakes_does_not_hold_up_the_members() {
    let (mut one, mut two, ca) = pair().await;
    let quiet = echo_p99(&mut one, &mut two, 1000).await;
    let over = Arc::new(AtomicBool::new(false));
    let flooding = flood(two.address, 3000, Arc::clone(&over));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let flooded = echo_p99(&mut one, &mut two, 3000).await;
    // A node that asks to join from an address of its own is heard meanwhile.
    let host = SocketAddr::from(([127, 0, 0, 99], 0));
    let guest = start(&member(&ca, 9), host);
    guest.transport.set_peers(&peers(&[(2, two.address)]));
    let asked = Instant::now();
    loop {
        guest.transport.ask(2, Bytes::from_static(b"may I?"));
        match timeout(Duration::from_millis(100), two.events.recv()).await {
            Ok(Some(Event::Join { from: 9, .. })) => break,
            _ => assert!(asked.elapsed() < BOUND, "the node that asks to join is not heard"),
        }
    }
    over.store(true, Ordering::Relaxed);
    let begun = flooding.join().expect("no panic");
    let stats = two.transport.stats();
    println!(
        "{begun} handshakes begun, p99 {quiet:?} before, {flooded:?} during; heard to join after {:?}; {stats:?}",
        asked.elapsed()
    );
    assert!(begun > 2000, "the flood was none: {begun}");
    assert!(stats.refused < 200, "{} strangers got a handshake", stats.refused);
    assert!(flooded < Duration::from_millis(20), "p99 {flooded:?} under the flood, {quiet:?} before");
}

#[tokio::test]
async fn a_flood_in_a_members_name_is_dropped_before_it_is_read() {
    let (mut one, mut two, ca) = pair().await;
    // A third member's address is listed, and whoever writes from it has no certificate of ours.
    let flooder = free_address();
    two.transport.set_peers(&peers(&[(1, one.address), (3, flooder)]));
    let socket = UdpSocket::bind(flooder).expect("bind");
    let mut datagram = vec![0; 1200];
    datagram[0] = 0xc3;
    datagram[1..5].copy_from_slice(&1u32.to_be_bytes());
    for _ in 0..2000 {
        socket.send_to(&datagram, two.address).expect("send");
    }
    let p99 = echo_p99(&mut one, &mut two, 200).await;
    let stats = two.transport.stats();
    println!("{stats:?}");
    assert!(stats.sieved > 500, "{} dropped", stats.sieved);
    assert!(p99 < Duration::from_millis(20), "p99 {p99:?}");
    drop(ca);
}

#[tokio::test]
async fn a_second_holder_of_a_number_is_no_peer_once_the_key_is_known() {
    let ca = ClusterCa::create("test").expect("ca");
    let issued = ca.issue(2).expect("issue");
    let key = crate::ca::key_hash_of_pem(&issued.cert_pem).expect("its key");
    let mut first = start(&member(&ca, 1), any());
    let second = start(&identity(&ca, &issued), any());
    first.transport.set_peers(&peers(&[(2, second.address)]));
    first.transport.set_keys(&[(2, key)].into());
    second.transport.set_peers(&peers(&[(1, first.address)]));
    first.expect(&Event::Up(2)).await;
    // Another certificate for the same number: it knocks, and is not dialed; it is dialed, and is not believed.
    let impostor = start(&member(&ca, 2), any());
    impostor.transport.set_peers(&peers(&[(1, first.address)]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(first.transport.is_up(2) && !impostor.transport.is_up(1));
    first.transport.set_peers(&peers(&[(2, impostor.address)]));
    second.transport.shutdown().await;
    first.expect(&Event::Down(2)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!first.transport.is_up(2) && !impostor.transport.is_up(1), "the second holder has a link");
    let known = crate::ca::key_hash_of_pem(&ca.issue(2).expect("issue").cert_pem).expect("a key");
    let mut third = start(&member(&ca, 3), any());
    third.transport.set_peers(&peers(&[(1, first.address)]));
    first.transport.set_peers(&peers(&[(3, third.address)]));
    third.expect(&Event::Up(1)).await;
    first.transport.set_keys(&[(3, known)].into());
    third.expect(&Event::Down(1)).await;
}
