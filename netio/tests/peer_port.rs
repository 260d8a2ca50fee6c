//! The peer port against the kernel's weak host model: Linux takes a packet for any of its addresses on every interface, so
//! that who is on a data network could send to the peers' address.

mod net;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use net::Namespace;
use qnat_netio::ca::ClusterCa;
use qnat_netio::link::carrying;
use qnat_netio::quic::{Identity, Transport, TransportConfig};

const PEERS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PORT: u16 = 7800;
/// Far more handshake packets than an endpoint takes at once: what is beyond that is counted.
const PACKETS: u32 = 4000;

/// How many of the attacker's handshake packets a transport on `interface` saw in excess.
fn seen(gateway: &Namespace, network: &Namespace, interface: Option<&'static str>) -> u64 {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let transport = gateway.spawn(move || {
        let ca = ClusterCa::create("test").expect("ca");
        let own = ca.issue(1).expect("issue");
        let identity = Identity { ca_cert_pem: ca.pem.cert_pem.clone(), cert_pem: own.cert_pem, key_pem: own.key_pem };
        let listen = SocketAddr::from((PEERS, PORT));
        let interface = interface.map(str::to_owned);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let config = TransportConfig { listen, interface, ..TransportConfig::default() };
            let (transport, _events) = Transport::start(config, &identity).expect("start");
            ready.send(()).expect("the test waits");
            while stopped.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let stats = transport.stats();
            transport.shutdown().await;
            stats.sieved
        })
    });
    is_ready.recv().expect("it starts");
    network.run(|| {
        let socket = UdpSocket::bind((ATTACKER, 0)).expect("bind");
        let mut initial = vec![0; 1200];
        initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        for _ in 0..PACKETS {
            // A full queue of the link is as good as a loss.
            let _sent = socket.send_to(&initial, (PEERS, PORT));
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    stop.send(()).expect("it runs");
    transport.join().expect("no panic")
}

#[test]
fn who_is_on_a_data_network_cannot_reach_the_peer_port_at_its_address() {
    require_root!();
    let (gateway, network) = (Namespace::new("g"), Namespace::new("o"));
    gateway.veth("data", &network, "odata");
    gateway.veth("peers", &network, "opeers");
    gateway.ip(&format!("address add {PEERS}/24 dev peers"));
    gateway.exec("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.data.rp_filter=0");
    network.ip(&format!("address add {ATTACKER}/24 dev odata"));
    let mac = gateway.run(|| {
        assert_eq!(carrying(IpAddr::V4(PEERS)).expect("a list").as_deref(), Some("peers"));
        qnat_netio::link::Link::named("data").expect("link").mac
    });
    let mac: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    network.ip(&format!("route add {PEERS}/32 dev odata"));
    network.ip(&format!("neigh add {PEERS} lladdr {} dev odata", mac.join(":")));
    let unbound = seen(&gateway, &network, None);
    assert!(unbound > 100, "the test's own way to the port does not work: {unbound}");
    assert_eq!(seen(&gateway, &network, Some("peers")), 0, "the port is reached from the data network");
}
