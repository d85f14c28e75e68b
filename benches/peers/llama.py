"""Measures llama.cpp or ik_llama.cpp through the C API that their Python packages bring: one process, one shape.

Prints one JSON line: `{"tokens_per_second": [...], "version": "..."}` for `--phase prompt` and `--phase generate`, or
`{"batched_nll": ..., "single_nll": ...}` for `--phase check`: the mean negative log-likelihood of a text, computed in one
batch and in steps of eight tokens. Where the two differ, the batched path computes something wrong.

`cargo xtask peers` runs it; it needs nothing but the package it measures and NumPy.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import random
import time

PACKAGES = {"llama_cpp": "llama-cpp-python", "ik_llama_cpp": "ik-llama-cpp-python"}
CHECK_TOKENS = 128
CHECK_STEP = 8
CHECK_TEXT = (
    b"The old lighthouse stood at the end of the long stone pier, and every evening the keeper climbed its stairs to "
    b"light the lamp. Ships that came from far away saw it first as a star low over the water, then as a steady light "
    b"that told them where the rocks were and where the harbour was. In winter the storms threw the sea over the pier, "
    b"and on such nights the keeper stayed in the tower until morning, reading by the light of a small candle. He had "
    b"been a sailor once, and he knew how it felt to search the dark for a sign of land. When he grew old he taught his "
    b"granddaughter how to trim the wick, how to polish the lenses, and how to write down each ship that passed."
)


class Llama:
    """A loaded model and a context of `sequences` sequences with room for `tokens` tokens each."""

    def __init__(self, package, path, threads, sequences, tokens):
        self.is_ik = package == "ik_llama_cpp"
        self.api = api = importlib.import_module("ik_llama_cpp._ctypes_api" if self.is_ik else package)
        if not self.is_ik:
            self.log = api.llama_log_callback(lambda *_: None)
            api.llama_log_set(self.log, None)
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"cannot load {path}")
        params = api.llama_context_default_params()
        # Without a unified cache each sequence gets an equal share, in whole units of 256.
        params.n_ctx = sequences * -(-tokens // 256) * 256
        params.n_batch = max(2048, sequences)
        params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        if self.is_ik:
            params.flash_attn = True
        else:
            params.flash_attn_type = 1
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("cannot make a context")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.random = random.Random(0)

    def forget(self, start):
        """Drops what every sequence has from position `start` on."""
        if self.is_ik:
            remove = self.api._lib.llama_kv_cache_seq_rm
            remove.argtypes, remove.restype = [ctypes.c_void_p] + [ctypes.c_int32] * 3, ctypes.c_bool
            ok = remove(self.context, -1, start, -1)
        else:
            ok = self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.context), -1, start, -1)
        if not ok:
            raise SystemExit("cannot drop tokens from the cache")

    def synchronize(self):
        if self.is_ik:
            finish = self.api._lib.llama_synchronize
            finish.argtypes, finish.restype = [ctypes.c_void_p], None
            finish(self.context)
        else:
            self.api.llama_synchronize(self.context)

    def decode(self, rows, all_logits=False):
        """One call with `rows` of (token, position, sequence, wants logits)."""
        batch = self.api.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = logits or all_logits
        status = self.api.llama_decode(self.context, batch)
        self.synchronize()
        self.api.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"llama_decode gave {status}")

    def token(self):
        return self.random.randrange(self.vocabulary)

    def read(self, sequence, start, count):
        """Reads `count` tokens of a sequence, 512 at a time; the last one gives logits."""
        for first in range(start, start + count, 512):
            end = min(first + 512, start + count)
            self.decode([(self.token(), p, sequence, p + 1 == start + count) for p in range(first, end)])

    def tokenize(self, text):
        tokens = (ctypes.c_int32 * len(text))()
        source = self.model if self.is_ik else self.api.llama_model_get_vocab(self.model)
        count = self.api.llama_tokenize(source, text, len(text), tokens, len(text), True, False)
        return list(tokens[:count])

    def log_likelihoods(self, tokens, step):
        """Of each token but the first, given those before it, computed `step` tokens at a time."""
        import numpy

        self.forget(0)
        found = []
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            self.decode([(token, start + i, 0, True) for i, token in enumerate(part)])
            for i in range(len(part)):
                if start + i + 1 < len(tokens):
                    row = self.api.llama_get_logits_ith(self.context, i)
                    logits = numpy.ctypeslib.as_array(row, (self.vocabulary,)).astype(numpy.float64)
                    peak = logits.max()
                    found.append(logits[tokens[start + i + 1]] - peak - numpy.log(numpy.exp(logits - peak).sum()))
        return found


def check(llama):
    tokens = llama.tokenize(CHECK_TEXT)[:CHECK_TOKENS]
    mean = lambda values: -sum(values) / len(values)
    batched, single = (mean(llama.log_likelihoods(tokens, step)) for step in (len(tokens), CHECK_STEP))
    return {"batched_nll": batched, "single_nll": single}


def measure(llama, args):
    """Tokens per second of each run; the first, unmeasured one warms up."""
    speeds = []
    for run in range(args.repeat + 1):
        llama.forget(args.depth if run else 0)
        if run == 0:
            for sequence in range(args.batch):
                llama.read(sequence, 0, args.depth)
        started = time.perf_counter()
        if args.phase == "prompt":
            for sequence in range(args.batch):
                llama.read(sequence, args.depth, args.tokens)
        else:
            for position in range(args.depth, args.depth + args.tokens):
                llama.decode([(llama.token(), position, sequence, True) for sequence in range(args.batch)])
        if run:
            speeds.append(args.batch * args.tokens / (time.perf_counter() - started))
    return {"tokens_per_second": speeds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", choices=PACKAGES, required=True)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--phase", choices=["prompt", "generate", "check"], required=True)
    parser.add_argument("--tokens", type=int, default=CHECK_TOKENS)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    llama = Llama(args.package, args.model, args.threads, args.batch, args.depth + args.tokens)
    result = check(llama) if args.phase == "check" else measure(llama, args)
    print(json.dumps(result | {"version": importlib.metadata.version(PACKAGES[args.package])}))


if __name__ == "__main__":
    main()
