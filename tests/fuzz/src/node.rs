//! What only the executable's crate reads: the channel between members, `node.toml`, calls of the admin API.

use std::path::Path;

use bytes::Bytes;
use member::frame::{ControlFrame, flow_frame, split_flow_frame};
use qnat::daemon::config::NodeConfig;
use qnat::daemon::request::Request;

use crate::bounded;
use crate::operator::{EACH, config};

/// Frames of the control channel, and heads of flow frames.
pub fn member_frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Some(frame) = bounded(data, 16, || ControlFrame::decode(&bytes)) {
        assert_eq!(frame.encode(), bytes, "one frame has one form");
    }
    if let Some((from, frame)) = split_flow_frame(&bytes) {
        assert_eq!(flow_frame(from, &frame), bytes);
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
    if let Request::Apply { text, .. } = request {
        config(text.as_bytes());
    }
}
