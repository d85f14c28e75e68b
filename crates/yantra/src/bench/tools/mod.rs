//! `yantra bench tools`: how well a model calls tools, on the Berkeley Function Calling Leaderboard's single-turn items.
//!
//! Each item is a question with functions and the calls that are right. It is asked over HTTP, so any server can be
//! measured beside ours; the ways in which calls are written are ours (`tool_format`), `native` is what every server does.

mod ast;

use crate::{env, failure::usage, output};
use anyhow::{Context, Result};
use ast::Call;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use yantra_client::{
    ChatEvent, ChatModel, ChatParams, ChatRequest, Endpoint, EndpointConfig, FinishReason, OpenAiChat,
};

const EXAMPLES: &str = "\
Examples:
  yantra bench tools --data bfcl/
  yantra bench tools --data bfcl/ --way native,json,react --limit 50
  yantra bench tools --data bfcl/ --url http://127.0.0.1:8081 --category simple_python --json

The directory holds the leaderboard's files: BFCL_v4_simple_python.json, …, and possible_answer/ with files of the same
names.";

/// Measure how well a server's model calls tools
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ToolsArgs {
    /// Directory of the benchmark's files
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Server to measure
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Model to ask for [default: the first the server lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Kinds of items: simple_python, multiple, parallel
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values_t = ["simple_python", "multiple", "parallel"].map(str::to_owned))]
    category: Vec<String>,
    /// How calls are written: native, json, react or a dialect of `tool_format`
    #[arg(long, value_name = "WAY", value_delimiter = ',', default_values_t = ["native".to_owned()])]
    way: Vec<String>,
    /// Items of each kind, spread over all [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Whether the model must call a tool: auto, required
    #[arg(long, value_name = "CHOICE", default_value = "auto")]
    tool_choice: String,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    clients: usize,
    /// Most tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    max_tokens: u32,
    /// Key to send [default: YANTRA_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One question.
struct Item {
    messages: Value,
    functions: Vec<Value>,
    expected: Vec<Value>,
}

/// One way's result on one kind of items.
#[derive(Debug, Serialize)]
struct Score {
    way: String,
    category: String,
    items: usize,
    right: usize,
    accuracy: f64,
    /// Answers all of whose calls are of a function that there is, with arguments that are a JSON object, among those with
    /// calls that are whole.
    well_formed: usize,
    with_calls: usize,
    /// Answers that the limit of tokens cut off, and those of them in the middle of their calls.
    cut: usize,
    cut_with_calls: usize,
    /// What was wrong, and how often.
    faults: BTreeMap<String, usize>,
}

/// Runs the command.
pub(crate) fn run(args: &ToolsArgs) -> Result<()> {
    if args.clients == 0 || args.clients > 256 {
        return Err(usage(format!("--clients is {}, expected 1 to 256", args.clients)));
    }
    let categories: Vec<(&String, Vec<Item>)> =
        args.category.iter().map(|name| Ok((name, read(&args.data, name, args.limit)?))).collect::<Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scores = runtime.block_on(async {
        let config = EndpointConfig::new(&args.url).with_api_key(args.api_key.clone().or_else(env::api_key));
        let model = match &args.model {
            Some(model) => OpenAiChat::new(Endpoint::new(&config)?, model),
            None => OpenAiChat::first_model(&config).await?,
        };
        let total: usize = categories.iter().map(|(_, items)| items.len()).sum::<usize>() * args.way.len();
        let bar = output::progress(total as u64, "items");
        let mut scores = Vec::new();
        for way in &args.way {
            for (category, items) in &categories {
                let mut score = Score::new(way, category);
                let (model, bar) = (&model, &bar);
                let ask = |item| async move {
                    let verdict = ask(model, args, way, item).await;
                    bar.inc(1);
                    verdict
                };
                let verdicts: Vec<Verdict> = stream::iter(items.iter().map(ask)).buffered(args.clients).collect().await;
                verdicts.into_iter().for_each(|verdict| score.add(verdict));
                scores.push(score);
            }
        }
        bar.finish_and_clear();
        anyhow::Ok(scores)
    })?;
    if args.json { output::print_json(&scores) } else { show(&scores) }
}

