"""Spaces of a search: what is in them by default, and what is refused."""

import pytest

from cberl_jax.config.presets import CONFIGS, change
from cberl_jax.config.settings import NUMERIC, SETTINGS, default_config
from cberl_jax.config.space import (
    Range,
    check_feasible,
    check_space,
    complete,
    default_space,
    own_point,
    parse_fixed,
    read_space,
)
from cberl_jax.errors import UserError


@pytest.mark.parametrize("name", CONFIGS)
def test_the_default_space_holds_what_every_preset_has(name):
    config = CONFIGS[name]()
    space = default_space(config, {})
    assert own_point(config, space) is not None
    check_feasible(config, space)
    for setting, own in space.items():
        ends = own if isinstance(own, list) else [own.low, own.high]
        for value in ends:
            assert (
                SETTINGS[setting].low <= value <= SETTINGS[setting].high
                if not isinstance(value, str)
                else value
            )
    # What differs from batch to batch, and what differs from point to point.
    assert 3 <= sum(setting not in NUMERIC for setting in space) <= 10 <= len(space)


def test_the_default_space_is_widened_and_leaves_out_what_has_no_effect():
    config = change(default_config(), {"optim.dropout": 0.9, "model.hidden": 96})
    space = default_space(config, {})
    assert space["optim.dropout"] == Range(0.0, 0.9)
    assert space["model.hidden"] == [64, 96, 128, 256]
    config = change(config, {"augment.method": "none", "model.djvae": False})
    assert "augment.weight" in default_space(config, {})
    fixed = default_space(config, {"augment.method": "none"})
    assert not {"augment.weight", "augment.method", "loss.vae", "loss.align"} & set(fixed)
    zero = change(config, {"loss.mask": 0.0})
    assert default_space(zero, {})["loss.mask"] == Range(0.0, 2.0, False)


def test_a_space_is_read_from_a_file(tmp_path):
    path = tmp_path / "space.py"
    path.write_text(
        "def get_space():\n"
        '    return {"optim.learning_rate": (1e-4, 1, "log"), "model.layers": (1, 3),\n'
        '            "data.modalities": ["text", "text,audio"], "model.graph": [True, False]}\n'
    )
    space = read_space(path)
    assert space == {
        "optim.learning_rate": Range(1e-4, 1.0, True),
        "model.layers": Range(1, 3),
        "data.modalities": ["text", "text,audio"],
        "model.graph": [True, False],
    }
    # Without the graph there is nothing to rebuild.
    check_feasible(default_config(), space)
    assert complete({"model.graph": False}, default_config())["model.reconstruction"] is False
    assert complete({"model.graph": True}, default_config()) == {"model.graph": True}


@pytest.mark.parametrize(
    "space, reason",
    [
        ([], "a space is"),
        ({"loss.gama": (0, 1)}, "the nearest is 'loss.gamma'"),
        ({3: (0, 1)}, "there is no setting"),
        ({"data.path": ["a", "b"]}, "cannot be swept"),
        ({"loss.gamma": (1, 0)}, "low has to be less than high"),
        ({"loss.gamma": (0, 1, "log")}, "greater than 0"),
        ({"loss.gamma": (0, 1, "linear")}, "a range is"),
        ({"loss.gamma": (-1, 1)}, "has to be from 0.0"),
        ({"loss.gamma": ("0", "1")}, "of type float"),
        ({"model.hidden": (8.5, 16)}, "of type int"),
        ({"loss.gamma": (0, float("nan"))}, "has to be from"),
        ({"model.graph": (False, True)}, "takes a list of choices"),
        ({"loss.gamma": [1.0]}, "at least two choices"),
        ({"loss.gamma": "0,1"}, "at least two choices"),
        ({"loss.gamma": [1, 1.0]}, "repeats a value"),
    ],
)
def test_a_space_that_is_none_is_refused(space, reason):
    with pytest.raises(UserError, match=reason):
        check_space(space)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("def get_space():\n    return {'loss.gamma': 1}\n", "get_space.*loss.gamma"),
        ("x = 1\n", "AttributeError"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_file_that_holds_no_space_is_refused_with_its_name(tmp_path, text, reason):
    path = tmp_path / "space.py"
    path.write_text(text)
    with pytest.raises(UserError, match=f"space.py: .*{reason}"):
        read_space(path)
    with pytest.raises(UserError, match="there is no such file"):
        read_space(tmp_path / "other.py")


def test_fixed_settings_are_read():
    assert parse_fixed(["loss.gamma=1", "model.graph=False"]) == {
        "loss.gamma": 1.0,
        "model.graph": False,
    }
    for argument, reason in (
        ("loss.gamma", "one value"),
        ("loss.gamma=1,2", "has to be a number"),
        ("loss.gama=1", "the nearest"),
    ):
        with pytest.raises(UserError, match=f"--fix={argument}: .*{reason}"):
            parse_fixed([argument])
