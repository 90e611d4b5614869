"""Collectives read from compiled programs, loops multiplied."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from mlm.planning import collectives

# Of a TPU's text: a string that goes over lines and begins one with a brace, a
# reduce-scatter in a computation of its name, three notations of groups.
_TEXT = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: bf16[8,64]) -> bf16[2,64] {
  %input = bf16[8,64]{1,0} parameter(0)
  %all-reduce.1 = bf16[8,64]{1,0:T(8,128)(2,1)} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %part = bf16[2,64]{1,0} dynamic-slice(%all-reduce.1)
}

%condition (p: (s32[], bf16[8,64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5), metadata={op_name="x"}
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %kernel = bf16[8,64]{1,0} custom-call(%x), backend_config="
{inside
}}, still inside"
  %fusion.1 = bf16[2,64]{1,0} fusion(%kernel), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %all-gather.1 = bf16[8,64]{1,0} all-gather(%fusion.1), replica_groups=[2,4]<=[8], dimensions={0}
}

ENTRY %main (p: bf16[8,64]) -> f32[64] {
  %while.1 = (s32[], bf16[8,64]) while(%t), condition=%condition, body=%body
  %permuted = (bf16[4,64]{1,0}, bf16[4,64]{1,0}, u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  ROOT %all-reduce.2 = f32[64]{0} all-reduce(%y), replica_groups=mesh['a'=4,'b'=2], device_ids=([8]) {'a','b'}, to_apply=%add
}
"""


def test_loops_kinds_and_groups_of_a_tpus_text():
  of_loop = 8 * 64 * 2 * 3 // 4  # three quarters of a bf16 [8, 64]
  assert set(collectives.of_text(_TEXT)) == {
    collectives.Collective("reduce-scatter", 4, 5, 5 * of_loop),
    collectives.Collective("all-gather", 4, 5, 5 * of_loop),
    collectives.Collective("collective-permute", 2, 1, 4 * 64 * 2),
    collectives.Collective("all-reduce", 8, 1, 2 * 64 * 4 * 7 // 8),
  }


@pytest.mark.parametrize("trips", [1, 7])
def test_a_compiled_scan_has_as_many_reductions_as_trips(trips):
  """By the text of this host's own compiler, which has no known trip count."""
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )

  def sums(x):
    def body(total, row):
      part = jax.shard_map(
        lambda x: jax.lax.psum(x * total, "data"),
        mesh=mesh,
        in_specs=jax.P("data"),
        out_specs=jax.P(),
      )(row)
      return part.sum(), None

    return jax.lax.scan(body, jnp.float32(1), x)[0]

  rows = jax.ShapeDtypeStruct(
    (trips, 16),
    jnp.float32,
    sharding=NamedSharding(mesh, jax.P(None, "data")),
  )
  found = collectives.of_text(jax.jit(sums).lower(rows).compile().as_text())
  reductions = [row for row in found if row.kind == "all-reduce"]
  assert sum(row.count for row in reductions) == trips
  assert reductions[0].devices == 8
