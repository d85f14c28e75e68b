//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};
use yantra_api::{
    ApiError, ChatMessage, DetokenizeRequest, DetokenizeResponse, ErrorBody, TokenizeRequest, TokenizeResponse,
    template_messages,
};
use yantra_text::{ChatInput, EncodeOptions};

use crate::app::App;
use crate::body::JsonBody;
use crate::failure::{self, Failure};
use crate::registry::ServedModel;
use crate::work::Lane;

/// A conversation to render, and how.
pub(crate) struct Conversation<'a> {
    pub(crate) messages: &'a [ChatMessage],
    pub(crate) tools: Option<&'a Value>,
    pub(crate) template_variables: Option<&'a Map<String, Value>>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) add_special_tokens: bool,
}

/// A conversation's tokens, by the model's chat template. With `most`, a conversation that can not fit into so many
/// tokens is refused before it is tokenised; one that just does not is returned.
pub(crate) fn conversation_tokens(
    model: &ServedModel,
    chat: &Conversation<'_>,
    most: Option<usize>,
) -> Result<Vec<u32>, ApiError> {
    let generator = model.generator()?;
    let Some(template) = &generator.template else {
        let message = format!("'{}' has no chat template; use /v1/completions", model.id);
        return Err(ApiError::invalid_param("model", message).with_code("no_chat_template"));
    };
    let messages = template_messages(chat.messages)?;
    if chat.tools.is_some() && !template.supports_tools() {
        let message = format!("the chat template of '{}' shows no tools to the model", model.id);
        return Err(ApiError::invalid_param("tools", message).with_code("unsupported_value"));
    }
    let none = Map::new();
    let input = ChatInput {
        messages: &messages,
        tools: chat.tools,
        add_generation_prompt: chat.add_generation_prompt,
        extra: chat.template_variables.unwrap_or(&none),
    };
    let of_text = |error| failure::of_text(&error, "messages");
    let prompt = template.prompt(&input, &generator.tokenizer).map_err(of_text)?;
    check_length(prompt.min_tokens(&generator.tokenizer), most, "messages")?;
    prompt.encode(&generator.tokenizer, chat.add_special_tokens).map_err(of_text)
}

/// Refuses a text that has `least` tokens or more if that is more than `most`.
fn check_length(least: usize, most: Option<usize>, param: &str) -> Result<(), ApiError> {
    match most {
        Some(most) if least > most => Err(ApiError::context_length_certainly_exceeded(least, most).at(param)),
        _ => Ok(()),
    }
}

/// A text's tokens; `most` as in [`conversation_tokens`].
pub(crate) fn text_tokens(
    model: &ServedModel,
    text: &str,
    add_special_tokens: bool,
    most: Option<usize>,
    param: &str,
) -> Result<Vec<u32>, ApiError> {
    check_length(model.tokenizer().min_tokens(text), most, param)?;
    let options = EncodeOptions { add_special: add_special_tokens, parse_special: false };
    model.tokenizer().encode(text, options).map_err(|error| failure::of_text(&error, param))
}

/// The tokens of a text or a conversation.
#[utoipa::path(
    post, path = "/v1/tokenize", tag = "Tokens", request_body = TokenizeRequest,
    responses((status = 200, body = TokenizeResponse), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(crate) async fn tokenize(
    State(app): State<App>,
    JsonBody(request, _share): JsonBody<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>, Failure> {
    let model = app.registry().find_or_only(request.model.as_deref())?;
    let response = app.lanes().run(Lane::Generate, app.deadline(), move || {
        let tokens = tokens_of(&model, &request)?;
        let tokenizer = model.tokenizer();
        let text = |&id: &u32| tokenizer.token_text(id).unwrap_or_default();
        let token_strs = (request.return_token_strs == Some(true)).then(|| tokens.iter().map(text).collect());
        Ok(TokenizeResponse { count: tokens.len(), max_model_len: model.context(), tokens, token_strs })
    });
    Ok(Json(response.await?))
}

fn tokens_of(model: &Arc<ServedModel>, request: &TokenizeRequest) -> Result<Vec<u32>, ApiError> {
    match (&request.prompt, &request.messages) {
        (Some(text), None) => {
            for (given, name) in [
                (request.tools.is_some(), "tools"),
                (request.chat_template_kwargs.is_some(), "chat_template_kwargs"),
                (request.add_generation_prompt.is_some(), "add_generation_prompt"),
            ] {
                if given {
                    return Err(ApiError::invalid_param(name, "given without 'messages'"));
                }
            }
            text_tokens(model, text, request.add_special_tokens.unwrap_or(true), None, "prompt")
        }
        (None, Some(messages)) => {
            let tools = request.tools.clone().filter(|tools| !tools.is_empty()).map(Value::Array);
            let chat = Conversation {
                messages,
                tools: tools.as_ref(),
                template_variables: request.chat_template_kwargs.as_ref(),
                add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
                add_special_tokens: request.add_special_tokens.unwrap_or(false),
            };
            conversation_tokens(model, &chat, None)
        }
        _ => Err(ApiError::invalid_param("prompt", "exactly one of 'prompt' and 'messages' expected")),
    }
}

/// The text of tokens, special ones included.
#[utoipa::path(
    post, path = "/v1/detokenize", tag = "Tokens", request_body = DetokenizeRequest,
    responses((status = 200, body = DetokenizeResponse), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(crate) async fn detokenize(
    State(app): State<App>,
    JsonBody(request, _share): JsonBody<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, Failure> {
    let model = app.registry().find_or_only(request.model.as_deref())?;
    let size = model.tokenizer().vocab_size();
    if let Some(index) = request.tokens.iter().position(|&token| token as usize >= size) {
        let given = request.tokens[index];
        let message = format!("token {given} given, 0 to {} expected", size.saturating_sub(1));
        return Err(ApiError::invalid_param(format!("tokens[{index}]"), message).into());
    }
    let decode = move || Ok(model.tokenizer().decode(&request.tokens, false));
    let prompt = app.lanes().run(Lane::Generate, app.deadline(), decode).await?;
    Ok(Json(DetokenizeResponse { prompt }))
}
