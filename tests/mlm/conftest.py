"""A tokenizer and its extension on made-up text, for tests of both."""

import gzip
import json
import random
import types

import pytest

from mlm.languages import samplers
from mlm.text import documents
from mlm.tokenizers import extend, train

OLD = {
  "eng_Latn": "bread river morning school market rain bridge garden",
  "rus_Cyrl": "хлеб река утро школа рынок дождь мост сад",
  "hin_Deva": "रोटी नदी सुबह विद्यालय बाज़ार बारिश पुल बगीचा",
  "arb_Arab": "خبز نهر صباح مدرسة سوق مطر جسر حديقة",
}
NEW = {
  "amh_Ethi": "ዳቦ ወንዝ ጠዋት ትምህርት ገበያ ዝናብ ድልድይ አትክልት",
  "tha_Thai": "ขนมปัง แม่น้ำ เช้า โรงเรียน ตลาด ฝน สะพาน สวน",
  "kat_Geor": "პური მდინარე დილა სკოლა ბაზარი წვიმა ხიდი ბაღი",
  "swh_Latn": "mkate mto asubuhi shule soko mvua daraja bustani",
}


def _write(folder, words, num_documents):
  languages = {}
  for code in words:
    (folder / code).mkdir(parents=True)
    for split in documents.SPLITS:
      rng = random.Random(f"{code} {split}")
      texts = [
        "\n".join(
          " ".join(rng.choices(words[code].split(), k=rng.randrange(4, 20)))
          for _ in range(rng.randrange(1, 5))
        )
        for _ in range(num_documents[split])
      ]
      lines = [
        documents.to_json(
          documents.Document(f"http://{code}/{i}", "2026", text, code, 1.0)
        )
        for i, text in enumerate(texts)
      ]
      name = f"{split}-00000-of-00001.jsonl.gz"
      data = "".join(f"{line}\n" for line in lines).encode()
      (folder / code / name).write_bytes(gzip.compress(data, mtime=0))
      languages.setdefault(code, {})[split] = {
        "documents": len(texts),
        "words": sum(len(t.split()) for t in texts),
        "characters": sum(map(len, texts)),
        "bytes": sum(len(t.encode()) for t in texts),
      }
  counts = {"pipeline": "mc4", "languages": languages}
  (folder / "counts.json").write_text(json.dumps(counts))


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
  """Paths: corpora old, new, all; tokenizers base, second, extended."""
  root = tmp_path_factory.mktemp("extension")
  names = ("old", "new", "all", "base", "second", "extended")
  paths = types.SimpleNamespace(**{n: str(root / n) for n in names})
  sizes = {"train": 30, "validation": 4}
  for name, words in (("old", OLD), ("new", NEW), ("all", OLD | NEW)):
    _write(root / name, words, sizes)
  for corpus, output in ((paths.old, paths.base), (paths.new, paths.second)):
    train.train_tokenizer(
      corpus=corpus,
      output=output,
      vocab_size=420,
      sampler=samplers.by_temperature(
        temperature=1.0, unit="characters", max_epochs=1
      ),
      budget_characters=100_000,
      character_coverage=1.0,
      division=None,
      seed=0,
      num_threads=1,
    )
  extend.extend_tokenizer(
    base=paths.base,
    second=paths.second,
    corpus=paths.all,
    output=paths.extended,
    max_new_pieces=10_000,
    new_share=0.5,
  )
  return paths
