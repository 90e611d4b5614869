"""Decode steps and row-steps with and without refill, where lengths are skewed.

    python -m benchmarks.refill

A small decoder with random weights, whose logit of EOS is scaled up so that it
differs much between states: some prompts then have short responses, some run to
the end. The same responses are drawn with all prompts at once, in batches, and
with as many prompts in work as a batch has. A row-step is one row of one step,
whether or not the row is in use. Prints a JSON line each; seconds are of the
processor, of one call after the first.
"""

import argparse
import json
import time

import jax
import numpy as np

from mlm.decoding import rollouts
from mlm.models import decoder

_CONFIG = decoder.DecoderConfig(
  vocab_size=64,
  num_layers=2,
  d_model=128,
  d_ff=256,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
  position_encoding="rotary_halves",
  rope_theta=10000.0,
  rope_scaling=None,
  norm="rms",
  norm_epsilon=1e-5,
  mlp="swiglu",
  parallel_block=False,
  use_biases=False,
  normalize_embedding=False,
  tie_embeddings=False,
  logit_scale=1.0,
  activation_dtype="float32",
  remat="none",
)
_PAD, _EOS = 0, 1


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--prompts", type=int, default=64)
  parser.add_argument("--samples", type=int, default=4)
  parser.add_argument("--prompt_length", type=int, default=32)
  parser.add_argument("--response_length", type=int, default=128)
  parser.add_argument("--at_once", type=int, default=16)
  parser.add_argument("--eos_scale", type=float, default=12.0)
  options = parser.parse_args()
  steps = []

  def counted(params, cache, tokens, positions, valid):
    if tokens.shape[1] == 1:
      jax.debug.callback(lambda: steps.append(None))
    return model.extend(params, cache, tokens, positions, valid)

  model = decoder.build(_CONFIG)
  params = model.init(jax.random.key(0))
  params["unembedding"] = (
    params["unembedding"].at[:, _EOS].multiply(options.eos_scale)
  )
  shape = (options.prompts, options.prompt_length)
  prompts = np.random.default_rng(0).integers(2, 60, shape).astype(np.int32)
  ids = np.arange(options.prompts, dtype=np.uint32)

  def sampler(at_once):
    return rollouts.make_sampler(
      model._replace(extend=counted),
      response_length=options.response_length,
      samples_per_prompt=options.samples,
      temperature=1.0,
      eos_id=_EOS,
      pad_id=_PAD,
      prompts_at_once=at_once,
    )

  def draw(sample, size):
    parts = [
      sample(params, prompts[i : i + size], ids[i : i + size], 0, 0)
      for i in range(0, options.prompts, size)
    ]
    return np.concatenate([np.asarray(x.lengths) for x in parts])

  plain, refilled = sampler(None), sampler(options.at_once)
  for name, sample, size, in_work in (
    ("all at once", plain, options.prompts, options.prompts),
    ("in batches", plain, options.at_once, options.at_once),
    ("with refill", refilled, options.prompts, options.at_once),
  ):
    draw(sample, size)
    jax.effects_barrier()
    steps.clear()
    start = time.process_time()
    lengths = draw(sample, size)
    jax.effects_barrier()
    seconds = time.process_time() - start
    result = {
      "how": name,
      "tokens": int(lengths.sum()),
      "quartiles of lengths": np.percentile(lengths, (25, 50, 75)).tolist(),
      "steps": len(steps),
      "row-steps": len(steps) * in_work * options.samples,
      "seconds": round(seconds, 2),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
  main()
