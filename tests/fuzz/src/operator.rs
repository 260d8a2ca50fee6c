//! Text of operators and of callers of the admin API.

use std::path::Path;

use control::config::parse;
use qnat::daemon::config::NodeConfig;
use qnat::daemon::request::Request;

use crate::bounded;

/// Octets of memory per octet of text: a parsed document, with its places, and what is wrong with each line of it.
const EACH: u64 = 4_096;

/// The cluster's configuration.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match bounded(data, EACH, || parse("qnat.toml", text)) {
        Ok(_) => {}
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal says why");
            assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
}

/// `node.toml`; what was read is written and read again.
pub fn node_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("/etc/qnat/node.toml");
    match bounded(data, EACH, || NodeConfig::parse(path, text)) {
        Ok(config) => {
            let again = NodeConfig::parse(path, &config.to_toml()).expect("what was written can be read");
            assert_eq!(again.to_toml(), config.to_toml());
        }
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
}

/// The body of a call to the admin API, and the file that `apply` carries.
pub fn request(data: &[u8]) {
    let Ok(request) = bounded(data, EACH, || serde_json::from_slice::<Request>(data)) else { return };
    let again = serde_json::to_vec(&request).expect("plain data");
    assert_eq!(serde_json::from_slice::<Request>(&again).expect("what was written can be read"), request);
    if let Request::Apply { file, text, .. } = request {
        let _refused = bounded(data, EACH, || parse(&file, &text));
    }
}
