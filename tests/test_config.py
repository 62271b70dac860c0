"""Model sections: what is accepted, what is refused, and that nothing but a clear ValueError ever comes out."""

from __future__ import annotations

import copy
import json
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpa2_ase import option_values
from dpa2_ase.config import (
    DPA1Config,
    DPA2Config,
    LinearConfig,
    ModelConfig,
    PairTableConfig,
    UnsupportedModelError,
    ZBLConfig,
)
from dpa2_ase.nn import layers
from dpa2_ase.option_values import short
from dpa2_ase.parsing import parse_model

DPA2 = {
    "type_map": ["H", "O"],
    "descriptor": {
        "type": "dpa2",
        "repinit": {"rcut": 6.0, "rcut_smth": 0.5, "nsel": 40, "use_three_body": True},
        "repformer": {"rcut": 4.0, "rcut_smth": 0.5, "nsel": 20, "nlayers": 2, "g1_dim": 8, "g2_dim": 4},
    },
    "fitting_net": {"neuron": [8, 8]},
}
DPA1 = {
    "type_map": ["H", "O"],
    "descriptor": {"type": "dpa1", "rcut": 6.0, "rcut_smth": 0.5, "sel": [10, 20], "neuron": [4, 8], "axis_neuron": 4},
    "fitting_net": {},
}
TABLE = {"type": "pairtab", "rcut": 3.0, "sel": 20}


def changed(base: dict, **values: object) -> dict:
    """A copy of `base`; ``descriptor__repinit__rcut=1`` sets a nested entry, the value ``...`` removes it."""
    data = copy.deepcopy(base)
    for where, value in values.items():
        *parents, key = where.split("__")
        node = data
        for parent in parents:
            node = node[parent]
        if value is ...:
            del node[key]
        else:
            node[key] = value
    return data


def test_defaults_of_a_dpa2_model():
    config = parse_model(DPA2)
    assert isinstance(config, ModelConfig)
    assert isinstance(config.descriptor, DPA2Config)
    assert (config.rcut, config.nsel, config.kind) == (6.0, 40, "ener")
    assert config.descriptor.three_body is not None
    assert config.descriptor.three_body.nsel == 40
    assert config.descriptor.repformer.update_style == "res_avg"
    assert config.descriptor.block.tebd_dim == config.descriptor.tebd_dim == 8
    assert config.fitting_net.subtracts_vacuum is False
    assert parse_model(changed(DPA2, descriptor__repinit__use_three_body=False)).descriptor.three_body is None


def test_defaults_of_a_dpa1_model():
    config = parse_model(DPA1)
    assert isinstance(config.descriptor, DPA1Config)
    assert (config.nsel, config.descriptor.block.nsel, config.descriptor.block.ln_eps) == (30, 30, 1e-5)


@pytest.mark.parametrize(
    ("alias", "value", "name", "expected"),
    [
        ("smooth_type_embdding", False, "smooth_type_embedding", False),
        ("n_axis_neuron", 3, "axis_neuron", 3),
        ("stripped_type_embedding", True, "tebd_input_mode", "strip"),
        ("stripped_type_embedding", False, "tebd_input_mode", "concat"),
        ("precision", "double", "precision", "float64"),
        ("precision", "default", "precision", "float64"),
        ("precision", "float32", "precision", "float32"),
        ("activation_function", None, "activation_function", "none"),
        ("activation_function", "SiLUT:0.5", "activation_function", "SiLUT:0.5"),
        ("temperature", None, "temperature", None),
        ("temperature", 2, "temperature", 2.0),
    ],
)
def test_other_spellings(alias, value, name, expected):
    config = parse_model(changed(DPA1, **{f"descriptor__{alias}": value}))
    assert getattr(config.descriptor, name) == expected


def test_se_atten_v2_is_smooth_and_stripped():
    data = changed(DPA1, descriptor__type="se_atten_v2", descriptor__smooth_type_embedding=False)
    block = parse_model(data).descriptor.block
    assert (block.tebd_input_mode, block.smooth) == ("strip", True)


