"""First on the PYTHONPATH of what `fourfold run` starts: sends STS calls to the server that AWS_ENDPOINT_URL names.

The sagemaker SDKs make their STS clients with the public address, which AWS_ENDPOINT_URL does not override; everything
else of boto3 follows that variable by itself. Python imports this module when it starts; it must not need Fourfold,
since the script's interpreter may be another, and not import botocore before the script does.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

_STS = re.compile(r"https://sts(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?/?")


class _Patched(Loader):
    """Loads `botocore.session` as usual, then puts the redirection around its `create_client`."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        create_client = module.Session.create_client

        def redirected(self: Any, *arguments: Any, **options: Any) -> Any:
            if _STS.fullmatch(options.get("endpoint_url") or ""):
                options["endpoint_url"] = os.environ["AWS_ENDPOINT_URL"]
            return create_client(self, *arguments, **options)

        module.Session.create_client = redirected


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "botocore.session":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patched(spec.loader)
        return spec


def _import_the_hidden_one() -> None:
    """The machine's own sitecustomize, which this one stands before."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if "AWS_ENDPOINT_URL" in os.environ:
    sys.meta_path.insert(0, _Finder())
_import_the_hidden_one()
