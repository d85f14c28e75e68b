//! The pre-tokenisers GGUF files name, as data.
//!
//! Names are those of llama.cpp's registry; expressions are those of the models' own `tokenizer.json`. Where several
//! steps follow each other, each cuts what the one before left.

use super::{DigitRuns, StageSpec};
use crate::TextError;
use StageSpec::{DigitsFromRight, Split, Words, WordsCascade};

/// A pre-tokeniser and what else its name implies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PreTokenizerSpec {
    pub(crate) stages: &'static [StageSpec],
    /// A word that is a token is that token, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// Whether a begin-of-sequence token is added when the file does not say.
    pub(crate) add_bos: bool,
    /// Byte-level (GPT-2's alphabet), or SentencePiece-like (`▁` for a space, `<0xNN>` for bytes).
    pub(crate) byte_level: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+";
const KIMI_K2: &str = r"\p{Han}+|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{Han}]*[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{Han}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{Han}]+[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{Han}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"##;
const SPARK: &str =
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]"##;
/// The cased letters of the model's own list (Latin, Greek, Cyrillic, …), in verbose mode so that it fits a page.
const DEEPSEEK_LETTERS: &str = r"(?x)\s?[
    A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}
    \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}
    \u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}
    \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}
    \u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}
    \u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}
    \u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}
    \u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}
    \u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}
    \u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}
    \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}
    \u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}
    \u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}
    \u{1e900}-\u{1e943}
]+";
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+";
const DEEPSEEK_CJK: &str = r"[一-龥\u{800}-一가-\u{d7ff}]+";
const CJK_KANA: &str = r"[一-龥\u{3040}-ゟ゠-ヿ]+";
const YOUTU_ASIAN: &str = r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-ゟ゠-ヿ]+";
const AFMOE_ASIAN: &str = r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const JAIS2_SPACES: &[usize] = &[512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

const PLAIN: PreTokenizerSpec =
    PreTokenizerSpec { stages: &[Words(GPT2)], ignore_merges: false, add_bos: false, byte_level: true };

const fn stages(stages: &'static [StageSpec]) -> PreTokenizerSpec {
    PreTokenizerSpec { stages, ..PLAIN }
}

const fn ignoring_merges(spec: PreTokenizerSpec) -> PreTokenizerSpec {
    PreTokenizerSpec { ignore_merges: true, ..spec }
}

const fn with_bos(spec: PreTokenizerSpec) -> PreTokenizerSpec {
    PreTokenizerSpec { add_bos: true, ..spec }
}

const LLAMA3_LIKE: PreTokenizerSpec = with_bos(ignoring_merges(stages(&[Words(LLAMA3)])));
const DIGITS_GPT2: PreTokenizerSpec = stages(&[Split(r"\p{N}"), Words(GPT2)]);
const DEEPSEEK3_LIKE: PreTokenizerSpec = stages(&[Split(r"\p{N}{1,3}"), Split(CJK_KANA), Words(DEEPSEEK3)]);
const RAW_LINES: PreTokenizerSpec =
    PreTokenizerSpec { stages: &[Split(r"[^\n]+|\n+")], ignore_merges: false, add_bos: false, byte_level: false };

/// Every pre-tokeniser, under each of its names.
const REGISTRY: &[(&[&str], PreTokenizerSpec)] = &[
    (&["default"], stages(&[Split(r"[\p{P}$+<=>^~|]+"), Words(GPT2), Split(r"\p{N}+"), Split("[0-9][0-9][0-9]")])),
    (
        &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        LLAMA3_LIKE,
    ),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], stages(&[Words(LLAMA3)])),
    (&["jais-2"], stages(&[WordsCascade(LLAMA3, JAIS2_SPACES)])),
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        PLAIN,
    ),
    (&["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"], DIGITS_GPT2),
    (&["falcon"], stages(&[Split(r"[\p{P}$+<=>^~|`]+"), Words(GPT2), Split("[0-9][0-9][0-9]")])),
    (
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "megrez", "grok-2"],
        stages(&[Words(QWEN2)]),
    ),
    (&["qwen35"], stages(&[Words(QWEN35)])),
    (&["ufakzeka"], stages(&[Words(UFAKZEKA)])),
    (&["laguna"], stages(&[Split(r"[^\n]+|\n+"), Words(QWEN2)])),
    (&["minicpm5"], ignoring_merges(stages(&[Split(r"\p{N}{1,3}"), Words(MINICPM5)]))),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], stages(&[Words(BAILING)])),
    (&["seed-coder"], stages(&[Words(SEED_CODER)])),
    (&["exaone-moe"], stages(&[Words(EXAONE_MOE)])),
    (&["tekken"], with_bos(ignoring_merges(stages(&[Words(TEKKEN)])))),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], stages(&[Words(GPT4O)])),
    (&["granite-embed-multi-97m"], ignoring_merges(stages(&[Words(GPT4O)]))),
    (&["tiny_aya", "cohere2moe"], stages(&[DigitsFromRight(DigitRuns::AtWordEnd), Words(GPT4O)])),
    (&["kimi-k2"], stages(&[Words(KIMI_K2)])),
    (&["youtu"], ignoring_merges(stages(&[Split(YOUTU_ASIAN), Words(YOUTU)]))),
    (&["superbpe"], stages(&[Split(r"\p{N}+"), DigitsFromRight(DigitRuns::All)])),
    (
        &["deepseek-llm"],
        stages(&[
            Split(r"[\r\n]"),
            Split(DEEPSEEK_LETTERS),
            Split(DEEPSEEK_PUNCTUATION),
            Split(r"\s+$"),
            Split(DEEPSEEK_CJK),
            Split(r"\p{N}+"),
        ]),
    ),
    (
        &["deepseek-coder"],
        stages(&[Split(r"[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(DEEPSEEK_CJK), Split(r"\p{N}")]),
    ),
    (&["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"], DEEPSEEK3_LIKE),
    (&["spark2_5"], stages(&[Split(r"\p{N}{1,3}"), Split(CJK_KANA), Words(SPARK), Split(r"\p{N}")])),
    (&["afmoe"], stages(&[DigitsFromRight(DigitRuns::All), Split(AFMOE_ASIAN), Words(DEEPSEEK3)])),
    (&["poro-chat", "bloom", "gpt3-finnish"], stages(&[Split(BLOOM)])),
    (&["viking"], stages(&[Split(BLOOM), Split(r"\p{N}")])),
    (
        &["chameleon"],
        with_bos(stages(&[
            Split(r"<sentinel:[0-9]+>"),
            Split(r"IMGIMG[A-I]{1,4}Z"),
            Split(r"[\t\n]|    |  "),
            Split(r"\p{N}"),
            Split(r"[\p{P}!-/:-@\[-`{-~]"),
            Words(GPT2),
        ])),
    ),
    (&["gemma4", "gemma-4", "granite-embed-multi-311m"], with_bos(RAW_LINES)),
    (&["sarvam-moe"], RAW_LINES),
];

/// The pre-tokeniser of that name.
pub(crate) fn spec(name: &str) -> Result<PreTokenizerSpec, TextError> {
    REGISTRY
        .iter()
        .find(|(names, _)| names.contains(&name))
        .map(|&(_, spec)| spec)
        .ok_or_else(|| TextError::UnknownPreTokenizer { name: name.to_owned() })
}

/// Every name known.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().flat_map(|(names, _)| names.iter().copied())
}
