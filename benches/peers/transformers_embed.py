"""Measures Hugging Face transformers on texts of a fixed length: mean pooling over the last layer, normalised.

Prints one JSON line: `{"sentences_per_second": [...], "version": "..."}`. `cargo xtask peers` runs it.
"""

import argparse
import json
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="directory of the model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--texts", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_pretrained(args.model, dtype=getattr(torch, args.dtype), local_files_only=True)
    model.eval()
    ids = torch.randint(0, model.config.vocab_size, (args.texts, args.tokens))
    speeds = []
    with torch.inference_mode():
        for run in range(args.repeat + 1):
            started = time.perf_counter()
            for part in ids.split(args.batch):
                mask = torch.ones_like(part)
                hidden = model(input_ids=part, attention_mask=mask).last_hidden_state
                torch.nn.functional.normalize(hidden.mean(dim=1).float())
            if run:
                speeds.append(args.texts / (time.perf_counter() - started))
    version = f"{transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"sentences_per_second": speeds, "version": version}))


if __name__ == "__main__":
    main()
