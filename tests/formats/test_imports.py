"""What a handler imports is found in its source, and only what bears a fork is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourfold.formats.imports import handler_imports


def handler(folder: Path, text: str, name: str = "inference.py") -> Path:
    (folder / "code").mkdir()
    (folder / "code" / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        ("import json, sklearn\n", ("sklearn",)),
        (
            "from sklearn.ensemble import RandomForestClassifier as R\nimport pandas as pd\n",
            ("pandas", "sklearn.ensemble"),
        ),
        ("try:\n    import lightgbm\nexcept ImportError:\n    lightgbm = None\n", ("lightgbm",)),
        ("from . import pandas\nfrom .sklearn import x\n", ()),
        ("import tensorflow\nimport my_threads\n", ()),
        ("def model_fn(d):\n    import torch\n", ()),
        ("import pandas\nthis is no Python\n", ()),
        ("import pandas\n\0", ()),
    ],
)
def test_imports_at_the_top(tmp_path, text, imports):
    assert handler_imports(handler(tmp_path, text), {}) == imports


def test_a_module_that_the_artifact_brings_is_its_own(tmp_path):
    folder = handler(tmp_path, "import yaml\nimport requests\n")
    (folder / "code" / "yaml.py").write_text("")
    (folder / "code" / "requests").mkdir()
    assert handler_imports(folder, {}) == ()


def test_the_environment_names_the_program_and_further_modules(tmp_path):
    folder = handler(tmp_path, "import joblib\n", "serve.py")
    environment = {"SAGEMAKER_PROGRAM": "serve.py", "FOURFOLD_IMPORTS": "my_safe_module, other"}
    assert handler_imports(folder, environment) == ("joblib", "my_safe_module", "other")
    assert handler_imports(folder, {}) == ()
