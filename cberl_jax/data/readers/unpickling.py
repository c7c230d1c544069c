"""Pickles turned into plain Python data without running anything.

Unpickling is a small program that the file brings along. Here it can call nothing but the few
functions of ``_ADMITTED``, which build containers and numeric arrays; what they build is
charged against the size of the file, so that a small file cannot ask for a large result.
"""

import io
import math
import os
import pickle
import re
from collections.abc import Callable, Sequence

import numpy as np

from cberl_jax.errors import UserError

MAX_FILE_BYTES = 4 * 2**30
# An empty set is one byte in a file and 216 in memory; real files hold a hundred thousand.
MAX_CONTAINERS = 1_000_000
# Integers over this can be chosen so that all land in one slot of a dictionary.
MAX_KEY = 2**31


class _Dtype:
    """A dtype of plain numbers, text or objects; the pickled state may only set its byte order.

    Objects never become a numpy array: what such an array holds is read as a list.
    """

    def __init__(self, code: object):
        if not isinstance(code, str) or not re.fullmatch(
            r"[biuf][1248]|[SU][1-9]\d{0,5}|O8?", code
        ):
            raise ValueError("an array type other than numbers, text or objects is refused")
        self.value = np.dtype(code[0] if code.startswith("O") else code)

    def set_state(self, state: tuple) -> None:
        order, subarray, names, fields = state[1:5]
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise ValueError("a structured array type is refused")
        self.value = self.value.newbyteorder(order)


class PickledArray:
    """A numpy array under construction; ``value`` is None until its state has been read.

    It is an array of numbers, or a list where the pickle has an array of text or of objects.
    """

    def __init__(self):
        self.value = None


