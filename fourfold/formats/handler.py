"""Python handlers: `code/inference.py` with the functions of SageMaker's inference toolkit.

    model = model_fn(model_dir)                                   once, when the worker starts
    answer = transform_fn(model, data, content_type, accept)      for each call, or
    answer = output_fn(predict_fn(input_fn(data, content_type), model), accept)

Also `pre_model_fn(model_dir)` before and `model_warmup_fn(model_dir, model)` after `model_fn`. Each function may take
one more argument, a `toolkit.Context`. JSON and CSV bodies arrive as str, others as bytes. What is left out has the
default of the model's image (`images`); handlers of TensorFlow's image are of another kind (`serving`). Beyond the
toolkit: functions may be `async def`, so that calls overlap, and `predict_fn`, `output_fn` or `transform_fn` may be
generators, whose every yield is one part of a streamed answer.

`FORKABLE = True` in the module says that its process may be forked once the model is loaded (no thread, no connection,
no GPU): a serverless cold start then need not load it. The process shares what it had, so it must reseed generators
of its own in the call.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import sys
import tarfile
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats import images, toolkit
from fourfold.formats.base import Artifact, AsyncModel, Model, Unanswered, failed, status_of
from fourfold.formats.builtin import CONTAINER_DIR, code_folder
from fourfold.formats.toolkit import Context
from fourfold.records import Call, Opening, Reply

_STEPS = ("input_fn", "predict_fn", "output_fn")
_SERVING = ("handler", "input_handler", "output_handler")


class Handler:
    """A handler's functions around its loaded model. `answer` is the whole way of one call, whatever the functions are.

    Raises:
        ModelLoadError: functions that do not go together, or one of them failed while the model was loaded.
    """

    def __init__(self, module: ModuleType, artifact: Artifact) -> None:
        self._model_dir = str(artifact.path)
        self._accept = artifact.environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "application/json")
        self._transform = getattr(module, "transform_fn", None)
        steps = {name: getattr(module, name, None) for name in _STEPS}
        if self._transform and any(steps.values()):
            raise ModelLoadError(
                f"{module.__name__}.py has transform_fn and {', '.join(name for name in _STEPS if steps[name])}: "
                "transform_fn does the work of all three, so keep either it or them."
            )
        defaults = images.defaults(artifact.environment, predicts=steps["predict_fn"] is not None)
        self._default_model = defaults.model_fn
        self._input = steps["input_fn"] or defaults.input_fn
        self._predict = steps["predict_fn"] or defaults.predict_fn
        self._output = steps["output_fn"] or defaults.output_fn
        functions = [function for function in (self._transform, *steps.values()) if function]
        self.overlaps = any(map(_is_async, functions))
        self.forkable = bool(getattr(module, "FORKABLE", False))
        self._model = self._load(module)

    async def answer(self, call: Call, context: Context) -> Any:
        """What the last function returned: a body, a body with its content type, or an iterator of parts."""
        content_type, accept = call.content_type, call.accept
        if accept in ("", "*/*"):
            accept = self._accept
        data: Any = call.body
        if content_type.partition(";")[0].strip().lower() in toolkit.TEXT:
            data = bytes(data).decode("utf-8")
        if self._transform:
            return await self._call(self._transform, (self._model, data, content_type, accept), context)
        value = await self._call(self._input, (data, content_type), context)
        prediction = await self._call(self._predict, (value, self._model), context)
        if _is_stream(prediction):
            return prediction if self._output is toolkit.default_output_fn else self._each(prediction, accept, context)
        return await self._call(self._output, (prediction, accept), context)

    def context(self, call: Call) -> Context:
        headers = {"content-type": call.content_type, "accept": call.accept or self._accept}
        return Context(self._model_dir, headers | (call.headers or {}))

    def reply(self, call: Call, context: Context, result: Any) -> Reply:
        """The reply for a result that is whole."""
        content_type = ""
        if isinstance(result, tuple):
            result, content_type = result
        content_type = self._type(call, context, content_type)
        status = 200 if 200 <= context.response_status < 300 else context.response_status
        return Reply(call.id, body(result), content_type, status, context.response_headers or None)

    def opening(self, call: Call, context: Context, part: bytes) -> Opening:
        """The first part of a stream."""
        return Opening(part, self._type(call, context), context.response_headers or None)

    def _type(self, call: Call, context: Context, said: str = "") -> str:
        """The answer's content type: what the handler set or said, else what the client accepts first."""
        accepted = call.accept if call.accept not in ("", "*/*") else self._accept
        return context.response_content_type or (said or accepted).partition(",")[0].partition(";q=")[0].strip()

    def _load(self, module: ModuleType) -> Any:
        context = Context(self._model_dir, {})
        arguments: tuple[Any, ...] = (self._model_dir,)
        model = None
        for name in ("pre_model_fn", "model_fn", "model_warmup_fn"):
            function = getattr(module, name, self._default_model if name == "model_fn" else None)
            if function is None:
                continue
            calling = self._call(function, arguments, context)
            try:
                result = asyncio.run(calling) if _is_async(function) else drive(calling)
            except ModelLoadError:
                raise  # an image's own model_fn has said it all
            except Exception as error:  # the artifact's own code may raise anything
                raise ModelLoadError(_told(name, error)) from error
            if name == "model_fn":
                model = result
                arguments = (self._model_dir, model)
        return model

    async def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], context: Context) -> Any:
        """Call a handler's function, with the context where it has a place for it, as the toolkit does."""
        places = _places(function)
        if places == len(arguments) + 1:
            arguments = (*arguments, context)
        elif places != len(arguments):
            raise TypeError(
                f"{function.__name__} takes {places} arguments; it is called with {len(arguments)}, or with one more, "
                "the context."
            )
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result

    def _each(self, stream: Any, accept: str, context: Context) -> Any:
        """A streamed prediction, each part through the handler's own output_fn."""
        if isinstance(stream, Iterator) and not _is_async(self._output):
            return (_body(drive(self._call(self._output, (part, accept), context)), context) for part in stream)
        return self._each_overlapping(stream, accept, context)

    async def _each_overlapping(self, stream: Any, accept: str, context: Context) -> AsyncIterator[Any]:
        async for part in _as_async(stream):
            yield _body(await self._call(self._output, (part, accept), context), context)


