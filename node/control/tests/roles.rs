//! Roles of classic cloud services, as a file declares them (S20).

use qnat_control::config::parse;
use qnat_control::printing::print;
use qnat_control::resource::Role;

const FILE: &str = "\
[[virtual_network]]
name = \"v\"
[[virtual_network.subnet]]
name = \"s\"
prefix = \"10.0.0.0/16\"
gateway = \"10.0.0.1\"
[[public_ip]]
name = \"own\"
address = \"203.0.113.9\"
[[instance]]
name = \"b1\"
role = \"web\"
[[instance.ip_configuration]]
name = \"ip\"
private_ip = \"10.0.1.1\"
subnet = \"v/s\"
[outside]
network = \"203.0.113.0/24\"
next_hop = \"203.0.113.254\"
[default_outbound]
addresses = [\"203.0.113.240/29\"]
";

/// What is said of a file that is refused.
fn refused(text: &str) -> String {
    let errors = parse("f", text).expect_err("refused");
    errors.iter().map(|error| format!("{error}\n")).collect()
}

#[test]
fn a_role_is_declared_and_printed_as_it_was() {
    for (text, role) in [("web", Role::Web), ("worker", Role::Worker)] {
        let read = parse("f", &FILE.replace("\"web\"", &format!("\"{text}\""))).expect("valid");
        assert_eq!(read.instances["b1"].role, Some(role));
        assert_eq!(parse("g", &print(&read)).expect("what is printed is valid"), read);
    }
    assert_eq!(parse("f", &FILE.replace("role = \"web\"\n", "")).expect("valid").instances["b1"].role, None);
}

#[test]
fn an_address_of_its_own_is_refused_to_a_role_and_to_nobody_else() {
    let own = FILE.replace("subnet = \"v/s\"\n", "subnet = \"v/s\"\npublic_ip = \"own\"\n");
    for role in ["web", "worker"] {
        let text = own.replace("\"web\"", &format!("\"{role}\""));
        let said = refused(&text);
        for part in
            ["instance.b1.ip_configuration.ip.public_ip", "own", &format!("a {role} role has none"), "leave it out"]
        {
            assert!(said.contains(part), "{said}");
        }
    }
    assert!(parse("f", &own.replace("role = \"web\"\n", "")).is_ok(), "a machine may have one");
    let said = refused(&FILE.replace("\"web\"", "\"batch\""));
    assert!(said.contains("instance.b1.role") && said.contains("\"web\" or \"worker\""), "{said}");
}
