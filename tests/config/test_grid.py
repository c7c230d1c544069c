"""Grids: what an argument means and which are refused; points, their settings and their groups."""

import numpy as np
import pytest

from cberl_jax.config.grid import (
    Group,
    expand,
    group_points,
    parse_grid,
    point_config,
    spell_value,
)
from cberl_jax.config.settings import (
    GPU_UNROLL,
    TRACED,
    default_config,
    flatten,
    model_settings,
)
from cberl_jax.errors import UserError
from cberl_jax.training.prepare import list_members


@pytest.mark.parametrize(
    "argument, values",
    [
        ("loss.gamma=0,0.5,1", [0.0, 0.5, 1.0]),
        ("optim.learning_rate=3e-4,1e-3", [0.0003, 0.001]),
        ("mask.tau=-1,2", [-1.0, 2.0]),
        ("model.hidden=64, 128", [64, 128]),
        ("model.causal=true,False", [True, False]),
        ("augment.method=gan,none", ["gan", "none"]),
        ("data.views=text.a,text.a+text.b", ["text.a", "text.a,text.b"]),
        ("data.text_layers=mean,1", ["mean", "1"]),
        ("data.modalities=text,text+audio, visual + text", ["text", "text,audio", "visual,text"]),
    ],
)
def test_values_have_the_type_and_spelling_of_their_setting(argument, values):
    name = argument.partition("=")[0]
    grid = parse_grid([argument])
    assert grid == {name: values}
    assert [type(value) for value in grid[name]] == [type(value) for value in values]


def test_a_grid_keeps_the_order_of_its_arguments():
    grid = parse_grid(["optim.dropout=0.1", "loss.gamma=1", "model.layers=1"])
    assert list(grid) == ["optim.dropout", "loss.gamma", "model.layers"]
    assert parse_grid([]) == {}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["loss.gamma"], "has to be a setting and its values"),
        (["loss.gama=1"], "there is no setting 'loss.gama'; the nearest is 'loss.gamma'"),
        (["=1"], "there is no setting ''"),
        (["optim.clip=1", "loss.gamma=1", "loss.gamma=2"], "loss.gamma is in the grid already"),
        (["loss.gamma="], "a value is missing"),
        (["loss.gamma=1,,2"], "a value is missing"),
        (["loss.gamma=1,2,"], "a value is missing"),
        (["loss.gamma=1,2,1.0"], "1.0 repeats a value"),
        (["model.causal=True,true"], "true repeats a value"),
        (["data.modalities=text+audio,audio+text"], r"audio\+text repeats a value"),
        (["loss.gamma=much"], "loss.gamma = 'much': has to be a number"),
        (["model.hidden=64.5"], "model.hidden = '64.5': has to be a whole number"),
        (["model.causal=1"], "model.causal = '1': has to be True or False"),
        (["data.modalities=text+"], "lacks a name"),
        (["loss.gamma=-1"], "loss.gamma = -1.0: has to be from 0.0 to 100.0"),
        (["loss.gamma=nan"], "loss.gamma = nan: has to be from 0.0 to 100.0"),
        (["loss.vae=inf"], "loss.vae = inf: has to be from 0.0 to inf"),
        (["model.heads=0"], "model.heads = 0: has to be from 1 to 2147483647"),
        (["model.hidden=" + "9" * 400], "model.hidden = 9+: has to be from 1 to 2147483647"),
        (["model.hidden=" + "9" * 5000], "has to be a whole number"),
        (["data.allow_repeats=True"], "cannot be swept: .* --config.data.allow_repeats"),
        (["data.path=a.npz,b.npz"], "data.path cannot be swept: .* --data"),
        (["train.checkpoint_seconds=0,1"], "cannot be swept: .* --config.train.checkpoint_seconds"),
        (["train.corpus_bytes=0,1"], "cannot be swept: .* --config.train.corpus_bytes"),
        (["train.select=accuracy,macro_f1"], "cannot be swept: .* --config.train.select"),
        (["data.bins=-3,0,3"], "cannot be swept: all points need the same classes"),
        (["data.other_dev=0,1"], "cannot be swept: all points need the same dev dialogues"),
        (["data.folds=3,5"], "cannot be swept: all points need the same dev dialogues"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_text_in_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_grid(arguments)
    assert str(caught.value).startswith(f"--grid={arguments[-1]}: ")
    assert "\n" not in str(caught.value)


def test_the_last_setting_varies_fastest():
    assert expand({"loss.gamma": [0.0, 2.0], "model.hidden": [64, 128]}) == [
        {"loss.gamma": 0.0, "model.hidden": 64},
        {"loss.gamma": 0.0, "model.hidden": 128},
        {"loss.gamma": 2.0, "model.hidden": 64},
        {"loss.gamma": 2.0, "model.hidden": 128},
    ]


def test_an_empty_grid_has_one_point_that_changes_nothing():
    config = default_config()
    assert expand({}) == [{}]
    assert flatten(point_config(config, {})) == flatten(config)
    assert group_points([{}]) == [Group({}, [{}])]


def test_a_points_settings_differ_from_the_configs_in_the_point_alone():
    config = default_config()
    config.lock()
    before = flatten(config)
    point = {"loss.gamma": 2.5, "model.hidden": 64, "data.modalities": "text,audio"}
    assert flatten(point_config(config, point)) == before | point
    assert flatten(config) == before


def test_a_config_file_may_write_a_swept_float_as_an_int():
    config = default_config()
    del config.loss.gamma
    config.loss.gamma = 2
    assert type(config.loss.gamma) is int
    assert point_config(config, {"loss.gamma": 0.5}).loss.gamma == 0.5


def test_settings_that_do_not_go_together_are_refused_with_their_point():
    points = expand(parse_grid(["loss.gamma=0.5", "model.heads=4,3"]))
    point_config(default_config(), points[0])
    message = (
        "at loss.gamma=0.5, model.heads=3: "
        "model.hidden = 128: has to be a multiple of model.heads = 3"
    )
    with pytest.raises(UserError) as caught:
        point_config(default_config(), points[1])
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["", "Blocks", "segment"])
def test_a_form_of_attention_that_is_none_is_refused_with_those_that_are(value):
    message = f"model.attention = '{value}': has to be one of blocks, edges"
    with pytest.raises(UserError, match=message):
        point_config(default_config(), {"model.attention": value})


