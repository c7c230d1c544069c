"""Files made to do harm: none runs code, touches another file, or takes all memory or time.

All are read in one process that is audited (``guarded.py``), under a limit of time and a limit of
memory that grows with the file alone; each ends as one sentence, or loads without doing any harm.
"""

import bz2
import datetime
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from readers import ARRAYS, LINE, pickled_corpus, zipped

ROOT = Path(__file__).parents[3]

# Pickles.


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) + ((state,) if state is not None else ())

    def __reduce__(self):
        return self.reduced


def in_protocols(value):
    return [pickle.dumps(value, protocol) for protocol in range(6)]


def unicode(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def stack_global(module, name):
    return b"\x80\x04" + unicode(module) + unicode(name) + b"\x93"


TOUCH = "touch CANARY"
OBJECTS = np.array([Calls(os.system, TOUCH), None], object)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FLOAT = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"

NAMED = {  # what the message must name -> streams
    "posix.system": in_protocols(Calls(os.system, TOUCH)),
    "os.system": [
        b"cos\nsystem\n(S'touch CANARY'\ntR.",
        stack_global("os", "system") + unicode(TOUCH) + b"\x85R.",
        b"(cos\nsystem\nS'touch CANARY'\no.",
        b"(S'touch CANARY'\nios\nsystem\n.",
        b"\x80\x02cos\nsystem\n" + unicode(TOUCH) + b"\x85\x81.",
        b"\x80\x04cos\nsystem\n)}\x92.",
        b"(lp0\ncos\nsystem\np1\n0g1\n(S'touch CANARY'\ntR.",
    ],
    "builtins.eval": [
        stack_global("builtins", "eval") + unicode("open('CANARY', 'w')") + b"\x85R."
    ],
    "builtins.exec": [
        stack_global("builtins", "exec") + unicode("open('CANARY', 'w')") + b"\x85R."
    ],
    "builtins.getattr": [stack_global("builtins", "getattr") + b"."],
    "__builtin__.eval": in_protocols(Calls(eval, "open('CANARY', 'w')"))[:3],
    "__builtin__.open": [b"c__builtin__\nopen\n(S'CANARY'\nS'w'\ntR."],
    "builtins.__import__": [
        stack_global("builtins", "__import__") + unicode("antigravity") + b"\x85R."
    ],
    "builtins.list.append": [stack_global("builtins", "list.append") + b"."],
    "builtins.bytearray": [stack_global("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R."],
    "builtins.range": [stack_global("builtins", "range") + b"."],
    "builtins.map": [stack_global("builtins", "map") + b"."],
    "numpy.load": [b"cnumpy\nload\n(S'CANARY'\ntR."],
    "numpy.fromfile": [b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR."],
    "numpy.ndarray.tofile": [stack_global("numpy", "ndarray.tofile") + b"."],
    "numpy.matrix": [b"cnumpy\nmatrix\n."],
    "numpy.core.multiarray.fromstring": [b"cnumpy.core.multiarray\nfromstring\n."],
    "numpy.testing._private.utils.runstring": [b"cnumpy.testing._private.utils\nrunstring\n."],
    "numpy.f2py.crackfortran.myeval": [b"cnumpy.f2py.crackfortran\nmyeval\n."],
    "_codecs.decode": [b"c_codecs\ndecode\n(S'aa'\nS'hex'\ntR."],
    "_codecs.lookup": [b"c_codecs\nlookup\n."],
    "codecs.encode": [b"ccodecs\nencode\n."],
    "copy_reg._reconstructor": [b"ccopy_reg\n_reconstructor\n."],
    "copyreg.__newobj__": [stack_global("copyreg", "__newobj__") + b"."],
    "copyreg.add_extension": [stack_global("copyreg", "add_extension") + b"."],
    "functools.partial": [stack_global("functools", "partial") + b"."],
    "operator.attrgetter": [stack_global("operator", "attrgetter") + b"."],
    "subprocess.Popen": [stack_global("subprocess", "Popen") + unicode(TOUCH) + b"\x85R."],
    "socket.socket": [stack_global("socket", "socket") + b")R."],
    "torch._utils._rebuild_tensor_v2": [b"ctorch._utils\n_rebuild_tensor_v2\n."],
    "pandas.core.frame.DataFrame": [b"cpandas.core.frame\nDataFrame\n."],
    "datetime.datetime": in_protocols(datetime.datetime(2020, 1, 1))[2:],
    "pickle.loads": [stack_global("pickle", "loads") + b"C\x01.\x85R."],
    "cberl_jax.data.readers.pickles.read_pickle": [
        b"ccberl_jax.data.readers.pickles\nread_pickle\n."
    ],
    "collections.Counter": [stack_global("collections", "Counter") + b"."],
    "collections.deque": [stack_global("collections", "deque") + b"."],
    "a persistent id": [b"Pid\n.", b"\x80\x02K\x01Q."],
    "an extension code": [
        b"\x80\x02\x82\x01.", b"\x80\x02\x83\x01\x00.", b"\x80\x02\x84\x01\0\0\0."
    ],
    "a buffer outside the file": [b"\x80\x05\x97.", b"\x80\x05C\x01a\x98."],
    "an object's state to be set": [
        b"\x80\x02}" + unicode("a") + b"b.",
        b"cnumpy\ndtype\n}" + unicode("__doc__") + b"K\x01sb.",
        b"c__builtin__\nset\nN}" + unicode("__defaults__") + b"Ns\x86b.",
    ],
    "an instance of a class": [
        b"(cnumpy\nndarray\nI1000000000\no.", b"cnumpy\nndarray\n(I9\nt\x81."
    ],
    "os.popen": [
        # The name comes out of the memo, where it replaced an admitted one.
        b"\x80\x04" + unicode("list") + b"\x94" + unicode("popen") + b"q\x00" + unicode("os")
        + b"h\x00\x93" + unicode(TOUCH) + b"\x85R.",
        # Activations of what is otherwise sound: a dictionary's value, a list, an array's state.
        b"\x80\x04}(K\x00](" + stack_global("os", "popen")[2:] + unicode(TOUCH) + b"\x85Reu.",
        ARRAY + b"cos\npopen\n" + unicode(TOUCH) + b"\x85Rb.",
        # A function to call, a factory, the argument of one that is admitted.
        b"ccollections\ndefaultdict\ncos\npopen\n\x85R.",
        b"c__builtin__\nlist\ncos\npopen\n\x85R.",
    ],
    **{
        name: [
            stack_global(*name.rsplit(".", 1)) + unicode("CANARY") + b"\x85R.",
            f"c{name.rsplit('.', 1)[0]}\n{name.rsplit('.', 1)[1]}\n(S'CANARY'\ntR.".encode(),
        ]
        for name in (
            *("nt.system", "os.execv", "os.spawnlp", "os.remove", "os.kill", "os._exit"),
            *("pty.spawn", "runpy.run_path", "importlib.import_module", "ctypes.CDLL"),
            *("webbrowser.open", "urllib.request.urlopen", "http.client.HTTPConnection"),
            *("shutil.rmtree", "pathlib.Path", "io.open", "_io.FileIO", "tempfile.mktemp"),
            *("timeit.timeit", "cProfile.run", "pdb.run", "bdb.Bdb", "code.interact"),
            *("types.FunctionType", "types.CodeType", "marshal.loads", "_pickle.loads"),
            *("threading.Thread", "multiprocessing.Process", "asyncio.run", "sys.exit"),
            *("signal.raise_signal", "gc.get_objects", "weakref.ref", "atexit.register"),
            *("numpy.memmap", "numpy.save", "numpy.random._pickle.__randomstate_ctor"),
            *("numpy.lib.format.open_memmap", "numpy.ctypeslib.load_library"),
            *("numpy.ma.core._mareconstruct", "numpy.core.records.fromfile"),
            *("numpy.distutils.exec_command.exec_command", "numpy.lib.npyio.NpzFile"),
            *("torch.load", "joblib.load", "dill._dill._create_code", "cloudpickle.loads"),
            *("jax.numpy.load", "flax.serialization.from_bytes", "yaml.unsafe_load"),
            *("cberl_jax.data.readers.unpickling.RestrictedUnpickler", "builtins.globals"),
            *("builtins.memoryview", "builtins.type", "builtins.object", "builtins.compile"),
            *("builtins.setattr", "builtins.vars", "builtins.input", "builtins.breakpoint"),
        )
    },
}  # fmt: skip


def repeated(opcode, count, head=b"", tail=b""):
    return head + opcode * count + tail


def nested_tuples(depth):
    """A tuple of twice the same tuple, over and over: 2^depth leaves if anyone walks it."""
    return b")" + b"q\x00h\x00\x86" * depth


def sound_but(place, entry):
    """A sound corpus with another entry in one place, or in one dialogue of one dictionary."""
    entries = list(pickle.loads(pickled_corpus(2)))
    if isinstance(entry, dict):
        name, rows = next(iter(entry.items()))
        entries = [
            {name: rows if number == place else [value[0][0]] * len(rows)}
            if isinstance(value, dict)
            else value
            for number, value in enumerate(entries)
        ]
        entries[6:8] = [name], []
    else:
        entries[place] = entry
    return pickle.dumps(tuple(entries), 2)


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.",
    "memo index in text": b"Np99999999999999999999\n.",
    "negative memo index": b"Np-1\n.",
    "missing memo index": b"g7\n.",
    "bytes of 4 GiB": b"\x80\x03B\xff\xff\xff\xffab",
    "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"ab",
    "bytes beyond any size": b"\x80\x04\x8e" + b"\xff" * 8 + b"ab",
    "bytearray of an exabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"ab",
    "bytearray beyond any size": b"\x80\x05\x96" + b"\xff" * 8 + b"ab",
    "text of an exabyte": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"ab",
    "frame of an exabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "negative string": b"T\xff\xff\xff\xffab.",
    "long of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7fab.",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xffab.",
    "long in a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "tuple as a key": b"}" + nested_tuples(100) + b"Ns.",
    "tuples as keys": b"}(" + nested_tuples(100) + b"Nu.",
    "tuple in a set": b"\x80\x04\x8f(" + nested_tuples(100) + b"\x90.",
    "pairs in a set": b"\x80\x04\x8f(" + unicode("a") + nested_tuples(100) + b"u.",
    "tuple in a frozen set": b"\x80\x04(" + nested_tuples(100) + b"\x91.",
    "tuple in a called set": b"c__builtin__\nset\n(" + nested_tuples(100) + b"lttR.",
    "tuple in a dict opcode": b"(" + nested_tuples(100) + b"Nd.",
    "key of many digits": b"}I" + str(2**61 - 1).encode() + b"\nNs.",
    "list as a key": b"}]Ns.",
    "unknown opcode": b"\xfe.",
    "future protocol": b"\x80\xff.",
    "marks": repeated(b"(", 1_000_100),
    "empty sets": repeated(b"\x8f", 1_000_100, b"\x80\x04"),
    "nested lists": repeated(b"]", 100_000, tail=repeated(b"a", 99_999) + b"0."),
    "stack underflow": b"0.",
    "append to nothing": b"Na.",
    "append to a number": b"K\x01Na.",
    "update of a number": b"K\x01(K\x01Nu.",
    "call of a number": b"K\x01)R.",
    "call of text": unicode("os.system") + b")R.",
    "array of objects": in_protocols(OBJECTS)[4],
    "array of objects, empty": in_protocols(np.array([], object))[2],
    "structured array": in_protocols(np.zeros(2, "i4,f4"))[2],
    "array of dates": in_protocols(np.zeros(2, "M8[s]"))[4],
    "array of void": in_protocols(np.zeros(2, "V8"))[4],
    "array of objects by state": ARRAY
    + b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\n(lNatb.",
    "array given a list": ARRAY + b"(I1\n(I1\nt" + FLOAT + b"I00\n(lNatb.",
    "array of a petabyte": ARRAY + b"(I1\n(I999999999999\nt" + FLOAT + b"I00\nS'abcd'\ntb.",
    "array of overflowing shape": ARRAY
    + b"(I1\n(I4294967296\nI4294967296\nt" + FLOAT + b"I00\nS''\ntb.",
    "array of a billion empty rows": ARRAY
    + b"(I1\n(I1000000000\nI0\nt" + FLOAT + b"I00\nS''\ntb.",
    "array of negative shape": ARRAY + b"(I1\n(I-1\nt" + FLOAT + b"I00\nS'abcd'\ntb.",
    "array of many axes": ARRAY + b"(I1\n(" + b"I1\n" * 9 + b"t" + FLOAT + b"I00\nS'abcd'\ntb.",
    "array without type": ARRAY + b"(I1\n(I1\ntNI00\nS'abcd'\ntb.",
    "array with a short state": ARRAY + b"(I1\n(I1\nttb.",
    "numpy's own array type": b"cnumpy\nndarray\n((I1000000000\nttR.",
    "array of billion strings of width 0": ARRAY
    + b"(I1\n(I999999999\ntcnumpy\ndtype\n(S'U0'\nI0\nI1\ntRI00\nS''\ntb.",
    "array of impossible characters": ARRAY
    + b"(I1\n(I1\ntcnumpy\ndtype\n(S'U1'\nI0\nI1\ntRI00\nS'\\xff\\xff\\xff\\xff'\ntb.",
    "type of a file name": b"cnumpy\ndtype\n(S'f4,f4'\ntR.",
    "type that is a list": b"cnumpy\ndtype\n((lS'f4'\natR.",
    "type with metadata as fields": b"cnumpy\ndtype\n(S'f4'\ntR(I3\nS'<'\nN(lNI8\nI1\nI16\ntb.",
    "scalar of an object": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRN tR.",
    "scalar of a wrong size": b"cnumpy.core.multiarray\nscalar\n(" + FLOAT + b"S'ab'\ntR.",
    "encoding to hex": b"c_codecs\nencode\n(S'ab'\nS'hex'\ntR.",
    "encoding with a bomb": b"c_codecs\nencode\n(S'ab'\nS'zlib_codec'\ntR.",
    "encoding repeated": b"\x80\x02(c_codecs\nencode\nq\x01X\x40\x42\x0f\x00" + b"a" * 10**6
    + b"q\x02X\x06\x00\x00\x00latin1q\x03" + b"h\x01h\x02h\x03\x86R" * 1000 + b"t.",
    "list repeated": b"\x80\x02(c__builtin__\nlist\nq\x01]q\x02(" + b"N" * 10**5 + b"e"
    + b"h\x01h\x02\x85R" * 2000 + b"t.",
    "lists that double": b"\x80\x02]q\x01Na" + b"(h\x01h\x01eq\x01" * 100 + b".",
    "self in itself": b"\x80\x02]q\x01h\x01ah\x01a.",
    "names that are numbers": b"\x80\x04K\x01K\x02\x93.",
    "a name that is a list": b"\x80\x04]" + unicode("system") + b"\x93.",
    "name without an end": b"cos\nsystem",
    "array as its own state": ARRAY + b"p1\ng1\nb.",
    "array as its own shape": ARRAY + b"p1\n(I1\ng1\n" + FLOAT + b"I00\nS'abcd'\ntb.",
    "type made of itself": b"cnumpy\ndtype\np1\n(g1\ntR.",
    "set of a set": b"\x80\x04\x8f(\x8f\x90.",
    "list in itself a million times": b"\x80\x02]q\x01(" + b"h\x01" * 500_000 + b"e.",
    "references to one large dictionary":
    b"\x80\x02(}q\x01(" + b"".join(b"J" + struct.pack("<i", k) + b"]" for k in range(50_000))
    + b"u" + b"h\x01" * 100_000 + b"t.",
    "ids that all land in one slot": sound_but(7, [k * (2**61 - 1) for k in range(50_000)]),
    "wide speakers shared by all": sound_but(1, {"d": [[0] * 100_000 + [1]] * 100_000}),
    "gzip": gzip.compress(pickled_corpus(2)),
    "gzip of a gigabyte": gzip.compress(bytes(10**7)) * 100,
    "bzip2": bz2.compress(pickled_corpus(2)),
    "xz": lzma.compress(pickled_corpus(2)),
    "zlib": zlib.compress(pickled_corpus(2)),
    "a frame in a frame": b"\x80\x04" + (b"\x95" + struct.pack("<Q", 9)) * 1000 + b"N.",
    "a million frames": b"\x80\x04" + (b"\x95" + struct.pack("<Q", 2) + b"N0") * 100_000 + b".",
    "protocol changed on the way": b"\x80\x02\x80\x05\x80\x00.",
}  # fmt: skip


# Archives.


def npy(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header + data


def described(kind: bytes, shape: bytes, data: bytes = b"", order: bytes = b"False") -> bytes:
    header = b"{'descr': %s, 'fortran_order': %s, 'shape': %s}\n" % (kind, order, shape)
    return npy(header, data)


def archive(members, sound=True, method=zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of these members, and of the sound arrays that they do not replace."""
    file = io.BytesIO(zipped({k: v for k, v in ARRAYS.items() if f"{k}.npy" not in members}))
    if not sound:
        file = io.BytesIO()
    with zipfile.ZipFile(file, "a", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def lying(content: bytes, method: int, declared: int = 200) -> bytes:
    """An archive whose only member is larger than the archive says."""
    made = archive({"label.npy": content}, False, method)
    sizes = (struct.pack("<I", size) for size in (len(content), declared))
    return made.replace(*sizes)


def twice(name: str) -> bytes:
    """An archive with two members of one name, which zipfile would warn of."""
    other = name.upper()
    made = archive({name: b"", other: b""}, False)
    return made.replace(other.encode(), name.encode())


def with_flag(made: bytes, flag: int) -> bytes:
    """The archive with a bit set in the flags of its first member, in both of its headers."""
    made = bytearray(made)
    for place in (6, made.index(b"PK\x01\x02") + 8):
        made[place] |= flag
    return bytes(made)


def zeros(count: int) -> bytes:
    return described(b"'|i1'", b"(%d,)" % count, bytes(count))


HEADERS = {  # members called label.npy
    "computed shape": described(b"'<i4'", b"(10**3,)"),
    "huge shape": described(b"'<i4'", b"(99999999999999,)"),
    "overflowing shape": described(b"'<i4'", b"(4294967296, 4294967296)"),
    "huge shape without bytes": described(b"'<i4'", b"(999999999999, 0, 999999999999)"),
    "negative shape": described(b"'<i4'", b"(-1,)"),
    "shape of text": described(b"'<i4'", b"('a',)"),
    "shape with many axes": described(b"'<i4'", b"(1,) * 99"),
    "shape with a thousand axes": described(b"'<i4'", b"(" + b"1," * 1000 + b")", b"abcd"),
    "code in the header": described(b"exec('x')", b"(5,)"),
    "code in the shape": described(b"'<i4'", b"__import__('os').system('touch CANARY')"),
    # Found by fuzzing: numpy's errors repeat the whole header.
    "type of a thousand letters": described(b"'" + b"<f8" * 500 + b"'", b"(5,)"),
    "deep header": npy(b"(" * 9000 + b")" * 900),
    "long header": npy(b" " * 60000),
    "header of 4 GB": npy(b"", version=b"\x02\x00")[:8] + b"\xff\xff\xff\xff{}",
    "empty header": npy(b""),
    "header that is a list": npy(b"[1, 2]\n"),
    "header of a dictionary of lists": npy(b"{'descr': [[]], 'fortran_order': 2, 'shape': []}\n"),
    "header in Python 2": npy(b"{'descr': '<i4', 'fortran_order': False, 'shape': (5L,)}\n"),
    "unknown version": npy(b"{}", version=b"\x09\x00"),
    "no header": b"\x93NUMPY",
    "no array": b"hello",
    "nothing": b"",
    "pickled array": described(b"'|O'", b"()", pickle.dumps(Calls(os.system, TOUCH))),
    "bare pickle": pickle.dumps(Calls(os.system, TOUCH)),
    "records with objects": described(b"[('a', '|O')]", b"(1,)", b"12345678"),
    "impossible character": described(b"'<U1'", b"(1,)", b"\xff" * 4),
    "empty strings": described(b"'<U0'", b"(999999999,)"),
    "empty rows of strings": described(b"'<U1'", b"(999999999, 0)"),
    "strings of a gigabyte": described(b"'<U268435456'", b"(1,)", b"abcd"),
    "trailing bytes": described(b"'<i4'", b"(1,)", b"12345"),
}
ARCHIVES = {
    **{f"label: {name}": (archive({"label.npy": h}), "'label' ") for name, h in HEADERS.items()},
    **{
        f"member {name!r}": (archive({name: b""}), f"unknown key {name[:80]!r}")
        for name in (
            *("../label.npy", "/label.npy", "label", "label.npy/", "a\n.npy", "..\\label.npy"),
            *("C:label.npy", "features.../../x.npy", "features.a/b.npy", "features..npy"),
            *("archive/data.pkl", "label.npy.npy", "label.NPY", "." * 9000 + "/label.npy"),
        )
    },
    "billion rows of width 0": (
        archive({"features.visual.npy": described(b"'<f4'", b"(2000000000, 0)")}),
        "features.visual has 2000000000 rows, but",
    ),
    "larger than declared, deflated": (
        lambda: lying(zeros(2**27), zipfile.ZIP_DEFLATED),
        "'label' is damaged",
    ),
    "larger than declared, bzip2": (
        lambda: lying(zeros(2**27), zipfile.ZIP_BZIP2, 2**20),
        "'label' is compressed by a method that numpy does not write.",
    ),
    "larger than declared, LZMA": (
        lambda: lying(zeros(2**27), zipfile.ZIP_LZMA, 2**20),
        "'label' is compressed by a method that numpy does not write.",
    ),
    "zeros that expand a thousandfold": (
        lambda: archive({"label.npy": zeros(2**28 + 2**26)}),
        "bytes of arrays; of a file of its size at most ",
    ),
    "four gigabytes by declaration": (
        lying(zeros(100), zipfile.ZIP_STORED, 2**32 - 2),
        "declares 4294967294 bytes of arrays; of a file of its size at most 2684",
    ),
    "key twice": (
        twice("label.npy"),
        "the key 'label' is there twice.",
    ),
    "an archive in an archive": (
        archive({"label.npy": zipped(ARRAYS)}),
        "'label' is damaged (the magic string is not correct",
    ),
    "encrypted": (
        with_flag(zipped(ARRAYS), 1),
        "'classes' is damaged (File <ZipInfo filename='classes.npy'",
    ),
    "patched": (with_flag(zipped(ARRAYS), 0x20), "'classes' is damaged (compressed patched data"),
    "truncated": (zipped(ARRAYS)[:-30], "is not an .npz file, or is damaged (File is not a zip"),
    "only the end of an archive": (zipped(ARRAYS)[-22:], "is not an .npz file, or is damaged ("),
    "empty archive": (archive({}, False), "the key 'classes' is missing."),
    "many members": (
        archive({f"features.m{k}.npy": b"" for k in range(5000)}, False),
        "'features.m0' is damaged (EOF: reading magic string",
    ),
    "a wrong checksum": (
        zipped(ARRAYS).replace(b"c\0\0\0a\0\0\0l\0\0\0m", b"c\0\0\0a\0\0\0l\0\0\0n"),
        "'classes' is damaged (Bad CRC-32",
    ),
}


# JSON lines.


def line(**changes) -> bytes:
    """A sound conversation whose first turn has something else."""
    turns = [LINE["turns"][0] | changes, *LINE["turns"][1:]]
    return json.dumps(LINE | {"turns": turns}).encode()


def with_vector(text: bytes) -> bytes:
    return json.dumps(LINE).encode().replace(b"[1, 2.5]", text)


LINES = {
    "lists without an end": (b"[" * 10**6, "line 1 is not JSON (too deep or too large)"),
    "deep lists": (b"[" * 900 + b"]" * 900, "line 1: a conversation needs a list of 'turns'"),
    "deep objects": (b'{"a":' * 10**5, "line 1 is not JSON (too deep or too large)"),
    "deep features": (
        with_vector(b"[" * 900 + b"]" * 900),
        "line 1, turn 0: text has to be a list of numbers, not [[[[[[[...]]]]]]]",
    ),
    "10,000 digits": (with_vector(b"[1, " + b"9" * 10**4 + b"]"), "not JSON (too deep or too larg"),
    "400 digits": (with_vector(b"[0.5, " + b"9" * 400 + b"]"), "text has to be a list of numbers"),
    "1e999": (with_vector(b"[1, 1e999]"), "feature 1 of text at dialogue 'a', utterance 0 is inf"),
    "Infinity": (with_vector(b"[1, -Infinity]"), "utterance 0 is -inf, not a finite float32"),
    "NaN": (with_vector(b"[1, NaN]"), "utterance 0 is nan, not a finite float32 number;"),
    "NaN as a name": (line(speaker=float("nan")), "turn 0: the speaker has to be text, not nan"),
    "booleans among numbers": (with_vector(b"[1, true]"), "has to be a list of numbers, not [1, T"),
    "half a character": (line(speaker="\ud800"), "turn 0: the speaker holds half a character"),
    "half a character in a key": (line(**{"\udfff": 1}), r"turn 0: unknown key '\udfff'; there"),
    "half a character as a modality": (
        line(features={"\ud800": [1]}),
        r"turn 0: '\ud800' cannot name a modality; use up to 64 letters",
    ),
    "path as a modality": (line(features={"../x": [1]}), "'../x' cannot name a modality; use up"),
    "NUL at the end of a name": (line(speaker="A\0"), "the speaker holds the character NUL"),
    "mark of UTF-16": (json.dumps(LINE).encode("utf-16"), "is text in UTF-16; save it in UTF-8"),
    "UTF-16 without a mark": (json.dumps(LINE).encode("utf-16-le"), "line 1 is not JSON"),
    "mark within": (b"{}\n\xef\xbb\xbf{}", "line 1: a conversation needs a list of 'turns'"),
    "bytes beyond UTF-8": (b'{"dialogue": "\xff"}', "line 1 is not UTF-8 (byte 14)"),
    "too long a form in UTF-8": (b'{"dialogue": "\xc0\xaf"}', "line 1 is not UTF-8 (byte 14)"),
    "key twice": (b'{"dialogue": "a", "dialogue": "b"}', "line 1: the key 'dialogue' is there twi"),
    "key twice in a turn": (
        json.dumps(LINE).encode().replace(b'"text": "hi"', b'"speaker": "B"'),
        "line 1: the key 'speaker' is there twice",
    ),
    "a hundred thousand keys": (
        json.dumps({f"k{k}": k for k in range(10**5)}).encode(),
        "line 1: a conversation needs a list of 'turns', unlike {'k0': 0, 'k1': 1",
    ),
    "10 MB of spaces": (b" " * 10**7, "there is no conversation"),
    "10 MB of numbers": (b"1" + b",1" * 5 * 10**6, "line 1 is not JSON (Extra data)"),
    "a long speaker": (line(speaker="x" * 10**6, text=3), "turn 0: the text has to be text, not 3"),
    "a long name that is wrong": (
        json.dumps({"x" * 10**6: 1, "turns": []}).encode(),
        "line 1: unknown key 'xxxxxxx",
    ),
    "one long string among many": (
        with_vector(json.dumps(["x" * 10**6] + ["y"] * 10**5).encode()),
        "line 1, turn 0: text has to be a list of numbers, not ['xxxxxxx",
    ),
    "one wide vector among many turns": (
        json.dumps(
            {
                "dialogue": "a",
                "turns": [{"speaker": 1, "features": {"text": [0] * 10**5}}]
                + [{"speaker": 1}] * 10**5,
            }
        ).encode(),
        "has modalities that are absent in nearly all of its turns",
    ),
    "a modality for each turn": (
        json.dumps(
            {
                "dialogue": "a",
                "turns": [{"speaker": 1, "features": {f"m{k}": [0]}} for k in range(20_000)],
            }
        ).encode(),
        "has modalities that are absent in nearly all of its turns",
    ),
    "an object that other readers would make": (
        json.dumps({"py/object": "os.system", "py/reduce": ["touch CANARY"]}).encode(),
        "line 1: a conversation needs a list of 'turns', unlike {'py/object': 'os.sys",
    ),
}

REFUSED = "which is refused: only numpy arrays and builtin containers are read."
CASES = {
    **{
        f"{what} {number}.pkl": (stream, what)
        for what, streams in NAMED.items()
        for number, stream in enumerate(streams)
    },
    **{f"{name}.pkl": (stream, "") for name, stream in BOMBS.items()},
    **{f"{name}.npz": case for name, case in ARCHIVES.items()},
    **{f"{name}.jsonl": case for name, case in LINES.items()},
}
HARMLESS = {
    # Nothing after the end of a pickle is looked at.
    "a hostile pickle behind a sound one.pkl": pickled_corpus(2) + b"cos\nsystem\n(S'x'\ntR.",
    "a sound pickle.pkl": pickled_corpus(0),
    "a sound archive.npz": zipped(ARRAYS),
    "numbers as names.jsonl": line(speaker=10**300),
}


def read_guarded(folder, files) -> dict[str, dict]:
    """What the audited process reports, by name; the files themselves are numbered."""
    (folder / "files").mkdir()
    for number, (name, content) in enumerate(files.items()):
        made = content() if callable(content) else content
        (folder / "files" / f"{number:04d}{Path(name).suffix}").write_bytes(made)
    command = [sys.executable, str(Path(__file__).with_name("guarded.py")), str(folder / "files")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    reports = [json.loads(text) for text in done.stdout.splitlines()]
    # A file that takes too long ends the process: it is the first without a report.
    assert done.returncode == 0, (list(files)[len(reports) :][:1], done.stderr)
    return dict(zip(files, reports))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    files = {name: content for name, (content, _) in CASES.items()} | HARMLESS
    found = read_guarded(folder, files)
    # Neither a canary nor anything else was written.
    assert sorted(os.listdir(folder)) == ["files", "warm.npz"]
    assert len(os.listdir(folder / "files")) == len(files)
    return found


@pytest.mark.parametrize("name", CASES)
def test_hostile_file_is_one_sentence_and_does_nothing(reports, name):
    report, part = reports[name], CASES[name][1]
    assert report["fault"] is None and report["events"] == []
    message = report["message"]
    assert message.startswith((": ", ": line ")) and part in message
    assert "\n" not in message and len(message) < 500
    # No bomb was stopped by the limit on memory alone.
    assert "more memory than there is" not in message and "allocate" not in message
    if name.split(" ")[0] in NAMED:
        assert message.endswith(REFUSED)


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_but_harmless_file_loads(reports, name):
    report = reports[name]
    assert (report["message"], report["fault"], report["events"]) == (None, None, [])


def test_every_protocol_is_there():
    streams = [stream for streams in NAMED.values() for stream in streams]
    assert {stream[1] for stream in streams if stream[:1] == b"\x80"} >= {2, 3, 4, 5}
    assert sum(stream[:1] != b"\x80" for stream in streams) > 40  # protocols 0 and 1


def test_the_guard_notices_what_a_pickle_does(tmp_path):
    """Read by the standard library, the same files run their code, and the guard tells."""
    files = {
        "system.unguarded": pickle.dumps(Calls(os.system, TOUCH)),
        "open.unguarded": pickle.dumps(Calls(open, "CANARY", "w")),
        "eval.unguarded": pickle.dumps(Calls(eval, "1 + 1")),
        "memory.unguarded": pickle.dumps(Calls(bytearray, 2**36)),
    }
    found = read_guarded(tmp_path, files)
    for name, event in (("system", "os.system"), ("open", "open"), ("eval", "exec")):
        events = found[f"{name}.unguarded"]["events"]
        assert any(noted.startswith(f"{event} ") for noted in events), name
    assert (tmp_path / "CANARY").exists()
    if sys.platform == "linux":
        assert "MemoryError" in found["memory.unguarded"]["fault"]
