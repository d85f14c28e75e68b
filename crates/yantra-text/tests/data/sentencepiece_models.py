"""Trains two tiny SentencePiece models and records what SentencePiece itself makes of some texts.

Usage: python sentencepiece_models.py TEXT_FILE > sentencepiece_models.json   (needs `sentencepiece` and `protobuf`)
"""

import json
import sys
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

# Full-width letters to ASCII, a ligature, a composed accent, tabs and newlines to spaces.
RULES = ["FF21\t41", "FF22\t42", "FB01\t66 69", "65 301\tE9", "9\t20", "A\t20", "3000\t20", "2026\t2E 2E 2E"]

TEXTS = [
    "Alice was beginning to get very tired.",
    "  two  spaces   and\ttabs\n\nlines  ",
    "ＡＢ ﬁnd cafe\u0301 … wait",
    "नमस्ते 👩‍👩‍👧 unknown",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
    "x<sep>y <sep> z",
    "",
    " ",
    "(the)-the,the.THE",
]

MODELS = {
    "t5": dict(model_type="unigram", byte_fallback=False, remove_extra_whitespaces=True, user_defined_symbols=["<sep>"]),
    "llama": dict(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False, user_defined_symbols=[]),
}


def train(text_file, folder, name, options):
    rules = Path(folder, "rules.tsv")
    rules.write_text("\n".join(RULES if name == "t5" else []) + "\n")
    prefix = str(Path(folder, name))
    normalisation = {"normalization_rule_tsv": str(rules)} if name == "t5" else {"normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        input=text_file, model_prefix=prefix, vocab_size=600, character_coverage=1.0, minloglevel=2, **options, **normalisation
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(Path(prefix + ".model").read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    return {
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "types": [piece.type for piece in proto.pieces],
        "charsmap": proto.normalizer_spec.precompiled_charsmap.hex(),
        "remove_extra_whitespaces": proto.normalizer_spec.remove_extra_whitespaces,
        "add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
        "ids": [processor.encode(text) for text in TEXTS],
    }


def main():
    with tempfile.TemporaryDirectory() as folder:
        models = {name: train(sys.argv[1], folder, name, options) for name, options in MODELS.items()}
    json.dump({"texts": TEXTS, "models": models}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
