//! The web console: files built from `console/`, embedded in the binary. Without them, a page that says how to build them.

use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../../console/dist"]
#[allow_missing = true]
struct Files;

const UNBUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Yantra</title>\
<h1>Yantra is running</h1><p>The API is at <code>/v1</code>, described by <a href=\"openapi.json\">openapi.json</a>.</p>\
<p>This build has no console. With Node.js installed, run <code>npm ci &amp;&amp; npm run build</code> in \
<code>console/</code> and build Yantra again.</p></html>";

/// Whether a path is the console's. It holds no secrets: the key is asked for in the page.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/" || path == "/index.html" || Files::get(path.trim_start_matches('/')).is_some()
}

/// The console's file at a path, if there is one.
pub(crate) fn file(method: &Method, path: &str) -> Option<Response> {
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    let name = match path {
        "/" => "index.html",
        path => path.trim_start_matches('/'),
    };
    match Files::get(name) {
        Some(file) => Some(respond(name, file.data.into_owned())),
        None if name == "index.html" => Some(respond(name, UNBUILT.as_bytes().to_vec())),
        None => None,
    }
}

fn respond(name: &str, data: Vec<u8>) -> Response {
    // Names under assets/ hold a hash of their content.
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let header = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let headers = [
        header(header::CONTENT_TYPE, content_type(name)),
        header(header::CACHE_CONTROL, cache),
        header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        header(header::X_FRAME_OPTIONS, "DENY"),
        header(header::REFERRER_POLICY, "no-referrer"),
    ];
    (StatusCode::OK, headers, data).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
