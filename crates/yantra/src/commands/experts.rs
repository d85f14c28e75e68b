//! `yantra inspect --experts`: where a mixture of experts sends the tokens of a text.
//!
//! A mixture computes little for a token but may have to read much: what a step reads is every expert that some token of
//! its batch goes to. The report says how evenly tokens are spread, and how fast the experts that a batch touches grow with
//! it, which is why sparsity saves less time than arithmetic.

use crate::{
    backend,
    config::EngineSettings,
    output::{bytes, print_json, progress, table},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::Path;
use yantra_formats::Checkpoint;
use yantra_kernels::AttentionSequence;
use yantra_model::{Batch, Decoder, KvCache, PAGE_TOKENS, Routing};
use yantra_text::{EncodeOptions, Tokenizer};

/// Tokens that are run at a time, each window by itself.
const WINDOW: usize = 512;

/// Batches for which it is counted what they touch.
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 64, 256];

#[derive(Debug, Serialize)]
struct Report {
    tokens: usize,
    layers: Vec<LayerReport>,
    batches: Vec<BatchReport>,
    /// Tokens that no expert took: there are none, every choice is computed.
    dropped: usize,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    layer: usize,
    num_experts: usize,
    top_k: usize,
    /// Share of all assignments that each expert got.
    load: Vec<f64>,
    /// The busiest expert's load over the mean.
    imbalance: f64,
    /// Of the load, in bits; `log2(num_experts)` if it is even.
    entropy_bits: f64,
    unused: usize,
    /// Mean weight of a token's first choice.
    first_weight: f64,
    expert_bytes: usize,
}

#[derive(Debug, Serialize)]
struct BatchReport {
    /// Tokens in a step.
    tokens: usize,
    /// Experts touched, as a share of all, for tokens that follow one another (a prompt).
    consecutive: f64,
    /// The same for tokens from all over the text (sequences that decode together).
    scattered: f64,
    /// Bytes of experts that a step of the latter kind reads, for each of its tokens.
    bytes_per_token: f64,
}

pub(super) fn run(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    settings: &EngineSettings,
    file: &Path,
    num_tokens: usize,
    json: bool,
) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut tokens = tokenizer.encode(&text, EncodeOptions { add_special: false, parse_special: false })?;
    tokens.truncate(num_tokens);
    if tokens.is_empty() {
        bail!("{} has no tokens", file.display());
    }
    let compute = backend::compute(settings);
    let options = backend::load_options(settings);
    let decoder = Decoder::load(checkpoint, &compute, options.of_model(WINDOW))?;
    let mut kv = KvCache::new(decoder.spec(), options.kv_format, WINDOW.div_ceil(PAGE_TOKENS))?;
    let mut scratch = decoder.scratch();
    scratch.record_routing();
    let bar = progress(tokens.len() as u64, "tokens");
    let pages: Vec<u32> = (0..kv.num_pages() as u32).collect();
    let mut logits = Vec::new();
    for window in tokens.chunks(WINDOW) {
        let positions: Vec<u32> = (0..window.len() as u32).collect();
        let sequence =
            AttentionSequence { query_start: 0, query_len: window.len(), context_len: window.len(), pages: &pages };
        // Pages are in order, so that a position is its own slot.
        let batch = Batch {
            tokens: window,
            positions: &positions,
            slots: &positions,
            sequences: &[sequence],
            logit_rows: &[],
            adapters: &[],
        };
        decoder.forward(&compute, &batch, &mut kv, &mut scratch, &mut logits)?;
        bar.inc(window.len() as u64);
    }
    bar.finish_and_clear();
    if scratch.routing().is_empty() {
        bail!("{} ({}) has no experts", checkpoint.path().display(), decoder.spec().family);
    }
    let report = report(&decoder, scratch.routing(), tokens.len());
    if json { print_json(&report) } else { print(&report) }
}

fn report(decoder: &Decoder, routing: &[Routing], tokens: usize) -> Report {
    let layers = routing.iter().map(|routing| layer_report(routing, decoder.expert_bytes(routing.layer))).collect();
    let batches = BATCHES.into_iter().filter(|batch| *batch <= tokens);
    let batches = batches.map(|batch| batch_report(decoder, routing, batch, tokens)).collect();
    Report { tokens, layers, batches, dropped: 0 }
}

fn layer_report(routing: &Routing, expert_bytes: usize) -> LayerReport {
    let Routing { layer, num_experts, top_k, .. } = *routing;
    let mut counts = vec![0_usize; num_experts];
    routing.chosen.iter().for_each(|expert| counts[*expert as usize] += 1);
    let load: Vec<f64> = counts.iter().map(|count| *count as f64 / routing.chosen.len() as f64).collect();
    let first = routing.weights.iter().step_by(top_k).map(|weight| f64::from(*weight));
    LayerReport {
        layer,
        num_experts,
        top_k,
        imbalance: load.iter().copied().fold(0.0, f64::max) * num_experts as f64,
        entropy_bits: -load.iter().filter(|share| **share > 0.0).map(|share| share * share.log2()).sum::<f64>(),
        unused: counts.iter().filter(|count| **count == 0).count(),
        first_weight: first.sum::<f64>() * top_k as f64 / routing.weights.len() as f64,
        load,
        expert_bytes,
    }
}