class RestrictedUnpickler(pickle._Unpickler):
    """Reads a pickle as data: containers, numbers, text and numeric arrays.

    Built on the standard library's Python unpickler and not on ``pickle.Unpickler``: in that
    one only ``find_class`` can be narrowed, while a memo index, a declared size or a deeply
    shared dictionary key is enough to take all memory or time without naming any global.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes, source: str):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._source = source
        # Four: text may be decoded, encoded and split into elements on its way into an array.
        self._budget = 4 * len(data)
        self._containers = 0

    def find_class(self, module: str, name: str) -> Callable:
        """The replacement of an admitted global.

        Args:
          module: as named in the pickle.
          name: as named in the pickle.

        Returns:
          A function of this module, never the global itself.

        Raises:
          UserError: for every global that is not admitted.
        """
        method = _ADMITTED.get((module, name))
        if method is None:
            package = module.partition(".")[0] if isinstance(module, str) else ""
            self._refuse(f"the global {f'{module}.{name}'[:80]!r}", _INSTEAD.get(package, ""))
        return getattr(self, method)

    def persistent_load(self, pid: object) -> None:
        """Refuses references to objects outside the file.

        Args:
          pid: unused.

        Raises:
          UserError: always.
        """
        self._refuse("a persistent id")

    def _refuse(self, what: str, instead: str = "") -> None:
        raise UserError(
            f"{self._source}: the pickle asks for {what}{instead}, which is refused: only numpy "
            "arrays and builtin containers are read."
        )

    def _spend(self, amount: int) -> None:
        """Charges what is built; what the file really holds is within the budget."""
        self._budget -= amount
        if self._budget < 0:
            raise ValueError("it repeats its contents until they outgrow the file")

    def _count_container(self) -> None:
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise ValueError(f"it holds over {MAX_CONTAINERS} containers")

    # The replacements of the admitted globals.

    def _ndarray(self, *arguments: object) -> None:
        raise ValueError("an array is made directly, not by numpy's pickling")

    def _reconstruct(self, *arguments: object) -> PickledArray:
        return PickledArray()

    def _dtype(self, code: object, *arguments: object) -> _Dtype:
        return _Dtype(code)

    def _scalar(self, dtype: _Dtype, data: bytes | str) -> object:
        value = self._decode_array(dtype, (), data, "C")
        return value if isinstance(value, str) else value.item()

    def _frombuffer(self, data: bytes, dtype: _Dtype, shape: tuple, order: str) -> PickledArray:
        array = PickledArray()
        array.value = self._decode_array(dtype, shape, data, order)
        return array

    def _decode_array(self, dtype: _Dtype, shape: tuple, data: bytes | str, order: str):
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array has no type")
        if dtype.value.kind == "O":
            return self._decode_objects(shape, data)
        if isinstance(data, str):
            data = self._encode(data, "latin1")
        if not isinstance(data, bytes | bytearray):
            raise ValueError("an array's contents are not bytes")
        if len(shape) > 3 or not all(type(n) is int and 0 <= n < MAX_KEY for n in shape):
            raise ValueError("an array has an impossible shape")
        if math.prod(shape) * dtype.value.itemsize != len(data):
            raise ValueError(f"an array holds {len(data)} bytes, but declares another size")
        # An array of a billion empty rows holds no bytes either.
        self._spend(math.prod(max(size, 1) for size in shape))
        array = np.ndarray(shape, dtype.value, data, order="F" if order == "F" else "C")
        if dtype.value.kind == "S":
            array = np.char.decode(array, "latin1")
        if array.dtype.kind == "U":
            self._spend(len(data))
            return array.tolist()
        return array

    def _decode_objects(self, shape: tuple, items: object) -> list:
        """The list that an array of objects is, of one axis or two.

        numpy lists them row by row, also where the array is in Fortran's order.
        """
        if type(items) is not list or not 1 <= len(shape) <= 2:
            raise ValueError("an array of Python objects is refused that is no list of them")
        if not all(type(n) is int and 0 <= n < MAX_KEY for n in shape):
            raise ValueError("an array has an impossible shape")
        if math.prod(shape) != len(items):
            raise ValueError(f"an array holds {len(items)} objects, but declares another number")
        self._spend(math.prod(max(size, 1) for size in shape))
        if len(shape) == 1:
            return list(items)
        rows, columns = shape
        return [items[row * columns : (row + 1) * columns] for row in range(rows)]

    def _encode(self, text: str, encoding: str) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("an encoding other than latin1 is refused")
        self._spend(len(text))
        return text.encode("latin1")

    def _bytes(self) -> bytes:
        return b""

    def _list(self, items: Sequence = ()) -> list:
        self._spend(len(items))
        return list(items)

    def _set(self, items: Sequence = ()) -> set:
        self._spend(len(items))
        return set(map(_checked_key, items))

    def _dict(self, pairs: Sequence = ()) -> dict:
        self._spend(len(pairs))
        return {_checked_key(key): value for key, value in pairs}

    def _defaultdict(self, factory: object = None) -> dict:
        return {}

    # Opcodes that differ from the standard library's.

    def load_build(self) -> None:
        """Completes an array or an array type; nothing else has a state."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Dtype):
            target.set_state(state)
        elif isinstance(target, PickledArray):
            _, shape, dtype, is_fortran, data = state
            order = "F" if is_fortran else "C"
            target.value = self._decode_array(dtype, shape, data, order)
        else:
            self._refuse("an object's state to be set")

    def load_inst(self) -> None:
        """Refuses, by name, the class that protocol 0 would make an instance of."""
        module = self.readline()[:-1].decode("latin1")
        name = self.readline()[:-1].decode("latin1")
        self._refuse(f"an instance of {f'{module}.{name}'[:80]!r}")

    def load_instance(self) -> None:
        """Refuses instances whose class lies on the stack (find_class has seen its name)."""
        self._refuse("an instance of a class")

    def load_extension(self) -> None:
        """Refuses codes of the extension registry."""
        self._refuse("an extension code")

    def load_buffer(self) -> None:
        """Refuses buffers outside the file."""
        self._refuse("a buffer outside the file")

    def load_put(self) -> None:
        """Stores the top of the stack in the memo, at an index that cannot collide at will."""
        self.memo[_checked_key(int(self.readline()[:-1]))] = self.stack[-1]

    def load_bytearray8(self) -> None:
        """Reads bytes; allocates what the file holds and not what it declares."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_empty_set(self) -> None:
        """Pushes a set."""
        self._count_container()
        self.append(set())

    def load_empty_dictionary(self) -> None:
        """Pushes a dictionary."""
        self._count_container()
        self.append({})

    def load_empty_list(self) -> None:
        """Pushes a list."""
        self._count_container()
        self.append([])

    def load_mark(self) -> None:
        """Opens a new stack, itself a list."""
        self._count_container()
        super().load_mark()

    def load_dict(self) -> None:
        """Makes a dictionary of everything above the mark."""
        items = self.pop_mark()
        self.append(dict(zip(map(_checked_key, items[::2]), items[1::2], strict=True)))

    def load_frozenset(self) -> None:
        """Makes a set of everything above the mark."""
        items = self.pop_mark()
        self.append(set(map(_checked_key, items)))

    def load_additems(self) -> None:
        """Adds everything above the mark to a set."""
        items = self.pop_mark()
        self._top(set).update(map(_checked_key, items))

    def load_setitem(self) -> None:
        """Adds one pair to a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[_checked_key(key)] = value

    def load_setitems(self) -> None:
        """Adds everything above the mark to a dictionary."""
        items = self.pop_mark()
        self._top(dict).update(zip(map(_checked_key, items[::2]), items[1::2], strict=True))

    def _top(self, kind: type) -> object:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"what is added to is not a {kind.__name__}")
        return self.stack[-1]

    dispatch |= {
        opcode[0]: method
        for opcodes, method in (
            ((pickle.BUILD,), load_build),
            ((pickle.INST,), load_inst),
            ((pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX), load_instance),
            ((pickle.EXT1, pickle.EXT2, pickle.EXT4), load_extension),
            ((pickle.NEXT_BUFFER, pickle.READONLY_BUFFER), load_buffer),
            ((pickle.PUT,), load_put),
            ((pickle.BYTEARRAY8,), load_bytearray8),
            ((pickle.EMPTY_SET,), load_empty_set),
            ((pickle.EMPTY_DICT,), load_empty_dictionary),
            ((pickle.EMPTY_LIST,), load_empty_list),
            ((pickle.MARK,), load_mark),
            ((pickle.DICT,), load_dict),
            ((pickle.FROZENSET,), load_frozenset),
            ((pickle.ADDITEMS,), load_additems),
            ((pickle.SETITEM,), load_setitem),
            ((pickle.SETITEMS,), load_setitems),
        )
        for opcode in opcodes
    }


