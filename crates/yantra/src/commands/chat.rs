//! `yantra chat`: talk to a model in this process or behind a URL.

use super::sampling::{self, SamplingArgs};
use crate::{backend, config::RawEngine, env, failure::hinted};
use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use rustyline::{DefaultEditor, error::ReadlineError};
use std::{
    io::{IsTerminal, Write, stdin, stdout},
    path::Path,
    time::Instant,
};
use yantra_client::{
    ChatEvent, ChatModel, ChatRequest, ClientError, Endpoint, EndpointConfig, EngineChat, FinishReason, Message,
    OpenAiChat, Role, Usage,
};

const EXAMPLES: &str = "\
Examples:
  yantra chat smollm2-135m
  yantra chat smollm2-135m --system \"Answer in one sentence.\" --temperature 0.2
  yantra chat http://127.0.0.1:8080 --model smollm2-135m
  echo \"What is the capital of Italy? Answer in one sentence.\" | yantra chat smollm2-135m

While chatting: end a line with \\ to continue it, or put several lines between \"\"\" and \"\"\". Ctrl-C stops the reply,
Ctrl-D leaves. /help lists the commands.";

const HELP: &str = "\
/help                     this list
/clear                    forget the conversation (the system prompt stays)
/system [TEXT]            show or set the system prompt
/params [NAME=VALUE …]    show or set sampling parameters; NAME=none clears one
/regenerate               answer the last question again
/save FILE                write the conversation as JSON
/exit                     leave (as Ctrl-D)
Several lines: end each with \\, or start and end with \"\"\"";

/// Talk to a model
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChatArgs {
    /// Path or catalogue name of a model, or the URL of a server
    #[arg(value_name = "MODEL|URL")]
    target: String,
    /// Instructions that hold for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Model to ask a server for [default: the first it lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Key to send to a server [default: YANTRA_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: RawEngine,
}

/// Runs the command.
pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    let params = args.sampling.params()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let model = runtime.block_on(open(args))?;
    let mut session = Session::new(model, args, params);
    if stdin().is_terminal() { session.talk(&runtime) } else { session.answer_stdin(&runtime) }
}

async fn open(args: &ChatArgs) -> Result<Box<dyn ChatModel>> {
    if args.target.starts_with("http://") || args.target.starts_with("https://") {
        let key = args.api_key.clone().or_else(env::api_key);
        let config = EndpointConfig::new(&args.target).with_api_key(key);
        let model = match &args.model {
            Some(model) => OpenAiChat::new(Endpoint::new(&config)?, model),
            None => OpenAiChat::first_model(&config).await?,
        };
        return Ok(Box::new(model));
    }
    let settings = args.engine.clone().over_environment()?;
    let loaded = backend::load(&args.target, &backend::compute(&settings), &backend::load_options(&settings))?;
    let engine = backend::generator(&args.target, &loaded)?;
    let defaults = backend::default_sampling(&settings, &loaded);
    let template = loaded.template.ok_or_else(|| {
        let hint = format!("continue a text with `yantra complete {} \"…\"` instead", args.target);
        hinted(format!("`{}` has no chat template: it is a base model", args.target), hint)
    })?;
    Ok(Box::new(EngineChat::new(&args.target, engine, loaded.tokenizer, template).with_defaults(defaults)))
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Input<'a> {
    Say(&'a str),
    Command(&'a str, &'a str),
    Nothing,
}

fn parse(text: &str) -> Input<'_> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Input::Nothing;
    }
    // One word after the slash: a path such as /etc/hosts in a question is not a command.
    match trimmed.strip_prefix('/') {
        Some(rest) if !rest.split_whitespace().next().is_none_or(|word| word.contains('/')) => {
            let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            Input::Command(name, argument.trim())
        }
        _ => Input::Say(trimmed),
    }
}

/// Joins lines until the entry is complete: a trailing backslash or an open `"""` asks for more.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    text: String,
    quoted: bool,
}

impl Entry {
    /// Adds a line; true when the entry is complete.
    fn push(&mut self, line: &str) -> bool {
        if self.quoted {
            let Some(rest) = line.trim_end().strip_suffix("\"\"\"") else {
                self.text.push_str(line);
                self.text.push('\n');
                return false;
            };
            self.text.push_str(rest);
            return true;
        }
        if self.text.is_empty()
            && let Some(rest) = line.trim_start().strip_prefix("\"\"\"")
        {
            self.quoted = true;
            return !rest.is_empty() && self.push(rest);
        }
        match line.strip_suffix('\\') {
            Some(rest) => {
                self.text.push_str(rest);
                self.text.push('\n');
                false
            }
            None => {
                self.text.push_str(line);
                true
            }
        }
    }
}

