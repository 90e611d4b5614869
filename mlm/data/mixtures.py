"""Mixtures whose rates are shares of tokens."""

from collections.abc import Mapping, Sequence

import seqio

from mlm.data import task_names

# Registered mixture -> the rates that made it.
_arguments: dict[str, dict[str, float]] = {}


def register_mixture(
  *,
  name: str,
  tasks: Sequence[str],
  token_shares: Mapping[str, float],
  tokens_per_example: Mapping[str, float],
) -> None:
  """Registers a mixture in which language l has `token_shares[l]` of the tokens.

  seqio draws examples, and examples of one language are longer than those of
  another: the rate of a task is its share of tokens divided by its mean tokens
  an example.

  The rates hold for the train split. Registering again with the same arguments
  changes nothing.

  Args:
    name: mixture name, e.g. "mc4".
    tasks: of `tasks.register_tasks`, those to mix.
    token_shares: code -> share > 0 for every task's language and no other;
      they sum to 1.
    tokens_per_example: code -> mean tokens of a train example at the tasks'
      sequence length, `mlm.tokenizers.count.tokens_per_example`.

  Raises:
    ValueError: if shares and tasks do not fit each other, a share is not
      positive, or the name is taken by another mixture
      (seqio.MixtureRegistry.remove it first).
  """
  languages = [task_names.task_language(task) for task in tasks]
  if sorted(languages) != sorted(token_shares):
    raise ValueError(
      f"tasks of {sorted(languages)} but shares for {sorted(token_shares)}; "
      "they must be the same languages, each once"
    )
  if (
    min(token_shares.values()) <= 0
    or abs(sum(token_shares.values()) - 1) > 1e-6
  ):
    raise ValueError(
      f"token shares must be positive and sum to 1, got {dict(token_shares)}"
    )
  rates = {
    task: token_shares[code] / tokens_per_example[code]
    for task, code in zip(tasks, languages, strict=True)
  }
  if name in seqio.MixtureRegistry.names():
    if _arguments.get(name) != rates:
      raise ValueError(
        f"mixture {name} is registered with other tasks or rates; use another "
        f"name, or seqio.MixtureRegistry.remove({name!r}) first"
      )
    # A task that was removed and registered anew would otherwise live on here.
    current = [seqio.TaskRegistry.get(task) for task in sorted(tasks)]
    if seqio.MixtureRegistry.get(name).tasks == current:
      return
    seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, list(rates.items()))
  _arguments[name] = rates
