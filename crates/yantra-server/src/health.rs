//! `/health`: the process lives. `/ready`: every model takes requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use yantra_api::{Health, LoadState, Readiness};

use crate::app::App;

/// Whether the process lives.
#[utoipa::path(get, path = "/health", tag = "Operation", responses((status = 200, body = Health)))]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Whether every model takes requests; 503 while one is loading, failing or draining.
#[utoipa::path(
    get, path = "/ready", tag = "Operation",
    responses((status = 200, body = Readiness), (status = 503, description = "Not yet, or not any more", body = Readiness))
)]
pub(crate) async fn ready(State(app): State<App>) -> (StatusCode, Json<Readiness>) {
    let models = app.registry().states();
    let ready = !models.is_empty() && models.iter().all(|model| model.state == LoadState::Ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, models }))
}
