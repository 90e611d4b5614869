"""Our span corruption beside t5's own functions: lengths and distributions.

    python -m benchmarks.span_corruption_t5 --draws=4000

Run it where the package t5 0.9.4 can be imported beside this project's
requirements. Four comparisons, as JSON:
- lengths: raw and targets length of inputs from 16 to 4,096, for densities and
  spans of T5 and UL2; how many differ, and in how many of these t5's helper
  counts no span of noise where its mask has one.
- spans: chi-square tests that the lengths of noise spans, and those of text
  spans, of `random_spans_noise_mask` and of `objectives.corrupt` are draws from
  one distribution. Spans of one window are not independent, so of each draw one
  span is taken, at random.
- first: the same of the place where the first noise begins, a Kolmogorov-Smirnov
  test.
- sentinels: whether t5's noise_span_to_unique_sentinel and its counterpart, given
  our mask, make our inputs and targets, token by token.
"""

import argparse
import json

import numpy as np
import seqio
import tensorflow as tf
from scipy import stats
from t5.data import preprocessors

from mlm.data import objectives

_PIECES, _SENTINELS = 32_000, 128
_FIRST = _PIECES + _SENTINELS - 1
_SETTINGS = (  # raw length, noise density, mean span
  (568, 0.15, 3.0),
  (1137, 0.15, 3.0),
  (567, 0.15, 8.0),
  (567, 0.5, 3.0),
  (567, 0.5, 64.0),
)
_SMALLEST_CELL = 10  # expected draws, for chi-square


def _lengths() -> dict:
  compared = differing = without_span = 0
  for density, span in ((0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 8.0)):
    for inputs in (*range(16, 129), *range(160, 4097, 32)):
      theirs = preprocessors.random_spans_helper(
        inputs_length=inputs,
        noise_density=density,
        mean_noise_span_length=span,
        extra_tokens_per_span_inputs=1,
        extra_tokens_per_span_targets=1,
      )
      ours = objectives.span_corruption_lengths(
        inputs, noise_density=density, mean_span=span
      )
      compared += 1
      if theirs != ours:
        differing += 1
        without_span += round(round(theirs[0] * density) / span) == 0
  return {
    "compared": compared,
    "differing": differing,
    "of_which_helper_without_span": without_span,
  }


def _their_masks(length, density, span, draws) -> np.ndarray:
  @tf.function
  def masks(seeds):
    return tf.map_fn(
      lambda seed: preprocessors.random_spans_noise_mask(
        length, density, tf.reshape(seed, [2, 2]), span
      ),
      seeds,
      fn_output_signature=tf.bool,
    )

  seeds = np.random.default_rng(1).integers(0, 2**31 - 1, (draws, 4))
  return masks(tf.constant(seeds, tf.int32)).numpy()


def _our_mask(length, density, span, rng) -> np.ndarray:
  """Which tokens of a window of the numbers from 0 the targets hold."""
  _, targets = objectives.corrupt(
    np.arange(2, length + 2, dtype=np.int32),
    rng,
    noise_density=density,
    mean_span=span,
    first_sentinel=_FIRST,
  )
  mask = np.zeros(length, bool)
  mask[targets[:-1][targets[:-1] < _PIECES] - 2] = True
  return mask


def _runs(mask) -> tuple[np.ndarray, np.ndarray]:
  """Lengths of the runs of text and of noise, in order."""
  cuts = np.flatnonzero(np.diff(mask)) + 1
  lengths = np.diff(np.concatenate([[0], cuts, [len(mask)]]))
  return lengths[0::2], lengths[1::2]


def _chi_square(a, b) -> float:
  """p-value that two samples of lengths are of one distribution."""
  top = max(a.max(), b.max()) + 1
  counts = np.stack([np.bincount(of, minlength=top) for of in (a, b)])
  cells, open_cell = [], np.zeros(2, int)
  for column in counts.T:  # neighbouring lengths, until a cell is large enough
    open_cell = open_cell + column
    if open_cell.sum() >= 2 * _SMALLEST_CELL:
      cells.append(open_cell)
      open_cell = np.zeros(2, int)
  cells[-1] = cells[-1] + open_cell
  if len(cells) == 1:
    return 1.0
  return float(stats.chi2_contingency(np.stack(cells, axis=1)).pvalue)


def _distributions(length, density, span, draws) -> dict:
  rng = np.random.default_rng(2)
  theirs = _their_masks(length, density, span, draws)
  ours = np.stack([_our_mask(length, density, span, rng) for _ in range(draws)])
  samples = {}
  for name, masks in (("theirs", theirs), ("ours", ours)):
    runs = [_runs(mask) for mask in masks]
    samples[name] = {
      "first": np.array([text[0] for text, _ in runs]),
      "text": np.array([rng.choice(text) for text, _ in runs]),
      "noise": np.array([rng.choice(noise) for _, noise in runs]),
      "counts": {
        (int(m.sum()), len(noise)) for m, (_, noise) in zip(masks, runs)
      },
    }
  a, b = samples["theirs"], samples["ours"]
  return {
    "window": length,
    "noise_density": density,
    "mean_span": span,
    "draws": draws,
    "noise_and_spans_equal": a["counts"] == b["counts"],
    "mean_noise_span": [round(float(of["noise"].mean()), 4) for of in (a, b)],
    "p_noise_spans": _chi_square(a["noise"], b["noise"]),
    "p_text_spans": _chi_square(a["text"], b["text"]),
    "p_first": float(stats.ks_2samp(a["first"], b["first"]).pvalue),
  }


def _sentinels(draws) -> dict:
  vocabulary = seqio.PassThroughVocabulary(_PIECES + _SENTINELS)
  rng, differing = np.random.default_rng(3), 0
  for seed in range(draws):
    tokens = rng.integers(2, _PIECES, 568).astype(np.int32)
    options = {"noise_density": 0.15, "mean_span": 3.0}
    inputs, targets = objectives.corrupt(
      tokens, np.random.default_rng(seed), **options, first_sentinel=_FIRST
    )
    mask = _our_mask(568, 0.15, 3.0, np.random.default_rng(seed))
    for make, ours in (
      (preprocessors.noise_span_to_unique_sentinel, inputs),
      (preprocessors.nonnoise_span_to_unique_sentinel, targets),
    ):
      theirs = make(tf.constant(tokens), tf.constant(mask), vocabulary, None)
      differing += not np.array_equal(theirs.numpy(), ours[:-1])
  return {"compared": 2 * draws, "differing": differing}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--draws", type=int, default=4000)
  options = parser.parse_args()
  report = {
    "lengths": _lengths(),
    "distributions": [_distributions(*s, options.draws) for s in _SETTINGS],
    "sentinels": _sentinels(200),
  }
  print(json.dumps(report, indent=1))


if __name__ == "__main__":
  main()
