"""Loads and drops an adapter again and again beside 32 clients that stream from other adapters, and tells how long that takes
and what becomes of the gaps between the clients' tokens.

Usage: python loading.py URL FOLDER     (of random_adapters.py; the server has them as a00, a01, …, allow_model_changes = true
and model_dirs = [FOLDER])
"""

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

CLIENTS, LOADS = 32, 40


def post(path, body):
    request = urllib.request.Request(sys.argv[1] + path, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request)


def client(number, adapters, gaps):
    model, prompt = f"a{number % adapters:02}", f"Tell me about the number {number}"
    while True:
        body = {"model": model, "prompt": prompt, "max_tokens": 200, "stream": True, "ignore_eos": True}
        last = None
        for line in post("/v1/completions", body):
            if line.startswith(b"data:"):
                now = time.perf_counter()
                if last:
                    gaps.append((now, now - last))
                last = now


def summary(name, values):
    values = sorted(1000 * value for value in values)
    at = lambda share: values[int(share * (len(values) - 1))]
    print(f"{name}: {len(values)}, p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, max {values[-1]:.1f} ms")


def main():
    adapters, gaps, loads = sorted(Path(sys.argv[2]).iterdir()), [], []
    for number in range(CLIENTS):
        threading.Thread(target=client, args=(number, len(adapters), gaps), daemon=True).start()
    time.sleep(8)
    for number in range(LOADS):
        start = time.perf_counter()
        post("/v1/load_lora_adapter", {"lora_name": "new", "lora_path": str(adapters[number % len(adapters)])}).read()
        loads.append((start, time.perf_counter()))
        post("/v1/unload_lora_adapter", {"lora_name": "new"}).read()
        time.sleep(0.25)
    beside = lambda gap: any(start <= gap[0] <= end + 0.05 for start, end in loads)
    summary("loads", [end - start for start, end in loads])
    summary("gaps beside a load", [gap[1] for gap in gaps if beside(gap)])
    summary("other gaps", [gap[1] for gap in gaps if not beside(gap)])
    os._exit(0)


if __name__ == "__main__":
    main()
