"""The optimizer of all stages, at the rate and length of each."""

from mlm.training import optimizers, schedules


def adamw_cosine(rate: float, num_steps: int) -> optimizers.MakeOptimizer:
  """AdamW, warm-up over a twentieth of the steps, then half a cosine to a tenth.

  Args:
    rate: peak learning rate.
    num_steps: of the stage.
  """
  return optimizers.adamw(
    learning_rate=schedules.warmup_cosine(
      peak=rate,
      warmup_steps=num_steps // 20,
      num_steps=num_steps,
      final_fraction=0.1,
    ),
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    weight_decay=0.0,
    max_grad_norm=1.0,
  )
