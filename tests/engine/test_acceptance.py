"""The comparison of acceptance rates on a pair of small models."""

import json

import pytest
import torch

from fastdecode import acceptance, ops
from tests.models import random_prompt, small_model


@pytest.fixture(scope="module")
def report():
    target, draft = small_model(scale=6.0), acceptance.without_layers(small_model(scale=6.0), [1])
    prompts = [(category, random_prompt(9, seed=i)) for i, category in enumerate(["qa", "qa", "rag"])]
    return acceptance.compare(target, draft, prompts, acceptance.Settings((0.8, 1.2), (1, 3), tokens=8, stride=2))


def test_cells_and_positions(report):
    assert [(c["temperature"], c["drafts"]) for c in report["rates"]] == [(0.8, 1), (0.8, 3), (1.2, 1), (1.2, 3)]
    assert all(c["positions"] == 3 * 4 for c in report["rates"])
    assert set(report["rates"][0]["verifiers"]["transport"]["per_category"]) == {"qa", "rag"}
    json.dumps(report)


def test_differences_are_those_of_the_rates_in_every_category(report):
    for cell in report["rates"]:
        base = cell["verifiers"][acceptance.BASE]
        for name, more in cell["more_than_base"].items():
            rates = cell["verifiers"][name]
            assert more["rate"] == pytest.approx(rates["rate"] - base["rate"])
            assert more["rate"] == pytest.approx(sum(c["rate"] for c in more["per_category"].values()) / 2)
            for category, value in more["per_category"].items():
                assert value["rate"] == pytest.approx(rates["per_category"][category]["rate"] - base["per_category"][category]["rate"])
                assert value["low"] <= value["rate"] + 1e-12 and value["high"] >= value["rate"] - 1e-12


def test_intervals_are_over_texts():
    """Twelve equal positions of one text say no more than one: a category with a single text has an interval of width 0."""
    rates = lambda x: {"a": x, acceptance.BASE: x / 2}
    report = acceptance._summary([("qa", [rates(0.5), rates(0.7)]), ("rag", [rates(0.2)] * 12), ("rag", [rates(0.4)] * 12)])
    value = report["verifiers"]["a"]["per_category"]
    assert value["qa"]["low"] == value["qa"]["high"] == pytest.approx(0.6)
    assert (value["rag"]["low"], value["rag"]["rate"], value["rag"]["high"]) == pytest.approx((0.2, 0.3, 0.4))
    assert report["more_than_base"]["a"]["rate"] == pytest.approx((0.3 + 0.15) / 2)


def test_rates_are_ordered_as_theory_has_it(report):
    for cell in report["rates"]:
        rate = {name: value["rate"] for name, value in cell["verifiers"].items()}
        assert all(v["low"] <= v["rate"] <= v["high"] for v in cell["verifiers"].values())
        assert rate["optimum iid"] - 1e-3 <= rate["transport"] <= rate["optimum iid"] + 1e-6
        assert rate["transport_overdrawn"] >= rate["transport"] >= max(rate["recursive"], rate["k_seq"], rate["naive"]) - 1e-3
        assert rate["optimum without_replacement"] >= max(rate["optimum iid"], rate["recursive_without_replacement"]) - 1e-3
        if cell["drafts"] == 1:
            assert rate["recursive"] == pytest.approx(rate["optimum iid"], abs=1e-9)


def test_rare_tokens_as_one_change_nothing_that_matters():
    generator = torch.Generator().manual_seed(0)
    p, q = ((6 * torch.randn(3000, generator=generator, dtype=torch.float64)).softmax(0) for _ in range(2))
    cut = acceptance._cut(p, q)
    assert len(cut[0]) < 1500
    for rule in ("iid", "recursive", "k_seq", "hybrid:1", "without_replacement"):
        assert ops.transport_alpha(*cut, 2, rule) == pytest.approx(ops.transport_alpha(p, q, 2, rule), abs=1e-4)


def test_layers_that_are_not_there(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"without_layers=\[1, 7\] names layers beyond the draft's 3"):
        acceptance.load_pair(str(tmp_path), str(tmp_path), [1, 7])
