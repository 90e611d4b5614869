"""Models of Hugging Face and ours: configurations and weights, both ways.

By the tables of `hugging_face_tables`. Reading and writing both check that no
name is missing and none is left over.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mlm.checkpoints import tables
from mlm.checkpoints.hugging_face_tables import FAMILIES, HEAD
from mlm.models import families


def family_of(config: families.Config) -> str:
  """Model type whose fixed fields a configuration has.

  Raises:
    ValueError: if there is none, with what differs from each.
  """
  differences = {}
  for model_type, family in FAMILIES.items():
    if isinstance(config, family.config_class):
      differences[model_type] = {
        name: _get(config, name)
        for name, value in family.fixed.items()
        if _get(config, name) != value
      }
      if not differences[model_type]:
        return model_type
  raise ValueError(
    "no Hugging Face model type has such a configuration; it differs from "
    + "; ".join(
      f"{model_type} in "
      + ", ".join(f"{name} {value!r}" for name, value in differing.items())
      for model_type, differing in differences.items()
    )
  )


def _get(config: Any, name: str) -> Any:
  """The field of a name, or of "field.field"; None within None."""
  for part in name.split("."):
    config = getattr(config, part, None)
  return config


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{"a.b": x} as {"a": {"b": x}}."""
  nested: dict[str, Any] = {}
  for name, value in flat.items():
    outer, _, inner = name.rpartition(".")
    (nested.setdefault(outer, {}) if outer else nested)[inner] = value
  return nested


# Of the routers' losses, where a config.json does not say.
_WEIGHTS = {"router_aux_loss_coef": 0.001, "router_z_loss_coef": 0.0}
# Theirs -> ours, in rope_scaling.
_SCALING = {
  "factor": "factor",
  "low_freq_factor": "low",
  "high_freq_factor": "high",
  "original_max_position_embeddings": "original_length",
}


# What they assume where a config.json does not say.
_TIED = {"llama": False, "mixtral": False, "cohere": True, "bloom": True}


