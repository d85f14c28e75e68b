//! A conversation made ready for the engine: its tokens, what the answer must be, and how the answer is taken apart.

use std::sync::Arc;

use serde_json::Value;
use yantra_api::{
    AnswerParser, ApiError, ChatMessage, ChatRequest, Constrained, Dialect, GenerationParams, Reasoning, ToolPlan,
    calls_as_text, name_calls_by_position,
};
use yantra_engine::{EngineHandle, Grammar};

use crate::failure;
use crate::generation::{self, Generation};
use crate::registry::{ServedModel, Task};
use crate::telemetry;
use crate::tenant::Visit;
use crate::tokenize::{Conversation, conversation_tokens};
use crate::work::{BodyShare, Lane};

/// Tokens at a prompt's end that tell whether it has begun the model's reasoning.
const END_TOKENS: usize = 16;

/// A conversation, ready.
struct Turn {
    prompt: Vec<u32>,
    grammar: Option<Grammar>,
    parser: AnswerParser,
    /// Whether control tokens are a part of the answer's text, for the parser.
    shows_control_tokens: bool,
    /// What ends the answer besides what the request says.
    stop: Option<&'static str>,
}

/// A conversation whose answer is under way.
pub(crate) struct Begun {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) params: GenerationParams,
    pub(crate) generation: Generation,
    /// Takes an answer apart.
    pub(crate) parser: AnswerParser,
    pub(crate) prompt_tokens: usize,
    /// A text that ends answers though the request does not say so.
    pub(crate) own_stop: Option<&'static str>,
}

/// Checks a conversation, makes it ready and gives it to the engine; `name` is what the API calls it.
pub(crate) async fn begin(
    visit: &Visit,
    request: ChatRequest,
    share: BodyShare,
    name: &str,
) -> Result<Begun, ApiError> {
    let app = &visit.app;
    let deadline = app.deadline();
    request.validate()?;
    let logprobs = request.logprobs()?;
    let model = app.registry().find_for(request.model.as_deref(), Task::Generate)?;
    let generator = model.generator()?;
    let mut params = request.generation(&generator.defaults)?;
    telemetry::note(|record| {
        record.model(&model.id, request.model.as_deref());
        record.params(&params);
        record.conversation(&request.messages);
    });
    generator.engine.check_queue().map_err(|error| failure::of_submit(error, name))?;
    let most = generator.longest_prompt(params.max_tokens);
    let turn = {
        let model = Arc::clone(&model);
        app.lanes().run(Lane::Generate, deadline, move || prepare(&model, &request, most)).await?
    };
    drop(share);
    params.skip_special_tokens &= !turn.shows_control_tokens;
    params.stop.extend(turn.stop.map(str::to_owned));
    let prompt_tokens = turn.prompt.len();
    let submitted = generation::engine_request(visit, &params, turn.prompt, turn.grammar, logprobs, false)?;
    let generation = Generation::start(visit, &model, vec![submitted], &[name.to_owned()], deadline)?;
    Ok(Begun { params, generation, parser: turn.parser, prompt_tokens, own_stop: turn.stop, model: Arc::clone(&model) })
}

/// How many tokens a conversation has. May take long.
pub(crate) fn count_tokens(model: &ServedModel, request: &ChatRequest) -> Result<usize, ApiError> {
    Ok(prepare(model, request, usize::MAX)?.prompt.len())
}

/// Makes a conversation ready; one of more than `most` tokens is refused. May take long.
fn prepare(model: &ServedModel, request: &ChatRequest, most: usize) -> Result<Turn, ApiError> {
    let generator = model.generator()?;
    let (source, shows_tools) = match &generator.template {
        Some(template) => (template.source(), template.supports_tools()),
        None => ("", false),
    };
    let native = Dialect::of_template(source, shows_tools);
    let plan = request.tool_plan(native)?;
    let is_native = plan.as_ref().is_none_or(ToolPlan::is_native);
    let mut messages = match &plan {
        Some(plan) if !is_native => plan.told(&request.messages),
        None if !shows_tools => calls_as_text(&request.messages, Dialect::Json),
        _ => request.messages.clone(),
    };
    if is_native && native == Dialect::Kimi {
        name_calls_by_position(&mut messages);
    }
    if takes_objects(source) {
        messages.iter_mut().for_each(read_arguments);
    }
    let tools = if is_native { request.template_tools() } else { None };
    let chat = Conversation {
        messages: &messages,
        tools: tools.as_ref(),
        template_variables: request.chat_template_kwargs.as_ref(),
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        add_special_tokens: false,
    };
    let prompt = conversation_tokens(model, &chat, Some(most))?;
    let end = generator.tokenizer.decode(&prompt[prompt.len().saturating_sub(END_TOKENS)..], false);
    let reasoning = Reasoning::of_template(source, &end);
    let parser = match &plan {
        Some(plan) => plan.parser(reasoning),
        None => AnswerParser::new(reasoning),
    };
    let is_control = |text: &str| generator.tokenizer.is_control(text);
    let (shows_control_tokens, stop) =
        plan.as_ref().map_or((false, None), |plan| (plan.has_control_tokens(is_control), plan.stop()));
    // The parser must see where reasoning ends.
    let shows_control_tokens = shows_control_tokens
        || reasoning.is_some_and(|reasoning| is_control(reasoning.begin) || is_control(reasoning.end));
    let grammar = match plan {
        Some(plan) => Some(call_grammar(&generator.engine, plan, reasoning, is_control)?),
        None => {
            let constrained = request.constraint()?.map(|constrained| Constrained { after: reasoning, ..constrained });
            generation::grammar(&generator.engine, constrained)?
        }
    };
    Ok(Turn { prompt, grammar, parser, shows_control_tokens, stop })
}

/// The grammar of answers with calls. Schemas of tools come from everywhere: what of them can not be followed is not a
/// reason to refuse a request that does not insist.
fn call_grammar(
    engine: &EngineHandle,
    plan: ToolPlan,
    reasoning: Option<Reasoning>,
    is_control: impl Fn(&str) -> bool,
) -> Result<Grammar, ApiError> {
    if let Ok(Some(grammar)) = generation::grammar(engine, Some(plan.grammar(reasoning, &is_control)?)) {
        return Ok(grammar);
    }
    let can_follow = |schema: &Value| engine.compile(&yantra_engine::Constraint::JsonSchema(schema.clone())).is_ok();
    let constrained = plan.loosened(can_follow).grammar(reasoning, &is_control)?;
    let grammar = generation::grammar(engine, Some(constrained))?;
    grammar.ok_or_else(|| ApiError::internal("a grammar that was asked for is not there"))
}

/// Whether a chat template writes the arguments of calls as JSON itself, and so wants objects, not their text.
fn takes_objects(source: &str) -> bool {
    let dense: String = source.chars().filter(|c| !c.is_whitespace() && !matches!(c, '\'' | '"' | ']' | ')')).collect();
    ["arguments|tojson", "arguments|items", "arguments.items(", "_args|items", "_args.items("]
        .iter()
        .any(|use_of| dense.contains(use_of))
}

/// The arguments of a message's calls as objects, where their text is one.
fn read_arguments(message: &mut ChatMessage) {
    let calls = message.other.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
        if let Some(arguments) = arguments
            && let Some(text) = arguments.as_str()
            && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
        {
            *arguments = object;
        }
    }
}
