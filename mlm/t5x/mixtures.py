"""Our seqio mixtures, registered where a gin file of t5x names one.

MIXTURE_OR_TASK_NAME = @mixtures.spans() registers, and is the name. t5x asks
more than once: registering again with the same arguments changes nothing.
"""

from mlm.data import (
  mixtures,
  objectives,
  sampling,
  task_names,
  tasks,
)
from mlm.languages import samplers
from mlm.tokenizers import count


def _shares(tokenizer, names, sampler, num_tokens) -> dict[str, float]:
  plan = sampling.mixture_plan(
    count.read_token_counts(tokenizer),
    sampler=sampler,
    num_tokens=num_tokens,
    languages=[task_names.task_language(name) for name in names],
  )
  return {row.language: row.rate for row in plan}


def text(
  *,
  corpus: str,
  tokenizer: str,
  sampler: samplers.Sampler,
  sequence_length: int,
  batch_size: int,
  num_steps: int,
) -> str:
  """Registers the documents of all languages, for a decoder; returns the name.

  Its tasks are `mc4.code`, its rates those of `mlm.run pretrain`.

  Args:
    corpus: finished corpus directory.
    tokenizer: tokenizer directory with the counts of this corpus.
    sampler: how much of each language.
    sequence_length: longest piece of a document, in tokens, a multiple of
      `mlm.tokenizers.count.BLOCK_TOKENS`.
    batch_size: rows a step.
    num_steps: of the run; a sampler with caps needs to know.
  """
  name = "mc4"
  names = tasks.register_tasks(
    corpus=corpus,
    tokenizer=tokenizer,
    sequence_length=sequence_length,
    prefix=name,
  )
  mixtures.register_mixture(
    name=name,
    tasks=names,
    token_shares=_shares(
      tokenizer, names, sampler, num_steps * batch_size * sequence_length
    ),
    tokens_per_example=count.tokens_per_example(
      count.read_token_counts(tokenizer),
      split="train",
      sequence_length=sequence_length,
    ),
  )
  return name


def spans(
  *,
  tokens: str,
  tokenizer: str,
  sampler: samplers.Sampler,
  objective: objectives.Objective,
  batch_size: int,
  num_steps: int,
) -> str:
  """Registers windows of all languages, for an encoder–decoder; returns the name.

  Its tasks are `mc4_spans.code`, its rates those of `mlm.run pretrain`.

  Args:
    tokens: directory of the job cache_tokens.
    tokenizer: tokenizer directory, the one that made the tokens.
    sampler: how much of each language.
    objective: of `mlm.data.objectives` or `mlm.data.ul2`.
    batch_size: rows a step.
    num_steps: of the run; a sampler with caps needs to know.
  """
  name = "mc4_spans"
  names = tasks.register_window_tasks(
    tokens=tokens, tokenizer=tokenizer, objective=objective, prefix=name
  )
  shares = _shares(
    tokenizer, names, sampler, num_steps * batch_size * objective.raw_length
  )
  mixtures.register_mixture(
    name=name,
    tasks=names,
    token_shares=shares,
    tokens_per_example=dict.fromkeys(shares, float(objective.raw_length)),
  )
  return name


def lengths(*, objective: objectives.Objective) -> dict[str, int]:
  """What TASK_FEATURE_LENGTHS must be for the rows of an objective."""
  shapes = objectives.row_shapes(objective)
  return {
    "inputs": shapes["encoder_input_tokens"],
    "targets": shapes["decoder_target_tokens"],
  }
