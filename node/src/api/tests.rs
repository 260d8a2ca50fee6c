//! The API over real sockets, asked by the command line's own client.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::*;
use control::Refusal;
use engine::ids::NodeId;

use crate::client::{self, ClientError};
use crate::daemon::request::DryRun;

/// A server in front of `node`, which answers each request; runs as long as the test process.
fn start(timeout: Duration, node: impl Fn(Request) -> Option<Result<Value, Failure>> + Send + 'static) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    serve_on_a_thread(listener, timeout, node, server);
    addr
}

fn serve_on_a_thread(
    listener: TcpListener,
    timeout: Duration,
    node: impl Fn(Request) -> Option<Result<Value, Failure>> + Send + 'static,
    serve: fn(TcpListener, Shared) -> io::Result<Server>,
) {
    std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let (calls, mut queue) = mpsc::channel::<Call>(16);
            actix_rt::spawn(async move {
                let mut unanswered = Vec::new();
                while let Some(call) = queue.recv().await {
                    match node(call.request) {
                        Some(answer) => drop(call.reply.send(answer)),
                        None => unanswered.push(call.reply),
                    }
                }
            });
            let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
            let metrics = crate::daemon::metrics::MetricsPage::new(recorder.handle());
            serve(listener, Shared { calls, metrics, timeout }).expect("served").await
        })
    });
}

/// Answers with the request itself.
fn echo(request: Request) -> Option<Result<Value, Failure>> {
    Some(Ok(serde_json::to_value(request).expect("plain data")))
}

fn get(addr: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("receive");
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, text.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

#[test]
fn the_client_gets_what_the_node_answers() {
    let addr = start(CALL_TIMEOUT, echo);
    let text = "x".repeat(3 << 20);
    let apply = Request::Apply { file: "net.toml".into(), text, dry_run: DryRun::Yes, yes: false, plan: None };
    for request in [Request::Status, Request::Flows { shard: Some(3), vnet: None, limit: 7 }, apply] {
        let answer = client::call::<Value>(addr, &request).expect("answered");
        assert_eq!(serde_json::from_value::<Request>(answer).expect("echoed"), request);
    }
}

#[test]
fn friendly_paths_ask_the_same_questions() {
    let addr = start(CALL_TIMEOUT, echo);
    let all = |of: Value| json!({"request": "together", "of": of});
    for (path, asked) in [
        ("/v1/status", all(json!({"request": "status"}))),
        ("/v1/flows?shard=2&limit=5&vnet=red", all(json!({"request": "flows", "shard": 2, "vnet": "red", "limit": 5}))),
        ("/v1/flows", all(json!({"request": "flows", "shard": null, "vnet": null, "limit": FLOWS_LIMIT}))),
        ("/v1/ports", all(json!({"request": "ports"}))),
        ("/v1/counters", json!({"request": "counters"})),
    ] {
        let (status, body) = get(addr, path, "localhost:7880");
        assert_eq!((status, serde_json::from_str::<Value>(&body).expect("json")), (200, asked), "{path}");
    }
    assert_eq!(get(addr, "/v1/flows?limt=5", "localhost").0, 400);
    assert!(get(addr, "/v1/get/cats", "127.0.0.1:1").1.contains("use nodes, shards"));
    assert_eq!(get(addr, "/v1/get/shards", "[::1]:7880").0, 200);
    assert!(get(addr, "/nowhere", "127.0.0.1").1.contains("/v1/status"));
    assert_eq!(get(addr, "/metrics", "127.0.0.1").0, 200);
}

#[test]
fn a_foreign_host_name_is_not_served() {
    let addr = start(CALL_TIMEOUT, echo);
    for host in ["evil.example", "evil.example:7880", "192.0.2.1:7880"] {
        assert_eq!(get(addr, "/v1/status", host).0, 404, "{host}");
    }
}

#[test]
fn refusals_timeouts_and_oversize_reach_the_client_with_their_reasons() {
    let refuse = |request| {
        let refusal = Refusal::NodeUnknown { node: NodeId(9) };
        matches!(request, Request::RemoveNode { .. }).then_some(Err(Failure::refused(409, &refusal)))
    };
    let addr = start(Duration::from_millis(50), refuse);
    let error = client::call::<Value>(addr, &Request::RemoveNode { node: 9, incarnation: 1 }).expect_err("refused");
    assert!(!error.is_unreachable());
    assert_eq!(error.to_string(), "node 9 is not in this cluster\nsee qnat get nodes");
    let ClientError::Refused(failure) = &error else { panic!("{error:?}") };
    assert_eq!((failure.status, failure.code.as_deref()), (409, Some("NodeUnknown")));
    let error = client::call::<Value>(addr, &Request::Status).expect_err("never answered");
    assert!(matches!(&error, ClientError::Refused(failure) if failure.status == 504), "{error:?}");
    assert!(error.is_unreachable());
    let text = "x".repeat(BODY_BYTES_MAX);
    let apply = Request::Apply { file: "big.toml".into(), text, dry_run: DryRun::No, yes: false, plan: None };
    assert!(client::call::<Value>(addr, &apply).is_err(), "a body above the bound was taken");
}

#[test]
fn a_closed_port_is_unreachable_and_nothing_was_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    drop(listener);
    let error = client::call::<Value>(addr, &Request::Shutdown { now: false }).expect_err("closed");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
}

#[test]
fn only_loopback_is_listened_on() {
    for listen in ["0.0.0.0:0", "192.0.2.7:7880", "[::]:0"] {
        let error = bind(listen.parse().expect("an address")).expect_err("refused");
        assert!(error.to_string().contains("loopback only"), "{error}");
    }
}

#[test]
fn a_member_that_lives_and_is_not_ready_is_not_restarted() {
    let health = |live, ready| {
        move |request| {
            let health = Health { live, ready, node: 1, incarnation: Some(7), problems: Vec::new() };
            (request == Request::Health).then(|| Ok(serde_json::to_value(health).expect("plain data")))
        }
    };
    for (live, ready, codes) in [(true, true, (200, 200)), (true, false, (200, 503)), (false, false, (503, 503))] {
        let addr = start(CALL_TIMEOUT, health(live, ready));
        assert_eq!(
            (get(addr, "/healthz", "localhost").0, get(addr, "/readyz", "localhost").0),
            codes,
            "{live} {ready}"
        );
    }
    let addr = start(Duration::from_millis(50), |_| None);
    assert_eq!(get(addr, "/healthz", "localhost").0, 503, "a node that does not answer does not live");
}

#[test]
fn the_listener_for_metrics_serves_nothing_that_changes_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    serve_on_a_thread(listener, CALL_TIMEOUT, echo, metrics_server);
    assert_eq!(get(addr, "/metrics", "gateway.example:9880").0, 200, "a scraper calls it by any name");
    for path in ["/v1/status", "/v1/call", "/v1/get/shards"] {
        assert_eq!(get(addr, path, "localhost").0, 404, "{path}");
    }
    assert!(client::call::<Value>(addr, &Request::Shutdown { now: false }).is_err(), "an order was taken");
}
