//! Traces, as a collector gets them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Router, response::IntoResponse};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode as SpanStatus};
use prost::Message;
use serde_json::{Value, json};
use yantra_server::{RawServerConfig, RawTelemetryConfig};

use crate::support::{Harness, Setup, chat, prompt};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    collector.requests.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
    (StatusCode::OK, [("content-type", "application/x-protobuf")], Vec::new())
}

impl Collector {
    /// Listens, and returns its address too.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, url)
    }

    /// All spans, by their beginning.
    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let mut spans: Vec<Span> = scopes.flat_map(|scope| scope.spans.clone()).collect();
        spans.sort_by_key(|span| (span.start_time_unix_nano, span.name != "queue"));
        spans
    }
}

fn setup(endpoint: &str, content: bool) -> Setup {
    let telemetry = RawTelemetryConfig { otlp_endpoint: Some(endpoint.to_owned()), content };
    let server = RawServerConfig { port: 0, telemetry, ..RawServerConfig::default() };
    Setup { server, ..Setup::default() }
}

/// Drains the server, which sends what it has of spans.
async fn stop(server: Harness) {
    server.shutdown.drain();
    server.task.await.unwrap().unwrap();
}

fn value(given: Option<&AnyValue>) -> Value {
    match given.and_then(|given| given.value.as_ref()) {
        Some(Attribute::StringValue(text)) => json!(text),
        Some(Attribute::IntValue(number)) => json!(number),
        Some(Attribute::DoubleValue(number)) => json!(number),
        Some(Attribute::BoolValue(is)) => json!(is),
        Some(Attribute::ArrayValue(all)) => all.values.iter().map(|one| value(Some(one))).collect(),
        other => panic!("{other:?}"),
    }
}