def _checked_key(key: object) -> str | int:
    """Keys of other types could be built to take for ever to hash."""
    if type(key) is str or (type(key) is int and -MAX_KEY < key < MAX_KEY):
        return key
    raise ValueError(
        f"a key of type {type(key).__name__}; keys have to be text or integers of 32 bits"
    )


# Package of a refused global -> what to save in its place.
_INSTEAD = {
    "torch": " (save tensors as arrays, by tensor.numpy())",
    "pandas": " (save a frame as a table, by frame.to_csv, or its columns as arrays)",
    "cogmen": " (save each Sample as a dictionary, by vars(sample))",
}
# What a file may name -> the method of RestrictedUnpickler that stands in for it. numpy moved
# its core in version 2, Python its builtins in version 3.
_ADMITTED = {
    **{
        (f"numpy.{core}.{module}", name): method
        for core in ("core", "_core")
        for module, name, method in (
            ("multiarray", "_reconstruct", "_reconstruct"),
            ("multiarray", "scalar", "_scalar"),
            ("numeric", "_frombuffer", "_frombuffer"),
        )
    },
    ("numpy", "ndarray"): "_ndarray",
    ("numpy", "dtype"): "_dtype",
    ("_codecs", "encode"): "_encode",
    ("collections", "OrderedDict"): "_dict",
    ("collections", "defaultdict"): "_defaultdict",
    **{
        (module, name): method
        for module in ("builtins", "__builtin__")
        for name, method in (
            ("bytes", "_bytes"),
            ("list", "_list"),
            ("dict", "_dict"),
            ("set", "_set"),
            ("frozenset", "_set"),
        )
    },
}


def read_bytes(source: str) -> bytes:
    """The bytes of a file that is not too large; raises ``UserError`` if it cannot be read."""
    try:
        if os.path.getsize(source) > MAX_FILE_BYTES:
            raise UserError(f"{source}: is over {MAX_FILE_BYTES} bytes, too large for a pickle.")
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}).") from error


def unpickle(data: bytes, source: str) -> object:
    """Plain Python data of a pickle.

    Args:
      data: the pickle.
      source: name of the file, for messages.

    Returns:
      Containers, text, numbers and ``PickledArray``.

    Raises:
      UserError: if it is damaged, or asks for anything else.
    """
    try:
        return RestrictedUnpickler(data, source).load()
    except UserError:
        raise
    except EOFError as error:
        raise UserError(f"{source}: is not a pickle, or ends too early.") from error
    except ValueError as error:
        reason = str(error)[:200]
        raise UserError(f"{source}: is not a pickle that can be read ({reason}).") from error
    except MemoryError as error:
        raise UserError(f"{source}: asks for more memory than there is.") from error
    # A damaged stream can make the unpickler raise nearly anything.
    except Exception as error:
        raise UserError(f"{source}: is not a pickle, or is damaged.") from error
