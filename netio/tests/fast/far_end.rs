//! Which frames pass the egress by, and that nothing is lost by it.

use std::time::Duration;

use qnat_netio::boottime::now_ns;
use qnat_netio::bpf::{Program, TcAttachType};
use qnat_netio::fast::{FastEntry, FastProto, FastSide, FastSize};
use qnat_netio::guard::Guard;
use qnat_netio::link::Link;
use words::time::MS;

use crate::net::Namespace;
use crate::path::Path;
use crate::{BACKEND, BACKEND_MAC, HOP_MAC, INSIDE, OUTSIDE, PUBLIC, REMOTE, SHARD, entry, held, require_root, udp};

#[test]
fn frames_go_straight_to_the_far_end_of_a_pair_unless_something_stands_in_their_way() {
    require_root!();
    let mut path = Path::new();
    // Whoever hears it there is the receiver of its MAC alone.
    path.outer.exec("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.oo.rp_filter=0");
    path.outer.ip(&format!("address add {}/32 dev oo", REMOTE.0));
    let pass = |path: &mut Path, by_guard: u64| {
        path.beyond(move |ends| {
            let receiver = std::net::UdpSocket::bind(REMOTE).expect("the remote's");
            receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
            ends.parts.words.set(SHARD, held(now_ns() + 60_000 * MS, now_ns() + 90_000 * MS));
            let mac = Link::named("oo").expect("link").mac;
            let entry = FastEntry { hop: FastSide { mac, ..entry(FastProto::Udp).hop }, ..entry(FastProto::Udp) };
            ends.parts.tables[0].install(0, &entry).expect("installed");
            let judged = ends.parts.guard.counters().expect("counters").pass_lease;
            ends.hits("out", INSIDE, &udp(BACKEND_MAC, BACKEND, REMOTE, b"question"));
            let mut data = [0; 16];
            let (length, from) = receiver.recv_from(&mut data).expect("the stack there takes it as its own");
            assert_eq!((&data[..length], from), (&b"question"[..], PUBLIC.into()));
            ends.hits("in", OUTSIDE, &udp(HOP_MAC, REMOTE, PUBLIC, b"an answer"));
            assert_eq!(ends.parts.guard.counters().expect("counters").pass_lease - judged, by_guard);
            ends.parts.tables[0].kill(0);
            ends.parts.tables[0].remove(0);
        });
    };
    assert_eq!(path.far_ends_now(), ["go", "gi", "gj"]);
    pass(&mut path, 0);
    path.inner.exec("tc qdisc add dev go root pfifo");
    assert_eq!(path.far_ends_now(), ["gi", "gj"], "something queues what leaves there");
    pass(&mut path, 1);
    path.inner.exec("tc qdisc del dev go root");
    let program = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&program, "1,6 0 0 4294967295").expect("written");
    path.inner.exec("tc qdisc add dev gi clsact");
    path.inner.exec(&format!("tc filter add dev gi egress prio 9 bpf da bytecode-file {}", program.path().display()));
    assert_eq!(path.far_ends_now(), ["go", "gj"], "somebody's filter judges what leaves there");
    path.inner.exec("tc filter del dev gi egress prio 9");
    assert_eq!(path.far_ends_now(), ["go", "gi", "gj"]);
    // Anybody's; this one is at hand.
    let number = path.parts.as_ref().and_then(|parts| parts.guard.fast_program()).expect("a program");
    let hang = |inner: &Namespace, hung: bool| {
        inner.run(move || {
            let (gj, program) = (Link::named("gj").expect("link").ifindex, Program::of(number).expect("it is there"));
            let done = if hung { Program::put_first } else { Program::take_away }(&program, gj, TcAttachType::Egress);
            done.expect("done");
        });
    };
    hang(&path.inner, true);
    assert_eq!(path.far_ends_now(), ["go", "gi"], "somebody's program judges what leaves there");
    hang(&path.inner, false);
    assert_eq!(path.far_ends_now(), ["go", "gi", "gj"]);
    path.inner.ip("link set go down");
    assert_eq!(path.far_ends_now(), ["gi", "gj"], "switched off");
    path.inner.ip("link set go up");
    path.inner.ip("link add h0 type veth peer name h1");
    path.inner.ip("link set h0 up");
    path.inner.ip("link set h1 up");
    path.inner.run(|| {
        let links = ["h0", "h1"].map(|name| Link::named(name).expect("link"));
        let size = FastSize { workers: 1, flows: 1 };
        let (guard, _, _) = Guard::attach_with(&links[0], &links[1..], Some(size)).expect("guard");
        assert!(guard.far_ends().is_empty(), "the kernel hands nothing over within a namespace");
    });
    path.run(|_, _| {});
}
