"""Reading compiled programs: counted by hand in a small text, and against XLA in a real one."""

import jax
import jax.numpy as jnp
import pytest

from cberl_jax.evaluation.hlo import Kernel, Loop, Program

# A loop of 5 rounds with a product, a slice of a stacked array and a copy in it, then a sum over
# devices and a call of the host.
TEXT = """HloModule small

%fused (p.0: f32[5,4,8], p.1: s32[]) -> f32[4,8] {
  %p.0 = f32[5,4,8]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,4,8]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1}
}

%body (s: (s32[], f32[4,8], f32[5,4,8])) -> (s32[], f32[4,8], f32[5,4,8]) {
  %s = (s32[], f32[4,8]{1,0:T(8,128)}, f32[5,4,8]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%s), index=1
  %w = f32[5,4,8]{2,1,0} get-tuple-element(%s), index=2
  %row = f32[1,4,8]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %square = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %half = bf16[4,8]{1,0} convert(%x)
  ROOT %out = (s32[], f32[4,8]{1,0}, f32[5,4,8]{2,1,0}) tuple(%i, %x, %w)
}

%cond (c: (s32[], f32[4,8], f32[5,4,8])) -> pred[] {
  %c = (s32[], f32[4,8]{1,0}, f32[5,4,8]{2,1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (a: f32[4,8], b: f32[5,4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[5,4,8]{2,1,0} parameter(1)
  %n = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0}, f32[5,4,8]{2,1,0}) tuple(%n, %a, %b)
  %loop = (s32[], f32[4,8]{1,0}, f32[5,4,8]{2,1,0}) while(%start), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %last = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  %wide = f64[4,8]{1,0} convert(%last)
  %host = f32[4,8]{1,0} custom-call(%last), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %sum = f32[4,8]{1,0} all-reduce(%last), to_apply=%cond
}
"""


def test_a_small_program_is_counted_as_by_hand():
    program = Program(TEXT)
    # 128 bytes are 4 x 8 floats. The slice reads and writes one of five; the product reads two
    # arrays and writes 64 bytes: 2 * 4 * 4 * 8 FLOP; the conversions write half, and twice as much.
    assert program.kernels == [
        Kernel(5, 0.0, 128 + 4 + 128),
        Kernel(5, 256.0, 128 + 64),
        Kernel(5, 0.0, 128 + 64),
        Kernel(1, 0.0, 128 + 256),
        Kernel(1, 0.0, 128 + 128),
        Kernel(1, 0.0, 128 + 128),
    ]
    assert program.loops == [Loop(trips=5, entered=1, kernels=3, own=3)]
    assert program.products() == {"f32 -> f32": 1}
    assert program.collectives() == {"all-reduce": 1}
    assert program.host_calls() == ["host"]
    assert program.count_type("f64") == 1 and program.count_type("bf16") == 1


def test_loops_and_products_of_a_real_program_are_those_that_were_written():
    def step(x, w):
        x, _ = jax.lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, length=7)
        return x, None

    def program(x, stack):
        return jax.lax.scan(step, x, stack)[0]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((16, 32), (3, 32, 32))]
    found = Program(jax.jit(program).lower(*shapes).compile().as_text())
    assert sorted((loop.trips, loop.entered) for loop in found.loops) == [(3, 1), (7, 3)]
    flops = sum(kernel.times * kernel.flops for kernel in found.kernels)
    assert flops == pytest.approx(3 * 7 * 2 * 16 * 32 * 32)
    assert not found.collectives() and not found.host_calls() and not found.count_type("f64")
