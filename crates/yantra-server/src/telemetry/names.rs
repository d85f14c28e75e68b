//! The names that spans and their attributes have, all in one place, because the conventions are still in development.
//!
//! Those of generative AI: <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>; of HTTP servers:
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>. What is ours begins with `yantra.`.

/// What made the spans.
pub(super) const SCOPE: &str = "yantra-server";
/// The service, where the environment names no other.
pub(super) const SERVICE: &str = "yantra";
/// `gen_ai.provider.name`
pub(super) const PROVIDER: &str = "yantra";

/// Operations.
pub(super) const CHAT: &str = "chat";
pub(super) const TEXT_COMPLETION: &str = "text_completion";
pub(super) const EMBEDDINGS: &str = "embeddings";

/// Children of a request's span: waiting, computing the prompt, computing the answer.
pub(super) const QUEUE: &str = "queue";
pub(super) const PREFILL: &str = "prefill";
pub(super) const DECODE: &str = "decode";

pub(super) const SERVICE_NAME: &str = "service.name";
pub(super) const SERVICE_VERSION: &str = "service.version";
pub(super) const SERVER_ADDRESS: &str = "server.address";
pub(super) const SERVER_PORT: &str = "server.port";

pub(super) const HTTP_METHOD: &str = "http.request.method";
pub(super) const HTTP_ROUTE: &str = "http.route";
pub(super) const HTTP_STATUS: &str = "http.response.status_code";
pub(super) const HTTP_REQUEST_ID: &str = "http.request.header.x-request-id";
pub(super) const ERROR_TYPE: &str = "error.type";
/// `error.type` of an answer that the client did not wait for, or that the server cut off when it was stopped.
pub(super) const CANCELLED: &str = "cancelled";

pub(super) const OPERATION: &str = "gen_ai.operation.name";
pub(super) const PROVIDER_NAME: &str = "gen_ai.provider.name";
pub(super) const REQUEST_MODEL: &str = "gen_ai.request.model";
pub(super) const REQUEST_STREAM: &str = "gen_ai.request.stream";
pub(super) const REQUEST_CHOICES: &str = "gen_ai.request.choice.count";
pub(super) const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub(super) const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
pub(super) const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
pub(super) const REQUEST_TOP_K: &str = "gen_ai.request.top_k";
pub(super) const REQUEST_FREQUENCY_PENALTY: &str = "gen_ai.request.frequency_penalty";
pub(super) const REQUEST_PRESENCE_PENALTY: &str = "gen_ai.request.presence_penalty";
pub(super) const REQUEST_SEED: &str = "gen_ai.request.seed";
pub(super) const REQUEST_STOP_SEQUENCES: &str = "gen_ai.request.stop_sequences";
pub(super) const RESPONSE_ID: &str = "gen_ai.response.id";
pub(super) const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub(super) const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub(super) const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub(super) const CACHED_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
pub(super) const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
pub(super) const INPUT_MESSAGES: &str = "gen_ai.input.messages";
pub(super) const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";

/// Which prompt of a request with several a child is about.
pub(super) const PROMPT_NUMBER: &str = "yantra.prompt.number";
