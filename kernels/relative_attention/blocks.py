"""The tile size of the TPU kernels, and the on-chip memory that they need."""

LANES = 128
VMEM_SHARE = 0.9  # of the chip's; the compiler keeps some for itself
_BLOCKS = (512, 256, 128)


def filling(*, num_heads: int, head_width: int) -> tuple[int, int]:
  """Number and width of heads, padded until they fill the lanes.

  Widths up to 128 become powers of two, larger ones multiples of 128.
  """
  if head_width > LANES:
    return num_heads, -(-head_width // LANES) * LANES
  width = 1 << (head_width - 1).bit_length()
  return -(-num_heads * width // LANES) * LANES // width, width


def num_bias_tiles(block: int, max_distance: int, is_causal: bool) -> int:
  """Tiles of the bias of a head: near offsets, and one beyond on each side."""
  reach = -(-(max_distance - 1) // block)
  return reach + 2 if is_causal else 2 * reach + 3


def vmem_bytes(
  *,
  block: int,
  length: int,
  head_width: int,
  itemsize: int,
  max_distance: int,
  is_causal: bool,
) -> int:
  """On-chip bytes of the backward kernel, an upper estimate.

  Args:
    block: queries and keys of a tile.
    length: T.
    head_width: H, of `filling`.
    itemsize: bytes of an element of query, key and value.
    max_distance: of the bias.
    is_causal: of the attention.
  """
  lanes = max(LANES, head_width)
  num_tiles = num_bias_tiles(block, max_distance, is_causal)
  tiles = 2 * num_tiles * (lanes // head_width) * block**2 * 4
  queries = -(-length // block) * block * lanes * (4 + 2 * itemsize)
  # Seven float32 tiles at work, four at once twice as wide in the bias.
  return tiles + queries + 8 * block**2 * 4 + 12 * block * lanes * 4


def choose_block(*, vmem_limit_bytes: int, length: int, **sizes) -> int:
  """The largest tile that fits; the arguments are those of `vmem_bytes`.

  Raises:
    ValueError: if the smallest does not fit.
  """
  for block in _BLOCKS:
    needed = vmem_bytes(block=block, length=length, **sizes)
    if needed <= vmem_limit_bytes and (block < 2 * length or block == LANES):
      return block
  raise ValueError(
    f"{length} queries ({sizes}) need {needed:,} bytes of on-chip memory with "
    f"the smallest tiles, but {vmem_limit_bytes:,} are there; choose backend "
    "'chunked'"
  )
