//! `/health`: the process lives, and no step is stuck. `/ready`: every model takes requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use yantra_api::{Health, LoadState, Readiness};

use crate::app::App;
use crate::watchdog;

/// Whether the process lives; 503 while a model's step is stuck, which only a new process may help.
#[utoipa::path(
    get, path = "/health", tag = "Operation",
    responses((status = 200, body = Health), (status = 503, description = "A step is stuck", body = Health))
)]
pub(crate) async fn health(State(app): State<App>) -> (StatusCode, Json<Health>) {
    let told = |(model, message): (String, String)| format!("'{model}': {message}");
    let reasons: Vec<String> = watchdog::stuck(&app).into_iter().map(told).collect();
    let (status, word, message) = match reasons.is_empty() {
        true => (StatusCode::OK, "ok", None),
        false => (StatusCode::SERVICE_UNAVAILABLE, "stuck", Some(reasons.join("; "))),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    (status, Json(Health { status: word.to_owned(), version, message }))
}

/// Whether every model takes requests; 503 while one is loading, failing, stuck or draining.
#[utoipa::path(
    get, path = "/ready", tag = "Operation",
    responses((status = 200, body = Readiness), (status = 503, description = "Not yet, or not any more", body = Readiness))
)]
pub(crate) async fn ready(State(app): State<App>) -> (StatusCode, Json<Readiness>) {
    let models = watchdog::states(&app);
    let ready = !models.is_empty() && models.iter().all(|model| model.state == LoadState::Ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, models }))
}
