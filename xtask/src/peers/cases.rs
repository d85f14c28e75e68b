//! What is measured, on which model, in which shapes.

use serde::{Deserialize, Serialize};

/// An engine that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Engine {
    #[serde(rename = "Yantra")]
    #[value(skip)]
    Yantra,
    #[serde(rename = "llama.cpp")]
    #[value(name = "llama.cpp")]
    LlamaCpp,
    #[serde(rename = "ik_llama.cpp")]
    #[value(name = "ik_llama.cpp")]
    IkLlamaCpp,
    #[serde(rename = "transformers")]
    #[value(name = "transformers")]
    Transformers,
}

impl Engine {
    /// Ours first.
    pub(crate) const ALL: [Self; 4] = [Self::Yantra, Self::LlamaCpp, Self::IkLlamaCpp, Self::Transformers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Yantra => "Yantra",
            Self::LlamaCpp => "llama.cpp",
            Self::IkLlamaCpp => "ik_llama.cpp",
            Self::Transformers => "transformers",
        }
    }

    /// The Python module by which it is measured.
    pub(crate) fn module(self) -> Option<&'static str> {
        match self {
            Self::Yantra => None,
            Self::LlamaCpp => Some("llama_cpp"),
            Self::IkLlamaCpp => Some("ik_llama_cpp"),
            Self::Transformers => Some("transformers"),
        }
    }

    /// Whether it can do a kind of work, here.
    pub(crate) fn does(self, work: Work) -> bool {
        match work {
            Work::Prompt { .. } | Work::Generate { .. } => self != Self::Transformers,
            // ik_llama.cpp's package has no server.
            Work::Serve { .. } => matches!(self, Self::Yantra | Self::LlamaCpp),
            Work::Embed { .. } => matches!(self, Self::Yantra | Self::Transformers),
        }
    }
}

/// A kind of work and its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Reads `tokens` after `depth` that are in the cache.
    Prompt { tokens: usize, depth: usize },
    /// Decodes `tokens` in each of `batch` sequences after `depth`.
    Generate { tokens: usize, depth: usize, batch: usize },
    /// Streaming chat: each client sends the next request when the last one is answered.
    Serve { clients: usize, requests: usize },
    /// Embeds `texts` texts of `tokens` tokens.
    Embed { texts: usize, tokens: usize },
}

impl Work {
    pub(crate) fn unit(self) -> &'static str {
        if matches!(self, Self::Embed { .. }) { "sentences/s" } else { "tok/s" }
    }

    /// Tokens in one forward pass.
    pub(crate) fn tokens_at_once(self) -> usize {
        match self {
            Self::Prompt { tokens, .. } => tokens,
            Self::Generate { batch, .. } => batch,
            Self::Serve { .. } => usize::MAX,
            Self::Embed { texts, tokens } => texts * tokens,
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Unique; `--only` looks for parts of it, and results are kept by it.
    pub(crate) name: &'static str,
    /// For people, under the model's title.
    pub(crate) title: &'static str,
    pub(crate) model: &'static Model,
    pub(crate) work: Work,
    /// Whether the chart shows it.
    pub(crate) in_chart: bool,
}

/// A model of the catalogue.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
}

pub(crate) const SMOLLM2: Model = Model { name: "smollm2-135m", title: "SmolLM2-135M Q4_1" };
const GEMMA: Model = Model { name: "gemma3-270m", title: "Gemma-3-270M Q4_K_M" };
const QWEN: Model = Model { name: "qwen2.5-coder-1.5b", title: "Qwen2.5-Coder-1.5B Q4_K_M" };
const MINILM: Model = Model { name: "minilm-l6", title: "all-MiniLM-L6-v2" };

const fn case(name: &'static str, title: &'static str, model: &'static Model, work: Work, in_chart: bool) -> Case {
    Case { name, title, model, work, in_chart }
}

const fn prompt(tokens: usize, depth: usize) -> Work {
    Work::Prompt { tokens, depth }
}

const fn generate(tokens: usize, depth: usize, batch: usize) -> Work {
    Work::Generate { tokens, depth, batch }
}

/// Batches write 64 tokens after 128.
pub(crate) const CASES: &[Case] = &[
    case("smollm2-prompt-512", "read 512", &SMOLLM2, prompt(512, 0), true),
    case("smollm2-prompt-512-at-2048", "read 512 after 2,048", &SMOLLM2, prompt(512, 2048), true),
    case("smollm2-generate-128", "write 128", &SMOLLM2, generate(128, 0, 1), true),
    case("smollm2-generate-64-at-2048", "write 64 after 2,048", &SMOLLM2, generate(64, 2048, 1), true),
    case("smollm2-batch-1", "write 64, 1 sequence", &SMOLLM2, generate(64, 128, 1), false),
    case("smollm2-batch-4", "write 64, 4 sequences", &SMOLLM2, generate(64, 128, 4), false),
    case("smollm2-batch-8", "write 64, 8 sequences", &SMOLLM2, generate(64, 128, 8), false),
    case("smollm2-batch-16", "write 64, 16 sequences", &SMOLLM2, generate(64, 128, 16), true),
    case("smollm2-batch-32", "write 64, 32 sequences", &SMOLLM2, generate(64, 128, 32), false),
    case("smollm2-serve-16", "serve 16 clients", &SMOLLM2, Work::Serve { clients: 16, requests: 64 }, true),
    case("smollm2-serve-64", "serve 64 clients", &SMOLLM2, Work::Serve { clients: 64, requests: 128 }, true),
    case("gemma3-prompt-512", "read 512", &GEMMA, prompt(512, 0), true),
    case("gemma3-generate-64", "write 64", &GEMMA, generate(64, 0, 1), true),
    case("qwen-prompt-256", "read 256", &QWEN, prompt(256, 0), true),
    case("qwen-generate-32", "write 32", &QWEN, generate(32, 0, 1), true),
    case("minilm-embed-256", "embed 256 × 64 tokens", &MINILM, Work::Embed { texts: 256, tokens: 64 }, true),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_everybody_has_work() {
        for (position, case) in CASES.iter().enumerate() {
            assert!(CASES[..position].iter().all(|other| other.name != case.name), "{}", case.name);
            assert!(Engine::Yantra.does(case.work), "{}", case.name);
        }
        for engine in Engine::ALL {
            assert!(CASES.iter().any(|case| engine.does(case.work)), "{}", engine.name());
        }
    }
}
