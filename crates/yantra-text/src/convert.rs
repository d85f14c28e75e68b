//! Tokenisers from one format into the other.
//!
//! GGUF names what cuts text into words, `tokenizer.json` spells it out, and neither says everything. So what was made is
//! tried before it is given away: a text with a bit of everything must become the same tokens as before.
//!
//! One thing GGUF does not record, and llama.cpp does not do: that a text is composed first (NFC, as Qwen asks for). What people
//! type is; [`GgufTokenizer::only_composed`] tells.

use crate::{
    EncodeOptions, TextError, Tokenizer,
    pretokenize::{DigitRuns, StageSpec, spec},
};
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use yantra_formats::{HfDirectory, Metadata, Value};

/// What is tried: words, numbers, code, white space, scripts, marks, emoji.
const PROBE: &str = "Hello, World! I'll don'T we'Ve 12345 1234567 3.14 x=42;\n\n\tfn main() {\n    let a_b = \"c\" + 'd';\n}\n  \
    two  spaces   three\r\nÜber naïve café — “quoted” … Ωμέγα Привет мир! 你好，世界。 こんにちは カタカナ 안녕하세요 \
    हिन्दी مرحبا بالعالم שלום ไทย 😀👩‍👩‍👧 HelloWorldABCdef snake_case camelCase http://a.b/c?d=e&f#g a@b.c $%^&*()<>[]|~` \
    100,000.00 ½ Ⅷ \u{a0}nbsp trailing   ";

/// Names of pre-tokenisers in the order in which they are tried: of two that differ in digits, which is no difference where the
/// vocabulary has no numbers, the one that cuts them finest comes first.
const PRE_TOKENIZERS: [&str; 22] = [
    "qwen2",
    "llama-bpe",
    "smollm",
    "gpt-2",
    "tekken",
    "gpt-4o",
    "deepseek-v3",
    "deepseek-llm",
    "deepseek-coder",
    "falcon",
    "starcoder",
    "refact",
    "command-r",
    "olmo",
    "dbrx",
    "bloom",
    "mpt",
    "stablelm2",
    "poro-chat",
    "viking",
    "exaone",
    "default",
];

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Letters whose marks stand apart: NFC makes one character of each pair.
const DECOMPOSED: &str = "cafe\u{301} u\u{308}ber";

/// A tokeniser as GGUF's metadata.
#[derive(Clone, Debug)]
pub struct GgufTokenizer {
    /// What describes it.
    pub metadata: Metadata,
    /// Whether it makes the tokens of the original only of texts that are composed: the original composes them first.
    pub only_composed: bool,
}

fn refused(message: impl Into<String>) -> TextError {
    TextError::Convert(message.into())
}

/// Whether two tokenisers make the same tokens of a text.
fn agree(one: &Tokenizer, other: &Tokenizer, text: &str) -> bool {
    let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, EncodeOptions::text()).ok();
    ids(one).is_some_and(|ids_of_one| ids(other) == Some(ids_of_one))
}

