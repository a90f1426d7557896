"""Optimizers: LARS against its oracle, groups, gated steps, and a state that survives a file."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from selftaught.errors import ConfigError, FileError
from selftaught.foundation import files
from selftaught.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    gated_step,
    load_state_tensors,
    restart,
    set_lr,
    state_tensors,
)
from selftaught.training.schedule import lr_at
from tests.oracles import lars

LARGE_LR = {"sgd": 0.05, "adamw": 0.01, "lars": 5.0}


def network(dtype=torch.float32):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(5 * 4 * 4, 7)).to(dtype)
    return model.to(memory_format=torch.channels_last)


def groups(model, **head):
    named = list(model.named_parameters())
    return [
        {"params": [(n, p) for n, p in named if p.ndim > 1 and n[0] != "5"]},
        {"params": [(n, p) for n, p in named if p.ndim == 1], "excluded": True},
        {"params": [(n, p) for n, p in named if n == "5.weight"], **head},
        {"params": []},  # a method may have nothing to say
    ]


def build(name, model, **head):
    return build_optimizer(name, groups(model, **head), weight_decay=1e-2, momentum=0.9)


def train(model, optimizer, steps, *, peak, total=10):
    for step in steps:
        torch.manual_seed(100 + step)
        x, y = torch.randn(6, 3, 8, 8), torch.randint(0, 7, (6,))
        nn.functional.cross_entropy(model(x), y).backward()
        set_lr(optimizer, lr_at(step, peak=peak, total_steps=total, warmup=2))
        gated_step(optimizer, torch.tensor(True))
        optimizer.zero_grad()


def bits(tensors):
    return {name: t.detach().clone() for name, t in tensors.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_lars_equals_the_oracle_while_the_rate_changes():
    rng, shapes = np.random.default_rng(0), {"conv": (4, 3, 3, 3), "fc": (5, 7), "bias": (5,)}
    shapes |= {"zero": (3, 3), "still": (2, 2)}
    w = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    w["zero"][:] = 0  # |w| = 0 at first: trust 1
    v = {name: np.zeros(shape) for name, shape in shapes.items()}
    ours = {name: nn.Parameter(torch.from_numpy(x.copy())) for name, x in w.items()}
    grouped = [
        {"params": [(n, ours[n]) for n in ("conv", "fc", "zero")]},
        {"params": [("still", ours["still"])], "weight_decay": 0.0},  # g = 0: trust 1, no 0 / 0
        {"params": [("bias", ours["bias"])], "excluded": True, "lr_scale": 0.5},
    ]
    optimizer = build_optimizer("lars", grouped, weight_decay=1e-2, momentum=0.9)
    for step in range(20):
        lr = lr_at(step, peak=4.8, total_steps=20, warmup=4)
        for name, parameter in ours.items():
            g = rng.normal(size=shapes[name]) * (name != "still")
            parameter.grad = torch.from_numpy(g)
            kind = {"bias": {"excluded": True}, "still": {}}.get(name, {"wd": 1e-2})
            scale = 0.5 if name == "bias" else 1.0
            lars.step(w[name], v[name], g, lr=lr * scale, **kind)
        set_lr(optimizer, lr)
        optimizer.step()
    state = state_tensors(optimizer)
    for name, parameter in ours.items():
        np.testing.assert_allclose(parameter.detach(), w[name], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(
            state[f"{name}/momentum_buffer"], v[name], rtol=1e-12, atol=1e-14
        )


def test_the_oracle_of_lars_by_hand():
    w, v = np.array([3.0, 4.0]), np.array([1.0, 0.0])
    lars.step(w, v, np.array([0.0, 2.0]), lr=10.0, m=0.5)  # trust = 0.001 * 5 / 2
    assert v == pytest.approx([0.5, 0.05]) and w == pytest.approx([2.5, 3.95])
    lars.step(w, v, np.array([1.0, 1.0]), lr=1.0, m=0.0, wd=9.0, excluded=True)
    assert v == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, foreach=False)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.0, betas=(0.9, 0.999), foreach=False)),
    ],
)
def test_sgd_and_adamw_are_torchs_with_our_groups(name, make):
    """The rival's groups are written out; torch's plain loops, without our state of zeros."""
    ours, theirs = network(torch.float64), network(torch.float64)
    wide = [p for p in theirs.parameters() if p.ndim > 1]
    narrow = [p for p in theirs.parameters() if p.ndim == 1]
    rival = make(
        [
            {"params": wide[:2], "weight_decay": 1e-2},
            {"params": narrow, "weight_decay": 0.0},
            {"params": wide[2:], "weight_decay": 1e-3},
        ]
    )
    optimizer = build(name, ours, weight_decay=1e-3, lr_scale=3.0)
    for step in range(8):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = b.grad = torch.randn_like(a)
        set_lr(optimizer, 0.01 * (step + 1))
        for group, scale in zip(rival.param_groups, (1, 1, 3), strict=True):
            group["lr"] = 0.01 * (step + 1) * scale
        optimizer.step()
        rival.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_has_its_own_momentum_and_nothing_excluded_decays(name):
    optimizer = build(name, network(), momentum=0.0)
    trunk, excluded, head = optimizer.param_groups
    momenta = [g["betas"][0] if name == "adamw" else g["momentum"] for g in (trunk, excluded, head)]
    assert momenta == [0.9, 0.9, 0.0]
    assert [g["weight_decay"] for g in (trunk, excluded, head)] == [1e-2, 0.0, 1e-2]


@pytest.mark.parametrize("head", [{}, {"momentum": 0.0, "lr_scale": 2.0}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_has_the_same_bits(name, head, tmp_path):
    """10 steps straight = 5, a file, and 5 more; channels_last weights on both sides."""
    straight = network()
    train(straight, (whole := build(name, straight, **head)), range(10), peak=LARGE_LR[name])
    first = network()
    train(first, (half := build(name, first, **head)), range(5), peak=LARGE_LR[name])
    files.save_tensors(tmp_path / "training.safetensors", state_tensors(half))
    files.save_tensors(tmp_path / "model.safetensors", first.state_dict())
    second = network()
    second.load_state_dict(files.load_tensors(tmp_path / "model.safetensors"))
    resumed = build(name, second, **head)
    load_state_tensors(resumed, files.load_tensors(tmp_path / "training.safetensors"))
    train(second, resumed, range(5, 10), peak=LARGE_LR[name])
    assert same(second.state_dict(), straight.state_dict())
    assert same(state_tensors(resumed), state_tensors(whole))
    assert not same(straight.state_dict(), first.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_its_state_a_resumed_run_differs(name):
    straight, resumed = network(), network()
    train(straight, build(name, straight), range(10), peak=LARGE_LR[name])
    train(resumed, build(name, resumed), range(5), peak=LARGE_LR[name])
    train(resumed, build(name, resumed), range(5, 10), peak=LARGE_LR[name])
    assert not same(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_forbidden_step_changes_nothing_and_an_allowed_one_is_the_plain_one(name):
    gated, plain = network(), network()
    a, b = build(name, gated), build(name, plain)
    train(gated, a, range(4), peak=0.1)
    train(plain, b, range(4), peak=0.1)
    before = bits(gated.state_dict()), bits(state_tensors(a))
    for p in gated.parameters():
        p.grad = torch.full_like(p, torch.nan)
    gated_step(a, torch.tensor(False))
    assert same(gated.state_dict(), before[0]) and same(state_tensors(a), before[1])
    for p, q in zip(gated.parameters(), plain.parameters(), strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    gated_step(a, torch.tensor(True))
    b.step()
    assert same(gated.state_dict(), plain.state_dict())
    assert same(state_tensors(a), state_tensors(b))
    assert not same(gated.state_dict(), before[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_a_gradient_stands_still(name):
    model = network()
    optimizer = build(name, model)
    before = bits(model.state_dict())
    model[0].weight.grad = torch.ones_like(model[0].weight)
    set_lr(optimizer, 0.1)
    optimizer.step()
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert changed == ["0.weight"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restart_forgets_the_groups_that_ask_for_it_and_no_other(name):
    model = network()
    optimizer = build(name, model)
    train(model, optimizer, range(3), peak=0.1)
    before = bits(state_tensors(optimizer))
    restart(optimizer, groups(model, restart=True))
    after = state_tensors(optimizer)
    anew = {n for n in after if not torch.equal(after[n], before[n])}
    assert anew == {n for n in after if n.startswith("5.weight/")}
    assert all(not after[n].any() for n in anew)


def test_the_names_of_the_state_are_those_of_the_parameters():
    names = set(state_tensors(build("adamw", network())))
    assert {"0.weight/exp_avg", "0.weight/exp_avg_sq", "0.weight/step"} <= names
    assert "5.weight/momentum_buffer" in state_tensors(build("lars", network()))
    assert "5.weight/momentum_buffer" not in state_tensors(build("sgd", network(), momentum=0.0))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("3.weight/exp_avg"), r"3\.weight/exp_avg is missing"),
        (lambda t: t.update(x=torch.zeros(1)), r"x belongs to no parameter"),
        (lambda t: t.update({"5.bias/exp_avg": torch.zeros(8)}), r"float32 \(8,\), not .*\(7,\)"),
        (lambda t: t.update({"5.bias/exp_avg": torch.zeros(7).double()}), "float64"),
        (lambda t: t.update({"5.bias/exp_avg": torch.full((7,), torch.nan)}), "not finite"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_taken(damage, words):
    model = network()
    optimizer = build("adamw", model)
    train(model, optimizer, range(3), peak=0.01)
    before = bits(state_tensors(optimizer))
    tensors = copy.deepcopy({name: tensor + 1 for name, tensor in before.items()})
    damage(tensors)
    with pytest.raises(FileError, match=words):
        load_state_tensors(optimizer, tensors)
    assert same(state_tensors(optimizer), before)


def test_an_unknown_optimizer_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'adam'.*did you mean 'adamw'"):
        build("adam", network())
