"""What a compiled program does, read from its text: kernels, loops, products, bytes.

The text is XLA's optimised HLO, as ``compiled.as_text()`` gives it. Loops are multiplied by the
trip counts that the compiler states, or else by the bound that their counter is compared with, as
the loops of jax count: from 0, by 1.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
# With its layout: what has a memory space, S(1), is not in the device's main memory.
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9a-z]+)?)\[([0-9,]*)\](\{[^}]*\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
    r"\{?(%?[\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_BYTES = {"pred": 1, "s4": 1, "u4": 1, "token": 0, "opaque": 0}
# They start nothing on a device.
_FREE = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
    | {"call", "after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency"}
    | {"async-done", "async-update", "copy-done", "slice-done", "domain"}
)
# Calls of a TPU's compiler that name or join memory.
_NAMING = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
# Calls of the host, or data that goes there.
_HOST = ("callback", "infeed", "outfeed", "send", "recv")


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: of its result.
      shape: type of its result, as text.
      opcode: what it does.
      operands: names of the results that it takes.
      text: the rest of the line.
    """

    name: str
    shape: str
    opcode: str
    operands: list[str]
    text: str


class Kernel(NamedTuple):
    """Something that a device starts.

    Attributes:
      times: how often in one run of the program.
      flops: of its matrix products, each time.
      size: bytes of its operands and result in the device's main memory, each time.
    """

    times: int
    flops: float
    size: int


class Loop(NamedTuple):
    """A loop in a program.

    Attributes:
      trips: rounds, each time it is entered.
      entered: how often it is.
      kernels: in a round, those of inner loops included.
      own: in a round, without inner loops.
    """

    trips: int
    entered: int
    kernels: int
    own: int


def _shapes(text: str) -> list[tuple[str, list[int]]]:
    found = _SHAPE.findall(text)
    return [(kind, [int(n) for n in sizes.split(",") if n]) for kind, sizes, _ in found]


