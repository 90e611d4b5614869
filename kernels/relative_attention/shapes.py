"""The shapes that models really use: bench.py times them, tests compile them."""

from typing import NamedTuple


class Shape(NamedTuple):
  """Rows on one device, slots of a row, heads, head width, dtype, causality."""

  name: str
  batch: int
  length: int
  num_heads: int
  head_width: int
  dtype: str
  is_causal: bool


# mT5: heads of 64, 32 buckets up to a distance of 128 (Xue et al. 2021).
NUM_BUCKETS = 32
MAX_DISTANCE = 128
TINY = Shape("tiny", 4, 256, 4, 32, "float32", False)
MT5_SMALL = Shape("mt5_small", 8, 1024, 6, 64, "bfloat16", False)
MT5_XXL = Shape("mt5_xxl", 2, 1024, 64, 64, "bfloat16", False)
MT5_XXL_LONG = Shape("mt5_xxl/4096", 1, 4096, 64, 64, "bfloat16", False)
MT5_XXL_CAUSAL = Shape("mt5_xxl/4096/causal", 1, 4096, 64, 64, "bfloat16", True)

SHAPES = (TINY, MT5_SMALL, MT5_XXL, MT5_XXL_LONG, MT5_XXL_CAUSAL)
