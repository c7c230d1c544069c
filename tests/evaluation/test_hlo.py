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


# As a TPU's compiler writes it: a bound in place of a stated number of rounds, a batched product as
# a convolution, arrays in a memory of the core, S(1), and copies to it.
TPU = """HloModule tpu

%body (s: (s32[], f32[3,4,8], f32[3,8,5])) -> (s32[], f32[3,4,8], f32[3,8,5]) {
  %s = (s32[], f32[3,4,8]{2,1,0:T(8,128)}, f32[3,8,5]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = f32[3,4,8]{2,1,0:T(8,128)} get-tuple-element(%s), index=1
  %w = f32[3,8,5]{2,1,0:T(8,128)} get-tuple-element(%s), index=2
  %copy-start = (f32[3,4,8]{2,1,0:T(8,128)}, f32[3,4,8]{2,1,0:T(8,128)S(1)}, u32[]{:S(2)}) \
copy-start(%x)
  %near = f32[3,4,8]{2,1,0:T(8,128)S(1)} copy-done(%copy-start)
  %y = f32[3,4,5]{2,1,0:T(8,128)} convolution(%near, %w), window={size=3 stride=2 lhs_dilate=3}, \
dim_labels=0bf_0io->0bf
  ROOT %out = (s32[], f32[3,4,8]{2,1,0}, f32[3,8,5]{2,1,0}) tuple(%i, %x, %w)
}

%cond (c: (s32[], f32[3,4,8], f32[3,8,5])) -> pred[] {
  %bound = s32[]{:T(128)} constant(6), metadata={op_name="while"}
  %c = (s32[], f32[3,4,8]{2,1,0}, f32[3,8,5]{2,1,0}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %bound), direction=LT
}

%asked (c: (s32[], f32[3,4,8], f32[3,8,5])) -> pred[] {
  %c = (s32[], f32[3,4,8]{2,1,0}, f32[3,8,5]{2,1,0}) parameter(0)
  ROOT %data = pred[] get-tuple-element(%c), index=0
}

ENTRY %main (a: (s32[], f32[3,4,8], f32[3,8,5])) -> (s32[], f32[3,4,8], f32[3,8,5]) {
  %a = (s32[], f32[3,4,8]{2,1,0}, f32[3,8,5]{2,1,0}) parameter(0)
  %first = (s32[], f32[3,4,8]{2,1,0}, f32[3,8,5]{2,1,0}) while(%a), condition=%cond, body=%body
  ROOT %second = (s32[], f32[3,4,8]{2,1,0}, f32[3,8,5]{2,1,0}) while(%first), condition=%asked, \
body=%body
}
"""


def test_the_program_of_a_tpu_is_counted_as_by_hand():
    program = Program(TPU)
    # Three products of [4, 8] with [8, 5]; 384 bytes are copied from the main memory, where the
    # product finds 480 bytes and leaves 240. The second loop ends by its data: one round counts.
    copy, product = (0.0, 384), (2.0 * 3 * 4 * 8 * 5, 480 + 240)
    counted = [Kernel(times, *own) for times in (6, 1) for own in (copy, product)]
    # The comparisons of the conditions are kernels, too.
    assert [kernel for kernel in program.kernels if kernel.size > 16] == counted
    assert program.loops[0] == Loop(trips=6, entered=1, kernels=2, own=2)
    assert program.unknown_loops == ["second"]
    assert program.products() == {"f32 -> f32": 1}


@pytest.mark.parametrize(
    ("left", "right", "window", "labels", "result"),
    [
        # A convolution over 7 places with a window of 3, padded by one: two entries fall outside.
        ([2, 7, 4], [3, 4, 5], "size=3 pad=1_1", "b0f_0io->b0f", [2, 7, 5]),
        ([2, 7, 4], [3, 4, 5], "size=3 stride=2 rhs_dilate=2", "b0f_0io->b0f", [2, 2, 5]),
        ([2, 4], [4, 5], "", "bf_io->bf", [2, 5]),
    ],
)
def test_the_multiplications_of_a_convolution_are_counted(left, right, window, labels, result):
    shapes = [f"f32[{','.join(map(str, sizes))}]" for sizes in (left, right, result)]
    text = f"""HloModule one

ENTRY %main (x: {shapes[0]}, w: {shapes[1]}) -> {shapes[2]} {{
  %x = {shapes[0]} parameter(0)
  %w = {shapes[1]} parameter(1)
  ROOT %y = {shapes[2]} convolution(%x, %w), window={{{window}}}, dim_labels={labels}
}}
"""
    (kernel,) = Program(text).kernels
    options = dict(part.split("=") for part in window.split())
    stride, spread = (int(options.get(name, 1)) for name in ("stride", "rhs_dilate"))
    padding = [tuple(map(int, options.get("pad", "0_0").split("_")))]
    ones = [jnp.ones(sizes) for sizes in (left, right)]
    if len(left) == 3:
        # Of ones, each entry of the result is the number of its multiplications.
        counted = jax.lax.conv_general_dilated(
            *ones,
            (stride,),
            padding,
            rhs_dilation=(spread,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
    else:
        counted = ones[0] @ ones[1]
    assert kernel.flops == 2 * float(counted.sum())


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
