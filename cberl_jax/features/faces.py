"""The faces in pictures, by a detector of OpenCV whose model file is given.

Two kinds of files are read: YuNet (Wu et al., Machine Intelligence Research 2023) as ``.onnx``, and
the Haar cascades of Viola and Jones (CVPR 2001) as ``.xml``, which OpenCV 4 brings along in the
folder ``cv2.data.haarcascades``. Of several faces in a picture the largest is taken; nothing
follows a face from one picture to the next.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library
from cberl_jax.runtime.files import hash_file

# A face is cut out as a square, by this share of its longer side wider on each side.
MARGIN = 0.25
# What a record says of it.
CROP = f"the largest face, squared, {MARGIN:g} wider on each side; pictures without one left out"
# Larger pictures are looked at in this size: longer side, in pixels.
LONGEST_SIDE = 640
CASCADE, YUNET = ".xml", ".onnx"


class Box(NamedTuple):
    """A rectangle in a picture, in pixels.

    Attributes:
      x: of its left side.
      y: of its upper side.
      width: its width.
      height: its height.
    """

    x: float
    y: float
    width: float
    height: float


class Faces:
    """Cuts the largest face out of each picture."""

    def __init__(self, file: str | os.PathLike):
        """Loads a detector.

        Args:
          file: its model, ``.onnx`` or ``.xml``.

        Raises:
          UserError: OpenCV is not installed, or the file is not there or no such model.
        """
        self._cv2 = load_library("cv2", "faces")
        self._file, self._seen, self._cut = os.fspath(file), None, []
        kind = Path(file).suffix.lower()
        if not Path(file).is_file() or kind not in (CASCADE, YUNET):
            raise UserError(
                f"--face_detector={file}: has to be a file, YuNet's model ({YUNET}) or a Haar "
                f"cascade ({CASCADE}) of OpenCV."
            )
        if kind == CASCADE and not hasattr(self._cv2, "CascadeClassifier"):
            raise UserError(
                f"--face_detector={file}: OpenCV {self._cv2.__version__} reads no cascades; "
                "install opencv-python-headless below version 5, or take YuNet's .onnx."
            )
        self._find = self._by_cascade if kind == CASCADE else self._by_yunet
        # What is wrong with a file is said below, in one sentence.
        level = self._cv2.utils.logging.getLogLevel()
        self._cv2.utils.logging.setLogLevel(self._cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._model = self._load(kind)
            self.find(np.zeros((64, 64, 3), np.uint8))
        # OpenCV's own errors, and what its Python layer makes of outputs of another model.
        except (self._cv2.error, SystemError, ValueError) as error:
            raise UserError(
                f"--face_detector={file}: OpenCV cannot read it as a face detector; it is damaged "
                "or another model."
            ) from error
        finally:
            self._cv2.utils.logging.setLogLevel(level)

    @property
    def identity(self) -> str:
        """All that its faces depend on."""
        return f"faces by {hash_file(self._file)}, OpenCV {self._cv2.__version__}, {CROP}"

    def _load(self, kind: str) -> Any:
        if kind == YUNET:
            return self._cv2.FaceDetectorYN.create(self._file, "", (64, 64))
        cascade = self._cv2.CascadeClassifier()
        if not cascade.load(self._file):
            raise ValueError("no cascade")
        return cascade

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        """The faces in some pictures.

        Args:
          pictures: [n, height, width, 3] uint8, RGB. Several encoders may ask for the same.

        Returns:
          Up to n pictures of faces, [height, width, 3] uint8 each; one for every picture that
          shows a face.
        """
        if pictures is not self._seen:
            found = [self.cut(picture) for picture in pictures]
            self._seen, self._cut = pictures, [face for face in found if face is not None]
        return self._cut

    def cut(self, picture: np.ndarray) -> np.ndarray | None:
        """The part of a picture with its largest face; None where it shows none."""
        box = self.find(picture)
        if box is None:
            return None
        half = (0.5 + MARGIN) * max(box.width, box.height)
        x, y = box.x + box.width / 2, box.y + box.height / 2
        rows, columns = (slice(max(0, round(c - half)), max(0, round(c + half))) for c in (y, x))
        part = picture[rows, columns]
        return part if part.size else None

    def find(self, picture: np.ndarray) -> Box | None:
        """Where the largest face of a picture is.

        Args:
          picture: [height, width, 3] uint8, RGB.
        """
        height, width = picture.shape[:2]
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = self._cv2.resize(picture, size, interpolation=self._cv2.INTER_AREA)
        boxes = [Box(*map(float, box)) for box in self._find(np.ascontiguousarray(picture))]
        boxes = [box for box in boxes if all(map(math.isfinite, box))]
        largest = max(boxes, key=lambda box: box.width * box.height, default=None)
        return largest and Box(*(value / scale for value in largest))

    def _by_cascade(self, picture: np.ndarray) -> Sequence[Sequence[float]]:
        grey = self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2GRAY)
        return self._model.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)

    def _by_yunet(self, picture: np.ndarray) -> Sequence[Sequence[float]]:
        self._model.setInputSize((picture.shape[1], picture.shape[0]))
        _, found = self._model.detect(self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2BGR))
        return [] if found is None else found[:, :4]
