"""Holds adapters in one batch to models that peft merged them into: the same greedy texts, token by token.

Usage: python merged.py YANTRA BASE ADAPTER…     (peft, torch and transformers from PyPI)

BASE is a Hugging Face directory in float32, so that merging rounds nothing away: `yantra convert MODEL BASE --type f32`. All
adapters answer all prompts at once, twice over; each merged model then answers alone.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peft
import torch
import transformers

PORT = 8477
TOKENS = 48
PROMPTS = ["Gravity is", "The capital of France is", "Once upon a time", "To cook rice, first"]


class Server:
    def __init__(self, yantra, model, *arguments):
        command = [yantra, "serve", model, "--name", f"base={model}", "--port", str(PORT), "--kv-dtype=f32", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready") and self
            except OSError:
                assert self.process.poll() is None, "the server ended"

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def ask(model, prompt):
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 1}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    logprobs = json.load(urllib.request.urlopen(request))["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["token_logprobs"]


def main(yantra, base, *adapters):
    names = [Path(adapter).name for adapter in adapters]
    jobs = [(name, prompt) for prompt in PROMPTS for name in names] * 2
    loras = [f"--lora={name}={path}" for name, path in zip(names, adapters)]
    with Server(yantra, base, *loras), ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda job: ask(*job), jobs))
        plain = {prompt: ask("base", prompt) for prompt in PROMPTS}
    half = len(jobs) // 2
    assert answers[:half] == answers[half:], "an adapter's answer depends on the others in the batch"
    together = dict(zip(jobs, answers))
    same = changed = 0
    worst = 0.0
    for name, path in zip(names, adapters):
        with tempfile.TemporaryDirectory() as merged:
            model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            peft.PeftModel.from_pretrained(model, path).merge_and_unload().save_pretrained(merged)
            for file in Path(base).glob("*token*"):
                shutil.copy(file, merged)
            with Server(yantra, merged):
                for prompt in PROMPTS:
                    (tokens, logprobs), (expected, others) = together[name, prompt], ask("base", prompt)
                    same += tokens == expected
                    changed += tokens != plain[prompt][0]
                    pairs = zip(tokens, expected, logprobs, others)
                    for token, other, logprob, expected_logprob in pairs:
                        if token != other:
                            break
                        worst = max(worst, abs(logprob - expected_logprob))
    count = len(names) * len(PROMPTS)
    print(f"{same} of {count} texts equal the merged model's, {changed} differ from the base's;")
    print(f"largest difference of a log-probability: {worst:.2e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
