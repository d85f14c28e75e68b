//! A server with a tiny model, and a client for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use yantra_engine::{
    Batch, Detokenizer, EmbedModel, EmbedderHandle, EncoderText, Engine, EngineConfig, EngineError, EngineHandle,
    StepModel, TextDecoder,
};
use yantra_server::{
    Embedder, Generator, ModelFacts, ModelKind, RawServerConfig, SamplingDefaults, ServeError, ServedModel, Server,
    ServerConfig, Shutdown,
};
use yantra_text::{ChatTemplate, DetokenizeStream, Tokenizer};

/// What the model says, over and over; characters of one, three and four bytes, so that text must be held back.
pub const STORY: &str = "the quick brown fox says नमस्ते 🦊 ";
pub const VOCAB: usize = 258;
const END: u32 = 257;

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Says its story: the token after position `p` is its byte `p + 1`, counted round. After a prompt that ends in `!` it
/// ends at once.
pub struct Storyteller {
    pub story: &'static str,
    pub delay: Duration,
    pub context: usize,
    pub pages: usize,
    pub fail: bool,
    /// While it is set no step ends.
    pub stuck: Arc<AtomicBool>,
}

impl StepModel for Storyteller {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_context(&self) -> usize {
        self.context
    }

    fn page_tokens(&self) -> usize {
        16
    }

    fn num_pages(&self) -> usize {
        self.pages
    }

    fn copy_page(&mut self, _: u32, _: u32) {}

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        std::thread::sleep(self.delay);
        while self.stuck.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.fail {
            return Err(EngineError::Forward { message: "out of ink".to_owned() });
        }
        logits.clear();
        for &row in batch.logit_rows {
            let row = row as usize;
            let position = batch.positions[row] as usize + 1;
            let next = match batch.tokens[row] {
                token if token == u32::from(b'!') => END as usize,
                _ => usize::from(self.story.as_bytes()[position % self.story.len()]),
            };
            let begin = logits.len();
            logits.resize(begin + VOCAB, 0.0);
            logits[begin + next] = 12.0;
            logits[begin + usize::from(b'x')] += 3.0;
        }
        Ok(())
    }
}