/// The tokeniser of a Hugging Face directory as GGUF's metadata, or `None` if it has none. `vocab_size` is the model's: it may
/// have rows for tokens that there are not.
///
/// # Errors
/// If GGUF has no such kind of tokeniser.
pub fn to_gguf(directory: &HfDirectory, vocab_size: usize) -> Result<Option<GgufTokenizer>, TextError> {
    let unreadable = |error: yantra_formats::FormatError| TextError::Checkpoint(error.to_string());
    let Some(bytes) = directory.read_tokenizer().map_err(unreadable)? else { return Ok(None) };
    let json: Json = serde_json::from_slice(&bytes).map_err(|error| TextError::TokenizerJson(error.to_string()))?;
    let config = directory.tokenizer_config().map(|config| config.value());
    let eos = directory.eos_token_ids().map_err(unreadable)?;
    let original = crate::hf::load(&bytes, config, &eos).map(Tokenizer::new)?;
    let mut metadata = vocabulary(&json, vocab_size)?;
    special(&mut metadata, &json, &original, config)?;
    if let Some(template) = directory.chat_template("default") {
        metadata.set("tokenizer.chat_template", template.into());
    }
    let agreeing = |metadata: &Metadata| {
        let made = Tokenizer::from_gguf(metadata).ok().filter(|made| agree(&original, made, PROBE))?;
        let only_composed = !agree(&original, &made, DECOMPOSED);
        Some(GgufTokenizer { metadata: metadata.clone(), only_composed })
    };
    if metadata.get_str("tokenizer.ggml.model")? == "gpt2" {
        for name in PRE_TOKENIZERS {
            metadata.set("tokenizer.ggml.pre", name.into());
            if let Some(found) = agreeing(&metadata) {
                return Ok(Some(found));
            }
        }
        return Err(refused("no pre-tokeniser of GGUF cuts text as this tokenizer.json does"));
    }
    for add_space_prefix in [true, false] {
        metadata.set("tokenizer.ggml.add_space_prefix", add_space_prefix.into());
        if let Some(found) = agreeing(&metadata) {
            return Ok(Some(found));
        }
    }
    Err(refused("GGUF's SentencePiece tokeniser does not make the same tokens as this tokenizer.json"))
}

/// Tokens with their types, and merges or scores.
fn vocabulary(json: &Json, vocab_size: usize) -> Result<Metadata, TextError> {
    let model = &json["model"];
    let vocab = model["vocab"].as_object().filter(|_| model["type"].as_str().is_none_or(|kind| kind == "BPE"));
    let vocab = vocab.ok_or_else(|| {
        refused(format!("a tokenizer.json of the kind {} can not be a GGUF tokeniser, only BPE", model["type"]))
    })?;
    let added = json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = vocab.values().chain(added.iter().map(|token| &token["id"])).filter_map(Json::as_u64);
    let count = ids.max().map_or(0, |id| id as usize + 1).max(vocab_size);
    if count > vocab.len() + added.len() + vocab_size.max(1 << 16) {
        return Err(TextError::TokenizerJson(format!("there are {} tokens, with ids up to {count}", vocab.len())));
    }
    let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; count];
    let byte_fallback = model["byte_fallback"].as_bool().unwrap_or(false);
    let mut put = |id: Option<u64>, text: &str, kind: i32| {
        if let Some(id) = id.map(|id| id as usize).filter(|id| *id < count) {
            text.clone_into(&mut tokens[id]);
            types[id] = kind;
        }
    };
    for (text, id) in vocab {
        let is_byte = byte_fallback && crate::vocab::byte_of(text).is_some();
        put(id.as_u64(), text, if is_byte { BYTE } else { NORMAL });
    }
    for token in added {
        let special = token["special"].as_bool().unwrap_or(false);
        let text = token["content"].as_str().unwrap_or_default();
        let unknown = byte_fallback && model["unk_token"].as_str() == Some(text);
        let kind = if unknown {
            UNKNOWN
        } else if special {
            CONTROL
        } else {
            USER_DEFINED
        };
        put(token["id"].as_u64(), text, kind);
    }
    let merges = merges_of(model)?;
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", if byte_fallback { "llama" } else { "gpt2" }.into());
    metadata.set("tokenizer.ggml.pre", "default".into());
    if byte_fallback {
        // A token's score is how early the merge comes that makes it.
        let mut scores = vec![0.0; count];
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            let id = vocab.get(&format!("{left}{right}")).and_then(Json::as_u64).map(|id| id as usize);
            if let Some(score) = id.and_then(|id| scores.get_mut(id)) {
                *score = -(rank as f32 + 1.0);
            }
        }
        metadata.set("tokenizer.ggml.scores", scores.into());
    } else {
        let merges: Vec<String> = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        metadata.set("tokenizer.ggml.merges", merges.into());
    }
    metadata.set("tokenizer.ggml.tokens", tokens.into());
    metadata.set("tokenizer.ggml.token_type", types.into());
    Ok(metadata)
}

/// Merges, which are texts with a space or pairs.
fn merges_of(model: &Json) -> Result<Vec<(String, String)>, TextError> {
    let merges = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    };
    let wrong = || TextError::TokenizerJson("a merge is neither a text with a space nor a pair".to_owned());
    merges.iter().map(|merge| pair(merge).ok_or_else(wrong)).collect()
}

