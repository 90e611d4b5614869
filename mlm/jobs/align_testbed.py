"""Job: DPO and RLOO on language mixtures, judged by a hidden score, over seeds."""

import json
import os
from collections.abc import Callable

import numpy as np
import tqdm

from mlm.alignment.testbed import experiment, stages
from mlm.alignment.testbed.settings import Settings
from mlm.alignment.testbed.tasks import Task
from mlm.evaluation import testbed_report
from mlm.models import decoder
from mlm.sharding import mesh as mesh_lib


def align_testbed(
  *,
  task: Task,
  model: decoder.DecoderConfig,
  optimizer: Callable,
  settings: Settings,
  seeds: list,
  mesh_shape: dict,
  num_resamples: int,
  output: str,
) -> None:
  """Runs an experiment seed by seed; those that are done are not run again.

  Each seed leaves seed_<n>.npz, scores by trial, and then seed_<n>.json, the
  summary; see `mlm.alignment.testbed.experiment.run_seed`. After each the tables
  and figures of `mlm.evaluation.testbed_report` are written anew.

  Args:
    task: of `mlm.alignment.testbed`, such as `artificial.make_task`.
    model: of the policy and of the decoder below the reward models.
    optimizer: (peak learning rate, number of steps) -> optimizer.
    settings: of the experiment.
    seeds: of fine-tuning, data, labels and samples; one run each.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    num_resamples: of the bootstraps.
    output: directory for the results.
  """
  made = stages.make_stages(
    task=task,
    config=model,
    optimizer=optimizer,
    settings=settings,
    mesh=mesh_lib.make_mesh(mesh_shape),
  )

  def report():
    return testbed_report.write(
      output, confidence=settings.confidence, num_resamples=num_resamples
    )

  stages_of_seed = 1 + sum(
    1 + len(settings.trials(mixture)) for mixture in settings.mixtures
  )
  stages_of_seed += settings.transfer is not None
  with tqdm.tqdm(total=len(seeds) * stages_of_seed, unit="stage") as progress:
    for seed in seeds:
      path = os.path.join(output, f"seed_{seed}.json")
      if os.path.exists(path):
        progress.update(stages_of_seed)
        continue

      def tell(line, seed=seed):
        progress.update()
        progress.write(f"seed {seed}: {line}")

      summary, scores = experiment.run_seed(
        seed,
        task=task,
        stages=made,
        settings=settings,
        output=os.path.join(output, f"seed_{seed}"),
        tell=tell,
      )
      np.savez_compressed(os.path.join(output, f"seed_{seed}.npz"), **scores)
      temporary = f"{path}.part"
      with open(temporary, "w", encoding="utf-8") as f:
        json.dump(summary, f, indent=1)
      os.replace(temporary, path)
      report()
  print(report())
  print(f"Results: {output}")
