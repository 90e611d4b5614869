"""Who may import whom, as docs/architecture.md says, checked on every file."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = ("mlm", "kernels", "beam_pipelines")
HEAVY = {
  "jax",
  "flax",
  "optax",
  "orbax",
  "tensorstore",
  "tensorflow",
  "tensorflow_text",
  "seqio",
  "apache_beam",
  "gin",
  "t5x",
  "gcld3",
  "fastwarc",
  "resiliparse",
  "sentencepiece",
  "py3langid",
  "jinja2",
  "matplotlib",
  "pyarrow",
  "zstandard",
  "array_record",
  "pycld2",
  "icu4py",
  "ftfy",
  "regex",
  "xxhash",
  "tensorboardX",
}
_TRAINING_SIDE = {"mlm.sharding", "kernels"}
_ALL_BELOW = {
  "mlm.languages",
  "mlm.text",
  "mlm.tokenizers",
  "mlm.data",
  "mlm.sharding",
  "mlm.models",
  "mlm.checkpoints",
  "mlm.training",
  "mlm.decoding",
  "mlm.instructions",
  "kernels",
}

# Folder or file -> (project prefixes it may import, heavy libraries it may).
# A folder may always import itself. The longest matching name counts.
RULES = {
  "mlm": (set(), set()),
  "mlm.languages": (set(), set()),
  "mlm.text": ({"mlm.languages"}, set()),
  "kernels": (set(), {"jax"}),
  "beam_pipelines": (
    {"mlm.languages", "mlm.text"},
    {"apache_beam", "fastwarc", "resiliparse", "gcld3", "pyarrow"}
    | {"pycld2", "icu4py", "ftfy", "regex", "xxhash"},
  ),
  "beam_pipelines.formats": (
    {"mlm.text"},
    {"pyarrow", "zstandard", "array_record", "tensorflow"},
  ),
  "mlm.tokenizers": ({"mlm.languages", "mlm.text"}, {"sentencepiece"}),
  "mlm.tokenizers.vocabularies": (
    {"mlm.tokenizers"},
    {"seqio", "tensorflow"},
  ),
  "mlm.data": (
    {"mlm.languages", "mlm.text", "mlm.tokenizers"},
    {"array_record"},
  ),
  **{
    f"mlm.data.{name}": (
      {"mlm.languages", "mlm.text", "mlm.tokenizers"},
      {"seqio", "tensorflow", "array_record"},
    )
    for name in ("tasks", "mixtures", "features", "loader", "cache")
  },
  "mlm.data.prompts": (
    {"mlm.languages", "mlm.tokenizers", "mlm.data.schedule"},
    set(),
  ),
  "mlm.data.sampling": ({"mlm.languages", "mlm.tokenizers"}, set()),
  "mlm.sharding": (set(), {"jax"}),
  "mlm.models": ({"mlm.sharding", "kernels"}, {"jax", "flax"}),
  "mlm.training": (_TRAINING_SIDE, {"jax", "optax", "tensorboardX"}),
  "mlm.checkpoints": (
    _TRAINING_SIDE | {"mlm.models"},
    {"jax", "orbax", "tensorstore"},
  ),
  "mlm.decoding": (_TRAINING_SIDE | {"mlm.models"}, {"jax"}),
  "mlm.instructions": ({"mlm.languages", "mlm.text"}, {"jinja2"}),
  "mlm.alignment": (_ALL_BELOW, {"jax"}),
  "mlm.evaluation": (
    _ALL_BELOW | {"mlm.alignment"},
    {"jax", "py3langid", "jinja2", "matplotlib"},
  ),
  "mlm.planning": (
    _ALL_BELOW | {"mlm.alignment", "mlm.evaluation"},
    {"jax", "jinja2", "matplotlib"},
  ),
  "mlm.jobs": (
    _ALL_BELOW
    | {"mlm.alignment", "mlm.evaluation", "mlm.planning"}
    | {"beam_pipelines.langid"},
    {"jax"},
  ),
  # Read by gin files of t5x alone: nothing imports it.
  "mlm.t5x": (
    {"mlm.languages", "mlm.tokenizers", "mlm.data"}
    | {"mlm.models", "mlm.checkpoints"},
    {"jax", "flax"},
  ),
  "mlm.run": ({"mlm.jobs"}, {"gin"}),
}


def _module(path: pathlib.Path, root: pathlib.Path) -> str:
  parts = path.relative_to(root).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: pathlib.Path) -> set[str]:
  """Dotted names of everything a file imports, inside functions too."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      names.update(f"{module}.{alias.name}" for alias in node.names)
  return names