def _filled(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config.json with the keys that older or newer files leave out."""
  filled = dict(given)
  rope = filled.pop("rope_parameters", None)  # of transformers 5
  if rope is not None:
    filled["rope_theta"] = rope["rope_theta"]
    filled["rope_scaling"] = rope

  def default(key, value):
    if filled.get(key) is None and value is not None:
      filled[key] = value

  for key, other in (
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_embed", "hidden_size"),  # early BLOOM's
  ):
    default(key, filled.get(other))
    default(other, filled.get(key))
  width, num_heads = (
    filled.get("hidden_size"),
    filled.get("num_attention_heads"),
  )
  default("num_key_value_heads", num_heads)
  if width and num_heads:
    default("head_dim", width // num_heads)
  if filled["model_type"] == "bloom" and width:
    default("intermediate_size", 4 * width)
  default("tie_word_embeddings", _TIED.get(filled["model_type"]))
  default("relative_attention_max_distance", 128)
  filled["rope_scaling"] = _scaling(filled.get("rope_scaling"))
  return filled


def _scaling(theirs):
  if theirs is None:
    return None
  kind = theirs.get("rope_type", theirs.get("type"))
  if kind == "default":
    return None
  if kind != "llama3":
    raise ValueError(
      f"rope_type {kind!r}: only 'llama3' and 'default' are here"
    )
  return {ours: theirs[name] for name, ours in _SCALING.items()}


def read_config(
  config_json: Mapping[str, Any], *, activation_dtype: str, remat: str
) -> families.Config:
  """Our configuration of their config.json.

  Args:
    config_json: its contents, of transformers 4 or 5.
    activation_dtype: of ours.
    remat: of ours.

  Raises:
    ValueError: if the model type, or what it is set to, is not here.
  """
  model_type = config_json.get("model_type")
  if model_type not in FAMILIES:
    raise ValueError(
      f"model_type {model_type!r} is not here; known: {', '.join(FAMILIES)}"
    )
  family = FAMILIES[model_type]
  filled = {**_WEIGHTS, **_filled(config_json)}
  for key, needed in family.required.items():
    if filled.get(key, needed) != needed:
      raise ValueError(
        f"{model_type} with {key} {filled[key]!r}: only {needed!r} is here"
      )
  missing = [key for key in family.fields.values() if key not in filled]
  if missing:
    raise ValueError(f"config.json of {model_type} lacks {', '.join(missing)}")
  return family.config_class(
    **_nested(
      {ours: filled[theirs] for ours, theirs in family.fields.items()}
      | family.fixed
    ),
    activation_dtype=activation_dtype,
    remat=remat,
  )


def write_config(config: families.Config) -> dict[str, Any]:
  """Their config.json of our configuration.

  Raises:
    ValueError: if no model type of theirs has such a configuration.
  """
  model_type = family_of(config)
  family = FAMILIES[model_type]
  written = {
    "architectures": [family.architecture],
    "model_type": model_type,
    **family.required,
    **family.written,
    **{theirs: _get(config, ours) for ours, theirs in family.fields.items()},
  }
  if written.get("rope_scaling") is not None:
    scaling = written["rope_scaling"]
    written["rope_scaling"] = {
      "rope_type": "llama3",
      **{theirs: scaling[ours] for theirs, ours in _SCALING.items()},
    }
  if model_type == "bloom":
    # They derive these from the others.
    for key in ("intermediate_size", "num_key_value_heads", "head_dim"):
      value = written.pop(key)
      if value != _filled(written)[key]:
        raise ValueError(
          f"bloom has {key} {_filled(written)[key]}, not {value}"
        )
  return written


def _table(config: families.Config) -> tuple[list[tables.Row], Any]:
  """Rows of the model type, and shapes of our params."""
  abstract = jax.eval_shape(families.build(config).init, jax.random.key(0))
  is_tied = "unembedding" not in abstract
  rows = FAMILIES[family_of(config)].rows
  return [row for row in rows if not (row is HEAD and is_tied)], abstract


def shapes(config: families.Config) -> dict[str, tuple[int, ...]]:
  """{name: shape} of all their tensors of a configuration."""
  return tables.shapes(*_table(config))


def _checked(tensors, config: families.Config) -> dict[str, np.ndarray]:
  """Tensors by our spelling; raises ValueError unless all fit."""
  family = FAMILIES[family_of(config)]
  expected = shapes(config)
  spelled = {
    name
    if name.startswith(family.prefix) or name in expected
    else family.prefix + name: tensor
    for name, tensor in tensors.items()
  }
  copies = {x: y for x, y in family.copies.items() if x not in expected}
  problems = tables.problems(
    spelled, expected, optional=(*copies, *family.ignored)
  )
  if not problems:
    for copy, name in copies.items():
      if copy in spelled and not np.array_equal(spelled[copy], spelled[name]):
        problems.append(f"{copy} differs from {name}, which it must repeat")
  if problems:
    raise ValueError(
      "the tensors are not those of the configuration:\n  "
      + "\n  ".join(problems)
      + "\nuse the config.json that lies beside them"
    )
  return spelled


def from_hugging_face(
  config: families.Config, tensors: Mapping[str, np.ndarray], *, shardings: Any
) -> Any:
  """Our params, float32, of their tensors.

  Args:
    config: of `read_config`.
    tensors: name -> array of any float dtype; may lie on a disk and be larger
      than the memory, see `tables.read`.
    shardings: tree like params of where each is to live.

  Raises:
    ValueError: with a line for every name that is missing or unexpected, and
      every wrong shape.
  """
  spelled = _checked(tensors, config)
  return tables.read(*_table(config), spelled, shardings=shardings)


def to_hugging_face(
  config: families.Config, params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, array) of their tensors, one at a time.

  Args:
    config: that the params are of.
    params: ours; one leaf at a time is brought to the host.
  """
  return tables.write(_table(config)[0], params)
