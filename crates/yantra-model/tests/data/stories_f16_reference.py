"""Writes stories_f16_logits.json: logits of stories260K's f16 weights, forward in float64 by Hugging Face transformers.

Usage: python stories_f16_reference.py STORIES_DIRECTORY > stories_f16_logits.json
(the ids are those of reference_logits.json there, which holds the logits of the f32 weights)
"""
import json
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

directory = Path(sys.argv[1])
ids = json.loads((directory / "reference_logits.json").read_text())["ids"]
model = LlamaForCausalLM.from_pretrained(directory / "hf_f16").to(torch.float64)
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0, -1]
json.dump({"ids": ids, "logits": [round(float(x), 7) for x in logits]}, sys.stdout)