struct Session {
    model: Box<dyn ChatModel>,
    messages: Vec<Message>,
    params: yantra_client::ChatParams,
}

impl Session {
    fn new(model: Box<dyn ChatModel>, args: &ChatArgs, params: yantra_client::ChatParams) -> Self {
        let messages = args.system.iter().map(Message::system).collect();
        Self { model, messages, params }
    }

    /// All of standard input is one question.
    fn answer_stdin(&mut self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let question = std::io::read_to_string(stdin()).context("cannot read standard input")?;
        if question.trim().is_empty() {
            bail!("standard input is empty: there is no question");
        }
        self.messages.push(Message::user(question.trim()));
        runtime.block_on(self.reply())?;
        Ok(())
    }

    fn talk(&mut self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let mut editor = DefaultEditor::new()?;
        let history = directories::ProjectDirs::from("", "", "yantra").map(|dirs| dirs.data_dir().join("history"));
        if let Some(history) = &history {
            let _ = std::fs::create_dir_all(history.parent().unwrap_or(Path::new(".")));
            // The first session has no history yet.
            let _ = editor.load_history(history);
        }
        eprintln!("{}: /help for commands, Ctrl-D to leave", self.model.model());
        while let Some(entry) = read_entry(&mut editor)? {
            let _ = editor.add_history_entry(entry.trim_end());
            match parse(&entry) {
                Input::Nothing => {}
                Input::Command("exit" | "quit", _) => break,
                Input::Command("regenerate", _) => self.regenerate(runtime),
                Input::Command(name, argument) => match self.command(name, argument) {
                    Ok(said) => eprintln!("{said}"),
                    Err(error) => eprintln!("{error:#}"),
                },
                Input::Say(text) => {
                    self.messages.push(Message::user(text));
                    self.ask(runtime);
                }
            }
        }
        if let Some(history) = &history {
            editor.save_history(history).with_context(|| format!("cannot save {}", history.display()))?;
        }
        Ok(())
    }

    /// Asks for the reply to the last user turn; a turn that failed is taken back, so that it can be asked again.
    fn ask(&mut self, runtime: &tokio::runtime::Runtime) {
        if let Err(error) = runtime.block_on(self.reply()) {
            eprintln!("error: {error}");
            self.messages.pop();
        }
    }

    fn regenerate(&mut self, runtime: &tokio::runtime::Runtime) {
        if self.messages.last().is_some_and(|message| message.role == Role::Assistant) {
            self.messages.pop();
        }
        if self.messages.last().is_some_and(|message| message.role == Role::User) {
            self.ask(runtime);
        } else {
            eprintln!("there is no question yet");
        }
    }

    fn command(&mut self, name: &str, argument: &str) -> Result<String> {
        match name {
            "help" => Ok(HELP.to_owned()),
            "clear" => {
                self.messages.retain(|message| message.role == Role::System);
                Ok("the conversation is forgotten".into())
            }
            "system" if argument.is_empty() => {
                let system = self.messages.iter().find(|message| message.role == Role::System);
                Ok(system.map_or("there is no system prompt", |message| &message.content).to_owned())
            }
            "system" => {
                self.messages.retain(|message| message.role != Role::System);
                self.messages.insert(0, Message::system(argument));
                Ok("the system prompt is set".into())
            }
            "params" => {
                for assignment in argument.split_whitespace() {
                    let (name, value) =
                        assignment.split_once('=').with_context(|| format!("`{assignment}`: expected NAME=VALUE"))?;
                    sampling::set(&mut self.params, name, value)?;
                }
                Ok(serde_json::to_string(&self.params)?)
            }
            "save" if argument.is_empty() => bail!("/save needs the name of a file"),
            "save" => {
                let file = std::fs::File::create_new(argument).with_context(|| format!("cannot make {argument}"))?;
                serde_json::to_writer_pretty(file, &serde_json::json!({ "messages": self.messages }))?;
                Ok(format!("saved {} turns to {argument}", self.messages.len()))
            }
            _ => {
                let known = ["help", "clear", "system", "params", "regenerate", "save", "exit"];
                let hint = crate::suggest::did_you_mean(name, known).unwrap_or_else(|| "see /help".into());
                bail!("`/{name}` is no command; {hint}")
            }
        }
    }

