//! What every [`ChatModel`] must do, as checks that any implementation can run in its tests.
//!
//! The checks look at the shape of the answers and not at their words, so they hold for a real model, a fake and a
//! recording. A model must be able to answer [`requests`] (a recording: must hold them).

use crate::{ChatEvent, ChatModel, ChatReply, ChatRequest, ClientError, Message, collect};
use futures_util::StreamExt;

/// The requests that [`check`] makes, in order; greedy, so that a model that is asked twice says the same twice.
pub fn requests() -> Vec<ChatRequest> {
    let greedy = |messages: Vec<Message>, max_tokens: u32| {
        let mut request = ChatRequest { messages, ..ChatRequest::default() };
        request.params.temperature = Some(0.0);
        request.params.max_tokens = Some(max_tokens);
        request
    };
    vec![
        greedy(vec![Message::user("Say hello.")], 8),
        greedy(vec![Message::user("Count from one to one hundred.")], 3),
        greedy(
            vec![
                Message::system("You are terse."),
                Message::user("My name is Ada."),
                Message::assistant("Hello, Ada."),
                Message::user("What is my name?"),
            ],
            8,
        ),
    ]
}

/// Runs every check.
///
/// # Errors
/// A sentence naming the first check that failed and what was seen.
pub async fn check(model: &dyn ChatModel) -> Result<(), String> {
    if model.model().is_empty() {
        return Err("the model has no name".into());
    }
    for (number, request) in requests().into_iter().enumerate() {
        let said = |problem: String| format!("request {number}: {problem}");
        let events = events_of(model, request.clone()).await.map_err(|error| said(error.to_string()))?;
        order(&events).map_err(said)?;
        let reply = model.complete(request.clone()).await.map_err(|error| said(error.to_string()))?;
        same(&events, &reply).await.map_err(said)?;
        within_limit(&request, &reply).map_err(said)?;
    }
    dropped_streams_are_harmless(model).await
}

async fn events_of(model: &dyn ChatModel, request: ChatRequest) -> Result<Vec<ChatEvent>, ClientError> {
    let mut stream = model.stream(request).await?;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event?);
    }
    Ok(events)
}

/// Pieces, then one `Finished`, then at most one `Usage`; no empty piece.
fn order(events: &[ChatEvent]) -> Result<(), String> {
    let finished = events.iter().position(|event| matches!(event, ChatEvent::Finished(_)));
    let finished = finished.ok_or_else(|| format!("the stream never finished: {events:?}"))?;
    for (position, event) in events.iter().enumerate() {
        let fits = match event {
            ChatEvent::Text(text) | ChatEvent::Reasoning(text) => position < finished && !text.is_empty(),
            ChatEvent::ToolCall(_) => position < finished,
            ChatEvent::Finished(_) => position == finished,
            ChatEvent::Usage(_) => position == finished + 1,
        };
        if !fits {
            return Err(format!("event {position} is out of place: {event:?} (finished at {finished})"));
        }
    }
    Ok(())
}

/// The collected reply says what the stream said.
async fn same(events: &[ChatEvent], reply: &ChatReply) -> Result<(), String> {
    let events: Vec<_> = events.iter().cloned().map(Ok).collect();
    let stream = futures_util::stream::iter(events).boxed();
    let streamed = collect(stream).await.map_err(|error| error.to_string())?;
    if streamed.message == reply.message && streamed.finish_reason == reply.finish_reason {
        return Ok(());
    }
    Err(format!("streamed and whole replies differ: {streamed:?} and {reply:?}"))
}

fn within_limit(request: &ChatRequest, reply: &ChatReply) -> Result<(), String> {
    let (Some(limit), Some(usage)) = (request.params.max_tokens, reply.usage) else { return Ok(()) };
    if usage.completion_tokens > u64::from(limit) {
        return Err(format!("{} tokens were produced, at most {limit} were asked for", usage.completion_tokens));
    }
    if usage.prompt_tokens == 0 || usage.cached_prompt_tokens > usage.prompt_tokens {
        return Err(format!("the usage makes no sense: {usage:?}"));
    }
    Ok(())
}

/// A dropped stream cancels its own request and nothing else.
async fn dropped_streams_are_harmless(model: &dyn ChatModel) -> Result<(), String> {
    let request = requests().swap_remove(0);
    let mut stream = model.stream(request.clone()).await.map_err(|error| error.to_string())?;
    let _ = stream.next().await;
    drop(stream);
    let after = model.complete(request).await;
    after.map(|_| ()).map_err(|error| format!("after a dropped stream: {error}"))
}