def test_keys_of_the_training_are_passed_over():
    data = changed(
        DPA2,
        descriptor__seed=1,
        descriptor__repinit__set_davg_zero=True,
        fitting_net__trainable=[True],
        fitting_net__rcond=None,
        info={"observed_type": ["H"]},
        resuming=True,
        stat_file_path="stat",
    )
    assert parse_model(data) == parse_model(DPA2)


UNSUPPORTED = {
    "spin": (changed(DPA1, spin={"use_spin": [True]}), r"model\.spin"),
    "modifier": (changed(DPA1, modifier={"type": "dipole_charge"}), r"model\.modifier"),
    "bridging": (changed(DPA1, bridging_method="zbl"), r"model\.bridging_method 'zbl'"),
    "model type": (changed(DPA1, type="frozen"), r"model\.type 'frozen'"),
    "hybrid": (changed(DPA1, descriptor__type="hybrid"), r"model\.descriptor\.type 'hybrid'"),
    "se_e2_a": (changed(DPA1, descriptor__type="se_e2_a"), r"model\.descriptor\.type 'se_e2_a'"),
    "no type": (changed(DPA1, descriptor__type=...), r"model\.descriptor\.type None"),
    "direct force": (changed(DPA1, fitting_net__type="direct_force_ener"), r"fitting_net\.type 'direct_force_ener'"),
    "attn_mask": (changed(DPA1, descriptor__attn_mask=True), r"descriptor\.attn_mask"),
    "descriptor spin": (changed(DPA1, descriptor__spin={}), r"descriptor\.spin"),
    "fitting spin": (changed(DPA1, fitting_net__spin={}), r"fitting_net\.spin"),
    "alpha": (changed(DPA2, descriptor__repinit_rcut=6.0), r"descriptor\.repinit_rcut: flat DPA-2"),
    "bfloat16": (changed(DPA1, descriptor__precision="bfloat16"), r"descriptor\.precision 'bfloat16'"),
    "precision list": (changed(DPA1, descriptor__precision=["float64"]), r"descriptor\.precision"),
    "activation": (changed(DPA1, descriptor__activation_function="swish"), r"activation_function 'swish'"),
    "activation number": (changed(DPA1, fitting_net__activation_function=3), r"activation_function 3"),
    "silut": (changed(DPA1, fitting_net__activation_function="silut:x"), r"activation_function 'silut:x'"),
    "silut nan": (changed(DPA1, fitting_net__activation_function="silut:nan"), r"activation_function 'silut:nan'"),
    "tanh:1": (changed(DPA1, fitting_net__activation_function="tanh:1"), r"activation_function 'tanh:1'"),
    "lmax": (changed(DPA1, descriptor__lmax=5), r"descriptor\.lmax 5"),
    "lmax zero": (changed(DPA1, descriptor__lmax=0), r"descriptor\.lmax 0"),
    "tebd mode": (changed(DPA1, descriptor__tebd_input_mode="dot"), r"descriptor\.tebd_input_mode 'dot'"),
    "style": (changed(DPA2, descriptor__repformer__update_style="res"), r"repformer\.update_style 'res'"),
    "many nets": (changed(DPA1, fitting_net__mixed_types=False), r"fitting_net\.mixed_types"),
    "zero energy": (changed(DPA1, fitting_net__tot_ener_zero=True), r"fitting_net\.tot_ener_zero"),
    "silenced": (changed(DPA1, fitting_net__exclude_types=[1]), r"fitting_net\.exclude_types \[1\]"),
    "typo": (changed(DPA2, descriptor__repformer__nlayer=2), r"repformer\.nlayer is not .*; did you mean nlayers\?"),
    "typo above": (changed(DPA2, pair_exclude_type=[[0, 1]]), r"model\.pair_exclude_type .* pair_exclude_types\?"),
    "unheard of": (changed(DPA2, descriptor__xyzzy=1), r"descriptor\.xyzzy is not .* not implemented here"),
    "zbl of dipoles": (
        changed(DPA1, fitting_net__type="dipole", use_srtab="t", sw_rmin=0.5, sw_rmax=1.0),
        r"fitting_net\.type 'dipole'",
    ),
    "sum of dipoles": (
        {"type": "linear_ener", "type_map": ["H", "O"], "models": [changed(DPA1, fitting_net__type="dipole")]},
        r"model\.models\[0\]: only energies",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_implemented_is_refused_by_its_path(name):
    data, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        parse_model(data)


HUGE = 10**6000  # has no decimal text
WRONG = {
    "not a table": ([], r"model should be a table"),
    "keys": ({1: 2}, r"model should be a table"),
    "heads": ({"model_dict": {"b": {}, "a": {}}}, r"multi-task .*\['a', 'b'\]"),
    "no descriptor": (changed(DPA1, descriptor=...), r"model\.descriptor is missing"),
    "no fitting": (changed(DPA1, fitting_net=None), r"model\.fitting_net is missing"),
    "no type_map": (changed(DPA1, type_map=...), r"model\.type_map should be a list"),
    "text type_map": (changed(DPA1, type_map="HO"), r"model\.type_map should be a list"),
    "twice": (changed(DPA1, type_map=["H", "H"]), r"model\.type_map"),
    "huge type_map": (changed(DPA1, type_map=[str(i) for i in range(100_000)]), r"model\.type_map"),
    "auto": (changed(DPA1, descriptor__sel="auto"), r"descriptor\.sel is 'auto'.*not a trained model"),
    "sel list": (changed(DPA1, descriptor__sel=[10, "5"]), r"descriptor\.sel should be an integer"),
    "sel zero": (changed(DPA1, descriptor__sel=0), r"descriptor\.sel should be an integer from 1"),
    "missing": (changed(DPA2, descriptor__repinit__rcut=...), r"descriptor\.repinit\.rcut is missing"),
    "no repinit": (changed(DPA2, descriptor__repinit=...), r"descriptor\.repinit is missing"),
    "rcut text": (changed(DPA1, descriptor__rcut="6.0"), r"descriptor\.rcut should be a number"),
    "rcut nan": (changed(DPA1, descriptor__rcut=math.nan), r"descriptor\.rcut should be a number"),
    "rcut bool": (changed(DPA1, descriptor__rcut=True), r"descriptor\.rcut should be a number"),
    "rcut infinite": (changed(DPA1, descriptor__rcut=math.inf), r"descriptor\.rcut"),
    "rcut huge": (changed(DPA1, descriptor__rcut=HUGE), r"descriptor\.rcut should be a number, found a"),
    "rcut negative": (changed(DPA1, descriptor__rcut=-1.0), r"model\.descriptor needs 0 <= rcut_smth < rcut"),
    "onset": (changed(DPA2, descriptor__repformer__rcut_smth=4.5), r"repformer needs 0 <= rcut_smth < rcut"),
    "repformer": (changed(DPA2, descriptor__repformer__nsel=41), r"repformer needs a shorter"),
    "three-body": (changed(DPA2, descriptor__repinit__three_body_rcut=6.5), r"three_body_rcut"),
    "axis": (changed(DPA1, descriptor__axis_neuron=9), r"descriptor\.axis_neuron 9 exceeds .* 8"),
    "axis of edges": (changed(DPA2, descriptor__repformer__axis_neuron=5), r"repformer\.axis_neuron 5 exceeds .* 4"),
    "bool width": (changed(DPA1, descriptor__tebd_dim=True), r"descriptor\.tebd_dim should be an integer"),
    "float width": (changed(DPA1, descriptor__tebd_dim=8.0), r"descriptor\.tebd_dim should be an integer"),
    "no width": (changed(DPA1, descriptor__tebd_dim=0), r"descriptor\.tebd_dim should be an integer from 1"),
    "huge width": (changed(DPA2, descriptor__repformer__g1_dim=10**7), r"repformer\.g1_dim"),
    "huge depth": (changed(DPA2, descriptor__repformer__nlayers=10**6), r"repformer\.nlayers should be .* to 256"),
    "neuron": (changed(DPA1, descriptor__neuron=16), r"descriptor\.neuron should be a list of layer widths"),
    "no neuron": (changed(DPA1, descriptor__neuron=[]), r"descriptor\.neuron"),
    "neuron text": (changed(DPA1, fitting_net__neuron=["8"]), r"fitting_net\.neuron should be an integer"),
    "flag": (changed(DPA1, descriptor__resnet_dt="yes"), r"descriptor\.resnet_dt should be true or false"),
    "attention": (changed(DPA1, descriptor__scaling_factor=0), r"attention layers need attn and scaling_factor"),
    "protection": (changed(DPA1, descriptor__env_protection=-1), r"env_protection should be a number from 0"),
    "exclude": (changed(DPA1, descriptor__exclude_types=[[0, 2]]), r"excluded type 2 is outside type_map"),
    "negative": (changed(DPA1, pair_exclude_types=[[0, -1]]), r"model\.pair_exclude_types should be an integer"),
    "triple": (changed(DPA1, pair_exclude_types=[[0, 1, 1]]), r"entry \[0, 1, 1\]"),
    "flat": (changed(DPA1, pair_exclude_types=[0, 1]), r"list of pairs"),
    "text pairs": (changed(DPA1, pair_exclude_types="01"), r"list of pairs"),
    "atoms": (changed(DPA1, atom_exclude_types=[2]), r"excluded type 2"),
    "atoms text": (changed(DPA1, atom_exclude_types="1"), r"list of type indices"),
    "default_fparam": (changed(DPA1, fitting_net__default_fparam=[1.0]), r"should hold numb_fparam = 0"),
    "scale": (changed(DPA1, fitting_net__type="polar", fitting_net__scale=[1.0, 2.0, 3.0]), r"scale should be one"),
    "scale text": (changed(DPA1, fitting_net__scale="1"), r"fitting_net\.scale should be a number"),
    "atom_ener": (changed(DPA1, fitting_net__atom_ener=[1.0]), r"atom_ener should have 2 entries"),
    "atom_ener text": (changed(DPA1, fitting_net__atom_ener="1"), r"atom_ener should be a list"),
    "no switch": (changed(DPA1, use_srtab="t", sw_rmin=0.5), r"model\.sw_rmax should be a number"),
    "switch": (changed(DPA1, use_srtab="t", sw_rmin=1.5, sw_rmax=1.0), r"sw_rmin < sw_rmax"),
    "no models": ({"type": "linear_ener", "type_map": ["H"]}, r"model\.models should be a list"),
    "table": ({"type": "pairtab", "type_map": ["H"], "sel": 3}, r"model\.rcut should be a number, found None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_with_path_and_value(name):
    data, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        parse_model(data)
    assert len(str(caught.value)) < 500


def test_excluded_types_of_a_fitting_may_repeat_those_of_the_model():
    config = parse_model(changed(DPA1, fitting_net__exclude_types=[1], atom_exclude_types=[1]))
    assert config.atom_exclude_types == (1,)


def test_atomic_energies_may_be_null():
    config = parse_model(changed(DPA1, fitting_net__atom_ener=[None, [1.5]]))
    assert config.fitting_net.atom_ener == (None, (1.5,))
    assert config.fitting_net.subtracts_vacuum


def test_zbl():
    config = parse_model(changed(DPA1, use_srtab="t.txt", sw_rmin=0.5, sw_rmax=1.0, smin_alpha=0.3))
    assert isinstance(config, ZBLConfig)
    assert (config.rcut, config.nsel, config.kind, config.smin_alpha) == (6.0, 30, "ener", 0.1)
    assert config.models[1] == PairTableConfig(("H", "O"), 6.0, 30)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, (1 / 3,) * 3), ("mean", (1 / 3,) * 3), ("sum", (1.0,) * 3), ([1, -2.5, 0], (1.0, -2.5, 0.0))],
)
def test_linear(weights, expected):
    nested = {"type": "linear_ener", "models": [TABLE, DPA1], "weights": "sum"}
    data = {"type": "linear_ener", "type_map": ["H", "O"], "models": [DPA2, TABLE, nested]}
    config = parse_model(data | ({"weights": weights} if weights else {}))
    assert isinstance(config, LinearConfig)
    assert config.weights == expected
    assert (config.rcut, config.nsel) == (6.0, 40)
    assert isinstance(config.models[2], LinearConfig)
    assert config.models[1] == PairTableConfig(("H", "O"), 3.0, 20)


@pytest.mark.parametrize("weights", ["median", [1.0], [1.0, 2.0, 3.0], [1.0, "2"], [1.0, math.nan], 2.0])
def test_wrong_weights(weights):
    data = {"type": "linear_ener", "type_map": ["H", "O"], "models": [DPA1, TABLE], "weights": weights}
    with pytest.raises(ValueError, match=r"model\.weights"):
        parse_model(data)


def test_endless_linear_models_are_refused():
    data: dict = {"type": "linear_ener", "type_map": ["H", "O"]}
    data["models"] = [data]
    with pytest.raises(UnsupportedModelError, match="not supported to this depth"):
        parse_model(data)


def test_the_activations_accepted_are_those_that_exist():
    assert frozenset(layers._ACTIVATIONS) == option_values.ACTIVATIONS


def test_short_never_grows():
    tree: list = []
    for _ in range(60):
        tree = [tree, tree]
    assert len(short(tree)) <= 200
    assert short(HUGE) == "a int"


JUNK = [None, True, -1, 0, 2**70, 1e308, math.nan, -math.inf, "", "auto", "\ud800", [], [[]], {}, {"a": 1}, [None, 1]]


def _mutated(data: dict, rng: random.Random) -> dict:
    """One to three random entries replaced, removed, renamed, doubled or swapped for another branch."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        nodes = [node for node in _tables(data) if node]
        node = rng.choice(nodes) if nodes else data
        if not node:
            continue
        key = rng.choice(list(node))
        action = rng.randrange(5)
        if action == 0:
            del node[key]
        elif action == 1:
            node[str(key) + rng.choice("sX_")] = node.pop(key)
        elif action == 2:
            node[key] = [node[key], copy.deepcopy(node[key])]
        elif action == 3:
            node[key] = copy.deepcopy(rng.choice(list(node.values())))
        else:
            node[key] = rng.choice(JUNK)
    return data


def _tables(data: object) -> list[dict]:
    found = [data] if isinstance(data, dict) else []
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return found + [table for part in parts for table in _tables(part)]


def test_mutated_configurations_raise_nothing_but_value_errors():
    rng = random.Random(20240607)
    zbl = changed(DPA1, use_srtab="t", sw_rmin=0.5, sw_rmax=1.0)
    linear = {"type": "linear_ener", "type_map": ["H", "O"], "models": [DPA2, TABLE, DPA1], "weights": [1, 2, 3]}
    outcomes = {"read": 0, "refused": 0}
    for _ in range(4000):
        data = _mutated(rng.choice([DPA1, DPA2, zbl, linear]), rng)
        try:
            parse_model(data)
            outcomes["read"] += 1
        except ValueError as error:
            assert str(error).startswith("model")  # noqa: PT017  # the absence of an error is as good
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 200, outcomes


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_OPTIONS = sorted(
    {key for table in _tables(json.loads(json.dumps([DPA1, DPA2]))) for key in table} | {"spin", "models"}
)


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([DPA1, DPA2]), st.sampled_from(_OPTIONS), _JSON)
def test_any_value_of_any_option_is_read_or_refused(base, key, value):
    for where in range(len(_tables(base))):
        data = copy.deepcopy(base)
        _tables(data)[where][key] = value
        try:
            parse_model(data)
        except ValueError as error:
            assert str(error).startswith("model")  # noqa: PT017  # the absence of an error is as good
