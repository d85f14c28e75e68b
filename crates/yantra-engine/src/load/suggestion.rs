//! The sampling a checkpoint suggests: `generation_config.json` of Hugging Face directories, `general.sampling.*` of GGUF
//! files (as llama.cpp writes them). What is not there or not sensible is left out.

use yantra_formats::Checkpoint;

use crate::SamplingParams;

/// Where the two formats write a parameter, and what is sensible.
struct Key {
    gguf: &'static str,
    hugging_face: &'static str,
    least: f32,
    most: f32,
}

const TEMPERATURE: Key = Key { gguf: "general.sampling.temp", hugging_face: "temperature", least: 0.0, most: 2.0 };
const TOP_P: Key = Key { gguf: "general.sampling.top_p", hugging_face: "top_p", least: f32::MIN_POSITIVE, most: 1.0 };
const TOP_K: Key = Key { gguf: "general.sampling.top_k", hugging_face: "top_k", least: 0.0, most: 1e6 };
const MIN_P: Key = Key { gguf: "general.sampling.min_p", hugging_face: "min_p", least: 0.0, most: 1.0 };
const REPETITION_PENALTY: Key =
    Key { gguf: "general.sampling.penalty_repeat", hugging_face: "repetition_penalty", least: 0.01, most: 100.0 };

/// The suggested sampling; `None` when the checkpoint suggests none.
pub(super) fn of(checkpoint: &Checkpoint) -> Option<SamplingParams> {
    let [temperature, top_p, top_k, min_p, repetition_penalty] =
        [TEMPERATURE, TOP_P, TOP_K, MIN_P, REPETITION_PENALTY].map(|key| value(checkpoint, &key));
    let any = [temperature, top_p, top_k, min_p, repetition_penalty].iter().any(Option::is_some);
    let neutral = SamplingParams::default();
    any.then(|| SamplingParams {
        temperature: temperature.unwrap_or(neutral.temperature),
        top_p: top_p.unwrap_or(neutral.top_p),
        top_k: top_k.map_or(neutral.top_k, |k| k as usize),
        min_p: min_p.unwrap_or(neutral.min_p),
        repetition_penalty: repetition_penalty.unwrap_or(neutral.repetition_penalty),
        ..neutral
    })
}

fn value(checkpoint: &Checkpoint, key: &Key) -> Option<f32> {
    let (name, found) = match checkpoint {
        Checkpoint::Gguf(file) => {
            let metadata = file.metadata();
            let number = metadata.find::<f32>(key.gguf);
            let number = number.or_else(|_| metadata.find::<u32>(key.gguf).map(|found| found.map(|n| n as f32)));
            (key.gguf, number.map_err(|error| error.to_string()))
        }
        Checkpoint::HuggingFace(directory) => {
            let found = directory.generation_config()?.find::<f32>(key.hugging_face);
            (key.hugging_face, found.map_err(|error| error.to_string()))
        }
    };
    match found {
        Ok(Some(number)) if (key.least..=key.most).contains(&number) => Some(number),
        Ok(None) => None,
        Ok(Some(number)) => {
            let (least, most) = (key.least, key.most);
            tracing::warn!(name, number, least, most, "the model suggests a sampling parameter out of range: left out");
            None
        }
        Err(error) => {
            tracing::warn!(name, error, "the model suggests a sampling parameter that is no number: left out");
            None
        }
    }
}
