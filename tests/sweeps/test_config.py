from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_model.experiment import ExperimentConfig
from prx_model.model import PRXConfig
from prx_model.repa import RepaConfig
from prx_model.training.config import TrainingConfig
from sweeps.config import ConfigError, fingerprint, load_config, nearest, override, setting_paths, shown, to_plain

WITH_REPA = ExperimentConfig(repa=RepaConfig(teacher="dinov2s_saliency", depth=2, weight=0.5))


def _problem(settings) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(settings)
    assert "\n" not in str(caught.value)
    return caught.value


def _leaves(plain, prefix=""):
    for name, value in plain.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def test_nothing_set_is_the_default():
    assert load_config({}) == ExperimentConfig()


@pytest.mark.parametrize("config", [ExperimentConfig(), WITH_REPA], ids=["baseline", "repa"])
def test_plain_settings_make_the_same_config_again(config):
    plain = to_plain(config)
    assert load_config(plain) == config
    assert to_plain(load_config(plain)) == plain
    assert fingerprint(to_plain(load_config(plain))) == fingerprint(plain)


def test_values_take_the_type_of_their_setting():
    config = load_config({"training": {"learning_rate": 1, "betas": [0, 0.5]}, "evaluation": {"metrics": ["fid"]}})
    assert config.training.learning_rate == 1.0
    assert type(config.training.learning_rate) is float
    assert config.training.betas == (0.0, 0.5)
    assert type(config.training.betas[0]) is float
    assert config.evaluation.metrics == ("fid",)


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"trainin": {}}, "trainin", ["no such setting", "allowed is model, data, training", "nearest is training"]),
        ({"training": {"lerning_rate": 1}}, "training.lerning_rate", ["no such", "nearest is learning_rate"]),
        ({"training": {"timesteps": {"sdt": 1}}}, "training.timesteps.sdt", ["mean, std, shift", "nearest is std"]),
        ({"data": {"zzzz": 1}}, "data.zzzz", ["allowed is source, path, resolution"]),
        ({"data": {5: 1}}, "data.5", ["no such setting"]),
        ({"data": None}, "data", ["got null", "allowed is a section"]),
        ({"data": [1]}, "data", ["got [1]", "allowed is a section with source, path"]),
        ({"data": "openmoji"}, "data", ["got 'openmoji'", "allowed is a section"]),
        ({"seed": None}, "seed", ["got null", "allowed is an integer"]),
        ({"seed": 1.0}, "seed", ["got 1.0", "allowed is an integer"]),
        ({"seed": True}, "seed", ["got true", "allowed is an integer"]),
        ({"seed": "1"}, "seed", ["got '1'", "allowed is an integer"]),
        ({"training": {"learning_rate": "1e-4"}}, "training.learning_rate", ["got '1e-4'", "allowed is a number"]),
        ({"training": {"learning_rate": False}}, "training.learning_rate", ["got false", "allowed is a number"]),
        ({"training": {"learning_rate": [1]}}, "training.learning_rate", ["got [1]", "allowed is a number"]),
        ({"training": {"learning_rate": None}}, "training.learning_rate", ["got null", "allowed is a number"]),
        ({"training": {"ema_decay": "x"}}, "training.ema_decay", ["got 'x'", "allowed is a number or null"]),
        ({"training": {"weight_decay": math.nan}}, "training.weight_decay", ["got nan", "allowed is a finite number"]),
        ({"model": {"mlp_ratio": math.inf}}, "model.mlp_ratio", ["got inf", "allowed is a finite number"]),
        ({"training": {"eps": 10**400}}, "training.eps", ["got 1000", "allowed is a finite number"]),
        ({"data": {"skin_tones": 1}}, "data.skin_tones", ["got 1", "allowed is true or false"]),
        ({"data": {"source": 1}}, "data.source", ["got 1", "allowed is a text"]),
        ({"training": {"betas": 0.9}}, "training.betas", ["got 0.9", "allowed is a list"]),
        ({"training": {"betas": None}}, "training.betas", ["got null", "allowed is a list"]),
        ({"training": {"betas": [0.9]}}, "training.betas", ["[0.9]", "length 1", "allowed is a list of length 2"]),
        ({"training": {"betas": [0.9, "x"]}}, "training.betas[1]", ["got 'x'", "allowed is a number"]),
        ({"training": {"betas": [0.9, 2]}}, "training.betas", ["got (0.9, 2.0)", "allowed are numbers"]),
        ({"evaluation": {"metrics": ["fid", 2]}}, "evaluation.metrics[1]", ["got 2", "allowed is a text"]),
        ({"evaluation": {"metrics": "fid"}}, "evaluation.metrics", ["got 'fid'", "allowed is a list"]),
        ({"evaluation": {"metrics": []}}, "evaluation.metrics", ["got none", "at least one"]),
        ({"training": {"steps": 0}}, "training.steps", ["got 0", "allowed is an integer of at least 1"]),
        ({"training": {"warmup_steps": -1}}, "training.warmup_steps, weight_decay", ["got -1", "allowed is 0 or more"]),
        ({"training": {"timesteps": {"std": 0}}}, "training.timesteps.std, shift", ["got 0.0", "above 0"]),
        ({"evaluation": {"sampler": {"guidance": 0.5}}}, "evaluation.sampler.guidance", ["got 0.5", "at least 1"]),
        ({"repa": {"depth": 1}}, "repa", ["missing teacher, weight"]),
        ({"repa": {"teacher": "x", "depth": 1, "weight": 0}}, "repa.weight", ["got 0.0", "repa: null"]),
        ({"repa": {"teacher": "x", "depth": 17, "weight": 1}}, "repa.depth", ["got 17", "allowed is 1 to 16"]),
        ({"repa": False}, "repa", ["got false", "allowed is a section"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_cannot_be_is_named_by_its_path_with_what_came_and_what_is_allowed(settings, path, words):
    error = _problem(settings)
    assert error.path == path
    assert str(error) == f"{path}: {error.problem}"
    for word in words:
        assert word in error.problem


def test_the_whole_config_may_be_no_section():
    assert "allowed is a section with model, data" in str(_problem([1]))


def test_a_long_value_is_cut_short():
    assert len(str(_problem({"data": {"source": 3, "path": ["x" * 1000]}}))) < 200
    assert shown("x" * 1000).endswith("...")
    assert [shown(value) for value in (None, True, False, 0, "a\nb")] == ["null", "true", "false", "0", "'a\\nb'"]


def test_override_sets_one_value_and_copies_the_rest():
    settings = {"training": {"betas": [0.9, 0.95], "steps": 5}, "repa": {"weight": 1}}
    before = copy.deepcopy(settings)
    changed = override(settings, {"training.steps": 7, "repa": None, "model.depth": 3})
    assert changed == {"training": {"betas": [0.9, 0.95], "steps": 7}, "repa": None, "model": {"depth": 3}}
    changed["training"]["betas"].append(1)
    assert settings == before


def test_override_shares_nothing_with_the_values_either():
    values = {"repa": {"weight": 1, "list": [1]}, "repa.weight": 2}
    first = override({}, values)
    first["repa"]["list"].append(2)
    assert first["repa"]["weight"] == 2
    assert values == {"repa": {"weight": 1, "list": [1]}, "repa.weight": 2}


def test_override_goes_through_null_but_not_through_a_value():
    assert override({"repa": None}, {"repa.weight": 2}) == {"repa": {"weight": 2}}
    with pytest.raises(ConfigError, match=r"^model\.depth: model is 'prx_1b', not a section$"):
        override({"model": "prx_1b"}, {"model.depth": 2})


def test_every_setting_has_a_path_and_every_path_can_be_overridden():
    paths = setting_paths()
    assert len(paths) == len(set(paths))
    plain = to_plain(WITH_REPA)
    leaves = dict(_leaves(plain))
    sections = {"model", "data", "training", "training.timesteps", "evaluation", "evaluation.sampler", "repa"}
    assert set(paths) == set(leaves) | sections
    for path in leaves:
        assert load_config(override(plain, {path: leaves[path]})) == WITH_REPA


OTHER_VALUES = {
    "data.source": ("data", {"source": "store", "path": "x"}),
    "data.path": ("data", {"source": "store", "path": "y"}),
    "data.limit": ("data.limit", 7),
    "model.hidden_size": ("model.hidden_size", 1792 * 2),
    "training.ema_decay": ("training.ema_decay", 0.5),
    "training.precision": ("training.precision", "fp32"),
    "training.compile": ("training.compile", "always"),
    "training.optimizer": ("training.optimizer", "muon"),
    "training.schedule": ("training.schedule", "cosine"),
    "training.micro_batch_size": ("training.micro_batch_size", 8),
    "training.parallel": ("training.parallel", "fsdp"),
    "training.checkpoint_every_min": ("training.checkpoint_every_min", 5.0),
    "training.eval_every_steps": ("training.eval_every_steps", 5_000),
    "training.betas": ("training.betas", [0.95, 0.9]),
    "training.timesteps.max_t": ("training.timesteps.max_t", 0.5),
    "evaluation.nested": ("evaluation.nested", [0.5]),
    "evaluation.metrics": ("evaluation.metrics", ["cmmd", "fid", "dino_mmd"]),
    "repa.teacher": ("repa.teacher", "another"),
    "repa.projector": ("repa.projector", "conv3x3"),
    "repa.schedule": ("repa.schedule", "stop"),
    "repa.stop_at": ("repa.stop_at", 0.5),
    "evaluation.sampler.precision": ("evaluation.sampler.precision", "bf16"),
    "repa.spatial_norm": ("repa.spatial_norm", 0.6),
    "repa.teacher_precision": ("repa.teacher_precision", "fp32"),
}


@pytest.mark.parametrize(("path", "value"), list(_leaves(to_plain(WITH_REPA))))
def test_the_fingerprint_changes_with_every_setting(path, value):
    if path in OTHER_VALUES:
        path, other = OTHER_VALUES[path]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, int):
        other = value * 2 or 1
    else:
        other = value / 2 or 0.25
    plain = to_plain(WITH_REPA)
    changed = to_plain(load_config(override(plain, {path: other})))
    assert fingerprint(changed) != fingerprint(plain)


def test_the_fingerprint_tells_the_baseline_from_repa():
    assert fingerprint(to_plain(ExperimentConfig())) != fingerprint(to_plain(WITH_REPA))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_the_fingerprint_does_not_change_with_order(plain):
    backwards = dict(reversed(plain.items()))
    assert fingerprint(plain) == fingerprint(backwards)
    assert len(fingerprint(plain)) == 12
    int(fingerprint(plain), 16)


def test_the_fingerprint_reads_numbers_by_value():
    assert fingerprint({"a": [1, {"b": 2.0}]}) == fingerprint({"a": (1.0, {"b": 2})})
    assert fingerprint({"a": -0.0}) == fingerprint({"a": 0})
    assert len({fingerprint({"a": value}) for value in (1, True, "1", None, [1], 1.5, {"1": 1})}) == 7
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": math.nan})


def test_the_fingerprint_is_the_same_everywhere():
    # Results of an earlier day are found by it.
    assert fingerprint({"b": [1, 2.5, None, True], "a": {"c": "d"}}) == "75721a205efe"


def test_nearest():
    assert nearest("depht", ["depth", "weight"]) == "; allowed is depth, weight; nearest is depth"
    assert nearest("zzz", ["depth", "weight"]) == "; allowed is depth, weight"
    assert nearest("n50x", [f"n{i}" for i in range(100)]) == "; nearest is n50"
    assert nearest("zzz", [f"n{i}" for i in range(100)]).startswith("; nearest is ")


def test_configs_are_values():
    assert PRXConfig() == PRXConfig()
    assert hash(TrainingConfig()) == hash(TrainingConfig())
    with pytest.raises(AttributeError):
        ExperimentConfig().seed = 1
