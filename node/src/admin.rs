//! The admin port: `/metrics`, `/livez`, `/readyz` and `/status` over plain HTTP.
//!
//! It reads what the roles put into [`Admin`] and never calls into them. The process answers `/livez` as long as it runs
//! and `/readyz` with 200 once its role said so; `/status` is one JSON document that the role supplies.

use crate::listening::http_connections;
use crate::process::Stop;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What the admin port shows. Clones share it.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Mutex<Registry>,
    readiness: RwLock<Readiness>,
    status: RwLock<StatusSource>,
}

type StatusSource = Box<dyn Fn() -> Value + Send + Sync>;

/// Whether the process does its work now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// What it waits for.
    NotReady(String),
}

impl Default for Admin {
    fn default() -> Admin {
        Admin {
            inner: Arc::new(Inner {
                registry: Mutex::new(Registry::with_prefix("understudy")),
                readiness: RwLock::new(Readiness::NotReady("starting".to_string())),
                status: RwLock::new(Box::new(|| json!({}))),
            }),
        }
    }
}

impl Admin {
    /// Registers metrics: `admin.register(|registry| registry.register("name", "Help", metric.clone()))`. Names get the
    /// prefix `understudy_`.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.inner.registry.lock());
    }

    /// Tells `/readyz`.
    pub fn set_readiness(&self, readiness: Readiness) {
        *self.inner.readiness.write() = readiness;
    }

    pub fn readiness(&self) -> Readiness {
        self.inner.readiness.read().clone()
    }

    /// What `/status` shows: a function that computes a JSON object, called once a request.
    pub fn set_status(&self, status: impl Fn() -> Value + Send + Sync + 'static) {
        *self.inner.status.write() = Box::new(status);
    }

    /// Serves the port until the word to stop.
    pub async fn serve(
        self,
        listener: TcpListener,
        connections_max: usize,
        stop: Stop,
    ) -> std::io::Result<()> {
        let serving = axum::serve(http_connections(listener, connections_max), self.router());
        serving
            .with_graceful_shutdown(async move { stop.wait().await })
            .await
    }

    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "live\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .with_state(self)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("readiness", &self.readiness())
            .finish_non_exhaustive()
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.readiness() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::NotReady(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        )
            .into_response(),
    }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.inner.registry.lock()) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    let mut document = (admin.inner.status.read())();
    if let Value::Object(map) = &mut document {
        let ready = admin.readiness() == Readiness::Ready;
        map.insert("version".to_string(), json!(env!("CARGO_PKG_VERSION")));
        map.insert("ready".to_string(), json!(ready));
        if let Readiness::NotReady(why) = admin.readiness() {
            map.insert("waiting_for".to_string(), json!(why));
        }
    }
    axum::Json(document).into_response()
}
