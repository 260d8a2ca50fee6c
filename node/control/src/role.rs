//! Instances that are roles of a classic cloud service (S20): they go out by their pool or by a system address, and never have an
//! address of their own.

use crate::issues::Judge;
use crate::resource::Desired;

/// A role has no address of its own.
pub(crate) fn check(judge: &mut Judge, desired: &Desired) {
    for (name, instance) in &desired.instances {
        let Some(role) = instance.role else { continue };
        for ip in &instance.ip_configurations {
            let Some(public) = &ip.public_ip else { continue };
            let field = format!("instance.{name}.ip_configuration.{}.public_ip", ip.name);
            let problem = format!("is an address of its own, and a {} role has none", role.label());
            judge.say(&field, public, problem, "leave it out: it goes out by its pool's rule, or by a system address");
        }
    }
}
