"""What a config describes: nets to start from, and data that fit them."""

import pytest

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError

RUN = "configs/lenet5_mnist.py:variance"


def test_member_seeds_of_different_seeds_are_disjoint():
    spec = core.NetSpec(RUN, members=5)
    assert [*spec.seeds(0), *spec.seeds(1)] == list(range(10))
    assert list(core.NetSpec(RUN).seeds(3)) == [3]


@pytest.mark.parametrize(
    ("which", "name"),
    [
        ("uncertainty.py:variance", "net"),
        ("sparse_vd.py:lenet_300_100_pretrained", "start"),
    ],
)
def test_what_a_net_was_trained_on_is_no_validation_split(which, name):
    config = load_config(f"configs/{which},quick")
    config.dataset.validation = 200
    with pytest.raises(
        ConfigError, match=rf"'validation': 200.*nets\.{name}.*: 0}}; give the same"
    ):
        core.build(config)


def test_a_study_of_nets_of_another_data_set_is_refused():
    config = load_config("configs/uncertainty.py:variance,quick")
    config.dataset.name = "digits_8x8"
    with pytest.raises(ConfigError, match=r"'digits_8x8'.*configs/lenet5_mnist"):
        core.build(config)
