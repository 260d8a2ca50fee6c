//! The channel for joining, and members at other addresses than the listed ones.

use super::*;

#[tokio::test]
async fn a_node_that_is_no_peer_asks_on_the_channel_for_joining_and_is_answered() {
    let ca = ClusterCa::create("test").expect("ca");
    let mut asked = start(&member(&ca, 2), any());
    for id in [1, 3] {
        let mut guest = start(&member(&ca, id), any());
        guest.transport.set_peers(&peers(&[(2, asked.address)]));
        assert_eq!(asked.transport.answer(id, Bytes::new()), SendOutcome::Down, "nobody asked");
        assert_eq!(guest.transport.ask(2, Bytes::from_static(b"may I?")), SendOutcome::Queued);
        assert_eq!(guest.transport.ask(2, Bytes::new()), SendOutcome::Down, "one question at a time");
        assert_eq!(guest.transport.ask(9, Bytes::new()), SendOutcome::UnknownPeer);
        asked.expect(&Event::Join { from: id, bytes: Bytes::from_static(b"may I?") }).await;
        assert_eq!(asked.transport.answer(id, Bytes::from_static(b"you may")), SendOutcome::Queued);
        guest.expect(&Event::Join { from: 2, bytes: Bytes::from_static(b"you may") }).await;
        assert!(!asked.transport.is_up(id) && !guest.transport.is_up(2), "a question makes no link");
        guest.transport.shutdown().await;
    }
}

#[tokio::test]
async fn a_question_of_another_authority_or_above_the_limit_is_not_heard() {
    let (ca, foreign) = (ClusterCa::create("test").expect("ca"), ClusterCa::create("test").expect("ca"));
    let mut asked = start(&member(&ca, 2), any());
    let stranger = start(&identity(&ca, &foreign.issue(3).expect("issue")), any());
    stranger.transport.set_peers(&peers(&[(2, asked.address)]));
    assert_eq!(stranger.transport.ask(2, Bytes::from_static(b"may I?")), SendOutcome::Queued);
    let longest = Bytes::from(vec![7; JOIN_FRAME_BYTES_MAX]);
    let guest = start(&member(&ca, 4), any());
    guest.transport.set_peers(&peers(&[(2, asked.address)]));
    assert_eq!(guest.transport.ask(2, Bytes::from(vec![7; JOIN_FRAME_BYTES_MAX + 1])), SendOutcome::TooLong);
    assert_eq!(guest.transport.ask(2, longest.clone()), SendOutcome::Queued);
    assert_eq!(asked.next().await, Event::Join { from: 4, bytes: longest });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked.events.try_recv(), None);
}

/// Asks `to` until the question is taken, and again whenever one ended without an answer, until `asked` has heard it.
async fn ask_until_heard(guest: &Node, asked: &mut Node) {
    let (question, began) = (Bytes::from_static(b"may I?"), Instant::now());
    let heard = Event::Join { from: guest.transport.own_id(), bytes: question.clone() };
    while asked.events.try_recv().as_ref() != Some(&heard) {
        assert!(began.elapsed() < BOUND, "node {} was never heard", guest.transport.own_id());
        guest.transport.ask(asked.transport.own_id(), question.clone());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn more_nodes_than_may_ask_at_a_time_wait_until_a_place_is_free() {
    let ca = ClusterCa::create("test").expect("ca");
    let mut asked = start_patient(&member(&ca, 100), any());
    let mut guests = Vec::new();
    for id in 1..=9 {
        // From one address only a few handshakes are begun at once.
        let host = SocketAddr::from(([127, 0, 0, 10 + u8::try_from(id).expect("small")], 0));
        let guest = start_patient(&member(&ca, id), host);
        guest.transport.set_peers(&peers(&[(100, asked.address)]));
        guests.push(guest);
    }
    for guest in &guests[..guests::GUESTS_MAX] {
        ask_until_heard(guest, &mut asked).await;
    }
    let (ninth, question) = (&guests[8], Bytes::from_static(b"may I?"));
    assert_eq!(ninth.transport.ask(100, question.clone()), SendOutcome::Queued);
    let began = Instant::now();
    // A question ends here long before its time only if it is refused.
    while ninth.transport.ask(100, question.clone()) != SendOutcome::Queued {
        assert!(began.elapsed() < BOUND, "the ninth question was not refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(asked.events.try_recv(), None, "a ninth node was heard");
    assert_eq!(asked.transport.answer(1, Bytes::from_static(b"you may")), SendOutcome::Queued);
    guests[0].expect(&Event::Join { from: 100, bytes: Bytes::from_static(b"you may") }).await;
    ask_until_heard(&guests[8], &mut asked).await;
}

#[tokio::test]
async fn whoever_is_not_listed_leaves_the_handshakes_to_its_question() {
    let ca = ClusterCa::create("test").expect("ca");
    for id in [1, 3] {
        let stayer = start(&member(&ca, 2), any());
        let node = knocker(&ca, id, stayer.address);
        let began = Instant::now();
        while stayer.transport.stats().refused == 0 {
            assert!(began.elapsed() < BOUND, "it never reached us");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let told = Instant::now();
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let (refused, took) = (stayer.transport.stats().refused, told.elapsed());
        // With the ordinary pauses it would be six in the first second.
        let allowed = 1 + took.as_millis() / config(any()).backoff_unlisted.as_millis();
        assert!(u128::from(refused) <= allowed, "node {id} dialed {refused} times in {took:?}");
        drop(node);
    }
}

/// A node that believes `at` to be member 2, and knocks there until it is heard.
fn knocker(ca: &ClusterCa, id: u32, at: SocketAddr) -> Node {
    let node = start(&member(ca, id), any());
    node.transport.set_peers(&peers(&[(2, at)]));
    node
}

#[tokio::test]
async fn a_member_at_another_address_than_the_listed_one_is_linked_once_it_has_proved_its_number() {
    let ca = ClusterCa::create("test").expect("ca");
    for moved in [1, 3] {
        let mut stayer = start(&member(&ca, 2), any());
        stayer.transport.set_peers(&peers(&[(moved, free_address())]));
        let mut mover = knocker(&ca, moved, stayer.address);
        mover.expect(&Event::Up(2)).await;
        stayer.expect(&Event::Up(moved)).await;
        assert_eq!(stayer.transport.send(moved, 0, Bytes::from_static(b"hello")), SendOutcome::Queued);
        mover.expect(&frame(2, 0, &b"hello"[..])).await;
    }
}

#[tokio::test]
async fn a_node_of_the_cluster_that_is_not_listed_gets_no_link() {
    let ca = ClusterCa::create("test").expect("ca");
    let mut stayer = start(&member(&ca, 2), any());
    let mut node = knocker(&ca, 1, stayer.address);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((stayer.events.try_recv(), node.events.try_recv()), (None, None));
    assert!(stayer.transport.stats().refused > 0, "it never reached us");
}
