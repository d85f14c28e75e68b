"""Cuts texts into words with the expressions of the models' own `tokenizer.json`, by Python's `regex` module.

Usage: python split_words.py TEXTS_SEPARATED_AS_IN_GGML_VOCAB > split_words.json   (needs only `regex`)

An implementation independent of the Rust one: backtracking, with real look-ahead. Output: {"texts": […],
"words": {PRE_TOKENIZER: [[word, …] for each text]}}.
"""

import json
import sys

import regex

SPACES = r"|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + SPACES
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + SPACES
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = CASED % (CONTRACTION, CONTRACTION) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + SPACES
TEKKEN = CASED % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + SPACES
HAN_UPPER, HAN_LOWER = (f"[{kind}--\\p{{Han}}]" for kind in (UPPER, LOWER))
KIMI = (
    r"\p{Han}+|"
    + CASED.replace(UPPER, HAN_UPPER).replace(LOWER, HAN_LOWER) % (CONTRACTION, CONTRACTION)
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    + SPACES
)
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+" + SPACES
)
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

EXPRESSIONS = {
    "gpt-2": [GPT2],
    "mpt": [GPT2],
    "olmo": [GPT2],
    "llama-bpe": [LLAMA3],
    "dbrx": [LLAMA3],
    "glm4": [LLAMA3],
    "jais-2": [
        LLAMA3.replace(SPACES, "|" + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)))
        + r"|\s{1,2}(?!\S)|\s{1}"
    ],
    "qwen2": [QWEN2],
    "stablelm2": [QWEN2],
    "qwen35": [
        QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
    ],
    "smollm": [r"\p{N}", GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    "command-r": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3],
    "tekken": [TEKKEN],
    "gpt-4o": [GPT4O],
    "llama4": [GPT4O],
    "kimi-k2": [KIMI],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "bailingmoe": [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]" + SPACES
    ],
    "seed-coder": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+" + SPACES
    ],
    "exaone-moe": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]" + SPACES
    ],
    "bloom": [r" ?[^(\s|.,!?…。，、।۔،)]+"],
    "gemma4": [r"[^\n]+|[\n]+"],
}

EXTRA = [
    "1234567890 12 1,234 x1234 1234x ½ ⅷ ५६७८ 1\u0660\u06612",
    "a  b   c\t\td \n  e\r\n\r\n  f \u00a0\u2003 g",
    "I'M we'Ve DON'T it's 'sup l'été HelloWorld XMLHttpRequest camelCaseABC",
    "中文English混排テスト한국어ไทย हिन्दी क्षत्रिय שלום Ωmega Ÿ",
    "#include <stdio.h>\n\tint main(){return 0;} // 注释\n\n\n",
    "/path/to\n//x\n- a_b-c!!??\n\n  ",
    " " * 700 + "x" + " " * 9,
]


def split(expressions, text):
    words = [text] if text else []
    for expression in expressions:
        finer = []
        for word in words:
            done = 0
            for match in regex.finditer(expression, word, flags=regex.V1):
                for start, end in ((done, match.start()), match.span()):
                    if start < end:
                        finer.append(word[start:end])
                done = match.end()
            if done < len(word):
                finer.append(word[done:])
        words = finer
    return words


def main():
    with open(sys.argv[1], encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")[:-1]
    texts += EXTRA
    words = {name: [split(expressions, text) for text in texts] for name, expressions in EXPRESSIONS.items()}
    json.dump({"texts": texts, "words": words}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
