//! Wire types of the OpenAI API and of Yantra's own endpoints.
//!
//! The only crate that knows what these APIs look like in JSON. Requests come in two stages: [`parse::from_slice`] turns
//! a body into a request type and refuses what has the wrong shape (an unknown parameter, a wrong type), then the
//! request's own methods check values and hand out what the server works with. Nothing a client asked for is dropped
//! silently: a parameter that is known but not supported is accepted only with the value that changes nothing.
//!
//! Every refusal is an [`ApiError`]: the status, OpenAI's error body, and the parameter it is about.

mod batch;
mod chat;
mod check;
mod completion;
mod constraint;
mod content;
mod embedding;
mod error;
mod file;
mod forms;
mod generation;
mod loading;
mod messages;
mod model;
mod moderation;
mod neutral;
pub mod parse;
mod requests;
mod rerank;
mod responses;
mod stats;
mod tokenize;
mod tools;
mod traces;
mod usage;

pub use batch::{
    BATCH_ENDPOINTS, BATCH_WINDOW_S, BatchCounts, BatchError, BatchErrors, BatchItemError, BatchItemResponse,
    BatchLine, BatchLines, BatchList, BatchObject, BatchOutputLine, BatchRequest, MAX_BATCH_ERRORS, MAX_BATCH_ITEMS,
};
pub use chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage,
    ChatRequest, ChatTokenLogprob, ChatTopLogprob, StreamOptions, template_messages,
};
pub use completion::{Completion, CompletionChoice, CompletionLogprobs, CompletionRequest};
pub use constraint::{Constrained, Constraint, GrammarSyntax, NamedSchema, ResponseFormat, StructuredOutputs};
pub use content::{ContentPart, MessageContent, Prompt, StringOrList};
pub use embedding::{Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, EmbeddingValue, EncodingFormat};
pub use error::{ApiError, ErrorBody, ErrorDetail};
pub use file::{FileDeleted, FileList, FileObject, FileUpload};
pub use forms::{TextOrDocument, TextOrItems, WordOrObject};
pub use generation::{GenerationParams, SamplingDefaults};
pub use loading::{LoadAdapterRequest, LoadModelRequest, ModelDeletion, UnloadAdapterRequest, UnloadModelRequest};
pub use messages::{
    BlockDelta, ContentBlock, MessageParam, MessagesError, MessagesErrorDetail, MessagesEvent, MessagesRequest,
    MessagesResponse, MessagesUsage, StopDelta, TokenCount,
};
pub use model::{ModelCard, ModelDetails, ModelList};
pub use moderation::{
    ImageUrl, ModerationInput, ModerationPart, ModerationRequest, ModerationResponse, ModerationResult,
};
pub use requests::{
    RequestChunk, RequestGap, RequestInterruption, RequestList, RequestRecord, RequestState, RequestSummary,
    RequestTimeline,
};
pub use rerank::{RerankDocument, RerankRequest, RerankResponse, RerankResult, Score, ScoreRequest, ScoreResponse};
pub use responses::{
    InputTokensDetails, OutputTokensDetails, ResponseObject, ResponsesEvent, ResponsesRequest, ResponsesUsage,
};
pub use stats::{
    EmbedderStats, EngineStatsResponse, Health, KvSpillStats, LatencySummary, LoadState, ModelLoad, ModelStats,
    Readiness,
};
pub use tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
pub use tools::{
    AnswerParser, Dialect, FunctionCall, FunctionDelta, Piece, Reasoning, ToolCall, ToolCallDelta, ToolPlan, call_id,
    calls_as_text, name_calls_by_position,
};
pub use traces::{TraceDeleted, TraceList, TraceRecord, TraceSummary, training_example};
pub use usage::{FinishReason, PromptTokensDetails, Usage, UsageList, UsageRecord};