/// A tokeniser whose first 256 tokens are the bytes, in the alphabet of GPT-2.
pub fn tokenizer() -> Tokenizer {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut unprintable = 0;
    let mut vocab = Map::new();
    for byte in 0..256u32 {
        let code = if printable(byte) {
            byte
        } else {
            unprintable += 1;
            255 + unprintable
        };
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    vocab.insert("<|im_start|>".to_owned(), json!(256));
    vocab.insert("<|im_end|>".to_owned(), json!(257));
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(256, "<|im_start|>"), added(257, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    let config = json!({"eos_token": "<|im_end|>"});
    Tokenizer::from_tokenizer_json(tokenizer.to_string().as_bytes(), Some(&config)).unwrap()
}

struct Text(Tokenizer);

impl TextDecoder for Text {
    fn stream(&self, skip_special: bool) -> Box<dyn Detokenizer + Send> {
        Box::new(TextStream(self.0.stream(skip_special)))
    }

    fn eos_ids(&self) -> &[u32] {
        self.0.eos_ids()
    }

    fn vocabulary(&self) -> Option<&dyn yantra_engine::Vocabulary> {
        Some(&self.0)
    }
}

struct TextStream(DetokenizeStream);

impl Detokenizer for TextStream {
    fn push(&mut self, id: u32) -> &str {
        self.0.push(id)
    }

    fn finish(&mut self) -> String {
        self.0.finish()
    }
}

/// The vector of a text: how many tokens it has, 3 and 4.
pub struct Counter {
    /// How long every call takes.
    pub delay: Duration,
    /// Texts it has seen.
    pub texts: Arc<AtomicUsize>,
}

impl EmbedModel for Counter {
    fn context_length(&self) -> usize {
        64
    }

    fn dimensions(&self) -> usize {
        3
    }

    fn embed(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        std::thread::sleep(self.delay);
        self.texts.fetch_add(texts.len(), SeqCst);
        let vector = |text: &EncoderText<'_>| {
            let vector = [text.tokens.len() as f32, 3.0, 4.0];
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            vector.iter().map(|value| value / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }
}

pub fn embedding_model(counter: Counter, max_queue: usize) -> ServedModel {
    let handle = EmbedderHandle::spawn(Box::new(counter), max_queue).unwrap();
    served("counter", ModelKind::Embed(Embedder { handle, tokenizer: tokenizer() }))
}

pub fn served(id: &str, kind: ModelKind) -> ServedModel {
    ServedModel {
        id: id.to_owned(),
        aliases: vec![format!("{id}-alias")],
        created: 1_700_000_000,
        owned_by: "yantra".to_owned(),
        parent: None,
        facts: ModelFacts { family: Some("story".to_owned()), ..ModelFacts::default() },
        kind,
    }
}

/// How a test's server differs from the usual one.
pub struct Setup {
    /// What the model says, over and over.
    pub story: &'static str,
    pub template: &'static str,
    pub delay: Duration,
    pub context: usize,
    pub pages: usize,
    pub fail: bool,
    pub stuck: Arc<AtomicBool>,
    /// How long an embedding takes.
    pub embed_delay: Duration,
    pub embedded_texts: Arc<AtomicUsize>,
    pub engine: EngineConfig,
    pub defaults: SamplingDefaults,
    pub server: RawServerConfig,
}

impl Default for Setup {
    fn default() -> Self {
        let server = RawServerConfig { port: 0, ..RawServerConfig::default() };
        Self {
            story: STORY,
            template: TEMPLATE,
            delay: Duration::ZERO,
            context: 512,
            pages: 1024,
            fail: false,
            stuck: Arc::default(),
            embed_delay: Duration::ZERO,
            embedded_texts: Arc::default(),
            engine: EngineConfig::default(),
            defaults: SamplingDefaults::default(),
            server,
        }
    }
}

pub struct Harness {
    pub url: String,
    pub address: std::net::SocketAddr,
    pub client: Client,
    pub engine: EngineHandle,
    pub shutdown: Shutdown,
    pub task: JoinHandle<Result<bool, ServeError>>,
}

impl Setup {
    pub fn generator(&self) -> Generator {
        let tokenizer = tokenizer();
        let (delay, context, pages, fail) = (self.delay, self.context, self.pages, self.fail);
        let model = Storyteller { story: self.story, delay, context, pages, fail, stuck: Arc::clone(&self.stuck) };
        let text: Arc<dyn TextDecoder> = Arc::new(Text(tokenizer.clone()));
        let engine = Engine::spawn(Box::new(model), Some(text), self.engine.clone()).unwrap();
        let template = ChatTemplate::new(self.template, "", "<|im_end|>").unwrap();
        Generator {
            engine,
            tokenizer,
            template: Some(template),
            defaults: self.defaults,
            adapter: None,
            adapters: None,
        }
    }

    pub async fn start(self) -> Harness {
        let (server, engine) = self.server();
        Harness::serve(server, engine).await
    }

    pub fn server(self) -> (Server, EngineHandle) {
        let generator = self.generator();
        let engine = generator.engine.clone();
        let counter = Counter { delay: self.embed_delay, texts: self.embedded_texts };
        let embedder = embedding_model(counter, self.engine.max_queue);
        let config = ServerConfig::try_from(self.server).unwrap();
        let server = Server::builder(config)
            .model(served("story", ModelKind::Generate(generator)))
            .model(embedder)
            .build()
            .unwrap();
        (server, engine)
    }
}

impl Harness {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    pub async fn serve(server: Server, engine: EngineHandle) -> Self {
        let listener = server.bind().await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(server.serve(listener, shutdown.clone()));
        // The workspace's TLS has no default provider; installing it twice is no error worth knowing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { url: format!("http://{address}"), address, client, engine, shutdown, task }
    }

    pub async fn send(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.client.request(method, format!("{}{path}", self.url));
        request.header("content-type", "application/json").body(body).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, body.to_string()).await
    }

    /// Posts and expects success.
    pub async fn ok(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).await;
        let status = response.status();
        let body = response.text().await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Posts with `stream` and returns the events' data.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<String> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let response = self.post(path, &body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        data_lines(&response.text().await.unwrap())
    }

    /// Waits until the engine has nothing to do.
    pub async fn idle(&self) -> yantra_engine::EngineStats {
        for _ in 0..400 {
            let stats = self.engine.stats();
            if stats.running_sequences == 0 && stats.waiting_sequences == 0 && stats.queued_requests == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the engine is still busy: {:?}", self.engine.stats());
    }

    /// Waits until the engine works on `count` sequences.
    pub async fn running(&self, count: usize) {
        for _ in 0..400 {
            if self.engine.stats().running_sequences == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} running sequences expected: {:?}", self.engine.stats());
    }
}

pub fn data_lines(body: &str) -> Vec<String> {
    body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

pub fn chat(text: &str) -> Value {
    json!({"model": "story", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24})
}

pub fn prompt(text: &str) -> Value {
    json!({"model": "story", "prompt": text, "temperature": 0, "max_tokens": 24})
}

/// Answers differ in id and time only.
pub fn normalised(mut value: Value) -> Value {
    if value.get("id").is_some() {
        value["id"] = json!("ID");
    }
    if value.get("created").is_some() {
        value["created"] = json!(0);
    }
    value
}

/// The JSON of a stream's chunks, and `[DONE]` as text.
pub fn chunks(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).map_or_else(|_| json!(line), normalised)).collect()
}

pub fn pretty(lines: &[String]) -> String {
    chunks(lines).iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}