def _is_within(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(f"{prefix}.")


def violations(root: pathlib.Path) -> list[str]:
  """All imports below `root` that the rules do not allow."""
  found = []
  for package in PROJECT:
    for path in sorted((root / package).rglob("*.py")):
      module = _module(path, root)
      rule = max((r for r in RULES if _is_within(module, r)), key=len)
      may_project, may_heavy = RULES[rule]
      for name in sorted(_imports(path)):
        if name.startswith("."):  # would slip past the rules below
          found.append(f"{module} imports {name}, which is relative")
        elif name.split(".")[0] in PROJECT:
          folder = ".".join(module.split(".")[:2])
          own = folder if package == "mlm" and "." in module else package
          allowed = {own, *may_project}
          if rule in ("mlm.data.prompts", "mlm.data.sampling"):
            allowed = may_project
          if not any(_is_within(name, prefix) for prefix in allowed):
            found.append(f"{module} imports {name}")
        elif name.split(".")[0] in HEAVY - may_heavy:
          found.append(f"{module} imports {name}")
  return found


def test_imports_follow_the_table():
  assert violations(ROOT) == []


@pytest.mark.parametrize(
  "path, line",
  [
    ("mlm/models/a.py", "import tensorflow as tf"),
    ("mlm/training/a.py", "from mlm.models import decoder"),
    ("mlm/training/a.py", "from flax import linen"),
    ("mlm/training/a.py", "from ..data import loader"),
    ("kernels/op/a.py", "from mlm.sharding import mesh"),
    ("beam_pipelines/a.py", "def f():\n  import jax"),
    ("mlm/data/prompts.py", "from mlm.data import loader"),
    ("mlm/alignment/a.py", "from mlm.jobs import pretrain"),
    ("mlm/jobs/a.py", "import gin"),
    ("mlm/jobs/a.py", "from mlm.t5x import adapter"),
    ("mlm/t5x/a.py", "from t5x import models"),
  ],
)
def test_the_check_finds_a_planted_violation(tmp_path, path, line):
  planted = tmp_path / path
  planted.parent.mkdir(parents=True)
  planted.write_text(line + "\n")
  assert len(violations(tmp_path)) == 1


def test_gin_folder_does_not_shadow_gin_config():
  assert not (ROOT / "gin" / "__init__.py").exists()


def test_no_catch_all_modules_and_a_docstring_in_each():
  for package in PROJECT:
    for path in (ROOT / package).rglob("*.py"):
      assert path.stem not in ("utils", "helpers", "common", "misc"), path
      tree = ast.parse(path.read_text(encoding="utf-8"))
      assert ast.get_docstring(tree), f"{path} has no docstring"


_LIGHT = (
  "mlm.sharding",
  "mlm.models",
  "mlm.training",
  "mlm.checkpoints",
  "mlm.decoding",
  "mlm.alignment",
  "kernels",
)

_BLOCKED_IMPORTS = """
import importlib, pkgutil, sys

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in {'tensorflow', 'seqio', 'apache_beam'}:
      raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Blocker())
count = 0
for package in sys.argv[1:]:
  root = importlib.import_module(package)
  for module in pkgutil.walk_packages(root.__path__, package + '.'):
    importlib.import_module(module.name)
    count += 1
print(count)
"""


def test_accelerator_side_imports_without_tensorflow_seqio_and_beam():
  result = subprocess.run(
    [sys.executable, "-c", _BLOCKED_IMPORTS, *_LIGHT],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  expected = sum(
    len(list((ROOT / package.replace(".", "/")).rglob("*.py"))) - 1
    for package in _LIGHT
  )
  assert int(result.stdout) == expected
