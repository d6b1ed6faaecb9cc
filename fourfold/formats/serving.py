"""Handlers of SageMaker's TensorFlow image: `code/inference.py` around TensorFlow Serving, which here is the format.

    body = input_handler(data, context)                           what TensorFlow Serving's REST API takes
    answer, content_type = output_handler(response, context)      `response` is what it answered

or both in one, `handler(data, context)`, which calls `context.rest_uri` itself. `data` is read like a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Lock, Thread
from types import ModuleType
from typing import Any, NamedTuple

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Artifact, Model, failed
from fourfold.records import Call, Reply

_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


class Context(NamedTuple):
    """One call, as TensorFlow's image shows it to a handler."""

    model_name: str
    model_version: str | None
    method: str
    rest_uri: str
    grpc_port: None
    channel: None
    custom_attributes: str | None
    request_content_type: str
    accept_header: str
    content_length: int


@dataclass(frozen=True)
class Response:
    """TensorFlow Serving's answer, with the members of a `requests.Response` that handlers read."""

    status_code: int
    content: bytes
    headers: dict[str, str]

    @property
    def ok(self) -> bool:
        return self.status_code < 400

    @cached_property
    def text(self) -> str:
        return self.content.decode("utf-8")

    def json(self) -> Any:
        return json.loads(self.content)

    def raise_for_status(self) -> None:
        if not self.ok:
            raise RuntimeError(f"{self.status_code} from the model: {self.text}")


class ServingHandler(Model):
    """A handler of TensorFlow's image around a SavedModel."""

    def __init__(self, module: ModuleType, saved: Model) -> None:
        self._saved = saved
        self._lock = Lock()
        self._uri = ""
        whole = getattr(module, "handler", None)
        if whole is not None:
            self._uri = self._serve()
            self._answer: Callable[[BytesIO, Context], tuple[Any, str]] = whole
        else:
            self._before, self._after = module.input_handler, module.output_handler
            self._answer = self._around

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        return [self._invoke(call) for call in calls]

    def predict(self, body: bytes) -> Response:
        """What TensorFlow Serving answers to a body of its REST API."""
        with self._lock:
            reply = self._saved.invoke([Call(0, body)])[0]
        if reply.status == 200:
            return Response(200, reply.body, {"content-type": "application/json"})
        error = json.dumps({"error": reply.body.decode("utf-8", "replace")}).encode()
        return Response(reply.status, error, {"content-type": "application/json"})

    def _invoke(self, call: Call) -> Reply:
        try:
            body, content_type = self._answer(BytesIO(call.body), self._context(call))
            return Reply(call.id, body.encode() if isinstance(body, str) else bytes(body), content_type)
        except Exception as error:  # the artifact's own code may raise anything
            return failed(call, str(error) or type(error).__name__, error)

    def _around(self, data: BytesIO, context: Context) -> tuple[Any, str]:
        body = self._before(data, context)
        answer: tuple[Any, str] = self._after(self.predict(body.encode() if isinstance(body, str) else body), context)
        return answer

    def _context(self, call: Call) -> Context:
        attributes = (call.headers or {}).get(_ATTRIBUTES)
        named = dict(found.split("=", 1) for found in re.findall(r"(tfs-[a-z\-]+=[^,]+)", attributes or ""))
        name, method = named.get("tfs-model-name", "model"), named.get("tfs-method", "predict")
        accept = call.accept or "application/json"
        uri = f"{self._uri}/v1/models/{name}:{method}"
        version = named.get("tfs-model-version")
        return Context(name, version, method, uri, None, None, attributes, call.content_type, accept, len(call.body))

    def _serve(self) -> str:
        """TensorFlow Serving's REST API on a free port of this machine; its address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _rest(self))
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"


def _rest(handler: ServingHandler) -> type[BaseHTTPRequestHandler]:
    class Rest(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer = handler.predict(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """The log is the handler's."""

    return Rest


def load(module: ModuleType, artifact: Artifact) -> ServingHandler:
    """The handler around the artifact's SavedModel.

    Raises:
        ModelLoadError: half of the pair, no SavedModel, or TensorFlow is not installed.
    """
    if not hasattr(module, "handler"):
        lacking = [name for name in ("input_handler", "output_handler") if not hasattr(module, name)]
        if lacking:
            raise ModelLoadError(f"{module.__name__}.py has no {lacking[0]}: write both, or handler(data, context).")
    return ServingHandler(module, registry.get("tensorflow").load(artifact))
