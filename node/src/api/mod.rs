//! The admin API of a member: HTTP on loopback, JSON in and out, and what Prometheus scrapes.
//!
//! `POST /v1/call` takes any [`Request`]; the GETs are for people with curl. It has no authentication, so it must never
//! listen on anything but loopback, nor answer a browser that was sent here under a foreign host name. It decides nothing:
//! each request becomes one [`Call`] to the node, with a bound on its size and on its time. Run by the daemon.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::guard::{self, GuardContext};
use actix_web::http::StatusCode;
use actix_web::http::header::HOST;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::answers::Health;
use crate::daemon::metrics::MetricsPage;
use crate::daemon::request::{Call, Failure, Request, ResourceKind};

/// Longest body of a request: a file in JSON, in which each octet takes two at most, but for what TOML does not allow.
pub const BODY_BYTES_MAX: usize = 2 * control::limits::FILE_LEN_MAX + 4_096;
/// Most connections: bodies are kept in memory until they are whole.
const CONNECTIONS_MAX: usize = 32;
/// How long the node may take for an answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Rows of a listing unless asked otherwise.
pub const FLOWS_LIMIT: usize = 1000;

/// What every handler needs.
#[derive(Clone)]
struct Shared {
    calls: mpsc::Sender<Call>,
    metrics: MetricsPage,
    timeout: Duration,
}

/// Serves the admin API on `listen` until the future is dropped or the process ends; signals are the daemon's business.
/// Must run on an actix system.
///
/// # Errors
/// If `listen` is not loopback, or cannot be bound.
pub async fn serve(listen: SocketAddr, calls: mpsc::Sender<Call>, metrics: MetricsPage) -> io::Result<()> {
    let listener = bind(listen)?;
    server(listener, Shared { calls, metrics, timeout: CALL_TIMEOUT })?.await
}

/// Serves `/metrics`, `/healthz` and `/readyz`, and nothing else, on `listen`, which may be any address: none of them changes
/// anything. They name backends and public addresses, so whoever reaches it may read those.
///
/// # Errors
/// If `listen` cannot be bound.
pub async fn serve_metrics(listen: SocketAddr, calls: mpsc::Sender<Call>, metrics: MetricsPage) -> io::Result<()> {
    let listener = TcpListener::bind(listen).map_err(|error| {
        io::Error::new(error.kind(), format!("[metrics] listen = {listen}: cannot be bound: {error}"))
    })?;
    metrics_server(listener, Shared { calls, metrics, timeout: CALL_TIMEOUT })?.await
}

fn metrics_server(listener: TcpListener, shared: Shared) -> io::Result<Server> {
    let shared = web::Data::new(shared);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(metrics_text))
    });
    Ok(server.workers(1).max_connections(64).disable_signals().shutdown_timeout(1).listen(listener)?.run())
}

fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    if !listen.ip().is_loopback() {
        let why = format!(
            "[api] listen = {listen}: the admin API has no authentication and listens on loopback only; \
             use 127.0.0.1:{} and an SSH tunnel from elsewhere",
            listen.port()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    TcpListener::bind(listen)
        .map_err(|error| io::Error::new(error.kind(), format!("[api] listen = {listen}: cannot be bound: {error}")))
}

fn server(listener: TcpListener, shared: Shared) -> io::Result<Server> {
    let shared = web::Data::new(shared);
    let server = HttpServer::new(move || {
        let json = web::JsonConfig::default()
            .limit(BODY_BYTES_MAX)
            .error_handler(|error, _| Problem(Failure::new(400, error.to_string())).into());
        let query =
            web::QueryConfig::default().error_handler(|error, _| Problem(Failure::new(400, error.to_string())).into());
        let routes = web::scope("")
            .guard(guard::fn_guard(names_this_machine))
            .route("/v1/call", web::post().to(call))
            .route("/v1/status", web::get().to(status))
            .route("/v1/flows", web::get().to(flows))
            .route("/v1/ports", web::get().to(ports))
            .route("/v1/counters", web::get().to(counters))
            .route("/v1/hashes", web::get().to(hashes))
            .route("/v1/get/{kind}", web::get().to(resources))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(metrics_text))
            .default_service(web::to(nothing_here));
        App::new().app_data(shared.clone()).app_data(json).app_data(query).service(routes)
    });
    Ok(server.workers(1).max_connections(CONNECTIONS_MAX).disable_signals().shutdown_timeout(1).listen(listener)?.run())
}

