//! Chat with a model wherever it runs: in this process, behind an OpenAI-compatible URL, or in a recording.
//!
//! Everything above the engine (command line, agents, evaluation, retrieval) speaks to [`ChatModel`] and does not know
//! which of the three answers. [`conformance`] is the suite that says what an implementation must do; run it on your own.

mod chat;
pub mod conformance;
mod engine;
mod error;
mod http;
mod openai;
mod replay;
mod sse;
mod wire;

pub use chat::{
    BoxFuture, ChatEvent, ChatModel, ChatParams, ChatReply, ChatRequest, ChatStream, FinishReason, FunctionCall,
    Message, Role, ToolCall, ToolCallDelta, Usage, collect,
};
pub use engine::EngineChat;
pub use error::ClientError;
pub use http::{Endpoint, EndpointConfig, ModelEntry, Timeouts};
pub use openai::OpenAiChat;
pub use replay::{Exchange, Recorder, Replay};
pub use sse::{SseDecoder, SseEvent};
