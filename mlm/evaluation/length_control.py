"""Win rates at equal length: what is left where neither answer is longer.

Judges like long answers. The verdict is regressed on the difference of lengths,

  P(a wins) = sigmoid(intercept of the language + slope * tanh(d / s)),

with d the length of a minus that of b, in characters, and s the standard
deviation of d in the language; the rate at d = 0 is sigmoid(intercept). A tie
counts as half a win. The slope is one number, a taste of the judge; lengths of
languages are made comparable by s.

Source: Dubois et al. 2024 (length-controlled AlpacaEval), whose tanh this is.
What differs: no term for the difficulty of a prompt, and no cross-validated
penalty, but a weak one on the slope; verdicts instead of probabilities; an
intercept a language, where theirs is one a model.

Letters: N comparisons, L languages, R bootstrap samples.
"""

from collections.abc import Collection, Sequence

import numpy as np

from mlm.evaluation import win_rate

# Half of it times slope^2 is taken off the log-likelihood: as if the slope were
# drawn from a normal distribution of deviation 10. Data outweigh it at once; it
# keeps the slope finite where length and verdict separate.
RIDGE = 0.01
_TOLERANCE = 1e-10
_MAX_STEPS = 100


def scaled_differences(
  lengths: np.ndarray, opponent_lengths: np.ndarray, languages: Sequence[str]
) -> np.ndarray:
  """tanh(d / s) of each comparison, float64 [N]; 0 where s is 0.

  Args:
    lengths: int [N], characters of the policy's answers.
    opponent_lengths: of the opponent's.
    languages: code of each.
  """
  difference = np.asarray(lengths, float) - np.asarray(opponent_lengths, float)
  scaled = np.zeros(len(difference))
  languages = np.asarray(languages)
  for code in np.unique(languages):
    of = languages == code
    deviation = difference[of].std()
    if deviation > 0:
      scaled[of] = np.tanh(difference[of] / deviation)
  return scaled


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
  return -np.logaddexp(0.0, -x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  with np.errstate(invalid="ignore"):  # nan stays nan
    return np.exp(_log_sigmoid(x))


def fit(
  wins: np.ndarray,
  scaled: np.ndarray,
  column: np.ndarray,
  num_columns: int,
  weights: np.ndarray,
) -> tuple[np.ndarray, float]:
  """Maximizes the weighted log-likelihood less the penalty, by Newton's method.

  A language that won or lost everything has its optimum at infinity whatever
  the slope is, so it says nothing of the slope and is left out of its fit.

  Args:
    wins: float [N] in [0, 1].
    scaled: float [N] of `scaled_differences`.
    column: int [N], language.
    num_columns: L.
    weights: float [N] >= 0.

  Returns:
    (intercepts float64 [L], slope); an intercept is inf or -inf for a language
    that won or lost everything and nan for one without weight.
  """

  def totals(values):
    return np.bincount(column, weights=values, minlength=num_columns)

  total, won = totals(weights), totals(weights * wins)
  intercepts = np.full(num_columns, np.nan)
  # A sum of halves and wholes is exact; shares of samples are not.
  close = 1e-12 * total
  intercepts[(total > 0) & (won <= close)] = -np.inf
  intercepts[(total > 0) & (won >= total - close)] = np.inf
  mixed = (total > 0) & (won > close) & (won < total - close)
  used = mixed[column] & (weights > 0)
  if not used.any():
    return intercepts, 0.0
  y, x, w = wins[used], scaled[used], weights[used]
  of = (np.cumsum(mixed) - 1)[column[used]]
  size = int(mixed.sum())

  def sums(values):
    return np.bincount(of, weights=values, minlength=size)

  def objective(a, b):
    z = a[of] + b * x
    inside = w * (y * _log_sigmoid(z) + (1 - y) * _log_sigmoid(-z))
    return inside.sum() - RIDGE / 2 * b**2

  share = won[mixed] / total[mixed]
  a, b = np.log(share) - np.log1p(-share), 0.0
  value = objective(a, b)
  for _ in range(_MAX_STEPS):
    p = _sigmoid(a[of] + b * x)
    residual, curvature = w * (y - p), w * p * (1 - p)
    gradient_a = sums(residual)
    gradient_b = (residual * x).sum() - RIDGE * b
    aa, ab = sums(curvature), sums(curvature * x)
    bb = (curvature * x**2).sum() + RIDGE
    # The Hessian is diagonal but for the slope's row: eliminate the intercepts.
    step_b = (gradient_b - (ab * gradient_a / aa).sum()) / (
      bb - (ab**2 / aa).sum()
    )
    step_a = (gradient_a - ab * step_b) / aa
    gain = gradient_a @ step_a + gradient_b * step_b
    if gain <= _TOLERANCE * max(1.0, w.sum()):
      a, b = a + step_a, b + step_b
      break
    scale = 1.0
    while scale > 1e-6:
      new = objective(a + scale * step_a, b + scale * step_b)
      if new >= value:
        break
      scale /= 2
    a, b, value = a + scale * step_a, b + scale * step_b, new
  intercepts[mixed] = a
  return intercepts, float(b)


def summarize(
  wins: np.ndarray,
  scaled: np.ndarray,
  *,
  languages: Sequence[str],
  clusters: Sequence[str],
  seen: Collection[str] | None,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> dict:
  """Length-controlled wins minus losses, by language and averaged, in percent.

  Args:
    wins: float [N]: 1 won, 0 lost, a half tied.
    scaled: float [N] of `scaled_differences`.
    languages: code of each comparison.
    clusters: name of each comparison's source prompt.
    seen: see `win_rate.groupings`.
    seed: of the bootstrap, which draws as that of `win_rate.summarize`.
    num_resamples: R.
    confidence: of the intervals.

  Returns:
    {"overall": row, "by_language": {code: row}, "groups": {name: row}, "slope":
    row}; a row has delta with its interval low, high (None where all is of one
    cluster); the slope's is in log-odds.
  """
  codes, column = np.unique(np.asarray(languages), return_inverse=True)
  codes = codes.tolist()
  draws = win_rate.draw_clusters(
    clusters, languages, seed=seed, num_resamples=num_resamples
  )

  def deltas(weights):
    intercepts, slope = fit(wins, scaled, column, len(codes), weights)
    return np.append(100 * (2 * _sigmoid(intercepts) - 1), slope)

  found = deltas(np.ones(len(wins)))
  resampled = np.array(
    [deltas(counts[draws.index].astype(float)) for counts in draws.counts]
  )

  def row(places, of):
    low, high = None, None
    if len(np.unique(draws.index[of])) > 1:
      averages = win_rate.means_of_known(resampled[:, places])
      low, high = win_rate.interval(averages, confidence=confidence)
    return {"delta": float(found[places].mean()), "low": low, "high": high}

  def of_languages(names):
    places = [codes.index(code) for code in names]
    return row(places, np.isin(column, places))

  slope = row([len(codes)], np.full(len(wins), True))
  return {
    "overall": of_languages(codes),
    "by_language": {code: of_languages([code]) for code in codes},
    "groups": {
      name: of_languages(names)
      for name, names in win_rate.groupings(codes, seen).items()
    },
    "slope": {
      "value": slope["delta"],
      **{k: slope[k] for k in ("low", "high")},
    },
  }
