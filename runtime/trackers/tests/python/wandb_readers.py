"""Runs W&B's own tools, unmodified, on offline runs and prints what they made of them, as one JSON object.

`wandb leet inspect` reads a run; `wandb sync` uploads the runs to a server on this machine that takes whatever it is given and remembers it: as far as can be gone
without an account.

Usage: wandb_readers.py RUN_DIRECTORY...
"""

import gzip
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading


class Server(http.server.ThreadingHTTPServer):
    """What `wandb sync` needs of a W&B server."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        # By run: the settings, the lines of history, the last summary, how it ended.
        self.runs = {}

    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def run(self, name):
        return self.runs.setdefault(name, {"upserts": [], "history": [], "summary": None, "exit_code": None})


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        self.body()
        self.answer({})

    def do_POST(self):
        message = json.loads(self.body())
        if self.path == "/graphql":
            self.answer({"data": self.graphql(message["query"], message.get("variables") or {})})
            return
        run = self.server.run(self.path.split("/")[-2])
        for name, part in message.get("files", {}).items():
            # JSON has no names for what is no finite number; W&B uses Python's.
            lines = [json.loads(line, parse_constant=str) for line in part["content"]]
            if name == "wandb-history.jsonl":
                run["history"] += lines
            elif name == "wandb-summary.json":
                run["summary"] = lines[-1]
        if message.get("complete"):
            run["exit_code"] = message.get("exitcode")
        self.answer({})

    def graphql(self, query, variables):
        if "upsertBucket" in query:
            run = self.server.run(variables["name"])
            run["upserts"].append({key: value for key, value in variables.items() if value is not None})
            project = {"id": "1", "name": variables.get("project") or "uncategorized", "entity": {"id": "1", "name": "someone"}}
            bucket = {"id": "1", "name": variables["name"], "displayName": variables.get("displayName"), "config": "{}"}
            bucket |= {"project": project, "historyLineCount": len(run["history"])}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.address()}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "1", "username": "someone", "entity": "someone", "flags": "{}"}}
        return {}


def main(directories):
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tool = os.path.join(os.path.dirname(sys.executable), "wandb")
    with tempfile.TemporaryDirectory() as home:
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= {
            "HOME": home,
            "WANDB_DIR": home,
            "WANDB_BASE_URL": server.address(),
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ERROR_REPORTING": "false",
        }

        def wandb(*arguments):
            ran = subprocess.run([tool, *arguments], capture_output=True, text=True, env=environment, timeout=240, cwd=home)
            if ran.returncode != 0:
                sys.exit(f"wandb {' '.join(arguments)}: {ran.stdout}{ran.stderr}")
            return ran.stdout + ran.stderr

        told = {"inspected": {}}
        for directory in directories:
            summary = json.loads(wandb("leet", "inspect", "--summary", "--json", directory))
            told["inspected"][os.path.basename(directory)] = summary
        told["synced"] = wandb("sync", *directories)
        told["runs"] = server.runs
    print(json.dumps(told))


main([os.path.abspath(directory) for directory in sys.argv[1:]])