    /// Streams one reply to standard output and keeps it; Ctrl-C keeps what came so far.
    async fn reply(&mut self) -> Result<(), ClientError> {
        let request =
            ChatRequest { messages: self.messages.clone(), params: self.params.clone(), ..ChatRequest::default() };
        let started = Instant::now();
        let mut text = String::new();
        let (mut usage, mut finish) = (None, None);
        tokio::select! {
            result = print_reply(self.model.as_ref(), request, &mut text, &mut usage, &mut finish) => result?,
            // Dropping the stream cancels the request.
            _ = tokio::signal::ctrl_c() => eprint!("\n(stopped)"),
        }
        println!();
        if stdin().is_terminal() {
            footer(usage, finish.as_ref(), started);
        }
        self.messages.push(Message::assistant(text));
        Ok(())
    }
}

async fn print_reply(
    model: &dyn ChatModel,
    request: ChatRequest,
    text: &mut String,
    usage: &mut Option<Usage>,
    finish: &mut Option<FinishReason>,
) -> Result<(), ClientError> {
    let mut stream = model.stream(request).await?;
    let mut out = stdout();
    while let Some(event) = stream.next().await {
        match event? {
            ChatEvent::Text(piece) => {
                text.push_str(&piece);
                // A closed output is noticed at the next prompt; the reply is kept either way.
                let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
            }
            ChatEvent::Reasoning(piece) => {
                let _ = std::io::stderr().write_all(piece.as_bytes());
            }
            ChatEvent::ToolCall(_) => {}
            ChatEvent::Finished(reason) => *finish = Some(reason),
            ChatEvent::Usage(tokens) => *usage = Some(tokens),
        }
    }
    Ok(())
}

fn footer(usage: Option<Usage>, finish: Option<&FinishReason>, started: Instant) {
    let Some(usage) = usage else { return };
    let seconds = started.elapsed().as_secs_f64();
    let cut = if finish == Some(&FinishReason::Length) { ", cut at the limit" } else { "" };
    eprintln!("({} + {} tokens, {seconds:.1} s{cut})", usage.prompt_tokens, usage.completion_tokens);
}

/// One complete entry; `None` when the input ends or Ctrl-C is pressed twice.
fn read_entry(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut entry = Entry::default();
    let mut interrupted = false;
    loop {
        let prompt = if entry == Entry::default() { "> " } else { ". " };
        match editor.readline(prompt) {
            Ok(line) => {
                if entry.push(&line) {
                    return Ok(Some(entry.text));
                }
            }
            Err(ReadlineError::Interrupted) if interrupted => return Ok(None),
            Err(ReadlineError::Interrupted) => {
                interrupted = true;
                entry = Entry::default();
                eprintln!("Ctrl-C again or Ctrl-D to leave");
            }
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use yantra_client::Replay;

    fn entry(lines: &[&str]) -> Option<String> {
        let mut entry = Entry::default();
        let complete = lines.iter().fold(false, |_, line| entry.push(line));
        complete.then_some(entry.text)
    }

    #[test]
    fn entries_of_several_lines() {
        let check = |lines: &[&str], expected: Option<&str>| assert_eq!(entry(lines).as_deref(), expected, "{lines:?}");
        check(&["one"], Some("one"));
        check(&["one \\", "two"], Some("one \ntwo"));
        check(&["one \\"], None);
        check(&["\"\"\"", "one", "  two", "\"\"\""], Some("one\n  two\n"));
        check(&["\"\"\"one", "two\"\"\""], Some("one\ntwo"));
        check(&["\"\"\"one\"\"\""], Some("one"));
        check(&["\"\"\"", "one"], None);
        check(&["a \"\"\" b"], Some("a \"\"\" b"));
    }

    #[test]
    fn commands_and_questions() {
        assert_eq!(parse("/save a b.json"), Input::Command("save", "a b.json"));
        assert_eq!(parse(" /help "), Input::Command("help", ""));
        assert_eq!(parse("/etc/hosts has what?"), Input::Say("/etc/hosts has what?"));
        assert_eq!(parse("/"), Input::Say("/"));
        assert_eq!(parse("  "), Input::Nothing);
    }

    #[test]
    fn commands_change_the_session() {
        let model = Box::new(Replay::new("none", Vec::new()));
        let mut session = Session { model, messages: vec![Message::user("hi")], params: Default::default() };
        session.command("system", "Be brief.").unwrap();
        assert_eq!(session.messages[0], Message::system("Be brief."));
        session.command("clear", "").unwrap();
        assert_eq!(session.messages.len(), 1);
        assert_eq!(session.command("params", "temperature=0.5 seed=1").unwrap(), r#"{"temperature":0.5,"seed":1}"#);
        let error = session.command("sytem", "").unwrap_err().to_string();
        assert!(error.contains("`system`"), "{error}");
        assert!(session.command("save", "").is_err());
    }
}
