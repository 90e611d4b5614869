"""Opening the models that jobs wrote, and choosing what of one is trained."""

import dataclasses
import functools
import json
import os
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mlm.checkpoints import manager
from mlm.data import prompts
from mlm.models import adapters as adapters_lib
from mlm.models import decoder, families
from mlm.sharding import rules
from mlm.training import state as train_state


class Opened(NamedTuple):
  """A model that a job wrote.

  Attributes:
    config: of the model without adapters.
    adapters: those that no matrix can hold, or None.
    model: of `mlm.models.families`, with the adapters.
    params: of the model, on the mesh.
  """

  config: families.Config
  adapters: adapters_lib.AdapterConfig | None
  model: Any
  params: Any


class Part(NamedTuple):
  """What of a model a job trains.

  Attributes:
    init: key -> fresh params of the part.
    params: of the part, to start from; None to use init.
    logical_axes: tree like the params of tuples of logical axis names.
    apply: (params, frozen, batch) -> outputs of the whole model; None if the
      loss has its own.
    model: the whole model, whose params join(params, frozen) are; None likewise.
    join: of the part's params and the rest's.
    frozen: the params of the rest, or None.
    metadata: entries of the part for its checkpoint.
  """

  init: Callable
  params: Any
  logical_axes: Any
  apply: Callable | None = None
  model: Any = None
  join: Callable | None = None
  frozen: Any = None
  metadata: Mapping[str, Any] = types.MappingProxyType({})


def checkpoints_of(output: str) -> str:
  """The checkpoint directory of a training job's output directory."""
  return os.path.join(output, "checkpoints")


def metadata_of(config: families.Config, tokenizer_sha256: str | None) -> dict:
  """Metadata that every model's checkpoint carries."""
  return {
    "model": dataclasses.asdict(config),
    "tokenizer_sha256": tokenizer_sha256,
  }


def shape_of(config: families.Config) -> str:
  """A configuration as JSON: what programs of equal models are kept under."""
  return json.dumps(dataclasses.asdict(config), sort_keys=True)


def of_shape(shape: str) -> Any:
  """The model, without params, of a configuration that `shape_of` gave."""
  return families.build(families.config_of(json.loads(shape)))


def open_model(output: str, *, mesh: Mesh, metadata: dict) -> Opened:
  """The model that a job wrote, LoRA merged into its params.

  Args:
    output: output directory of pretrain, extend_model, finetune, align_rloo or
      import_checkpoint.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    metadata: entries that the checkpoint's must equal.

  Raises:
    FileNotFoundError: if there is no checkpoint, of the model or of the one
      below its adapters.
    ValueError: if metadata differs, or the model below the adapters has changed
      since they were trained.
  """
  found = manager.read_metadata(checkpoints_of(output))

  def restored(init, logical_axes):
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings = rules.named_shardings(mesh, logical_axes, abstract)
    return manager.restore_params(
      checkpoints_of(output),
      train_state.with_shardings(abstract, shardings),
      metadata=metadata,
    )

  if "adapters" not in found:
    config = families.config_of(found["model"])
    model = families.build(config)
    params = restored(model.init, model.logical_axes())
    return Opened(config, None, model, params)
  below = found["below"]
  step = manager.latest_step(checkpoints_of(below["output"]))
  if step is None:
    raise FileNotFoundError(
      f"the adapters in {output} were trained over {below['output']}, which has "
      "no checkpoint any more; put it back, or train them over another model"
    )
  if step != below["step"]:
    raise ValueError(
      f"the adapters in {output} were trained over {below['output']} at step "
      f"{below['step']}, which is now at step {step}; train them again"
    )
  base = open_model(below["output"], mesh=mesh, metadata=metadata)
  adapters = adapters_lib.config_of(found["adapters"])
  part = _adapters_over(base, adapters)
  return _joined(base, adapters, restored(part.init, part.logical_axes))


def config_of(output: str) -> families.Config:
  """The configuration of the model that a job wrote, without its params."""
  return families.config_of(
    manager.read_metadata(checkpoints_of(output))["model"]
  )


def batch_function(config: families.Config) -> Callable:
  """What makes batches of rows: of `prompts`, for the model's family."""
  if isinstance(config, decoder.DecoderConfig):
    return prompts.response_batch
  return prompts.encoder_decoder_batch