fn show(scores: &[Score]) -> Result<()> {
    let rows = scores.iter().map(|score| {
        let faults: Vec<String> = score.faults.iter().map(|(fault, count)| format!("{count} × {fault}")).collect();
        vec![
            score.way.clone(),
            score.category.clone(),
            format!("{}/{}", score.right, score.items),
            format!("{:.1} %", score.accuracy * 100.0),
            format!("{}/{}", score.well_formed, score.with_calls),
            score.cut.to_string(),
            faults.join(", "),
        ]
    });
    println!("{}", output::table(&["way", "items", "right", "accuracy", "well-formed", "cut", "faults"], rows));
    Ok(())
}

/// What became of one item.
struct Verdict {
    outcome: Result<(), String>,
    has_calls: bool,
    well_formed: bool,
    is_cut: bool,
}

impl Score {
    fn new(way: &str, category: &str) -> Self {
        let (way, category, faults) = (way.to_owned(), category.to_owned(), BTreeMap::new());
        let (well_formed, with_calls, cut, cut_with_calls) = (0, 0, 0, 0);
        Self { way, category, items: 0, right: 0, accuracy: 0.0, well_formed, with_calls, cut, cut_with_calls, faults }
    }

    fn add(&mut self, verdict: Verdict) {
        self.items += 1;
        self.cut += usize::from(verdict.is_cut);
        if verdict.is_cut {
            self.cut_with_calls += usize::from(verdict.has_calls);
        } else {
            self.with_calls += usize::from(verdict.has_calls);
            self.well_formed += usize::from(verdict.has_calls && verdict.well_formed);
        }
        match verdict.outcome {
            Ok(()) => self.right += 1,
            Err(fault) => *self.faults.entry(fault).or_default() += 1,
        }
        self.accuracy = self.right as f64 / self.items as f64;
    }
}

async fn ask(model: &OpenAiChat, args: &ToolsArgs, way: &str, item: &Item) -> Verdict {
    match answer(model, args, way, item).await {
        Ok(answer) => judge(&answer, item),
        Err(error) => {
            let outcome = Err(format!("failed: {error}"));
            Verdict { outcome, has_calls: false, well_formed: false, is_cut: false }
        }
    }
}

/// What is wrong with an answer that was cut off is that it was.
fn judge(answer: &Answer, item: &Item) -> Verdict {
    let is_known = |name: &str| item.functions.iter().any(|function| function["name"] == name);
    let parsed: Vec<Option<Call>> = answer.calls.iter().map(|(name, text)| call(name, text)).collect();
    let well_formed = parsed.iter().all(|call| call.as_ref().is_some_and(|call| is_known(&call.name)));
    let whole: Option<Vec<Call>> = parsed.into_iter().collect();
    let outcome = match whole {
        None => Err("arguments that are no JSON object".to_owned()),
        Some(calls) => ast::check(&calls, &item.functions, &item.expected),
    };
    let outcome = outcome.map_err(|fault| if answer.is_cut { "cut by max_tokens".to_owned() } else { fault });
    Verdict { outcome, has_calls: !answer.calls.is_empty(), well_formed, is_cut: answer.is_cut }
}

fn call(name: &str, arguments: &str) -> Option<Call> {
    let arguments: Map<String, Value> = serde_json::from_str(arguments).ok()?;
    Some(Call { name: name.to_owned(), arguments })
}

/// What a model answers.
#[derive(Debug, Default)]
struct Answer {
    /// Names, and arguments as text.
    calls: Vec<(String, String)>,
    /// Whether the limit of tokens ended it.
    is_cut: bool,
}

