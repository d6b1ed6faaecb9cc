"""The examples of docs/reference/formats.md are run, and its tables are compared with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fourfold.formats import builtin
from fourfold.formats.base import Artifact, Model
from fourfold.formats.codecs import CODECS
from fourfold.formats.handler import load as load_handler
from fourfold.formats.registry import _REPOSITORIES
from tests.formats import models

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text()
EXAMPLES = re.findall(r"```http\n(.*?)\n(.*?)\n→ (\d+) (.*?)\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return models.load(models.linear(tmp_path_factory.mktemp("weights")))


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_example_answers_as_written(model: Model, example: tuple[str, ...]) -> None:
    types, body, status, content_type, answer = example
    sent, _, accept = types.partition("; accept=")
    reply = model.invoke([models.call(body, sent, accept)])[0]
    assert (str(reply.status), reply.content_type) == (status, content_type)
    assert reply.body.decode().rstrip("\n") == answer


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10


def test_every_format_and_content_type_is_listed() -> None:
    for known in builtin.FORMATS:
        row = re.search(rf"^\| `{known.name}` \|.*$", PAGE, re.MULTILINE)
        assert row, known.name
        assert ("**yes**" in row[0]) == known.executes_code
        assert f"fourfold[{known.extra}]" in row[0] if known.extra else "fourfold[" not in row[0]
    for codec in CODECS:
        row = re.search(rf"^\| {codec.name} \|.*$", PAGE, re.MULTILINE)
        assert row, codec.name
        assert all(f"`{media}`" in row[0] for media in codec.types)


def test_images_in_the_page_are_known() -> None:
    section = PAGE[PAGE.index("SageMaker's images are known") : PAGE.index("An image that is not known")]
    listed = re.findall(r"`([a-z-]+)`(?: and `([a-z-]+)`)? \(((?:[a-z-]+,?\s*)+)\)", section)
    assert len(listed) == 8
    for *repositories, formats in listed:
        for repository in filter(None, repositories):
            assert ", ".join(_REPOSITORIES[repository]) == formats


def test_the_handler_example_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n# code/inference.py\n(.*?)```", PAGE, re.DOTALL)
    assert code
    (tmp_path / "inference.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "inference", raising=False)
    handler = load_handler(Artifact(tmp_path))
    assert list(handler.stream(models.call('["ann", "bob"]'))) == [b"hello ann\n", b"hello bob\n"]


def test_every_extra_that_a_message_names_can_be_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = {known.extra for known in builtin.FORMATS if known.extra} | {"huggingface"}
    assert named <= project["optional-dependencies"].keys()
