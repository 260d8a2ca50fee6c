//! Application security groups over real connections from the internet: a rule for web servers lets in to those that are, also to
//! one that is made later and also by the next owner, and to nobody else. Needs root.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use qnat_lab::Host;
use qnat_tests::lab::{Lab, in_host, run, wait_until};
use qnat_tests::resources::{self, file_of};

/// What nobody lets in gets no answer for so long.
const SILENCE: Duration = Duration::from_millis(700);
const PORTS: [u16; 3] = [80, 443, 22];
const NONE: [u16; 0] = [];

/// The lab's network with these instances, each with an address of its own under one group that lets the internet in to web
/// servers alone; `web` are such.
fn declared(instances: &[u32], web: &[u32]) -> String {
    let mut text = "[outside]\nnetwork = \"203.0.113.0/24\"\n[[virtual_network]]\nname = \"vnet1\"\n\
                    [[virtual_network.subnet]]\nname = \"default\"\nprefix = \"10.0.0.0/16\"\ngateway = \"10.0.0.1\"\n\
                    security_group = \"MyNSG\"\n[[application_security_group]]\nname = \"WebServers\"\n\
                    [[security_group]]\nname = \"MyNSG\"\n[[security_group.rule]]\nname = \"web\"\npriority = 100\n\
                    direction = \"inbound\"\naccess = \"allow\"\nprotocol = \"tcp\"\nsource = \"Internet\"\n\
                    destination = \"WebServers\"\ndestination_ports = [80, 443]\n"
        .to_owned();
    for number in instances {
        let member = if web.contains(number) { "application_security_groups = [\"WebServers\"]\n" } else { "" };
        text += &format!(
            "[[public_ip]]\nname = \"own{number}\"\naddress = \"203.0.113.5{number}\"\n\
             [[nic]]\nname = \"nic{number}\"\nsubnet = \"vnet1/default\"\n{member}\
             [[instance]]\nname = \"b{number}\"\n[[instance.ip_configuration]]\nname = \"ipconfig1\"\n\
             private_ip = \"10.0.1.{number}\"\nnic = \"nic{number}\"\npublic_ip = \"own{number}\"\n"
        );
    }
    text
}

/// Takes connections on all ports of a backend, and holds them.
fn serve(backend: u32) {
    for port in PORTS {
        let listener = in_host(Host::Backend(backend), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.expect("a free port");
        thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    }
}

/// Which ports of an instance's own address somebody on the internet reaches.
fn reached(number: u8) -> Vec<u16> {
    let to = |port| SocketAddr::from((Ipv4Addr::new(203, 0, 113, 50 + number), port));
    let connects = |port: &u16| in_host(Host::Inet, || TcpStream::connect_timeout(&to(*port), SILENCE)).is_ok();
    PORTS.into_iter().filter(connects).collect()
}

fn wait_until_reached(number: u8) {
    wait_until("a web server to be reached", Duration::from_secs(30), || reached(number) == [80, 443]);
}

#[test]
fn a_rule_for_web_servers_lets_in_to_those_that_are_also_to_a_later_one_and_to_nobody_else() {
    let lab = Lab::up_by(&declared(&[1, 2], &[1]));
    (1..=4).for_each(serve);
    wait_until_reached(1);
    assert_eq!(reached(2), NONE, "it is none");
    resources::apply(&declared(&[1, 2, 4], &[1, 4]));
    wait_until_reached(4);
    let killed = lab.kill_owner_of("b1");
    lab.wait_for_successor("b1", killed);
    wait_until_reached(1);
    wait_until_reached(4);
    assert_eq!(reached(2), NONE);
    lab.restart_the_dead();
    // Who is one no more is closed at once, and who has become one is open.
    resources::apply(&declared(&[1, 2, 4], &[2, 4]));
    wait_until_reached(2);
    assert_eq!(reached(1), NONE);
    // A member in another network is refused by name.
    let elsewhere = "[[virtual_network]]\nname = \"vnet2\"\n[[virtual_network.subnet]]\nname = \"default\"\n\
                     prefix = \"10.9.0.0/16\"\ngateway = \"10.9.0.1\"\n[[nic]]\nname = \"far\"\nsubnet = \"vnet2/default\"\n\
                     application_security_groups = [\"WebServers\"]\n";
    let file = file_of(&(declared(&[1, 2, 4], &[2, 4]) + elsewhere));
    let refused = run(&["apply", "--yes", "-f", file.path().to_str().expect("a plain path")]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("WebServers") && said.contains("vnet"), "{said}");
    // So is a rule from the members of a group in one network to those of one in another.
    let across = elsewhere.replace("[\"WebServers\"]", "[\"Databases\"]")
        + "[[application_security_group]]\nname = \"Databases\"\n[[security_group]]\nname = \"across\"\n\
           [[security_group.rule]]\nname = \"r\"\npriority = 100\ndirection = \"inbound\"\naccess = \"allow\"\n\
           source = \"WebServers\"\ndestination = \"Databases\"\n";
    let file = file_of(&(declared(&[1, 2, 4], &[2, 4]) + &across));
    let refused = run(&["apply", "--yes", "-f", file.path().to_str().expect("a plain path")]);
    let said = String::from_utf8_lossy(&refused.stderr);
    let why = "destination = Databases: has its members in vnet2, those of the source WebServers are in vnet1";
    assert!(!refused.status.success() && said.contains(why), "{said}");
}
