//! What an owner tells of its mappings, for a log (R24).

use crate::lab::*;
use qnat_engine::record::Proto;
use qnat_engine::sessions::SessionFate;

type Told = (SessionFate, Proto, u16, u16);

fn told(lab: &mut Lab, node: usize) -> Vec<Told> {
    let worker = &mut lab.nodes[node].worker;
    std::iter::from_fn(|| worker.poll_session())
        .map(|s| {
            assert_eq!(s.public_ip, PUBLIC);
            assert_eq!(s.public.remote.addr.ipv4(), Some(REMOTE));
            (s.fate, s.public.proto, s.inside.endpoint.port, s.public.port)
        })
        .collect()
}

#[test]
fn an_owner_tells_of_each_mapping_once_when_it_opens_and_once_when_it_closes() {
    let mut lab = Lab::new(2);
    lab.pass(0, INSIDE, udp(A, 4999, REMOTE, 4500));
    assert_eq!(told(&mut lab, 0), [], "nobody asked");
    for node in &mut lab.nodes {
        node.worker.log_sessions();
    }
    let port = lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500)).src_port;
    lab.pass(0, INSIDE, udp(A, 5000, REMOTE, 4500));
    assert_eq!(told(&mut lab, 0), [(SessionFate::Opened, Proto::Udp, 5000, port)]);
    lab.hold = Hold::Yes;
    lab.out(0, udp(A, 5001, REMOTE, 4500));
    assert_eq!(told(&mut lab, 0), [], "not before it is committed");
    lab.commit_waiting();
    assert_eq!(told(&mut lab, 0).len(), 1);
    lab.elect(1);
    lab.run(300_000);
    assert_eq!(told(&mut lab, 0), [], "a replica says nothing");
    let closed = told(&mut lab, 1);
    assert!(closed.len() == 3 && closed.contains(&(SessionFate::Closed, Proto::Udp, 5000, port)), "{closed:?}");
    assert_eq!(lab.nodes[1].worker.sessions_lost(), 0);
}

#[test]
fn events_that_nobody_fetches_are_counted_and_cost_no_more() {
    let mut lab = Lab::new(1);
    lab.nodes[0].worker.log_sessions();
    let mut opened = 0_u64;
    for round in 0..300_u16 {
        for port in 0..64 {
            lab.pass(0, INSIDE, udp(A, port, REMOTE, 1000 + round));
            opened += 1;
        }
    }
    let kept = told(&mut lab, 0).len() as u64;
    let lost = lab.nodes[0].worker.sessions_lost();
    assert!(lost > 0 && kept + lost == opened, "{kept} kept, {lost} lost of {opened}");
}
