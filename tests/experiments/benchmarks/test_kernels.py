"""oneDNN's log is summed by primitive."""

from __future__ import annotations

import pytest

from experiments.benchmarks.kernels import primitives

LOG = """\
onednn_verbose,v1,info,oneDNN v3.12.0
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,exec_time
onednn_verbose,v1,primitive,exec,cpu,convolution,brgconv:avx512_core_amx,forward_training,src:bf16,,alg:x,mb8ic3oc16,1.5
onednn_verbose,v1,primitive,exec,cpu,convolution,brgconv:avx512_core_amx,forward_training,src:bf16,,alg:x,mb8ic3oc16,3
onednn_verbose,v1,primitive,exec,cpu,reorder,ref:any,undef,src:f32,,,16x3,0.75
something else that was printed
"""


def test_milliseconds_of_a_step_by_primitive() -> None:
    assert primitives(LOG) == {
        "convolution forward_training mb8ic3oc16, brgconv:avx512_core_amx": pytest.approx(1.5),  # of three steps
        "reorder undef 16x3, ref:any": pytest.approx(0.25),
    }