/// Whether the caller meant this machine: a web page that had its own name resolved to 127.0.0.1 did not.
fn names_this_machine(context: &GuardContext<'_>) -> bool {
    let host = context.head().headers().get(HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        let name = host.parse::<SocketAddr>().map(|addr| addr.ip()).or_else(|_| host.trim_matches(['[', ']']).parse());
        let name_only = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.map_or(name_only.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
    })
}

/// A failure as an answer.
#[derive(Debug)]
struct Problem(Failure);

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.problems.join("; "))
    }
}

impl actix_web::ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(&self.0)
    }
}

impl Shared {
    /// Puts `request` to the node and waits for the answer, both within the bound.
    async fn ask(&self, request: Request) -> Result<Value, Problem> {
        let fail = |status: u16, problem: String| Problem(Failure::new(status, problem));
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let ending = || fail(503, "the node is stopping; ask another member".to_owned());
            self.calls.send(Call { request, reply }).await.map_err(|_| ending())?;
            answer.await.map_err(|_| ending())?.map_err(Problem)
        };
        tokio::time::timeout(self.timeout, asked).await.unwrap_or_else(|_| {
            let seconds = self.timeout.as_secs();
            Err(fail(
                504,
                format!(
                    "no answer from the node within {seconds} s; there may be no majority. \
                     The request may still be carried out: see `qnat status`"
                ),
            ))
        })
    }
}

type Answer = Result<HttpResponse, Problem>;

async fn answer(shared: &Shared, request: Request) -> Answer {
    shared.ask(request).await.map(|value| HttpResponse::Ok().json(value))
}

async fn call(shared: web::Data<Shared>, request: web::Json<Request>) -> Answer {
    answer(&shared, request.into_inner()).await
}

async fn status(shared: web::Data<Shared>) -> Answer {
    answer(&shared, Request::Status.together()).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsQuery {
    shard: Option<u16>,
    vnet: Option<String>,
    limit: Option<usize>,
}

async fn flows(shared: web::Data<Shared>, query: web::Query<FlowsQuery>) -> Answer {
    let FlowsQuery { shard, vnet, limit } = query.into_inner();
    answer(&shared, Request::Flows { shard, vnet, limit: limit.unwrap_or(FLOWS_LIMIT) }.together()).await
}

async fn ports(shared: web::Data<Shared>) -> Answer {
    answer(&shared, Request::Ports.together()).await
}

async fn counters(shared: web::Data<Shared>) -> Answer {
    answer(&shared, Request::Counters).await
}

async fn hashes(shared: web::Data<Shared>) -> Answer {
    answer(&shared, Request::Hashes).await
}

async fn resources(shared: web::Data<Shared>, kind: web::Path<String>) -> Answer {
    let Ok(kind) = serde_json::from_value::<ResourceKind>(Value::String(kind.clone())) else {
        let known = "nodes, shards, backends, frontends, pools, default_outbound, security_groups, nics, \
                     application_security_groups, service_tags or config";
        let problem = format!("kind {kind:?}: use {known}", kind = kind.as_str());
        return Err(Problem(Failure::new(404, problem)));
    };
    answer(&shared, Request::Get { kind }).await
}

/// For whoever restarts what does not live.
async fn healthz(shared: web::Data<Shared>) -> HttpResponse {
    probe(&shared, |health| health.live).await
}

/// For whoever sends traffic, or the next step of a rolling restart.
async fn readyz(shared: web::Data<Shared>) -> HttpResponse {
    probe(&shared, |health| health.ready).await
}

async fn probe(shared: &Shared, good: fn(&Health) -> bool) -> HttpResponse {
    let unknown = |problems| Health { problems, ..Health::default() };
    let health = match shared.ask(Request::Health).await {
        Ok(health) => serde_json::from_value(health).unwrap_or_else(|error| unknown(vec![error.to_string()])),
        Err(problem) => unknown(problem.0.problems),
    };
    let status = if good(&health) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).json(health)
}

async fn metrics_text(shared: web::Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(shared.metrics.render())
}

async fn nothing_here(request: HttpRequest) -> Answer {
    let known = "POST /v1/call, GET /v1/status, /v1/flows, /v1/ports, /v1/counters, /v1/hashes, /v1/get/KIND, \
                 /healthz, /readyz, /metrics";
    let problem = format!("nothing at {} {}; there are {known}", request.method(), request.path());
    Err(Problem(Failure::new(404, problem)))
}

#[cfg(test)]
mod tests;
