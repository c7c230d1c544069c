"""Pictures of schematic faces, and detectors for them: OpenCV's own cascade, a tiny YuNet."""

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="needs pip install 'cberl-jax[faces]'")
# Of the picture with a face, in pixels; the face's middle and its height, half.
HEIGHT, WIDTH, FACE, RADIUS = 144, 192, (60, 130), 40


def find_cascade():
    """The file of the cascade for faces that OpenCV brings along."""
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("OpenCV 5 has no cascades")
    return f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml"


def draw_face(scale=1):
    """[height, width, 3] a picture with a face on grey ground, to the right of its middle."""
    picture = np.full((HEIGHT * scale, WIDTH * scale, 3), 90, np.uint8)
    y, x = np.mgrid[: HEIGHT * scale, : WIDTH * scale] / scale - np.reshape(FACE, (2, 1, 1))

    def ellipse(down, right, height, width, value):
        inside = ((y / RADIUS - down) / height) ** 2 + ((x / RADIUS - right) / width) ** 2 <= 1
        picture[inside] = value

    ellipse(-0.25, 0, 1.15, 0.95, 40)  # Hair.
    ellipse(0, 0, 1, 0.8, 200)
    for side in (-0.33, 0.33):
        ellipse(-0.33, side, 0.05, 0.2, 60)
        ellipse(-0.18, side, 0.09, 0.17, 50)
    ellipse(0.28, 0, 0.04, 0.14, 120)  # Nose and mouth.
    ellipse(0.5, 0, 0.07, 0.3, 90)
    return picture


def _varint(value):
    value, parts = value % 2**64, []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _message(*fields):
    """A protobuf message of (number, value): whole numbers, strings, bytes and messages."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return out


def _tensor(name, array):
    kind = 7 if array.dtype == np.int64 else 1
    dims = [(1, size) for size in array.shape]
    return _message(*dims, (2, kind), (8, name), (9, array.tobytes()))


def _node(kind, inputs, output, **attributes):
    own = []
    for name, value in attributes.items():
        numbers = [(8, v) for v in value] if isinstance(value, list) else [(3, value)]
        own.append((5, _message((1, name), *numbers, (20, 7 if isinstance(value, list) else 2))))
    return _message(*((1, name) for name in inputs), (2, output), (4, kind), *own)


def _value(name, *shape):
    dims = [(1, _message((1, size))) for size in shape]
    tensor = _message((1, 1), (2, _message(*dims)))
    return _message((1, name), (2, _message((1, tensor))))


def write_yunet(path, without=""):
    """A network with YuNet's inputs and outputs, for which a bright cell of 32 pixels is a face."""
    nodes, weights, outputs = [], [], []
    for stride in (8, 16, 32):
        # cls and obj are the two factors of a score, bbox a middle and a size within the cell.
        bright = np.full((1, 3, 1, 1), 0.1 if stride == 32 else 0, np.float32)
        heads = {
            "cls": (bright, [-60.0 if stride == 32 else -20.0]),
            "obj": (bright, [-60.0 if stride == 32 else -20.0]),
            "bbox": (np.zeros((4, 3, 1, 1), np.float32), [0.5, 0.5, 0.0, 0.0]),
            "kps": (np.zeros((10, 3, 1, 1), np.float32), [0.0] * 10),
        }
        pool, size = f"pool_{stride}", [stride, stride]
        nodes.append(_node("AveragePool", ["input"], pool, kernel_shape=size, strides=size))
        heads.pop(without, None)
        for head, (weight, bias) in heads.items():
            name = f"{head}_{stride}"
            weights.append(_tensor(f"{name}_w", weight))
            weights.append(_tensor(f"{name}_b", np.array(bias, np.float32)))
            weights.append(_tensor(f"{name}_n", np.array([1, -1, len(weight)], np.int64)))
            given = [pool, f"{name}_w", f"{name}_b"]
            nodes.append(_node("Conv", given, f"{name}_1", kernel_shape=[1, 1]))
            last = f"{name}_1"
            if head in ("cls", "obj"):
                last = f"{name}_2"
                nodes.append(_node("Sigmoid", [f"{name}_1"], last))
            nodes.append(_node("Transpose", [last], f"{name}_3", perm=[0, 2, 3, 1]))
            nodes.append(_node("Reshape", [f"{name}_3", f"{name}_n"], name))
            outputs.append(_value(name, 1, (64 // stride) ** 2, len(weight)))
    graph = _message(
        *((1, node) for node in nodes),
        (2, "tiny"),
        *((5, weight) for weight in weights),
        (11, _value("input", 1, 3, 64, 64)),
        *((12, output) for output in outputs),
    )
    path.write_bytes(_message((1, 8), (7, graph), (8, _message((1, ""), (2, 11)))))
    return str(path)