def _size(text: str) -> int:
    """Bytes of a result in the device's main memory."""
    total = 0
    for kind, sizes, layout in _SHAPE.findall(text):
        if "S(" in layout:
            continue
        digits = re.search(r"\d+", kind)
        each = _BYTES.get(kind, int(digits[0]) // 8 if digits else 1)
        total += each * math.prod(int(n) for n in sizes.split(",") if n)
    return total


class Program:
    """A compiled program, taken apart.

    Attributes:
      kernels: all of them.
      loops: all of them.
      unknown_loops: names of those whose rounds are not known, which count as one.
    """

    def __init__(self, text: str):
        """Reads the program's text."""
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        own: dict[str, Instruction] = {}
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                own = self._computations.setdefault(head[2], {})
                if head[1]:
                    self._entry = head[2]
            elif found := _INSTRUCTION.match(line):
                name, shape, opcode, rest = found.groups()
                arguments = rest.split("), ", 1)[0]
                own[name] = Instruction(name, shape, opcode, _OPERAND.findall(arguments), rest)
        loops = [x for x in self.instructions() if x.opcode == "while"]
        self.unknown_loops = [loop.name for loop in loops if self._trips(loop) is None]
        self.kernels = list(self._list_kernels(self._entry, 1))
        self.loops = list(self._list_loops(self._entry, 1))

    def _called(self, instruction: Instruction) -> list[str]:
        """Names of the computations that an instruction runs."""
        names = ",".join(_CALLED.findall(instruction.text)).replace("%", "").replace(" ", "")
        return [name for name in names.split(",") if name in self._computations]

    def _runs(self, instruction: Instruction) -> list[tuple[str, int]]:
        """The computations of control flow that an instruction runs, and how often."""
        if instruction.opcode == "while":
            trips = self._trips(instruction) or 1
            return [(name, trips) for name in self._called(instruction)]
        if instruction.opcode in ("conditional", "call"):
            return [(name, 1) for name in self._called(instruction)]
        # Command buffers of a GPU, and what runs beside the rest.
        if instruction.opcode == "async-start":
            return [(name, 1) for name in self._called(instruction)]
        return []

    def _trips(self, loop: Instruction) -> int | None:
        """The rounds of a loop; None where they are not known."""
        stated = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
        if stated:
            return int(stated[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.text)
        own = self._computations.get(condition[1], {}) if condition else {}
        compared = [x for x in own.values() if x.opcode == "compare"]
        if len(compared) != 1 or "direction=LT" not in compared[0].text:
            return None
        bound = own.get(compared[0].operands[-1])
        number = re.match(r"(\d+)\)", bound.text) if bound and bound.opcode == "constant" else None
        return int(number[1]) if number else None

    def _list_kernels(self, computation: str, times: int) -> Iterator[Kernel]:
        own = self._computations[computation]
        for instruction in own.values():
            inner = self._runs(instruction)
            for name, rounds in inner:
                yield from self._list_kernels(name, times * rounds)
            if not inner and not _is_free(instruction):
                yield Kernel(times, self._flops(instruction, own), self._moved(instruction, own))

    def _list_loops(self, computation: str, times: int) -> Iterator[Loop]:
        for instruction in self._computations[computation].values():
            for name, rounds in self._runs(instruction):
                if instruction.opcode == "while" and f"body=%{name}" in instruction.text:
                    kernels = sum(k.times for k in self._list_kernels(name, 1))
                    own = sum(k.times == 1 for k in self._list_kernels(name, 1))
                    yield Loop(rounds, times, kernels, own)
                yield from self._list_loops(name, times * rounds)

    def _flops(self, instruction: Instruction, own: Mapping[str, Instruction]) -> float:
        """Of the matrix products in an instruction, those of its fusion included."""
        total = 0.0
        for inner in (self._computations[name] for name in self._called(instruction)):
            total += sum(self._flops(one, inner) for one in inner.values())
        if not _is_product(instruction) or any(n not in own for n in instruction.operands[:2]):
            return total
        left, right = (_shapes(own[name].shape)[0][1] for name in instruction.operands[:2])
        result = _shapes(instruction.shape)[0][1]
        if instruction.opcode == "convolution":
            return total + 2.0 * _count_convolution(instruction.text, left, right, result)
        summed = math.prod(left[axis] for axis in _contracted(instruction))
        return total + 2.0 * math.prod(result) * summed

    def _moved(self, instruction: Instruction, own: Mapping[str, Instruction]) -> int:
        """Bytes that an instruction reads and writes; of an array that it slices, the slices."""
        if instruction.opcode in ("copy-start", "slice-start"):
            # Its result is a tuple: the source, what is copied of it, a flag.
            source, copied = (m[0] for m in list(_SHAPE.finditer(instruction.shape))[:2])
            away = "S(" in source
            return _size(copied) + (0 if away else _size(copied.partition("{")[0]))
        called = self._called(instruction) if instruction.opcode == "fusion" else []
        if not called:
            inner, given = own, dict.fromkeys(instruction.operands)
            body = [instruction]
        else:
            inner = self._computations[called[0]]
            body = [x for x in inner.values() if x.opcode not in ("parameter", "constant")]
            given = {x.name: None for x in inner.values() if x.opcode == "parameter"}
        total = 0
        for name in (name for name in given if name in inner):
            total += self._read(inner[name], body)
        updates = [x for x in body if x.opcode == "dynamic-update-slice"]
        if updates and _size(instruction.shape) >= sum(_size(x.shape) for x in updates):
            # Written in place: only what is new.
            rest = _size(instruction.shape) - sum(_size(x.shape) for x in updates)
            return total + rest + sum(_size(inner[x.operands[1]].shape) for x in updates)
        return total + _size(instruction.shape)

    def _read(self, array: Instruction, body: list[Instruction]) -> int:
        """Bytes of an array that the instructions of a kernel read."""
        users = [x for x in body if array.name in x.operands]
        slices = ("dynamic-slice", "dynamic-update-slice", "gather")
        if users and all(x.opcode in slices and x.operands[0] == array.name for x in users):
            # An array that is updated is not read.
            return sum(_size(x.shape) for x in users if x.opcode != "dynamic-update-slice")
        return _size(array.shape)

    def instructions(self) -> Iterator[Instruction]:
        """All instructions, those inside fusions included, each once."""
        for own in self._computations.values():
            yield from own.values()

    def products(self) -> Counter:
        """Matrix products by the types of operands and result, each once."""
        found: Counter = Counter()
        for own in self._computations.values():
            for one in own.values():
                if _is_product(one):
                    taken = {_shapes(own[n].shape)[0][0] for n in one.operands[:2] if n in own}
                    found[f"{', '.join(sorted(taken))} -> {_shapes(one.shape)[0][0]}"] += 1
        return found

    def collectives(self) -> Counter:
        """Operations in which devices exchange data, by their names."""
        return Counter(
            kind for x in self.instructions() for kind in _COLLECTIVES if x.opcode.startswith(kind)
        )

    def host_calls(self) -> list[str]:
        """Instructions that call the host or send data to it."""
        return [
            x.name
            for x in self.instructions()
            if x.opcode.split("-")[0] in _HOST
            or (x.opcode == "custom-call" and "callback" in x.text.split("metadata=")[0])
        ]

    def count_type(self, kind: str) -> int:
        """Instructions whose result is of a type, such as ``f64``."""
        return sum(f"{kind}[" in x.shape for x in self.instructions())


def _is_free(instruction: Instruction) -> bool:
    """Whether it starts nothing on a device."""
    if instruction.opcode == "custom-call":
        return any(f'custom_call_target="{name}"' in instruction.text for name in _NAMING)
    return instruction.opcode in _FREE


def _is_product(one: Instruction) -> bool:
    """Whether it is a matrix product; a TPU has them as convolutions."""
    if one.opcode == "custom-call":
        return "gemm" in one.text.split("backend_config=")[0]
    return one.opcode in ("dot", "convolution")


def _contracted(one: Instruction) -> list[int]:
    """The axes of the first operand that a product sums over."""
    if one.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
        return [int(axis) for axis in axes[1].split(",") if axis] if axes else []
    axes = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', one.text)
    return json.loads(axes[1]) if axes else []


def _count_convolution(text: str, left: list[int], right: list[int], result: list[int]) -> int:
    """The multiplications of a convolution, those with padding or holes left out.

    A TPU's batched product is a convolution over its batch axes, whose window meets one entry.

    Args:
      text: its instruction: the window and the meaning of the axes.
      left: sizes of the input.
      right: sizes of the kernel.
      result: sizes of the output.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
    inputs, kernel, outputs = labels.groups()
    given = re.search(r"window=\{([^}]*)\}", text)
    window = dict(part.split("=") for part in given[1].split()) if given else {}
    count = result[outputs.index("b")] * result[outputs.index("f")] * right[kernel.index("i")]
    axes = sorted(label for label in outputs if label.isdigit())

    def each(name: str, default: int) -> list[int]:
        # Of padding, low_high, the low one: the other adds entries at the end.
        values = window[name].split("x") if name in window else [str(default)] * len(axes)
        return [int(value.split("_")[0]) for value in values]

    options = (each("stride", 1), each("lhs_dilate", 1), each("rhs_dilate", 1), each("pad", 0))
    for axis, stride, holes, spread, before in zip(axes, *options):
        end = (left[inputs.index(axis)] - 1) * holes + 1
        places = (
            start * stride + step * spread - before
            for start in range(result[outputs.index(axis)])
            for step in range(right[kernel.index(axis)])
        )
        count *= sum(0 <= place < end and place % holes == 0 for place in places)
    return count
