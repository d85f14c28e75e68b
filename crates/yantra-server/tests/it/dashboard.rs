//! The dashboard for Grafana shows figures that there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use yantra_engine::spill::{PageKey, Spill, SpillStore};
use yantra_engine::{Batch, Engine, EngineConfig, EngineError, PageBytes, StepModel};
use yantra_server::{Generator, ModelKind, Server, ServerConfig};

use crate::support::{Harness, STORY, Setup, Storyteller, chat, embedding_model, served, tokenizer};

const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana/yantra.json");

/// A model whose pages can be spilled.
struct Paged(Storyteller);

impl StepModel for Paged {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.0.max_context()
    }

    fn page_tokens(&self) -> usize {
        self.0.page_tokens()
    }

    fn num_pages(&self) -> usize {
        self.0.num_pages()
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        self.0.copy_page(from, to);
    }

    fn page_bytes(&mut self) -> Option<&mut dyn PageBytes> {
        Some(self)
    }

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), EngineError> {
        self.0.forward(batch, logits)
    }
}

impl PageBytes for Paged {
    fn bytes_per_page(&self) -> usize {
        1
    }

    fn export(&self, _: u32, bytes: &mut Vec<u8>) {
        *bytes = vec![0];
    }

    fn import(&mut self, _: u32, _: &[u8]) {}
}

/// Every `yantra_…` in a text.
fn figures(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("yantra_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_of_the_dashboard_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SpillStore::open(directory.path(), 1 << 20).unwrap());
    let spill = Spill { store, fingerprint: PageKey([1; 32]) };
    let setup = Setup::default();
    let (delay, context, pages, stuck) = (setup.delay, setup.context, setup.pages, setup.stuck.clone());
    let model = Storyteller { story: STORY, delay, context, pages, fail: false, stuck };
    let engine = Engine::spawn_with(Box::new(Paged(model)), None, EngineConfig::default(), None, Some(spill)).unwrap();
    let generator = Generator { engine: engine.clone(), tokenizer: tokenizer(), ..setup.generator() };
    let counter = crate::support::Counter { delay: setup.embed_delay, texts: setup.embedded_texts };
    let server = Server::builder(ServerConfig::try_from(setup.server).unwrap())
        .model(served("story", ModelKind::Generate(generator)))
        .model(embedding_model(counter, 16))
        .build()
        .unwrap();
    let server = Harness::serve(server, engine).await;
    server.ok("/v1/chat/completions", &chat("Hello")).await;
    let (_, metrics) = server.get("/metrics").await;
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let written: BTreeSet<String> = samples.flat_map(figures).collect();

    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let shown = figures(&dashboard.to_string());
    assert!(shown.len() > 20, "{shown:?}");
    let missing: Vec<&String> = shown.difference(&written).collect();
    assert!(missing.is_empty(), "{missing:?} are in the dashboard and not in /metrics");

    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "model_name"]);
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}: an id of its own", panel["title"]);
    }
}
