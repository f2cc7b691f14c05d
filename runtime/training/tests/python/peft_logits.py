"""Prints the logits that Transformers with PEFT gives for adapters of ours, as one JSON object.

Reads on its standard input a list of cases: {"name", "base": directory, "adapter": directory, "ids": [token, ...]}. Complains about a tensor of the adapter that
PEFT finds no place for, or a place that the adapter has no tensor for.
"""

import json
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
# PEFT only warns of weights that it could not place.
warnings.filterwarnings("error", message=".*(missing|unexpected).*adapter keys.*")
told = {}
for case in json.load(sys.stdin):
    base = AutoModelForCausalLM.from_pretrained(case["base"], dtype=torch.float32)
    base.eval()
    ids = torch.tensor([case["ids"]])
    with torch.no_grad():
        before = base(ids).logits[0]
        model = PeftModel.from_pretrained(base, case["adapter"])
        model.eval()
        after = model(ids).logits[0]
    told[case["name"]] = {"before": before.tolist(), "after": after.tolist()}
print(json.dumps(told))
