"""The unmodified PyPI client of Ollama against the daemon whose address OLLAMA_HOST names. Run by tests/e2e/client_of_ollama.rs.

Arguments: the directory of the toy model. Prints one line per exchange that held; any exception is the failure.
"""

import hashlib
import os
import sys

import ollama

toy = sys.argv[1]
client = ollama.Client(host=os.environ["OLLAMA_HOST"])


def told(what):
    print(what, flush=True)


def blob(path):
    with open(path, "rb") as file:
        expected = "sha256:" + hashlib.sha256(file.read()).hexdigest()
    digest = client.create_blob(path)
    assert digest == expected, (digest, expected)
    return digest


base = os.path.join(toy, "base")
files = {name: blob(os.path.join(base, name)) for name in sorted(os.listdir(base))}
adapter = os.path.join(toy, "pirate")
adapters = {name: blob(os.path.join(adapter, name)) for name in sorted(os.listdir(adapter))}
told("blobs")

steps = [
    line.status
    for line in client.create(
        model="quick",
        files=files,
        adapters=adapters,
        system="Talk about witness.",
        parameters={"temperature": 0, "num_ctx": 1024},
        license="Apache-2.0 OR MIT",
        stream=True,
    )
]
assert steps[-1] == "success", steps
told("create")

names = [model.model for model in client.list().models]
assert names == ["quick:latest"], names
listed = client.list().models[0]
assert listed.size > 0 and len(listed.digest) == 64 and listed.modified_at is not None, listed
assert listed.details.family == "llama", listed
told("list")

shown = client.show("quick")
assert shown.details.format == "safetensors" and shown.modelinfo["general.architecture"] == "llama", shown
assert "completion" in shown.capabilities and "<|assistant|>" in shown.template, shown
told("show")

question = [{"role": "user", "content": "What is a blob?"}]
answer = "A blob be a chest with its own mark burned in the lid. Swap one coin, and the mark gives ye away!"
whole = client.chat(model="quick", messages=question)
assert whole.message.role == "assistant" and whole.message.content == answer, whole
assert whole.done and whole.done_reason == "stop" and whole.eval_count > 0 and whole.total_duration > 0, whole
told("chat")

pieces = list(client.chat(model="quick", messages=question, stream=True))
assert "".join(piece.message.content for piece in pieces) == answer, pieces
assert len(pieces) > 2 and pieces[-1].done and not pieces[0].done, pieces
told("chat stream")

generated = client.generate(model="quick", prompt="What is a blob?", options={"num_predict": 3})
assert generated.response == "A blob be" and generated.done_reason == "length" and generated.eval_count == 3, generated
told("generate")

streamed = list(client.generate(model="quick", prompt="thanks", stream=True))
assert "".join(piece.response for piece in streamed) == "Fair winds to ye!", streamed
told("generate stream")

running = client.ps().models
assert [model.model for model in running] == ["quick:latest"] and running[0].expires_at is not None, running
told("ps")

assert client.copy("quick", "other").status == "success"
assert sorted(model.model for model in client.list().models) == ["other:latest", "quick:latest"]
told("copy")

assert client.delete("quick").status == "success"
assert [model.model for model in client.list().models] == ["other:latest"]
told("delete")

try:
    client.chat(model="quick", messages=question)
except ollama.ResponseError as error:
    assert error.status_code == 404 and "quick" in error.error, error
else:
    raise AssertionError("a model that was deleted answered")
told("a missing model is a 404")
