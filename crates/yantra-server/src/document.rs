//! What holds for every endpoint, put into the OpenAPI document in one place: the key, the refusals that come before an
//! endpoint is reached, the request's id.

use utoipa::Modify;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr};

use crate::observe::REQUEST_ID;

const KEY: &str = "api_key";
/// Paths that need no key unless the configuration says so.
const PUBLIC: [&str; 4] = ["/health", "/ready", "/metrics", "/openapi.json"];

/// Completes the document.
pub(crate) struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(KEY, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                complete(path, operation);
            }
        }
        link_responses(document);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn complete(path: &str, operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    if PUBLIC.contains(&path) {
        // Whether a key is needed is configured; the document can not tell.
        operation.security = Some(vec![SecurityRequirement::default(), key()]);
    } else {
        responses.entry("401".to_owned()).or_insert_with(refusal);
    }
    if operation.request_body.is_some() {
        // Anthropic's form, where the endpoint has it.
        let form = responses.get("400").cloned().unwrap_or_else(refusal);
        for status in ["400", "408", "413", "415", "429", "500", "503"] {
            responses.entry(status.to_owned()).or_insert_with(|| form.clone());
        }
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response {
            if response.description.is_empty() {
                describe(status).clone_into(&mut response.description);
            }
            response.headers.entry(REQUEST_ID.as_str().to_owned()).or_insert_with(request_id);
        }
    }
}

fn key() -> SecurityRequirement {
    let no_scopes: [&str; 0] = [];
    SecurityRequirement::new(KEY, no_scopes)
}

fn refusal() -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    RefOr::T(ResponseBuilder::new().content("application/json", content).build())
}

fn request_id() -> RefOr<utoipa::openapi::Header> {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    RefOr::T(HeaderBuilder::new().schema(Some(text)).description(Some("The request's id, as in the log")).build())
}

fn describe(status: &str) -> &'static str {
    match status {
        "200" => "What was asked for",
        "202" => "It has begun",
        "400" => "The request is wrong",
        "401" => "No key, or not one of the server's",
        "403" => "The key may not do this",
        "404" => "There is no such thing",
        "408" => "It took too long",
        "409" => "It contradicts what there is",
        "413" => "The body is too large",
        "415" => "The body is not declared to be JSON",
        "429" => "Too many requests; see `Retry-After`",
        "501" => "It needs a setting that is not there",
        "502" => "A server behind this one failed",
        "503" => "Not now",
        _ => "The server failed",
    }
}

/// An answer's name leads to the endpoints that take it.
fn link_responses(document: &mut OpenApi) {
    let create = document.paths.paths.get_mut("/v1/responses").and_then(|item| item.post.as_mut());
    let created = create.and_then(|create| create.responses.responses.get_mut("200"));
    let Some(RefOr::T(created)) = created else { return };
    for operation in ["retrieve_response", "delete_response", "list_input_items"] {
        let link = LinkBuilder::new().operation_id(operation).parameter("id", "$response.body#/id").build();
        created.links.insert(operation.to_owned(), RefOr::T(link));
    }
}