/// Means over all layers, and over all batches of so many tokens that the text has.
fn batch_report(decoder: &Decoder, routing: &[Routing], batch: usize, tokens: usize) -> BatchReport {
    let num_batches = tokens / batch;
    let (mut consecutive, mut scattered, mut bytes) = (0.0, 0.0, 0.0);
    for layer in routing {
        let of_batch = |token: &dyn Fn(usize, usize) -> usize| {
            let touched = (0..num_batches).map(|index| touched(layer, (0..batch).map(|nth| token(index, nth))));
            touched.sum::<usize>() as f64 / num_batches as f64
        };
        let together = of_batch(&|index, nth| index * batch + nth);
        let apart = of_batch(&|index, nth| index + nth * num_batches);
        consecutive += together / layer.num_experts as f64 / routing.len() as f64;
        scattered += apart / layer.num_experts as f64 / routing.len() as f64;
        bytes += apart * decoder.expert_bytes(layer.layer) as f64;
    }
    BatchReport { tokens: batch, consecutive, scattered, bytes_per_token: bytes / batch as f64 }
}

/// How many experts some tokens go to.
fn touched(routing: &Routing, tokens: impl Iterator<Item = usize>) -> usize {
    let mut seen = vec![false; routing.num_experts];
    for token in tokens {
        let chosen = &routing.chosen[token * routing.top_k..][..routing.top_k];
        chosen.iter().for_each(|expert| seen[*expert as usize] = true);
    }
    seen.into_iter().filter(|seen| *seen).count()
}

fn print(report: &Report) -> Result<()> {
    println!("{} tokens through {} layers of experts, none dropped\n", report.tokens, report.layers.len());
    let rows = report.layers.iter().map(|layer| {
        vec![
            layer.layer.to_string(),
            format!("{} of {}", layer.top_k, layer.num_experts),
            bars(&layer.load),
            format!("{:.2}x", layer.imbalance),
            format!("{:.2} of {:.2}", layer.entropy_bits, (layer.num_experts as f64).log2()),
            layer.unused.to_string(),
            format!("{:.2}", layer.first_weight),
            bytes(layer.expert_bytes as u64),
        ]
    });
    let header = ["layer", "experts", "load", "busiest", "entropy, bits", "unused", "first weight", "an expert"];
    println!("{}\n", table(&header, rows));
    let rows = report.batches.iter().map(|batch| {
        vec![
            batch.tokens.to_string(),
            format!("{:.0} %", 100.0 * batch.consecutive),
            format!("{:.0} %", 100.0 * batch.scattered),
            bytes(batch.bytes_per_token as u64),
        ]
    });
    println!("experts that a step touches, and the bytes of them that it reads for each token:\n");
    println!("{}", table(&["tokens in a step", "of a prompt", "of many sequences", "read per token"], rows));
    Ok(())
}

/// The load of experts as a line of bars, the busiest full; of many experts, neighbours share a bar.
fn bars(load: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const MOST: usize = 32;
    let per_bar = load.len().div_ceil(MOST);
    let means: Vec<f64> = load.chunks(per_bar).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let most = means.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    means.iter().map(|mean| LEVELS[((mean / most * 8.0).ceil() as usize).clamp(1, 8) - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing() -> Routing {
        let chosen = vec![0, 1, 0, 2, 0, 1, 0, 1];
        let weights = vec![0.75, 0.25, 0.5, 0.5, 1.0, 0.0, 0.75, 0.25];
        Routing { layer: 3, num_experts: 4, top_k: 2, chosen, weights }
    }

    #[test]
    fn a_layer_is_summed_up() {
        let report = layer_report(&routing(), 10);
        assert_eq!(report.load, [0.5, 0.375, 0.125, 0.0]);
        assert_eq!((report.imbalance, report.unused, report.first_weight), (2.0, 1, 0.75));
        let entropy = 0.5 - 0.375 * 0.375_f64.log2() + 0.125 * 3.0;
        assert!((report.entropy_bits - entropy).abs() < 1e-12, "{}", report.entropy_bits);
    }

    #[test]
    fn experts_of_a_batch_are_counted_once() {
        assert_eq!(touched(&routing(), 0..1), 2);
        assert_eq!(touched(&routing(), 0..4), 3);
        assert_eq!(touched(&routing(), [0, 2, 3].into_iter()), 2);
    }

    #[test]
    fn bars_show_the_busiest_full() {
        assert_eq!(bars(&[0.5, 0.25, 0.25, 0.0]), "█▄▄▁");
        assert_eq!(bars(&vec![1.0 / 64.0; 64]).chars().count(), 32);
    }
}