@pytest.mark.parametrize("platform, turns", [("gpu", GPU_UNROLL), ("cpu", 1), ("tpu", 1)])
def test_the_platform_decides_the_lstms_rounds_unless_they_are_set(platform, turns):
    config = default_config()
    assert model_settings(config, platform).unroll == turns
    config.model.unroll = 5
    assert model_settings(config, platform).unroll == 5
    with pytest.raises(UserError, match="model.unroll = -1: has to be from 0 to"):
        point_config(config, {"model.unroll": -1})


def test_points_with_the_same_static_settings_form_a_group():
    grid = parse_grid(["loss.gamma=0,2", "model.hidden=128,64", "model.causal=False,True"])
    groups = group_points(expand(grid))
    assert [group.static for group in groups] == [
        {"model.hidden": 128, "model.causal": False},
        {"model.hidden": 128, "model.causal": True},
        {"model.hidden": 64, "model.causal": False},
        {"model.hidden": 64, "model.causal": True},
    ]
    for static, points in groups:
        assert points == [{"loss.gamma": gamma, **static} for gamma in (0.0, 2.0)]


def test_numeric_settings_alone_are_one_group():
    points = expand(parse_grid(["loss.gamma=0,2", "optim.dropout=0.1,0.2,0.3"]))
    assert group_points(points) == [Group({}, points)]


def test_members_have_their_own_points_numbers_and_share_the_rest():
    config = default_config()
    config.optim.dropout = 0.25
    points = [{"loss.gamma": 3.0, "model.hidden": 64}, {}, {"loss.gamma": 0.1}]
    hyper = list_members(config, [7], points).hyper
    assert tuple(hyper) == TRACED
    expected = [3.0, config.loss.gamma, 0.1]
    np.testing.assert_array_equal(hyper["loss.gamma"], np.float32(expected))
    np.testing.assert_array_equal(hyper["optim.dropout"], np.float32([0.25] * 3))
    assert {array.dtype for array in hyper.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "value, text",
    [(2.0, "2"), (0.0003, "0.0003"), (1 / 3, "0.3333333333333333"), (64, "64"), (True, "True")],
)
def test_a_value_is_spelt_as_short_as_it_reads_back(value, text):
    assert spell_value(value) == text