/// Which tokens begin and end sequences, and whether they are added.
fn special(metadata: &mut Metadata, json: &Json, original: &Tokenizer, config: Option<&Json>) -> Result<(), TextError> {
    let mut set = |name: &str, id: Option<u32>| {
        if let Some(id) = id {
            metadata.set(format!("tokenizer.ggml.{name}_token_id"), id.into());
        }
    };
    set("bos", original.bos());
    set("eos", original.eos());
    let named = |key: &str| {
        let token = config?.get(key)?;
        original.token_id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    set("padding", named("pad_token"));
    set("unknown", named("unk_token").or_else(|| original.token_id(json["model"]["unk_token"].as_str()?)));
    // What else ends a generation, as GGUF has only a few names for it.
    let others = original.eos_ids().iter().copied().find(|id| Some(*id) != original.eos());
    set("eot", others);
    let around = original.encode("", EncodeOptions::text())?;
    let ends = original.eos().is_some() && around.last() == original.eos().as_ref();
    metadata.set("tokenizer.ggml.add_bos_token", original.adds_bos().into());
    metadata.set("tokenizer.ggml.add_eos_token", ends.into());
    Ok(())
}

/// The tokeniser of a GGUF file as files of a Hugging Face directory: their names and bytes.
///
/// # Errors
/// If it is of a kind that `tokenizer.json` can not be made for.
pub fn to_hugging_face(metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>, TextError> {
    let original = Tokenizer::from_gguf(metadata)?;
    let tokens = metadata.get_strings("tokenizer.ggml.tokens")?;
    let types = metadata.find::<Vec<i32>>("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    let mut json = match metadata.get_str("tokenizer.ggml.model")? {
        "gpt2" => byte_level(metadata, tokens)?,
        "llama" => sentence_piece(metadata, &original, tokens)?,
        other => return Err(refused(format!("a tokeniser of the kind '{other}' can not become a tokenizer.json"))),
    };
    let added =
        tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
    let added = added.map(|(id, (text, kind))| {
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": kind != USER_DEFINED,
        })
    });
    json["added_tokens"] = added.collect();
    json["post_processor"] = template_of(&original)?;
    let config = config_of(metadata, &original)?;
    let bytes = json.to_string().into_bytes();
    let made = crate::hf::load(&bytes, Some(&config), original.eos_ids()).map(Tokenizer::new)?;
    if !agree(&original, &made, PROBE) {
        return Err(refused("the tokenizer.json made of this tokeniser does not make the same tokens"));
    }
    let mut files = vec![
        ("tokenizer.json".to_owned(), bytes),
        ("tokenizer_config.json".to_owned(), format!("{config:#}\n").into_bytes()),
        (
            "generation_config.json".to_owned(),
            format!("{:#}\n", json!({"eos_token_id": original.eos_ids()})).into_bytes(),
        ),
    ];
    if let Some(Value::String(template)) = metadata.value("tokenizer.chat_template") {
        files.push(("chat_template.jinja".to_owned(), template.clone().into_bytes()));
    }
    Ok(files)
}

/// Ids by text; of two tokens of one text the first counts.
fn ids_of(tokens: &[String]) -> Map<String, Json> {
    let mut vocab = Map::new();
    for (id, text) in tokens.iter().enumerate() {
        vocab.entry(text.clone()).or_insert_with(|| id.into());
    }
    vocab
}