def open_policy(
  output: str, *, mesh: Mesh, tokenizer_sha256: str
) -> tuple[families.Config, Any, Any]:
  """`open_model` of either family, if it is no more than params.

  Args:
    output: as for `open_model`.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer_sha256: of the tokenizer in use; must be the checkpoint's.

  Returns:
    (configuration, model, params).

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if the tokenizer is another one, or the model has language or
      task adapters.
  """
  opened = open_model(
    output, mesh=mesh, metadata={"tokenizer_sha256": tokenizer_sha256}
  )
  if opened.adapters is not None:
    raise ValueError(
      f"{output} holds language or task adapters, which this job cannot read "
      "(pretrain, finetune and the bits per byte of evaluate can); train LoRA, "
      "or give the model below them"
    )
  return opened.config, opened.model, opened.params


def open_decoder(
  output: str, *, mesh: Mesh, tokenizer_sha256: str
) -> tuple[decoder.DecoderConfig, decoder.Model, Any]:
  """`open_policy` of a decoder; raises ValueError for an encoder–decoder."""
  check_decoder(output, config_of(output), "this job")
  return open_policy(output, mesh=mesh, tokenizer_sha256=tokenizer_sha256)


def check_decoder(output: str, config: families.Config, use: str) -> None:
  """Raises ValueError if the model of an output directory is no decoder.

  Args:
    output: the directory.
    config: of its model.
    use: what a decoder is needed for, such as "a reward model".
  """
  if not isinstance(config, decoder.DecoderConfig):
    raise ValueError(
      f"{output} holds an encoder–decoder; {use} needs a decoder-only model"
    )


def everything(config: families.Config, params: Any) -> Part:
  """All params of a model.

  Args:
    config: of the model.
    params: to start from; None for fresh ones.
  """
  model = families.build(config)
  return Part(
    model.init,
    params,
    model.logical_axes(),
    lambda params, frozen, batch: model.apply(params, batch),
    model,
    lambda params, frozen: params,
  )


def trained_part(
  initial: str, opened: Opened, adapters: adapters_lib.AdapterConfig | None
) -> Part:
  """New adapters over a model, or all params of a model without any.

  Args:
    initial: output directory of the model.
    opened: the model.
    adapters: those to train; None to train the model.

  Raises:
    ValueError: if the model has adapters of the same kind, or has any and
      itself should be trained, or is an encoder–decoder.
  """
  if adapters is None:
    if opened.adapters is not None:
      raise ValueError(
        f"{initial} holds language or task adapters; this job can train "
        "adapters of another kind over them, or the model below them"
      )
    return everything(opened.config, opened.params)
  check_decoder(initial, opened.config, "training adapters (ADAPTERS)")
  path = initial if "://" in initial else os.path.abspath(initial)
  step = manager.latest_step(checkpoints_of(initial))
  part = _adapters_over(opened, adapters)
  return part._replace(
    metadata={
      "adapters": dataclasses.asdict(adapters),
      "below": {"output": path, "step": step},
    }
  )


def _split(opened: Opened) -> tuple[Any, Any]:
  """Params without adapters, and the adapters' own."""
  if opened.adapters is None:
    return opened.params, {}
  return opened.params["base"], opened.params["adapters"]


def _adapters_over(
  opened: Opened, adapters: adapters_lib.AdapterConfig
) -> Part:
  config = opened.config
  plain = decoder.build(config)
  shapes = jax.eval_shape(plain.init, jax.random.key(0))
  axes = plain.logical_axes()
  model = decoder.build(
    config, adapters=adapters_lib.joined(opened.adapters, adapters)
  )

  def join(params, frozen):
    every = adapters_lib.united(frozen["adapters"], params)
    return {"base": frozen["base"], "adapters": every}

  base, before = _split(opened)
  return Part(
    lambda key: adapters_lib.init(adapters, shapes, axes, key),
    None,
    adapters_lib.logical_axes(adapters, shapes, axes),
    lambda params, frozen, batch: model.apply(join(params, frozen), batch),
    model,
    join,
    {"base": base, "adapters": before},
  )


def _joined(
  opened: Opened, adapters: adapters_lib.AdapterConfig, params: Any
) -> Opened:
  """The model with further adapters, merged if they can be."""
  base, before = _split(opened)
  every = adapters_lib.joined(opened.adapters, adapters)
  if every.language is every.task_width is None:
    merge = functools.partial(
      adapters_lib.merge, adapters, axes=opened.model.logical_axes()
    )
    return opened._replace(params=jax.jit(merge)(base, params))
  return Opened(
    opened.config,
    every,
    decoder.build(opened.config, adapters=every),
    {"base": base, "adapters": adapters_lib.united(before, params)},
  )
