//! What is asked: synthetic prompts of a wanted length, or a file's.
//!
//! A synthetic prompt is made of common words that the model's tokeniser reads as one token each, where the server
//! tells (`/tokenize`); then a number of words is a number of tokens. Elsewhere a word is taken for a token, and the
//! report says that it is an approximation. Own parts begin with the request's number, so no two share a prefix.

use super::{LoadArgs, Target};
use anyhow::{Context, Result, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Common words: in nearly every vocabulary with a leading space.
const WORDS: &[&str] = &[
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
    "car",
    "city",
    "community",
    "name",
    "team",
    "minute",
    "idea",
    "body",
    "information",
    "back",
    "parent",
    "face",
    "others",
    "level",
    "office",
    "door",
    "health",
    "person",
    "art",
    "war",
    "history",
    "party",
    "result",
    "change",
    "morning",
    "reason",
    "research",
    "girl",
    "guy",
    "moment",
    "air",
    "teacher",
    "force",
    "education",
];

/// The largest prompts file: enough for a million questions.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The bodies of all requests, made on demand from their number.
pub(crate) struct Requests {
    source: Source,
    common: serde_json::Map<String, Value>,
    completions: bool,
    seed: u64,
    /// How token counts were arrived at, for the report.
    pub(crate) description: String,
}

enum Source {
    Synthetic { words: Vec<String>, shared: String, own_tokens: usize },
    File(Vec<serde_json::Map<String, Value>>),
}

impl Requests {
    /// Reads the file or asks the server's tokeniser.
    pub(crate) async fn prepare(args: &LoadArgs, target: &Target) -> Result<Self> {
        let mut common = serde_json::Map::new();
        common.insert("stream".into(), json!(true));
        common.insert("stream_options".into(), json!({"include_usage": true}));
        common.insert("temperature".into(), json!(args.temperature));
        common.insert("max_tokens".into(), json!(args.output_tokens));
        if !args.respect_eos {
            common.insert("ignore_eos".into(), json!(true));
        }
        let (source, description) = match &args.prompts {
            Some(path) => {
                let entries = read_file(path).with_context(|| format!("in the prompts file {}", path.display()))?;
                let description = format!("{} prompts from {}", entries.len(), path.display());
                (Source::File(entries), description)
            }
            None => synthetic(args, target).await?,
        };
        Ok(Self { source, common, completions: args.completions, seed: args.seed, description })
    }

    /// The path requests go to.
    pub(crate) fn path(&self) -> &'static str {
        if self.completions { "/v1/completions" } else { "/v1/chat/completions" }
    }

    /// The body of request `number`; the same number is the same body, whichever server it goes to.
    pub(crate) fn body(&self, number: u64, model: &str) -> Value {
        let mut body = self.common.clone();
        body.insert("model".into(), json!(model));
        match &self.source {
            Source::File(entries) => {
                let entry = &entries[(number % entries.len() as u64) as usize];
                body.extend(entry.iter().map(|(key, value)| (key.clone(), value.clone())));
                self.fit(&mut body);
            }
            Source::Synthetic { words, shared, own_tokens } => {
                let mut random = StdRng::seed_from_u64(self.seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let own = sentence(&mut random, words, *own_tokens, Some(number));
                if self.completions {
                    body.insert("prompt".into(), json!(format!("{shared} {own}")));
                } else {
                    body.insert("messages".into(), messages(shared, &own));
                }
            }
        }
        Value::Object(body)
    }

    /// A file's `prompt` becomes a user turn for chat, its `messages` a plain text for completions.
    fn fit(&self, body: &mut serde_json::Map<String, Value>) {
        if self.completions {
            if let Some(messages) = body.remove("messages") {
                let texts = messages.as_array().into_iter().flatten().filter_map(|m| m.get("content")?.as_str());
                let text = texts.collect::<Vec<_>>().join("\n\n");
                body.insert("prompt".into(), json!(text));
            }
        } else if let Some(prompt) = body.remove("prompt") {
            body.insert("messages".into(), json!([{"role": "user", "content": prompt}]));
        }
    }
}

fn messages(shared: &str, own: &str) -> Value {
    if shared.is_empty() {
        json!([{"role": "user", "content": own}])
    } else {
        json!([{"role": "system", "content": shared}, {"role": "user", "content": own}])
    }
}

async fn synthetic(args: &LoadArgs, target: &Target) -> Result<(Source, String)> {
    if args.own_tokens == 0 {
        return Err(crate::failure::usage("--own-tokens is 0, expected at least 1"));
    }
    let words = single_token_words(target).await;
    let counted = words.is_some();
    let words = words.unwrap_or_else(|| WORDS.iter().map(|word| (*word).to_owned()).collect());
    let mut random = StdRng::seed_from_u64(args.seed);
    let shared = sentence(&mut random, &words, args.shared_tokens, None);
    let how = if counted {
        "counted by the server's tokeniser, chat template not included"
    } else {
        "approximated: the server has no /tokenize, so a word is taken for a token"
    };
    let description = format!("{} shared + {} own prompt tokens ({how})", args.shared_tokens, args.own_tokens);
    Ok((Source::Synthetic { words, shared, own_tokens: args.own_tokens }, description))
}

/// The words that are one token after a space; `None` when the server does not tell or too few are.
async fn single_token_words(target: &Target) -> Option<Vec<String>> {
    let length = async |text: &str| Some(target.endpoint(0).tokenize(&target.model, text).await.ok()?.len());
    let all: String = WORDS.iter().map(|word| format!(" {word}")).collect();
    if length(&all).await? == WORDS.len() {
        return Some(WORDS.iter().map(|word| (*word).to_owned()).collect());
    }
    // Some tokenisers add a token of their own at the start, so words are measured by what the second one adds.
    let empty = length(" time").await?;
    let mut words = Vec::new();
    for word in WORDS {
        if length(&format!(" time {word}")).await? == empty + 1 {
            words.push((*word).to_owned());
        }
    }
    (words.len() >= 16).then_some(words)
}

/// `tokens` words; those of a numbered request begin with its number, one digit per word-place.
fn sentence(random: &mut StdRng, words: &[String], tokens: usize, number: Option<u64>) -> String {
    let mut parts: Vec<String> = Vec::with_capacity(tokens);
    if let Some(mut number) = number {
        // The number in base `words.len()`: distinct from the first token on, and exactly as many tokens as words.
        let base = words.len() as u64;
        for _ in 0..tokens.min(4) {
            parts.push(words[(number % base) as usize].clone());
            number /= base;
        }
    }
    while parts.len() < tokens {
        parts.push(words[random.random_range(0..words.len())].clone());
    }
    parts.join(" ")
}

fn read_file(path: &std::path::Path) -> Result<Vec<serde_json::Map<String, Value>>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        bail!("it has {size} bytes, at most {MAX_FILE_BYTES} are read");
    }
    let text = std::fs::read_to_string(path)?;
    let mut entries = Vec::new();
    for (position, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("line {}", position + 1);
        let entry: serde_json::Map<String, Value> = serde_json::from_str(line).with_context(place)?;
        let known = ["prompt", "messages", "max_tokens"];
        if let Some(key) = entry.keys().find(|key| !known.contains(&key.as_str())) {
            bail!("{}: unknown key `{key}`, expected prompt, messages or max_tokens", place());
        }
        if entry.contains_key("prompt") == entry.contains_key("messages") {
            bail!("{}: expected either `prompt` or `messages`", place());
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        bail!("it holds no prompts");
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    fn synthetic_requests(completions: bool) -> Requests {
        let words: Vec<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
        let shared = sentence(&mut StdRng::seed_from_u64(0), &words, 40, None);
        let source = Source::Synthetic { words, shared, own_tokens: 6 };
        Requests { source, common: serde_json::Map::new(), completions, seed: 0, description: String::new() }
    }

    #[test]
    fn prompts_repeat_by_number_and_differ_from_the_first_words_on() {
        let requests = synthetic_requests(false);
        assert_eq!(requests.body(7, "m"), requests.body(7, "m"));
        let starts: HashSet<String> = (0..500)
            .map(|number| {
                let body = requests.body(number, "m");
                let own = body["messages"][1]["content"].as_str().unwrap().to_owned();
                assert_eq!(own.split(' ').count(), 6);
                assert_eq!(body["messages"][0]["content"].as_str().unwrap().split(' ').count(), 40);
                own.split(' ').take(2).collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(starts.len(), 500);
        assert!(synthetic_requests(true).body(0, "m")["prompt"].as_str().unwrap().split(' ').count() == 46);
    }

    #[test]
    fn files_are_read_and_their_faults_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.jsonl");
        let check = |text: &str, expected: Result<usize, &str>| {
            std::fs::write(&path, text).unwrap();
            match (read_file(&path), expected) {
                (Ok(entries), Ok(count)) => assert_eq!(entries.len(), count),
                (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
                (got, _) => assert!(got.is_err(), "expected {expected:?} for {text}"),
            }
        };
        check("{\"prompt\": \"a\"}\n\n{\"messages\": [], \"max_tokens\": 3}\n", Ok(2));
        check("", Err("no prompts"));
        check("{}", Err("line 1: expected either"));
        check("{\"prompt\": \"a\"}\n{\"promt\": \"a\"}", Err("line 2: unknown key `promt`"));
        check("nothing", Err("line 1"));
    }
}
