"""The judges that gin files can name, and how each is opened for a job."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from mlm.alignment import generation, preferences
from mlm.checkpoints import manager
from mlm.evaluation import chat_judge, people
from mlm.evaluation import judge as judge_lib
from mlm.jobs import models, reward_sources
from mlm.sharding import rules
from mlm.tokenizers import load


class Setting(NamedTuple):
  """What a judge is opened for.

  Attributes:
    languages: codes of the comparisons.
    policies: output directories of the policies compared; those of files of
      responses are not known.
    rewards: output directories of train_reward_model and align_dpo whose
      choices are compared.
    output: directory where a judge may keep files.
    mesh: of `mlm.sharding.mesh.make_mesh`.
  """

  languages: Sequence[str]
  policies: Sequence[str]
  rewards: Sequence[str]
  output: str
  mesh: Mesh


class OpenJudge(NamedTuple):
  """A judge that is not open yet.

  Attributes:
    name: what it is, for reports.
    open: Setting -> judge.
  """

  name: str
  open: Callable[[Setting], judge_lib.Judge]


def second_identifier(*, tokenizer: str, margin: float) -> OpenJudge:
  """Right language by an identifier unlike training's, no repetition, an end.

  Args:
    tokenizer: tokenizer directory; its pieces are what may repeat.
    margin: of the sum of the three, in [0, 3], up to which answers tie.
  """

  def open_judge(setting):
    identify, known = judge_lib.second_identifier(setting.languages)
    score = judge_lib.verifiable_score(
      identify=identify, known=known, encode=load.load(tokenizer).encode
    )
    return judge_lib.of_scores(score, margin=margin)

  name = "right language by py3langid, no repetition and an end"
  return OpenJudge(name, open_judge)


def check_held_out(
  directory: str, *, policies: Sequence[str], rewards: Sequence[str]
) -> None:
  """Refuses a reward model as the judge of what it has trained or chosen.

  Args:
    directory: output directory of train_reward_model.
    policies: output directories of policies.
    rewards: output directories of rewards whose choices are judged.

  Raises:
    ValueError: if a policy was trained by this reward model, by one of the same
      seed, or by one that its checkpoint does not name; or one of the rewards
      is this one or of its seed.
  """
  own = reward_sources.reward_model_identity(directory)
  used = {}
  for policy in policies:
    found = manager.read_metadata(models.checkpoints_of(policy))
    if "reward_weights" not in found:
      continue  # no reward model has trained it
    if "reward_model" not in found:
      raise ValueError(
        f"the checkpoint of {policy} does not say which reward model trained "
        "it; align it again, or judge by something else than a reward model"
      )
    used[f"the one that trained {policy}"] = found["reward_model"]
  for reward in rewards:
    found = manager.read_metadata(models.checkpoints_of(reward))
    if "objective" not in found:  # of align_dpo: no reward model
      used[f"the reward {reward}"] = reward_sources.reward_model_identity(
        reward
      )
  for name, identity in used.items():
    same = [part for part in own if own[part] == identity[part]]
    if same:
      raise ValueError(
        f"the reward model in {directory} has the {' and the '.join(same)} of "
        f"{name}: a reward cannot judge what was made by it; train another "
        "with another seed, better on other pairs"
      )


def held_out_reward_model(
  *,
  directory: str,
  tokenizer: str,
  prompt_length: int,
  response_length: int,
  batch_size: int,
  margin: float,
) -> OpenJudge:
  """A reward model that has no part in what it judges; see `check_held_out`.

  Args:
    directory: output directory of train_reward_model.
    tokenizer: tokenizer directory of it.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response; longer ones are cut.
    batch_size: answers scored at a time.
    margin: of raw scores up to which answers tie.
  """

  def open_judge(setting):
    check_held_out(
      directory, policies=setting.policies, rewards=setting.rewards
    )
    rules.check_batch(batch_size, setting.mesh)
    raw_score = reward_sources.open_reward(
      directory,
      dpo_reference="",
      mesh=setting.mesh,
      tokenizer=tokenizer,
      response_length=response_length,
    ).raw_score
    processor = load.load(tokenizer)

    def score(answers):
      rows = preferences.text_rows(
        [(prompt, a.text, a.ended) for _, prompt, a in answers],
        processor=processor,
        prompt_length=prompt_length,
        response_length=response_length,
      )
      return generation.in_batches(raw_score, (rows,), batch_size)

    return judge_lib.of_scores(score, margin=margin)

  return OpenJudge(f"the reward model in {directory}", open_judge)


def chat(
  *,
  base_url: str,
  model: str,
  api_key_variable: str,
  timeout_seconds: float,
  num_tries: int,
  retry_seconds: float,
  max_tokens: int,
  concurrency: int,
) -> OpenJudge:
  """A chat model behind an OpenAI-compatible endpoint.

  Answers are kept in OUTPUT/judge_answers.jsonl.

  Args:
    base_url: see `chat_judge.Endpoint`, as for the next six.
    model: name of the model.
    api_key_variable: environment variable of the key, or "".
    timeout_seconds: of a request.
    num_tries: requests for one answer.
    retry_seconds: before the second.
    max_tokens: of an answer.
    concurrency: requests under way at a time.
  """
  endpoint = chat_judge.Endpoint(
    base_url=base_url,
    model=model,
    api_key_variable=api_key_variable,
    timeout_seconds=timeout_seconds,
    num_tries=num_tries,
    retry_seconds=retry_seconds,
    max_tokens=max_tokens,
  )

  def open_judge(setting):
    return chat_judge.chat(
      endpoint,
      answers=os.path.join(setting.output, "judge_answers.jsonl"),
      concurrency=concurrency,
    )

  return OpenJudge(f"{model} at {base_url}", open_judge)


def through_files(*, seed: int) -> OpenJudge:
  """People, who get OUTPUT/for_people.tsv and give back OUTPUT/verdicts.tsv.

  Args:
    seed: of the order in which they see comparisons.
  """

  def open_judge(setting):
    in_output = functools.partial(os.path.join, setting.output)
    return people.through_files(
      table=in_output("for_people.tsv"),
      verdicts=in_output("verdicts.tsv"),
      seed=seed,
    )

  return OpenJudge("people", open_judge)
