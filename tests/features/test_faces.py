"""Faces: where they are, what is cut out, and features of them, also in a prediction."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_faces
from tiny import NO_PARTS, TINY

import cberl_jax as cberl
from cberl_jax.data.provenance import find_difference
from cberl_jax.errors import UserError
from cberl_jax.features.extract import Sources, extract
from cberl_jax.features.faces import Box, Faces
from cberl_jax.features.sound_and_sight import MediaSources
from cberl_jax.runtime.files import hash_file

ROOT = Path(__file__).parents[2]
HEAD = "dialogue,speaker,text,split,label,audio"
GREY = np.full((tiny_faces.HEIGHT, tiny_faces.WIDTH, 3), 90, np.uint8)


@pytest.mark.parametrize("scale", [1, 6])
def test_a_face_is_found_and_cut_out_where_it_is(scale):
    faces, picture = Faces(tiny_faces.find_cascade()), tiny_faces.draw_face(scale)
    box = faces.find(picture)
    middle = (box.y + box.height / 2, box.x + box.width / 2)
    np.testing.assert_allclose(middle, np.multiply(tiny_faces.FACE, scale), atol=4 * scale)
    assert box.height == pytest.approx(2 * tiny_faces.RADIUS * scale, rel=0.1)
    # Half as wide again; it ends where the picture ends, here to the right.
    top, bottom = (round(middle[0] + side * 0.75 * box.height) for side in (-1, 1))
    left, right = (round(middle[1] + side * 0.75 * box.width) for side in (-1, 1))
    assert right > 191 * scale
    np.testing.assert_array_equal(faces.cut(picture), picture[max(0, top) : bottom, left:])
    assert faces.find(GREY) is None and faces.cut(GREY) is None
    assert [len(cut) for cut in faces(np.stack([GREY, GREY, GREY]))] == []


def test_yunet_finds_the_largest_of_several(tmp_path):
    faces = Faces(tiny_faces.write_yunet(tmp_path / "tiny.onnx"))
    picture = np.zeros((128, 192, 3), np.uint8)
    assert faces.find(picture) is None
    picture[64:96, 128:160] = 255
    assert faces.find(picture) == Box(128, 64, 32, 32)
    cut = faces.cut(picture)
    assert cut.shape == (48, 48, 3)
    np.testing.assert_array_equal(cut, picture[56:104, 120:168])
    # Of a picture of another size, halved before it is looked at, a cell is twice as large.
    large = np.zeros((640, 1280, 3), np.uint8)
    large[128:192, 64:128] = 255
    assert faces.find(large) == Box(64, 128, 64, 64)
    boxes = [Box(0, 0, 10, 10), Box(5, 5, 12, 11), Box(1, 1, 11, 11)]
    faces._find = lambda picture: boxes
    assert faces.find(GREY) == boxes[1]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("none.onnx", None, "has to be a file, YuNet's model"),
        ("face.pt", b"", "has to be a file, YuNet's model"),
        ("empty.xml", b"", "cannot read it as a face detector"),
        ("other.xml", b"<a></a>", "cannot read it as a face detector"),
        ("broken.onnx", b"\0" * 200, "cannot read it as a face detector"),
    ],
)
def test_a_file_that_is_no_detector_is_refused(tmp_path, capfd, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"--face_detector=.*{name}: .*{message}") as caught:
        Faces(tmp_path / name)
    assert "\n" not in str(caught.value)
    # OpenCV's own lines would hide the sentence.
    assert capfd.readouterr().err == ""


def test_damaged_and_foreign_models_are_refused(tmp_path):
    cascade = Path(tiny_faces.find_cascade()).read_bytes()
    (tmp_path / "half.xml").write_bytes(cascade[: len(cascade) // 2])
    tiny_faces.write_yunet(tmp_path / "foreign.onnx", without="kps")
    for name in ("half.xml", "foreign.onnx"):
        with pytest.raises(UserError, match=f"{name}: OpenCV cannot read it as a face detector"):
            Faces(tmp_path / name)


def test_opencv_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"cv2 .*pip install 'cberl-jax\[faces\]'"):
        Faces("face.onnx")


def write_table(path, splits):
    rows = [
        f"d{n},{'AB'[t]},Hi.,{split},{('joy', 'fear')[t] if split else ''},d{n}_{t}"
        for n, split in enumerate(splits)
        for t in (0, 1)
    ]
    path.write_text("\n".join([HEAD, *rows]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Tables, a folder with clips of three dialogues, one of them without a face; an encoder."""
    pytest.importorskip("av", reason="PyAV is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    import tiny_media

    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    for n in range(9):
        for t in (0, 1):
            picture = GREY if (n % 3, t) == (1, 1) else tiny_faces.draw_face()
            picture = np.clip(picture.astype(int) + 5 * n, 0, 255).astype(np.uint8)
            tiny_media.write_clip(f"clips/d{n}_{t}.mp4", 0.6, shown=picture, sound=False)
    tiny_media.vit("vit")
    shutil.copy(tiny_faces.find_cascade(), "faces.xml")
    write_table(Path("conv.csv"), ["train"] * 5 + ["dev"] * 2 + ["test"] * 2)
    write_table(Path("new.csv"), [""] * 3)
    return tmp_path


def run(table, output, **media):
    said = []
    media = MediaSources(
        video_folders=["clips"], audio_encoders={}, frame_rate=5.0,
        **{"visual_encoders": {"visual": "vit"}, "face_detector": "faces.xml"} | media,
    )  # fmt: skip
    sources = Sources([table], text_encoder="", timing="", media=media)
    return extract(sources, output, said.append), "\n".join(said)


def test_features_of_faces_and_what_is_said_of_them(folder):
    from cberl_jax.features.media import Span, read_frames
    from cberl_jax.features.vision import VisualEncoder

    both = {"visual.one": "vit", "visual.two": "vit"}
    corpus, said = run("new.csv", "new.npz", visual_encoders=both)
    assert "faces: found in 15 of 18 frames\n" in said
    assert "clips without a face, whose utterances lack sight: 1, such as clips/d1_1.mp4" in said
    present = [True, True, True, False, True, True]
    np.testing.assert_array_equal(corpus.present["visual.one"], present)
    encoder, faces = VisualEncoder("vit"), Faces("faces.xml")
    frames = read_frames(Span(Path("clips/d2_0.mp4")), 5.0, 64)
    row = encoder([faces.cut(frame) for frame in frames])
    for name in both:
        np.testing.assert_allclose(corpus.features[name][4], row, atol=1e-6)
    assert not np.allclose(encoder(frames), row, atol=1e-3)
    record = corpus.provenance["visual.one"]
    assert record["face_detector"] == "faces.xml"
    assert record["faces"]["sha256"] == hash_file("faces.xml")
    whole, said = run("new.csv", "whole.npz", face_detector="")
    assert "faces" not in said and whole.provenance["visual"]["faces"] is None
    assert find_difference(record, whole.provenance["visual"]) == "faces"


def test_faces_are_counted_over_all_calls_where_one_was_cut_off(folder, monkeypatch):
    from cberl_jax.features import clips
    from cberl_jax.features.vision import VisualEncoder

    monkeypatch.setattr(clips, "TOGETHER", 1)
    encode, calls = VisualEncoder.__call__, []

    def stop(self, frames):
        calls.append(len(frames))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, frames)

    monkeypatch.setattr(VisualEncoder, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        run("new.csv", "new.npz")
    _, said = run("new.csv", "new.npz")
    assert len(calls) == 7 and "there from before: 2 of 6" in said
    assert "faces: found in 15 of 18 frames\n" in said


@pytest.mark.parametrize(
    "media, message",
    [
        ({"face_detector": "none.onnx"}, "--face_detector=none.onnx: has to be a file"),
        ({"visual_encoders": {}}, "--face_detector needs --visual_encoder"),
    ],
)
def test_a_detector_of_no_use_is_refused_before_anything_is_made(folder, media, message):
    with pytest.raises(UserError, match=message):
        run("new.csv", "new.npz", **media)
    assert not list(folder.glob("new.npz*"))


@pytest.mark.slow
def test_a_run_takes_raw_clips_by_the_same_detector(folder):
    flags = ["--video_dir=clips", "--audio_encoder=", "--visual_encoder=vit", "--timing="]
    flags += ["--text_encoder=", "--face_detector=faces.xml", "--frames_per_second=5"]
    start(["extract", "--transcript=conv.csv", "--output=conv.npz", *flags])
    run("new.csv", "new.npz")
    settings = TINY | NO_PARTS | {"train.epochs": 1}
    train = ["train", "--config=default", "--data=conv.npz", "--workdir=run", "--nopictures"]
    train += [f"--config.{name}={value}" for name, value in settings.items()]
    start([*train, "--encoders=vit,faces.xml"])
    kept = sorted(path.name for path in Path("run/encoders").iterdir())
    assert kept == ["visual", "visual+faces"]
    expected = cberl.load("run").predictions("new.npz")
    cberl.export("run", "handed", format="folder")
    for name in ("vit", "faces.xml"):
        os.rename(name, f"moved_{name}")
    for model in ("run", "handed"):
        found = cberl.load(model).predictions("new.csv", video_dir="clips")
        np.testing.assert_allclose(found.members, expected.members, atol=1e-6)
    shutil.rmtree("run/encoders/visual+faces")
    message = "made of faces that the detector faces.xml found, and no such file .*--face_detector"
    with pytest.raises(UserError, match=message):
        cberl.load("run").predictions("new.csv", video_dir="clips")
    Path("other.xml").write_text("other")
    with pytest.raises(UserError, match="other.xml: is no folder of an encoder, and no face det"):
        cberl.load("run", encoders=["other.xml"])
    start(["predict", "--workdir=run", "--input=new.csv", "--output=emotions.csv",
           "--video_dir=clips", "--face_detector=moved_faces.xml"])  # fmt: skip
    assert len(Path("emotions.csv").read_text().splitlines()) == 7
    # Features of whole frames are others.
    run("new.csv", "whole.npz", face_detector="", visual_encoders={"visual": "moved_vit"})
    with pytest.raises(UserError, match="made otherwise than those of the run .faces: null here"):
        cberl.load("run").predict("whole.npz")


def start(arguments):
    command = [sys.executable, "-m", "cberl_jax", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