async fn answer(model: &OpenAiChat, args: &ToolsArgs, way: &str, item: &Item) -> Result<Answer> {
    let mut extra = Map::new();
    extra.insert("tool_choice".to_owned(), json!(args.tool_choice));
    if way != "native" {
        extra.insert("tool_format".to_owned(), json!(way));
    }
    let request = ChatRequest {
        messages: serde_json::from_value(item.messages.clone())?,
        tools: item
            .functions
            .iter()
            .map(|function| json!({"type": "function", "function": with_json_types(function)}))
            .collect(),
        params: ChatParams { temperature: Some(0.0), max_tokens: Some(args.max_tokens), ..ChatParams::default() },
        extra,
    };
    let mut answer = Answer::default();
    let mut events = model.stream(request).await?;
    while let Some(event) = events.next().await {
        match event? {
            ChatEvent::ToolCall(delta) => {
                while answer.calls.len() <= delta.index {
                    answer.calls.push(Default::default());
                }
                let call = &mut answer.calls[delta.index];
                call.0.push_str(delta.name.as_deref().unwrap_or_default());
                call.1.push_str(&delta.arguments);
            }
            ChatEvent::Finished(reason) => answer.is_cut = reason == FinishReason::Length,
            _ => {}
        }
    }
    Ok(answer)
}

/// A function whose types have the names of JSON Schema, as the leaderboard itself sends them to OpenAI's API.
fn with_json_types(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let convert = |(key, value): (&String, &Value)| {
                let value = match (key.as_str(), value.as_str()) {
                    ("type", Some("dict")) => json!("object"),
                    ("type", Some("float")) => json!("number"),
                    ("type", Some("tuple")) => json!("array"),
                    ("type", Some("any")) => json!("string"),
                    _ => with_json_types(value),
                };
                (key.clone(), value)
            };
            Value::Object(object.iter().map(convert).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(with_json_types).collect()),
        other => other.clone(),
    }
}

/// The items of a kind, `limit` of them spread evenly over all.
fn read(data: &Path, category: &str, limit: Option<usize>) -> Result<Vec<Item>> {
    let name = format!("BFCL_v4_{category}.json");
    let (questions, answers) = (lines(&data.join(&name))?, lines(&data.join("possible_answer").join(&name))?);
    anyhow::ensure!(
        questions.len() == answers.len() && !questions.is_empty(),
        "{name} has {} items and {} answers",
        questions.len(),
        answers.len()
    );
    let wanted = limit.unwrap_or(questions.len()).clamp(1, questions.len());
    let item = |number: usize| {
        let (question, answer) = (&questions[number], &answers[number]);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Item {
            messages: question["question"][0].clone(),
            functions: list(&question["function"]),
            expected: list(&answer["ground_truth"]),
        }
    };
    Ok((0..wanted).map(|index| item(index * questions.len() / wanted)).collect())
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let parse = |line: &str| {
        serde_json::from_str(line).with_context(|| format!("{} has a line that is no JSON", path.display()))
    };
    lines.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_counted_apart_and_what_is_whole_must_be_well_formed() {
        let item = Item {
            messages: json!([]),
            functions: vec![
                json!({"name": "f", "parameters": {"type": "dict", "properties": {"a": {"type": "integer"}}}}),
            ],
            expected: vec![json!({"f": {"a": [1]}})],
        };
        let mut score = Score::new("react", "simple_python");
        for (text, is_cut) in
            [("{\"a\": 1}", false), ("{\"a\": 1", false), ("{\"a\": 1000", true), ("{\"a\": 1}", true)]
        {
            score.add(judge(&Answer { calls: vec![("f".to_owned(), text.to_owned())], is_cut }, &item));
        }
        score.add(judge(&Answer { calls: Vec::new(), is_cut: true }, &item));
        let Score { items, right, well_formed, with_calls, cut, cut_with_calls, faults, .. } = score;
        assert_eq!((items, right, well_formed, with_calls, cut, cut_with_calls), (5, 2, 1, 2, 3, 2));
        assert_eq!((faults["cut by max_tokens"], faults["arguments that are no JSON object"]), (2, 1));
    }
}
