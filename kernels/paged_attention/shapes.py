"""The shapes that models really use: tests compile them."""

from typing import NamedTuple


class Shape(NamedTuple):
  """Of a device: rows, heads, head width, slots of a page, pages of a row."""

  name: str
  rows: int
  num_heads: int
  num_kv_heads: int
  head_width: int
  slots: int
  row_pages: int


# 64 rows of up to 2,048 tokens, as on one chip where Llama 3 8B is whole, and
# where the 200B design is split over tensor = 8.
LLAMA_8B = Shape("llama_8b", 64, 32, 8, 128, 32, 64)
DENSE_200B_TENSOR_8 = Shape("dense_200b/8", 64, 12, 1, 128, 32, 64)

SHAPES = (LLAMA_8B, DENSE_200B_TENSOR_8)