fn byte_level(metadata: &Metadata, tokens: &[String]) -> Result<Json, TextError> {
    let pre = metadata.find::<&str>("tokenizer.ggml.pre")?.unwrap_or("default");
    let spec = spec(pre)?;
    if !spec.byte_level {
        return Err(refused(format!("the pre-tokeniser '{pre}' can not be written as tokenizer.json")));
    }
    let split =
        |regex: String| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let stage = |stage: &StageSpec| match stage {
        StageSpec::Split(regex) => Ok((*regex).to_owned()),
        StageSpec::Words(regex) => Ok(format!(r"{regex}|\s+(?!\S)|\s+")),
        StageSpec::DigitsFromRight(DigitRuns::All) => Ok(r"\d{1,3}(?=(?:\d{3})*(?!\d))".to_owned()),
        StageSpec::DigitsFromRight(DigitRuns::AtWordEnd) => Ok(r"\d{1,3}(?=(?:\d{3})*\b)".to_owned()),
        StageSpec::WordsCascade(..) => {
            Err(refused(format!("the pre-tokeniser '{pre}' can not be written as tokenizer.json")))
        }
    };
    let stages = spec.stages.iter().map(|found| stage(found).map(|regex| split(regex.replace(r"\u{", r"\x{"))));
    let mut steps = stages.collect::<Result<Vec<_>, _>>()?;
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    steps.push(byte_level.clone());
    let merges = metadata.get_strings("tokenizer.ggml.merges")?.iter();
    let merges: Vec<Json> = merges.filter_map(|merge| merge.split_once(' ')).map(|(a, b)| json!([a, b])).collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": spec.ignore_merges,
            "vocab": ids_of(tokens), "merges": merges,
        },
    }))
}

fn sentence_piece(metadata: &Metadata, original: &Tokenizer, tokens: &[String]) -> Result<Json, TextError> {
    let scores = metadata.get::<Vec<f32>>("tokenizer.ggml.scores")?;
    let unknown = metadata.find::<u32>("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let to_mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = if original.adds_space_prefix() {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, to_mark]})
    } else {
        to_mark
    };
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if original.adds_space_prefix() {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Sequence", "decoders": steps},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": tokens.get(unknown as usize), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids_of(tokens), "merges": merges_by_score(tokens, &scores),
        },
    }))
}

/// Every pair of tokens that is a token, best first, as SentencePiece joins them.
fn merges_by_score(tokens: &[String], scores: &[f32]) -> Vec<Json> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().rev().map(|(id, text)| (text.as_str(), id)).collect();
    let mut merges: Vec<(f32, usize, usize)> = Vec::new();
    for (text, score) in tokens.iter().zip(scores) {
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let pairs = splits.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        merges.extend(pairs.map(|(left, right)| (*score, left, right)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    merges.into_iter().map(|(_, left, right)| json!([tokens[left], tokens[right]])).collect()
}

/// What is put around a text.
fn template_of(original: &Tokenizer) -> Result<Json, TextError> {
    let around = original.encode("", EncodeOptions::text())?;
    if around.is_empty() {
        return Ok(Json::Null);
    }
    let (before, after) = around.split_at(usize::from(original.adds_bos()));
    let name = |id: &u32| original.token_text(*id).unwrap_or_default();
    let token = |id: &u32| json!({"SpecialToken": {"id": name(id), "type_id": 0}});
    let text = |sequence: &str| json!({"Sequence": {"id": sequence, "type_id": 0}});
    let put = |sequences: &[&str]| -> Vec<Json> {
        let parts = sequences.iter().flat_map(|sequence| {
            before.iter().map(token).chain([text(sequence)]).chain(after.iter().map(token)).collect::<Vec<_>>()
        });
        parts.collect()
    };
    let special = |id: &u32| (name(id), json!({"id": name(id), "ids": [id], "tokens": [name(id)]}));
    let specials: Map<String, Json> = around.iter().map(special).collect();
    Ok(json!({
        "type": "TemplateProcessing", "single": put(&["A"]), "pair": put(&["A", "B"]), "special_tokens": specials,
    }))
}

fn config_of(metadata: &Metadata, original: &Tokenizer) -> Result<Json, TextError> {
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk")] {
        let id = metadata.find::<u32>(&format!("tokenizer.ggml.{ours}_token_id"))?;
        let id = match ours {
            "bos" => original.bos(),
            "eos" => original.eos(),
            _ => id,
        };
        if let Some(text) = id.and_then(|id| original.token_text(id)) {
            config.insert(format!("{theirs}_token"), text.into());
        }
    }
    Ok(Json::Object(config))
}
