"""A W&B server in this process: as much of one as a run believes in, and as bad as it is told to be."""

import http.server
import json
import re
import threading

from web import running

KEY = "0123456789" * 4


class Server(http.server.ThreadingHTTPServer):
    """Answers like W&B until something goes wrong.

    ``fault``: None; ``silent``, which takes requests and answers none; or a status such as 401, with nothing in it.
    ``after``: how many requests are answered well before that. ``asked``: (path, operation, variables) of each request.
    ``known``: the ids of runs that have begun.
    """

    daemon_threads = True

    def handle_error(self, *unused):  # whoever asked has gone
        pass

    def __init__(self, fault, after):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.after, self.asked, self.known = fault, after, [], set()
        self.release = threading.Event()

    @property
    def environment(self):
        """What makes a run use this server."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}", "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def variables(self, operation):
        """Of each request of a GraphQL operation."""
        return [variables for _, name, variables in self.asked if name == operation]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = json.loads(body) if self.path.endswith("graphql") else {}
        named = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
        operation, variables = named and named[1], asked.get("variables") or {}
        server.asked.append((self.path, operation, variables if operation else body))
        if server.fault and len(server.asked) > server.after:
            if server.fault == "silent":
                server.release.wait(120)
                self.close_connection = True
                return
            self.reply(server.fault, {})
        else:
            data = self.data(operation, variables)
            self.reply(200, {"data": data} if data is not None else {"data": None, "errors": [{"message": "unknown"}]})

    def data(self, operation, variables):
        """What W&B would answer, as far as a run reads it."""
        entity = {"id": "e", "name": "lab"}
        if operation in ("Viewer", "GetDefaultEntity"):
            return {"viewer": {"id": "v", "username": "lab", "flags": "{}", "teams": {"edges": []}} | {"entity": "lab"}}
        if operation == "RunResumeStatus":
            known = variables["name"] in self.server.known
            bucket = {"id": "b", "name": variables["name"], "historyLineCount": 7, "eventsLineCount": 0} | {
                "logLineCount": 0,
                "historyTail": '["{\\"_step\\": 6, \\"_runtime\\": 3}"]',
                "eventsTail": "[]",
                "summaryMetrics": "{}",
                "config": "{}",
                "wandbConfig": "{}",
            }
            return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": bucket if known else None}}
        if operation == "UpsertBucket":
            self.server.known.add(variables["name"])
            project = {"id": "p", "name": variables["project"] or "p", "entity": entity}
            bucket = {"id": "b", "name": variables["name"], "displayName": variables["displayName"] or "n"} | {
                "config": "{}",
                "historyLineCount": 0,
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            url = self.server.environment["WANDB_BASE_URL"]
            files = [{"name": name, "uploadUrl": f"{url}/storage/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "UpsertView2":
            return {"upsertView": {"view": {"id": "w", "name": variables["name"]}, "inserted": True}}
        if operation == "ArtifactType":
            return {"project": None}
        return None if operation else {}

    def reply(self, code, content):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *unused):
        pass


def serving(fault=None, after=0):
    """A server while the block runs."""
    return running(Server(fault, after))
