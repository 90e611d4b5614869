"""The plan's report from its own experiment, and a step that compiles."""

import html.parser
import json
import pathlib
import re

import pytest

from mlm import run as launcher
from mlm.languages import sets
from mlm.planning import compiled

ROOT = pathlib.Path(__file__).parents[3]
EXPERIMENT = "gin/experiments/llama5_200b_100langs/plan.gin"
RESULTS = "docs/results/2026-11-29_plan_200b/compiled"


@pytest.fixture(autouse=True)
def _repository_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def _plan(output, *bindings):
  arguments = ["plan", f"--gin_file={EXPERIMENT}", f"--gin.OUTPUT={output}"]
  assert launcher.main([*arguments, *bindings]) == 0
  return (output / "plan.md").read_text(encoding="utf-8")


def _tables(text):
  """Title -> (columns, rows) of every section of the Markdown report."""
  tables = {}
  for section in text.split("\n## ")[1:]:
    lines = [x for x in section.splitlines() if x.startswith("| ")]
    cells = [
      [c.strip() for c in line.strip("|").split(" | ")] for line in lines
    ]
    tables[section.splitlines()[0]] = (cells[0], cells[1:])
  return tables


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  output = tmp_path_factory.mktemp("plan")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    text = _plan(output, f"--gin.COMPILED={RESULTS}")
  return output, text, _tables(text)


def test_all_hundred_languages_have_a_share_and_epochs_under_the_cap(report):
  columns, rows = next(
    table for title, table in report[2].items() if "hundred" in title
  )
  assert {row[0] for row in rows} == set(sets.HUNDRED)
  for rule in ("temperature", "UniMax"):
    shares = [row[columns.index(f"{rule}: share")] for row in rows]
    epochs = [row[columns.index(f"{rule}: epochs")] for row in rows]
    assert sum(float(x.rstrip("%")) for x in shares) == pytest.approx(
      100, abs=0.1
    )
    assert max(map(float, epochs)) <= 4.005


def test_compiled_peaks_are_those_of_the_results(report):
  found = {one.name: one for one in compiled.read_all(RESULTS)}
  columns, rows = report[2]["Memory of a device: fits, or short by"]
  of_run = {row[0]: row for row in rows}
  peak = of_run["dense, 1,024 v5p"][columns.index("peak (compiled)")]
  assert float(peak) == pytest.approx(
    found["dense_v5p_1024"].peak_bytes / 2**30, abs=0.01
  )
  assert float(peak) <= 21
  assert of_run["dense, 1,024 v5p"][-1] == "fits"


def test_days_follow_from_tokens_and_seconds(report):
  columns, rows = report[2]["Days and cost"]
  for row in rows:
    at = dict(zip(columns, row))
    steps, seconds = (
      int(at["steps"].replace(",", "")),
      float(at["seconds a step"]),
    )
    days = float(at["days"].replace(",", ""))
    assert days == pytest.approx(steps * seconds / 0.9 / 86_400, rel=0.02)


def test_every_table_says_of_which_kind_its_numbers_are(report):
  kinds = re.compile("published|computed|compiled|assumed", re.IGNORECASE)
  for section in report[1].split("\n## ")[1:]:
    assert kinds.search(section), section[:80]


def test_the_page_is_whole_and_its_figures_are_in_it_and_beside_it(report):
  output, text, _ = report
  page = (output / "plan.html").read_text(encoding="utf-8")
  html.parser.HTMLParser().feed(page)
  assert page.rstrip().endswith("</html>")
  named = re.findall(r"\]\((figure_\d+\.svg)\)", text)
  assert len(named) >= 4
  for name in named:
    assert (output / name).read_text(encoding="utf-8") in page


def test_without_results_the_report_says_not_compiled(tmp_path):
  text = _plan(tmp_path)
  _, rows = _tables(text)["Memory of a device: fits, or short by"]
  assert {row[5] for row in rows} == {"not compiled"}


def test_a_file_that_is_no_result_is_named(tmp_path):
  (tmp_path / "other.json").write_text(json.dumps({"name": "x"}))
  with pytest.raises(ValueError, match="other.json is not a result"):
    compiled.read_all(str(tmp_path))


@pytest.mark.parametrize(
  "refusal, gib",
  [
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
      "memory space hbm. Used 31.48G of 31.25G hbm. Exceeded hbm capacity by "
      "242.53M.",
      (31.48, 31.25),
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (41.34G) exceeds available HBM (31.25G).",
      (41.34, 31.25),
    ),
  ],
)
def test_the_shortfall_is_read_in_the_compilers_words(refusal, gib):
  expected = tuple(round(n * 2**30) for n in gib)
  assert compiled.shortfall(refusal) == expected
  assert compiled.shortfall("INTERNAL: another") == (None, None)


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize(
  "batch_size, is_accepted", [(8, True), (2048, False)], ids=["fits", "refused"]
)
def test_a_step_compiles_or_is_refused_with_its_shortfall(
  batch_size, is_accepted, tmp_path
):
  """100 M parameters in 16 GiB: 2,048 rows of 4,096 tokens do not fit four."""
  pytest.importorskip("libtpu", reason="pip install 'jax[tpu]==0.10.2'")
  arguments = [
    "compile_tpu",
    *("--gin_file=gin/models/llama5_100m.gin",),
    *("--gin_file=gin/jobs/compile_tpu.gin", "--gin.TOPOLOGY=v5e:2x2"),
    "--gin.MESH_SHAPE={'fsdp': 2, 'tensor': 2}",
    f"--gin.BATCH_SIZE={batch_size}",
    *("--gin.NAME=small", f"--gin.OUTPUT={tmp_path}"),
  ]
  assert launcher.main(arguments) == 0
  (one,) = compiled.read_all(str(tmp_path))
  assert one.is_accepted == is_accepted
  assert one.num_chips == one.num_devices == 4
  if is_accepted:
    assert one.arguments_bytes < one.peak_bytes < 16 * 2**30
    assert {row["kind"] for row in one.collectives} > {"all-gather"}
    assert one.flops["pallas_call"] > 0 < one.flops["dot_general"]
  else:
    assert one.needed_bytes > one.available_bytes > 15 * 2**30