fn attributes(attributes: &[KeyValue]) -> Value {
    attributes.iter().map(|one| (one.key.clone(), value(one.value.as_ref()))).collect::<serde_json::Map<_, _>>().into()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no '{name}' in {names:?}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_below_the_clients_with_the_engines_work_below_it() {
    let (collector, url) = Collector::start().await;
    let server = Setup { delay: Duration::from_millis(2), ..setup(&url, false) }.start().await;
    let mut request = chat("a secret");
    request["model"] = json!("story-alias");
    request["top_p"] = json!(0.9);
    request["seed"] = json!(7);
    request["stop"] = json!(["another secret"]);
    let response = server
        .client
        .post(format!("{}/v1/chat/completions", server.url))
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .header("x-request-id", "mine")
        .json(&request)
        .send()
        .await
        .unwrap();
    let answer: Value = response.json().await.unwrap();
    let port = server.address.port();
    stop(server).await;

    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["chat story-alias", "queue", "prefill", "decode"]);
    let root = &spans[0];
    assert_eq!(
        (root.kind(), hex(&root.trace_id), hex(&root.parent_span_id)),
        (SpanKind::Server, TRACE.into(), PARENT.into())
    );
    assert_eq!(
        attributes(&root.attributes),
        json!({
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "yantra",
            "gen_ai.request.model": "story-alias",
            "gen_ai.response.model": "story",
            "gen_ai.request.max_tokens": 24,
            "gen_ai.request.temperature": 0.0,
            "gen_ai.request.top_p": 0.9,
            "gen_ai.request.seed": 7,
            "gen_ai.response.id": answer["id"],
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
            "gen_ai.usage.cache_read.input_tokens": 0,
            "gen_ai.usage.output_tokens": 24,
            "server.address": "127.0.0.1",
            "server.port": port,
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.request.header.x-request-id": ["mine"],
            "http.response.status_code": 200,
        })
    );
    for (child, next) in spans[1..].iter().zip(spans[2..].iter().map(Some).chain([None])) {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&root.trace_id, &root.span_id), "{}", child.name);
        assert_eq!(child.kind(), SpanKind::Internal);
        let end = next.map_or(root.end_time_unix_nano, |next| next.start_time_unix_nano);
        let is_last = next.is_none();
        assert!(child.end_time_unix_nano == end || is_last && child.end_time_unix_nano < end, "{}", child.name);
    }
    // 23 steps of at least 2 ms.
    assert!(spans[3].end_time_unix_nano - spans[3].start_time_unix_nano > 40_000_000);
    assert_eq!(attributes(&spans[3].attributes)["gen_ai.usage.output_tokens"], 24);

    let requests = collector.requests.lock().unwrap();
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "yantra");
    assert!(!format!("{requests:?}").contains("secret"), "no trace tells what was said");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_request_has_a_span() {
    let (collector, url) = Collector::start().await;
    let server = setup(&url, false).start().await;
    server.stream("/v1/chat/completions", &chat("Hello")).await;
    server.ok("/v1/completions", &json!({"model": "story", "prompt": ["one", "two!"], "n": 2, "max_tokens": 3})).await;
    server.ok("/v1/embeddings", &json!({"model": "counter", "input": ["x", "xyz"]})).await;
    server.ok("/v1/tokenize", &json!({"model": "story", "prompt": "x"})).await;
    let refused = server.post("/v1/responses", &json!({"model": "nobody", "input": "x"})).await;
    assert_eq!(refused.status(), 404);
    let message = json!({"model": "story", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]});
    server.ok("/v1/messages", &message).await;
    stop(server).await;

    let spans = collector.spans();
    let roots: Vec<&Span> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
    let names: Vec<&str> = roots.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["chat story", "text_completion story", "embeddings counter", "chat", "chat story"]);
    assert!(roots.iter().all(|root| root.parent_span_id.is_empty()), "nobody sent a parent");
    let streamed = attributes(&roots[0].attributes);
    assert_eq!(streamed["gen_ai.request.stream"], true);
    assert_eq!(streamed["gen_ai.usage.output_tokens"], 24);
    assert!(streamed.get("error.type").is_none(), "{streamed}");
    let several = attributes(&roots[1].attributes);
    assert_eq!(several["gen_ai.response.finish_reasons"], json!(["length", "length", "stop", "stop"]));
    assert_eq!(several["gen_ai.usage.input_tokens"], 7);
    assert_eq!(several["gen_ai.request.choice.count"], 2);
    let prefills = spans.iter().filter(|span| span.name == "prefill" && span.parent_span_id == roots[1].span_id);
    assert_eq!(prefills.count(), 2, "one of each prompt");
    assert_eq!(attributes(&roots[2].attributes)["gen_ai.usage.input_tokens"], 4);
    let refused = attributes(&roots[3].attributes);
    assert_eq!(
        (&refused["error.type"], &refused["http.response.status_code"]),
        (&json!("model_not_found"), &json!(404))
    );
    assert!(roots[3].status.as_ref().is_none_or(|status| status.code() != SpanStatus::Error), "the client's error");
    assert_eq!(attributes(&roots[4].attributes)["http.route"], "/v1/messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_call_tools_say_so() {
    let (collector, url) = Collector::start().await;
    let server = Setup { context: 2048, ..setup(&url, false) }.start().await;
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]});
    let mut request = chat("Hello");
    request["max_tokens"] = json!(1200);
    let mut message = request.clone();
    // One call: with leave to make more, this model would go on.
    request["parallel_tool_calls"] = json!(false);
    request["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}]);
    request["tool_choice"] = json!("required");
    let answer = server.ok("/v1/chat/completions", &request).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    server.stream("/v1/chat/completions", &request).await;
    message["tools"] = json!([{"name": "weather", "input_schema": schema}]);
    message["tool_choice"] = json!({"type": "any", "disable_parallel_tool_use": true});
    server.stream("/v1/messages", &message).await;
    stop(server).await;
    let spans = collector.spans();
    let roots: Vec<&Span> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
    assert_eq!(roots.len(), 3);
    for root in roots {
        let reasons = attributes(&root.attributes)["gen_ai.response.finish_reasons"].clone();
        assert_eq!(reasons, json!(["tool_calls"]), "{}", root.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_told_when_asked_for() {
    let (collector, url) = Collector::start().await;
    let server = setup(&url, true).start().await;
    let text = server.ok("/v1/chat/completions", &chat("a question")).await["choices"][0]["message"]["content"].clone();
    server.ok("/v1/completions", &prompt("a beginning")).await;
    stop(server).await;
    let spans = collector.spans();
    let said = |span: &Span, name: &str| {
        let attributes = attributes(&span.attributes);
        serde_json::from_str::<Value>(attributes[name].as_str().unwrap()).unwrap()
    };
    let chat = named(&spans, "chat story");
    let question = json!([{"role": "user", "parts": [{"type": "text", "content": "a question"}]}]);
    assert_eq!(said(chat, "gen_ai.input.messages"), question);
    let answer =
        json!([{"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": "length"}]);
    assert_eq!(said(chat, "gen_ai.output.messages"), answer);
    let completion = named(&spans, "text_completion story");
    assert_eq!(said(completion, "gen_ai.input.messages")[0]["parts"][0]["content"], "a beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_clients_that_leave_are_told() {
    let (collector, url) = Collector::start().await;
    let server = Setup { delay: Duration::from_millis(20), context: 4096, ..setup(&url, false) }.start().await;
    let mut request = chat("Hello");
    request["stream"] = json!(true);
    request["max_tokens"] = json!(2000);
    let mut response = server.post("/v1/chat/completions", &request).await;
    response.chunk().await.unwrap();
    drop(response);
    server.idle().await;
    stop(server).await;
    let failing = Setup { fail: true, ..setup(&url, false) }.start().await;
    failing.post("/v1/chat/completions", &chat("Hello")).await;
    failing.stream("/v1/chat/completions", &chat("Hello")).await;
    stop(failing).await;
    let spans = collector.spans();
    let told: Vec<_> = spans
        .iter()
        .filter(|span| span.kind() == SpanKind::Server)
        .map(|span| {
            let attributes = attributes(&span.attributes);
            assert_eq!(span.status.as_ref().unwrap().code(), SpanStatus::Error);
            (attributes["error.type"].clone(), attributes["http.response.status_code"].clone())
        })
        .collect();
    let expected = [("cancelled", 200), ("internal_error", 500), ("internal_error", 200)];
    assert_eq!(told, expected.map(|(error, status)| (json!(error), json!(status))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_not_sampled_has_no_children() {
    let (collector, url) = Collector::start().await;
    let server = setup(&url, false).start().await;
    let request = server.client.post(format!("{}/v1/chat/completions", server.url));
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-00")).json(&chat("Hello"));
    assert_eq!(request.send().await.unwrap().status(), 200);
    stop(server).await;
    assert_eq!(collector.spans(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_requests_are_answered_all_the_same() {
    // A port that was free a moment ago.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = setup(&format!("http://{free}"), false).start().await;
    for _ in 0..3 {
        server.ok("/v1/chat/completions", &chat("Hello")).await;
    }
    let begun = std::time::Instant::now();
    stop(server).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "stopping waits a little: {:?}", begun.elapsed());
}
