"""Records what Python's Jinja makes of real chat templates: the expectations of `real_templates.rs`.

Run from anywhere: `python3 record.py [--show PATH CASE]`. Needs Jinja2 and the reference templates beside the checkout.
The environment is the one that Hugging Face's `apply_chat_template` builds. Of real templates only hashes are kept: they and their
output stay where they are. `data/small.json` holds our own small templates; their renderings are kept whole (null = refused). `--show` prints one rendering, to look at a difference.
"""

import hashlib
import json
import pathlib
import sys
from datetime import datetime, timezone

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATES = HERE.parents[3] / "shared" / "templates"
NOW = datetime.fromtimestamp(1753606305, timezone.utc)
BOS, EOS = "<s>", "</s>"


class GenerationTag(Extension):
    """Renders the body of `{% generation %}` through a call block, as the reference does."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def sources():
    for path in sorted(TEMPLATES.rglob("*.jinja")):
        yield path.relative_to(TEMPLATES).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((TEMPLATES / "mistralrs").glob("*.json")):
        yield path.relative_to(TEMPLATES).as_posix(), json.loads(path.read_text(encoding="utf-8"))["chat_template"]


def render(source, case):
    values = {
        "messages": case["messages"],
        "tools": case.get("tools"),
        "documents": None,
        "add_generation_prompt": case["add_generation_prompt"],
        "bos_token": BOS,
        "eos_token": EOS,
    }
    values.update(case.get("variables", {}))
    return environment().from_string(source).render(**values)


def sha256(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def main():
    cases = json.loads((HERE / "data" / "conversations.json").read_text(encoding="utf-8"))
    if sys.argv[1:2] == ["--show"]:
        case = next(case for case in cases if case["name"] == sys.argv[3])
        sys.stdout.write(render(dict(sources())[sys.argv[2]], case))
        return
    recorded = {}
    for name, source in sources():
        results = {}
        for case in cases:
            try:
                results[case["name"]] = sha256(render(source, case))
            except Exception:
                results[case["name"]] = "refuses"
        recorded[name] = {"source": sha256(source), "renderings": results}
    small = []
    for source in json.loads((HERE / "data" / "small.json").read_text(encoding="utf-8")):
        try:
            expected = render(source, cases[1])
        except Exception:
            expected = None
        small.append({"template": source, "expected": expected})
    text = json.dumps({"jinja2": jinja2.__version__, "small": small, "templates": recorded}, indent=1, sort_keys=True)
    (HERE / "data" / "recorded.json").write_text(text + "\n", encoding="utf-8")


main()