class SyncHandler(Model):
    """Plain functions: one call at a time."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.forkable = handler.forkable

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        return [self._invoke(call) for call in calls]

    def _invoke(self, call: Call) -> Reply:
        context = self._handler.context(call)
        try:
            result = drive(self._handler.answer(call, context))
            if _is_stream(result):
                result = b"".join(map(part_of, result))
            return self._handler.reply(call, context, result)
        except Exception as error:  # the artifact's own code may raise anything
            return failure(call, error)

    def stream(self, call: Call) -> Iterator[bytes]:
        context = self._handler.context(call)
        result = drive(self._handler.answer(call, context))
        if _is_stream(result):
            with closing(result):
                parts = map(part_of, result)
                for first in parts:
                    yield self._handler.opening(call, context, first)
                    yield from parts
        else:
            yield _whole(self._handler.reply(call, context, result))


class AsyncHandler(AsyncModel):
    """Functions written with `async def`: calls overlap."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def ainvoke(self, call: Call) -> Reply:
        context = self._handler.context(call)
        try:
            result = await self._handler.answer(call, context)
            if _is_stream(result):
                result = b"".join([part_of(part) async for part in _as_async(result)])
            return self._handler.reply(call, context, result)
        except Exception as error:
            return failure(call, error)

    async def astream(self, call: Call) -> AsyncIterator[bytes]:
        context = self._handler.context(call)
        result = await self._handler.answer(call, context)
        if not _is_stream(result):
            yield _whole(self._handler.reply(call, context, result))
            return
        opened = False
        try:
            async for part in _as_async(result):
                yield part_of(part) if opened else self._handler.opening(call, context, part_of(part))
                opened = True
        finally:
            await _close(result)


def load(artifact: Artifact) -> Model:
    """Import the handler and load its model.

    Raises:
        ModelLoadError: no such file, a module that is not installed, or an error in the handler's own code.
    """
    use_threads(artifact.threads)
    module = _import(_program(artifact))
    if artifact.environment.get("FOURFOLD_TOOLKIT") == "tensorflow" and any(hasattr(module, name) for name in _SERVING):
        from fourfold.formats import serving  # an HTTP server's modules, which no other handler needs

        return serving.load(module, artifact)
    handler = Handler(module, artifact)
    return AsyncHandler(handler) if handler.overlaps else SyncHandler(handler)


