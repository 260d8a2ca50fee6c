//! The gateway's conduct on the wire, with raw sockets at both ends of a lab: for one owner, and with its death in the
//! middle of every exchange. Needs root.

mod bed;
mod connections;
mod errors;
mod headers;
mod limits;
mod links;
mod mappings;
mod pieces;
mod times;

use std::process::ExitCode;
use std::time::Duration;

use qnat_tests::lab::Lab;
use qnat_tests::resources::Changes;
use qnat_tests::shared::{self, Check};

use bed::Bed;

/// The other half of an exchange.
type Second = Box<dyn FnOnce(&Bed<'_>)>;

/// An exchange by the name of its function, which begins it; what it returns may happen under another owner.
type Exchange = (&'static str, fn(&Bed<'_>) -> Second);

/// Exchanges under one configuration.
#[derive(Clone, Copy)]
struct Group {
    changes: Changes<'static>,
    exchanges: &'static [Exchange],
}

macro_rules! exchanges {
    ($($room:ident::$name:ident),+ $(,)?) => { &[$((stringify!($name), $room::$name)),+] };
}

const AZURE: Group = Group {
    changes: Changes { rule: "", outside: "", more: "" },
    exchanges: exchanges![
        mappings::only_the_remote_of_a_mapping_gets_in,
        mappings::answers_to_pings_find_the_host_that_asked,
        mappings::flows_share_ports_but_not_public_tuples,
        mappings::a_backend_out_of_ports_keeps_its_flows_and_reaches_other_remotes,
        mappings::what_cannot_be_translated_goes_nowhere,
        mappings::a_question_to_a_name_server_is_forgotten_soon_after_its_answer,
        connections::a_handshake_may_be_finished,
        connections::both_ends_may_open_at_once,
        connections::a_half_closed_connection_goes_on_the_other_way,
        connections::a_connection_goes_on_whose_last_acknowledgment_was_lost,
        connections::a_syn_that_nobody_waits_for_is_not_answered,
        connections::a_reset_off_the_expected_sequence_cuts_nobody_off,
        connections::addresses_in_payload_stay_what_they_are,
        connections::a_closed_tuple_is_held_and_its_port_is_free_for_others,
        errors::errors_find_the_sender_of_what_they_quote,
        errors::errors_about_nothing_or_with_too_short_a_quote_are_dropped,
        errors::a_backend_complains_under_its_public_address,
        errors::a_packet_that_dies_here_is_told_of_by_the_gateway,
        pieces::fragments_leave_and_come_in_any_order,
        headers::a_datagram_without_checksum_stays_without,
        headers::datagrams_of_one_address_have_identifications_of_their_own,
        errors::a_backend_hears_that_nobody_has_an_address,
        links::an_address_is_claimed_by_nobody_who_has_not_got_it,
        links::a_frame_of_a_vlan_is_no_traffic,
        links::a_backend_sends_under_its_own_address_only,
        links::two_packets_of_a_new_flow_leave_in_their_order,
    ],
};

const BY_ADDRESS: Group = Group {
    changes: Changes { rule: "sharing = \"2017\"", outside: "", more: "[settings]\nmss_max = 1200\n" },
    exchanges: exchanges![
        mappings::by_address_a_remote_address_sees_each_port_once,
        headers::offered_segment_sizes_are_lowered_both_ways,
    ],
};

const RFC_BY_ADDRESS: Group = Group {
    changes: Changes { rule: "profile = \"rfc\"\nfiltering = \"address_dependent\"", outside: "", more: "" },
    exchanges: exchanges![
        mappings::an_inside_end_is_one_public_end_for_all_remotes,
        mappings::any_port_of_a_known_address_gets_in_and_no_other_address,
    ],
};

const RFC_OPEN: Group = Group {
    changes: Changes { rule: "profile = \"rfc\"\nfiltering = \"endpoint_independent\"", outside: "", more: "" },
    exchanges: exchanges![
        mappings::everybody_gets_in_to_an_end_that_is_open,
        mappings::a_neighbour_is_reached_by_its_public_end_and_sees_the_senders,
        errors::an_error_about_a_hairpinned_packet_finds_its_sender,
    ],
};

const TOLD: Group = Group {
    changes: Changes { rule: "", outside: "", more: limits::TOLD },
    exchanges: exchanges![limits::a_backend_with_too_many_flows_is_told_and_keeps_those_it_has],
};

const SLOW: Group = Group {
    changes: Changes { rule: "", outside: "", more: limits::SLOW },
    exchanges: exchanges![limits::a_backend_that_opens_too_fast_waits_and_its_neighbour_does_not],
};

const RESETS: Group = Group {
    changes: Changes { rule: "enable_tcp_reset = true", outside: "", more: "" },
    exchanges: exchanges![connections::a_segment_of_no_connection_is_reset_inside_alone],
};

fn main() -> ExitCode {
    let groups = [AZURE, BY_ADDRESS, RFC_BY_ADDRESS, RFC_OPEN, TOLD, SLOW, RESETS];
    let alone = groups.iter().flat_map(|group| group.exchanges.iter().map(|exchange| (group.changes, *exchange)));
    let mut checks: Vec<Check> = alone
        .map(|(changes, exchange)| Check::new(exchange.0, move |lab| halves(lab, changes, &[exchange], |_| {})))
        .collect();
    checks.push(Check::new("every_exchange_goes_on_under_a_successor", move |lab| {
        for Group { changes, exchanges } in groups {
            lab.restart_the_dead();
            lab.wait_until_redundant(Duration::from_secs(60));
            halves(lab, changes, exchanges, |bed| bed.fail_over());
        }
    }));
    checks.push(Check::new("a_smaller_link_is_told_of_by_whoever_owns_the_shard", |lab| {
        pieces::a_smaller_link_is_told_of_by_whoever_owns_the_shard(lab);
    }));
    // Questions are the same wherever packets pass: one of the two runs asks them.
    if std::env::var_os("QNAT_TEST_CACHE").is_none() {
        checks.push(Check::new("questions_about_thousands_of_flows_move_no_shard", |lab| {
            limits::questions_about_thousands_of_flows_move_no_shard(lab);
        }));
    }
    checks.push(Check::long("what_idles_for_four_minutes_ends_and_its_ends_are_told", |lab| {
        connections::what_idles_for_four_minutes_ends_and_its_ends_are_told(lab);
    }));
    checks.push(Check::long("what_fell_silent_uses_no_port_after_four_minutes_and_lets_nobody_in", |lab| {
        times::what_fell_silent_uses_no_port_after_four_minutes_and_lets_nobody_in(lab);
    }));
    checks.push(Check::long("a_closed_connections_port_is_there_elsewhere_at_once_and_here_after_its_hold", |lab| {
        times::a_closed_connections_port_is_there_elsewhere_at_once_and_here_after_its_hold(lab);
    }));
    let code = shared::run(checks);
    if bed::loses_few() { code } else { ExitCode::FAILURE }
}

/// Says in which exchange a check failed.
struct Failing(&'static str);

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("that was in {}", self.0);
        }
    }
}

/// Begins all exchanges, lets something happen, and ends them.
fn halves(lab: &Lab, changes: Changes<'_>, exchanges: &[Exchange], between: impl FnOnce(&Bed<'_>)) {
    changes.apply();
    let bed = Bed::new(lab);
    let begin = |(name, first): &Exchange| {
        let _name = Failing(name);
        (*name, first(&bed))
    };
    let begun: Vec<(&str, Second)> = exchanges.iter().map(begin).collect();
    between(&bed);
    for (name, second) in begun {
        let _name = Failing(name);
        second(&bed);
    }
}
