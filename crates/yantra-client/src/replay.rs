//! Recorded conversations: tests and offline runs get the answers a real model once gave.
//!
//! A recording is JSON Lines, one [`Exchange`] each: `{"request": {...}, "events": [...]}`. A [`Recorder`] writes it
//! around any model; a [`Replay`] answers from it. Requests are matched by their content, so the order of the calls
//! does not matter; the same request asked again gets the next recorded answer, and the last one from then on.

use crate::{BoxFuture, ChatEvent, ChatModel, ChatRequest, ChatStream, ClientError};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// One line of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What was asked.
    pub request: ChatRequest,
    /// What the model streamed.
    pub events: Vec<ChatEvent>,
}

/// Answers from a recording.
pub struct Replay {
    model: String,
    path: String,
    answers: HashMap<String, Answers>,
}

struct Answers {
    recorded: Vec<Vec<ChatEvent>>,
    next: Mutex<usize>,
}

impl Replay {
    /// Reads a recording from a file.
    ///
    /// # Errors
    /// [`ClientError::Recording`] naming the file and the line.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let name = path.display().to_string();
        let failed = |reason: String| ClientError::Recording { path: name.clone(), reason };
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let mut exchanges = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|error| failed(error.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            let exchange =
                serde_json::from_str(&line).map_err(|error| failed(format!("line {}: {error}", number + 1)))?;
            exchanges.push(exchange);
        }
        Ok(Self { path: name, ..Self::new("replay", exchanges) })
    }

    /// Answers from exchanges at hand.
    pub fn new(model: impl Into<String>, exchanges: Vec<Exchange>) -> Self {
        let mut answers: HashMap<String, Answers> = HashMap::new();
        for exchange in exchanges {
            let entry = answers
                .entry(key(&exchange.request))
                .or_insert_with(|| Answers { recorded: Vec::new(), next: Mutex::new(0) });
            entry.recorded.push(exchange.events);
        }
        Self { model: model.into(), path: "in memory".into(), answers }
    }
}

/// Requests are equal when their JSON is; maps keep their order, so the text is a key.
fn key(request: &ChatRequest) -> String {
    serde_json::to_string(request).unwrap_or_default()
}

impl ChatModel for Replay {
    fn model(&self) -> &str {
        &self.model
    }

    fn stream(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ClientError>> {
        Box::pin(async move {
            let answers = self.answers.get(&key(&request)).ok_or_else(|| {
                let last = request.messages.last().map_or("", |message| &message.content);
                let reason = format!("it holds no such request (last turn: `{}`)", crate::error::shorten(last, 80));
                ClientError::Recording { path: self.path.clone(), reason }
            })?;
            let mut next = answers.next.lock().unwrap_or_else(PoisonError::into_inner);
            let events = answers.recorded[*next].clone();
            *next = (*next + 1).min(answers.recorded.len() - 1);
            let stream: ChatStream = stream::iter(events.into_iter().map(Ok)).boxed();
            Ok(stream)
        })
    }
}

/// Passes requests on to another model and writes down what it answers.
pub struct Recorder<M> {
    inner: M,
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl<M: ChatModel> Recorder<M> {
    /// Records `inner` into a new file.
    ///
    /// # Errors
    /// [`ClientError::Recording`] when the file exists already or cannot be made.
    pub fn create(inner: M, path: &Path) -> Result<Self, ClientError> {
        let file = File::create_new(path)
            .map_err(|error| ClientError::Recording { path: path.display().to_string(), reason: error.to_string() })?;
        Ok(Self { inner, path: path.to_owned(), file: Arc::new(Mutex::new(file)) })
    }
}

impl<M: ChatModel> ChatModel for Recorder<M> {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn stream(&self, request: ChatRequest) -> BoxFuture<'_, Result<ChatStream, ClientError>> {
        Box::pin(async move {
            let inner = self.inner.stream(request.clone()).await?;
            let exchange = Exchange { request, events: Vec::new() };
            let state = Some((inner, exchange, Arc::clone(&self.file), self.path.clone()));
            // Only a reply that came to its end is written: a recording must not replay somebody's Ctrl-C.
            let stream: ChatStream = stream::unfold(state, |state| async move {
                let (mut inner, mut exchange, file, path) = state?;
                match inner.next().await {
                    Some(Ok(event)) => {
                        exchange.events.push(event.clone());
                        Some((Ok(event), Some((inner, exchange, file, path))))
                    }
                    Some(Err(error)) => Some((Err(error), None)),
                    None => Some((Err(append(&file, &path, &exchange).err()?), None)),
                }
            })
            .boxed();
            Ok(stream)
        })
    }
}

fn append(file: &Mutex<File>, path: &Path, exchange: &Exchange) -> Result<(), ClientError> {
    let failed = |reason: String| ClientError::Recording { path: path.display().to_string(), reason };
    let mut line = serde_json::to_string(exchange).map_err(|error| failed(error.to_string()))?;
    line.push('\n');
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.write_all(line.as_bytes()).map_err(|error| failed(error.to_string()))
}