def use_threads(number: int) -> None:
    """Let PyTorch have threads where it was imported before the fork, when OMP_NUM_THREADS was 1."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(number)


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("a plain function returned something that must be awaited; write the function with async def")


def body(value: Any) -> bytes:
    """A function's result as bytes; what is neither str nor bytes becomes JSON."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return b"" if value is None else toolkit.to_json(value).encode()


def part_of(value: Any) -> bytes:
    """One yield as bytes; what is neither str nor bytes becomes one line of JSON."""
    return body(value) if isinstance(value, (str, bytes, bytearray, memoryview)) else body(value) + b"\n"


def failure(call: Call, error: Exception) -> Reply:
    """An exception as a reply: 500, or its own `status_code` where it has one."""
    message = str(getattr(error, "message", None) or error) or type(error).__name__
    return failed(call, message, error, status_of(error))


def _program(artifact: Artifact) -> Path:
    """The handler's file: SAGEMAKER_PROGRAM in SAGEMAKER_SUBMIT_DIRECTORY, by default `inference.py` in `code/`."""
    folder = _code_folder(artifact)
    program = folder / artifact.environment.get("SAGEMAKER_PROGRAM", "inference.py")
    if not program.is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.py"))) or "no Python file"
        raise ModelLoadError(
            f"The handler {program.name} is not in {folder.name}/, which has {there}. Set SAGEMAKER_PROGRAM in the "
            "model's Environment to the file's name."
        )
    return program


def _code_folder(artifact: Artifact) -> Path:
    submitted = artifact.environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "").removeprefix("file://")
    if submitted and not submitted.startswith(CONTAINER_DIR):
        if Path(submitted).is_dir():
            return Path(submitted)
        if submitted.endswith(".tar.gz") and Path(submitted).is_file():
            folder = Path(tempfile.mkdtemp(prefix="fourfold-code-"))
            with tarfile.open(submitted) as archive:
                archive.extractall(folder, filter="data")
            return folder
    return code_folder(artifact.path, artifact.environment)


def _import(program: Path) -> ModuleType:
    """Import the file as a module of its own name, its folder first on the path for what it imports in turn."""
    sys.dont_write_bytecode = True  # an artifact's folder is shared and stays as it was unpacked
    sys.path.insert(0, str(program.parent))
    os.environ.setdefault("SM_MODEL_DIR", str(program.parent.parent))
    spec = importlib.util.spec_from_file_location(program.stem, program)
    if spec is None or spec.loader is None:
        raise ModelLoadError(f"The handler {program.name} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(program.stem, module)  # so that classes defined in it can be unpickled
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"The handler {program.name} imports {error.name!r}, which is not installed here: "
            f"pip install {(error.name or '').partition('.')[0]}, or name it in code/requirements.txt."
        ) from error
    except Exception as error:  # its top level may raise anything
        raise ModelLoadError(_told(program.name, error)) from error
    return module


def _told(where: str, error: Exception) -> str:
    """The error with the line of the handler's own code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{where} failed: {type(error).__name__}: {error}{place}"


@cache
def _places(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _is_stream(result: Any) -> bool:
    return inspect.isgenerator(result) or hasattr(result, "__anext__")


async def _as_async(stream: Any) -> AsyncIterator[Any]:
    if hasattr(stream, "__anext__"):
        async for part in stream:
            yield part
    else:
        for part in stream:
            yield part


async def _close(stream: Any) -> None:
    """Run a generator's finally blocks now, not when it is collected."""
    if hasattr(stream, "aclose"):
        await stream.aclose()
    elif hasattr(stream, "close"):
        stream.close()


def _body(result: Any, context: Context) -> Any:
    """What output_fn made of a part, where it may have told the content type besides."""
    if isinstance(result, tuple):
        result, context.response_content_type = result
    return result


def _whole(reply: Reply) -> Opening:
    if reply.status != 200:
        raise Unanswered(reply.body, reply.status)
    return Opening(reply.body, reply.content_type, reply.headers)
