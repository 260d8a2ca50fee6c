//! How many ports an IP configuration gets (S11) and which ports there are to give (D3).
//!
//! Constants and one table; decides nothing. Used by `validate`, `allocation` and `plan`.

/// The first port that is ever handed out (I5).
pub const PORT_MIN: u16 = 1024;
/// The largest block, and the number of ports of the first tier.
pub const BLOCK_LEN_MAX: u16 = 1024;
/// Ports of the last tier; the smallest block that is newly given.
pub const BLOCK_LEN_MIN: u16 = 32;
/// Ports of a frontend: 63 blocks of 1024.
pub const PORTS_USABLE: u16 = 63 * 1024;
/// The largest pool (D2).
pub const POOL_INSTANCES_MAX: usize = 1000;

/// Ports preallocated to each IP configuration of a pool with this many instances (S11); `None` above 1000 (D2). An
/// empty pool counts as one of one.
#[must_use]
pub fn ports_per_backend(instances: usize) -> Option<u16> {
    Some(match instances {
        0..=50 => 1024,
        51..=100 => 512,
        101..=200 => 256,
        201..=400 => 128,
        401..=800 => 64,
        801..=POOL_INSTANCES_MAX => 32,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_those_of_the_product() {
        let table = [
            (1, 1024),
            (50, 1024),
            (51, 512),
            (100, 512),
            (101, 256),
            (200, 256),
            (201, 128),
            (400, 128),
            (401, 64),
            (800, 64),
            (801, 32),
            (1000, 32),
        ];
        for (instances, ports) in table {
            assert_eq!(ports_per_backend(instances), Some(ports), "{instances} instances");
        }
        assert_eq!(ports_per_backend(1001), None);
    }

    #[test]
    fn a_full_pool_of_every_tier_fits_on_one_frontend() {
        for instances in [50usize, 100, 200, 400, 800, 1000] {
            let ports = ports_per_backend(instances).expect("within the largest pool");
            assert!(instances * usize::from(ports) <= usize::from(PORTS_USABLE), "{instances}");
        }
    }
}
