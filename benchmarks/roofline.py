"""The planner's FLOPs and step time beside XLA's own estimates, on no TPU.

    pip install libtpu
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.roofline

XLA counts the body of a loop once, whatever its trips, and says -2 s or less for
each sum over segments, such as metrics by language need, so what is compiled is
gradients and update of a model of one layer, whose loop XLA removes, without
metrics, on one device. Attention and loss are kernels, or products that XLA sees.
Prints a line of JSON for each size, chip and remat policy: FLOPs as we count
them and as XLA does; in milliseconds our roofline's terms, which are of remat
"full" with kernels, and XLA's optimal_seconds.
"""

import argparse
import dataclasses
import json

import jax
import jax.numpy as jnp
import optax

from kernels import ahead_of_time
from mlm import run as launcher
from mlm.models import backends, decoder
from mlm.planning import flops, roofline, runs
from mlm.sharding import mesh as mesh_lib
from mlm.training import losses

# One chip as the planner calls it, and a topology of it that libtpu knows.
_CHIPS = {"v5p:1x1x1": "v5p:2x2x1", "v6e:1x1": "v6e:2x2", "v5e:1x1": "v5e:2x2"}
_SIZES = ("llama5_100m", "llama5_1b", "llama5_8b")
_KERNELS = {
  "kernels": (backends.TPU, "pallas_tpu"),
  "plain": (backends.PLAIN, "reference"),
}
_REMAT = ("full", "none")
_LENGTH = 4096


def _lowered(config, optimizer, mesh, kernels):
  """(the lowered step, its FLOPs by our count)."""
  of_model, of_head = _KERNELS[kernels]
  model = decoder.build(config, backends=of_model)
  made = optimizer(model.logical_axes())

  def step(params, opt_state, batch):
    def loss(params):
      logprobs = losses.token_logprobs(
        model.apply, params, batch, backend=of_head
      )
      return -jnp.mean(logprobs)

    updates, opt_state = made.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  whole = jax.NamedSharding(mesh, jax.P())

  def placed(tree):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree
    )

  params = jax.eval_shape(model.init, jax.random.key(0))
  row = jax.ShapeDtypeStruct((1, _LENGTH), jnp.int32)
  names = ("input_tokens", "target_tokens", "positions", "segment_ids")
  arguments = placed(
    (
      params,
      jax.eval_shape(made.init, params),
      {f"decoder_{name}": row for name in names},
    )
  )
  with jax.set_mesh(mesh):
    counted = sum(flops.of_function(step, *arguments).values())
    return jax.jit(step, donate_argnums=(0, 1)).lower(*arguments), counted


def _row(size: str, chip: str, kernels: str, remat: str) -> dict:
  unread = dict.fromkeys(("TOKENS", "TOKENIZER", "OUTPUT"), "unread")
  _, arguments, _ = launcher.resolve(
    "pretrain", [f"gin/experiments/{size}/pretrain.gin"], unread
  )
  config = dataclasses.replace(arguments["model"], num_layers=1, remat=remat)
  mesh = ahead_of_time.mesh(
    _CHIPS[chip], (1,) * len(mesh_lib.AXES), mesh_lib.AXES
  )
  lowered, counted = _lowered(config, arguments["optimizer"], mesh, kernels)
  by_xla = lowered.compile().cost_analysis()
  of_run = roofline.of_run(
    runs.Run(
      name=size,
      model=config,
      topology=chip,
      num_slices=1,
      mesh={},
      batch_size=1,
      sequence_length=_LENGTH,
      num_microbatches=1,
    )
  )
  return {
    "size": size,
    "chip": chip,
    "with": kernels,
    "remat": remat,
    "flops": counted,
    "flops_xla": int(by_xla["flops"]),
    "flops_ratio": round(counted / by_xla["flops"], 4),
    "gigabytes_xla": round(by_xla["bytes accessed"] / 1e9, 2),
    "compute_ms": round(1e3 * of_run.compute, 2),
    "hbm_ms": round(1e3 * of_run.hbm, 2),
    "xla_ms": round(1e3 * by_xla["optimal_seconds"], 2),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sizes", nargs="+", default=_SIZES)
  parser.add_argument("--chips", nargs="+", default=_CHIPS)
  parser.add_argument("--kernels", nargs="+", default=_KERNELS)
  parser.add_argument("--remat", nargs="+", default=_REMAT)
  options = parser.parse_args()
  for size in options.sizes:
    for chip in options.chips:
      for kernels in options.kernels:
        for remat in options.remat:
          row = _row(size, chip, kernels, remat)
          print(json.dumps(row), flush=True)


if __name__ == "__main__":
  main()
