"""Tile sizes of the TPU kernels, and the on-chip memory that they need."""

import dataclasses

LANES = 128  # last dimension of a tile
SUBLANES = 16  # rows of a bfloat16 tile; float32 needs 8
BACKWARD_WIDTH = 1024  # of D, at most, in one backward product

# (held, streamed), best first. The traffic is below 2 bytes in 2 x held FLOPs,
# and chips balance at 166 (v5p) to 560 (v6e) FLOPs a byte, so from held = 512
# on a full product, 256 wide on v6e and TPU7x, is worth more.
_BACKWARD_TILES = (
  (1024, 512),
  (1024, 256),
  (512, 512),
  (512, 256),
  (256, 512),
  (256, 256),
  (256, 128),
  (128, 128),
)


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Sizes of the tiles, multiples of 128.

  Attributes:
    tokens: of a forward tile.
    vocab: of a forward tile.
    held: tokens (vocabulary entries) for which one program adds up the
      expectation or the gradient of hidden (the gradient of kernel); the more,
      the less traffic.
    streamed: vocabulary entries (tokens) that pass by at a time.
  """

  tokens: int
  vocab: int
  held: int
  streamed: int


def slice_width(width: int, limit: int) -> int:
  """The largest multiple of 128, up to limit, that divides width."""
  sizes = range(LANES, min(width, limit) + 1, LANES)
  return max(size for size in sizes if width % size == 0)


def vmem_bytes(blocks: Blocks, *, width: int, itemsize: int) -> int:
  """On-chip bytes of a kernel that holds a block, an upper estimate.

  Args:
    blocks: tile sizes.
    width: D.
    itemsize: bytes of an element of hidden and kernel.
  """
  held, streamed = blocks.held, blocks.streamed
  rows = 4 * LANES * 2 * 2 * max(held, streamed)
  tile = held * streamed * 4 * 4
  product = held * slice_width(width, BACKWARD_WIDTH) * 4 * 2
  # Held: the float32 sum; the input and the output, up to twice each (libtpu
  # 0.0.42 used 97 MiB on v6e at D = 12,288 where this says 106). Streamed:
  # twice, for the next block arrives during the work on this one.
  return (
    held * width * (4 + 4 * itemsize)
    + streamed * width * 2 * itemsize
    + rows
    + tile
    + product
  )


def choose_blocks(
  *, width: int, itemsize: int, vmem_limit_bytes: int
) -> Blocks:
  """The tiles with the least traffic that fit.

  Args:
    width: D, a multiple of 128.
    itemsize: bytes of an element of hidden and kernel.
    vmem_limit_bytes: on-chip memory that a kernel may use.

  Raises:
    ValueError: if D is not a multiple of 128, or the smallest tiles do not fit.
  """
  if width % LANES:
    raise ValueError(
      f"width {width} is not a multiple of {LANES}, the lanes of a TPU; "
      "change d_model or choose backend 'chunked'"
    )
  for held, streamed in _BACKWARD_TILES:
    blocks = Blocks(tokens=1024, vocab=2048, held=held, streamed=streamed)
    needed = vmem_bytes(blocks, width=width, itemsize=itemsize)
    if needed <= vmem_limit_bytes:
      return blocks
  raise ValueError(
    f"width {width} of {itemsize}-byte elements needs {needed:,} bytes of "
    f"on-chip memory with the smallest tiles, but {vmem_limit_bytes:,} are "
    "there; choose backend 'chunked'"
  )
