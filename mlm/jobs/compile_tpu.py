"""Job: the train step compiled for a TPU pod that nobody has to own."""

from mlm.models import decoder
from mlm.planning import compiled as compiled_lib
from mlm.training.optimizers import MakeOptimizer


def compile_tpu(
  *,
  name: str,
  model: decoder.DecoderConfig,
  optimizer: MakeOptimizer,
  topology: str,
  mesh_shape: dict,
  batch_size: int,
  sequence_length: int,
  num_microbatches: int,
  z_loss: float,
  output: str,
) -> None:
  """Compiles pretrain's step for a TPU topology on a CPU; memory, collectives.

  Needs `pip install libtpu` (as in `jax[tpu]`) and JAX_PLATFORMS=cpu; minutes,
  and about 2 GB of host memory. A refusal is a result and not an error.

  Args:
    name: of OUTPUT/<name>.json.
    model: shape of the model.
    optimizer: of `mlm.training.optimizers`.
    topology: as libtpu names it, such as v5p:8x8x16.
    mesh_shape: axis -> devices; axes left out are 1.
    batch_size: rows a step, over all devices.
    sequence_length: tokens a row.
    num_microbatches: parts of a batch whose gradients are added up.
    z_loss: weight of the squared log-normalizer.
    output: directory.
  """
  compiled = compiled_lib.compile_step(
    name=name,
    model=model,
    optimizer=optimizer,
    topology=topology,
    mesh_shape=mesh_shape,
    batch_size=batch_size,
    sequence_length=sequence_length,
    num_microbatches=num_microbatches,
    z_loss=z_loss,
  )
  seconds = compiled.seconds["trace_and_lower"] + compiled.seconds["compile"]
  print(
    f"{name}: {compiled.num_params:,} parameters on {topology} "
    f"({compiled.num_devices} devices), {batch_size:,} x {sequence_length:,} "
    f"tokens a step; {seconds:.0f} s, {compiled.host_peak_bytes / 1e9:.2f} GB "
    "of host memory"
  )
  if compiled.is_accepted:
    sizes = (compiled.arguments_bytes, compiled.temporaries_bytes)
    print(
      "accepted; GiB a device: arguments {:.2f}, temporaries {:.2f}, ".format(
        *(size / 2**30 for size in sizes)
      )
      + f"peak {compiled.peak_bytes / 2**30:.2f}"
    )
    for row in compiled.collectives[:8]:
      print(
        f"  {row['kind']} over {row['devices']}: {row['count']:,} times, "
        f"{row['moved_bytes'] / 1e9:,.1f} GB sent by a device"
      )
  else:
    print(f"refused: {compiled.refusal.splitlines()[0]}")
  print(f"Result: {compiled_lib.write(compiled, output)}")
