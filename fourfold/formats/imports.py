"""What a handler imports, read from its source without running it, so that a zygote can import it before it forks.

Only modules that are known to bear a fork are taken, and those that FOURFOLD_IMPORTS in the model's Environment names:
a module that starts a thread when it is imported may hold a lock in the moment of the fork, for ever.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from fourfold.formats.builtin import code_folder

FORKABLE = frozenset(
    (
        "PIL", "boto3", "botocore", "bs4", "catboost", "imblearn", "jinja2", "joblib", "lightgbm", "lxml", "matplotlib",
        "msgpack", "msgspec", "networkx", "nltk", "orjson", "pandas", "pyarrow", "pydantic", "requests", "scipy",
        "sentencepiece", "shap", "skimage", "sklearn", "skops", "spacy", "statsmodels", "torch", "xgboost", "yaml",
    )
)  # fmt: skip
"""Packages that start no thread of their own when they are imported, or only one that knows of forks."""


def handler_imports(folder: Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Modules that the handler of an artifact imports at its top and a zygote may import for it, sorted.

    A handler that cannot be read or parsed has none: loading it says what is wrong.
    """
    more = [name.strip() for name in environment.get("FOURFOLD_IMPORTS", "").split(",") if name.strip()]
    code = code_folder(folder, environment)
    try:
        tree = ast.parse((code / environment.get("SAGEMAKER_PROGRAM", "inference.py")).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return tuple(sorted(more))
    found = {name for name in _imported(tree.body) if _root(name) in FORKABLE and not _is_own(code, _root(name))}
    return tuple(sorted({*found, *more}))


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Try(body=inner):
                yield from _imported(inner)


def _root(name: str) -> str:
    return name.partition(".")[0]


def _is_own(code: Path, name: str) -> bool:
    """Does the artifact bring a module of this name?"""
    return (code / f"{name}.py").exists() or (code / name).exists()
