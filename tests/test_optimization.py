"""Learning rates and optimizers."""

import copy
import itertools

import pytest
import torch
from conftest import options

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt import LyricGPTError
from training_lyricgpt.arguments import parse_arguments
from training_lyricgpt.engine.optimization import (
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_STEPS,
    Muon,
    build_optimizers,
    learning_rate,
    orthogonalize,
    set_learning_rate,
)
from training_lyricgpt.model.initialization import initialize_as_torch


def arguments(**values):
    return parse_arguments(["--config=/dev/null", "--dataset=a.csv", *options(**values)])


def rates(**values):
    args = arguments(max_steps=100, learning_rate=1.0, **values)
    return [learning_rate(args, step) for step in range(101)]


def test_warm_up_is_linear_and_ends_at_the_peak():
    assert rates(warmup_steps=4, lr_schedule="constant")[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_published_schedule_is_constant_from_the_first_step():
    assert set(rates(warmup_steps=0, lr_schedule="constant")) == {1.0}


def test_cosine_falls_from_the_peak_to_the_minimum():
    curve = rates(warmup_steps=10, lr_schedule="cosine", min_learning_rate=0.1)
    assert curve[10] == 1.0
    assert curve[55] == pytest.approx(0.55)
    assert curve[100] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve[10:]))


def test_a_trapezoid_is_flat_and_then_falls_linearly_over_its_last_part():
    curve = rates(warmup_steps=10, lr_schedule="trapezoid", decay_fraction=0.6)
    assert set(curve[10:41]) == {1.0}
    assert curve[70] == pytest.approx(0.5)
    assert curve[100] == 0.0


def test_every_group_follows_the_schedule_from_its_own_peak():
    args = arguments(
        optimizer="muon", learning_rate=1e-3, muon_learning_rate=0.02, warmup_steps=4, lr_schedule="constant"
    )
    optimizers = build_optimizers(args, small_model())
    assert set_learning_rate(args, optimizers, 1) == pytest.approx(0.5e-3)
    adamw, muon = ([group["lr"] for group in optimizer.param_groups] for optimizer in optimizers)
    assert adamw == pytest.approx([0.5e-3] * len(adamw))
    assert muon == pytest.approx([0.01])


def small_model(**values):
    torch.manual_seed(0)
    return LyricGPTForCausalLM(
        LyricGPTConfig(
            variant="modern", vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, **values
        )
    )


def test_the_published_optimizer_is_adamw_with_pytorchs_defaults():
    args = arguments(decay_parameters="all", learning_rate=3e-4, weight_decay=0.01)
    ours, reference = small_model(), small_model()
    (optimizer,) = build_optimizers(args, ours)
    default = torch.optim.AdamW(reference.parameters(), lr=3e-4)
    ids = torch.arange(20)[None]
    for model, one in ((ours, optimizer), (reference, default)):
        for _ in range(3):
            one.zero_grad()
            model(ids, labels=ids, use_cache=False).loss.backward()
            one.step()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = small_model()
    adamw, muon = build_optimizers(arguments(optimizer="muon"), model)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in taken}
    assert names == {n for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2}
    rest = sum(len(group["params"]) for group in adamw.param_groups)
    assert len(names) + rest == len(list(model.parameters()))


def test_norms_and_biases_are_not_decayed_by_default():
    (optimizer,) = build_optimizers(arguments(weight_decay=0.1), small_model())
    for group in optimizer.param_groups:
        assert {parameter.ndim >= 2 for parameter in group["params"]} == {group["weight_decay"] == 0.1}


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, *shape)))
    assert values.quantile(0.1) > 0.6  # a square random matrix has a few that are almost zero
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(32, 40), (32, 64), (96, 32), (32, 32)])
def test_newton_schulz_steps_are_right_for_every_shape(shape):
    """Each step applies its polynomial to the singular values and keeps their directions."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(2, *shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -4, min(shape), dtype=torch.float64)  # over four orders of magnitude
    expected = values / (values.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        expected = a * expected + b * expected**3 + c * expected**5
    matrices, expected = left * values @ right, left * expected @ right
    # The tolerance allows one rounding for each term of a product. Each later step multiplies these errors by `a` at most.
    # This holds whatever the order in which a processor adds.
    roundings = a**NEWTON_SCHULZ_STEPS * max(shape)
    for dtype in (torch.float64, torch.float32):
        tolerance = roundings * torch.finfo(dtype).eps
        torch.testing.assert_close(orthogonalize(matrices.to(dtype)), expected.to(dtype), rtol=0, atol=tolerance)


def test_orthogonalizing_together_equals_one_by_one():
    torch.manual_seed(0)
    matrices = torch.randn(4, 16, 24)
    together = orthogonalize(matrices)
    for matrix, result in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalize(matrix[None])[0], result)


def test_muon_lowers_a_loss():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    inputs, target = torch.randn(64, 8), torch.linalg.qr(torch.randn(8, 8)).Q
    optimizer = Muon([weight], lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (inputs @ weight - inputs @ target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_scores_scaled_by_n_embd_train_like_the_first_version_of_the_notebook():
    """The notebook's first version and ours, which keeps the factor in q_proj, have the same loss at every step."""
    settings = {"num_attention_heads": 4, "learning_rate": 1e-2, "weight_decay": 0.5, "warmup_steps": 0}
    settings |= {"variant": "classic", "lr_schedule": "constant"}
    torch.manual_seed(0)
    config = LyricGPTConfig(
        variant="classic", vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, dropout=0.0
    )
    published, ours = LyricGPTForCausalLM(config).eval(), LyricGPTForCausalLM(config).eval()
    initialize_as_torch(ours, "n_embd")
    with torch.no_grad():
        for name, parameter in published.named_parameters():
            parameter.copy_(ours.get_parameter(name) * (2.0 if ".q_proj." in name else 1.0))
    for layer in published.model.layers:
        layer.self_attn.scaling = 32**-0.5
    ids = torch.randint(20, (4, 17))
    losses = {}
    for model, scale in ((published, "head_size"), (ours, "n_embd"), (ours, "head_size")):
        model = copy.deepcopy(model)
        (optimizer,) = build_optimizers(arguments(**settings), model, scale)
        losses[model, scale] = []
        for _ in range(20):
            loss = model(ids, labels=ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[model, scale].append(loss.item())
    as_published, as_ours, without_the_rate = losses.values()
    assert as_ours == pytest.approx(as_published, rel=1e-4)
    assert without_the_rate != pytest.approx(as_published, rel=1e-3)


def test_initialize_as_torch_matches_torchs_modules():
    model = small_model()
    initialize_as_torch(model, "head_size")
    weights = model.model.embed_tokens.weight.detach(), model.model.layers[0].mlp.down_proj.weight.detach()
    assert weights[0].std() == pytest.approx(1.0, rel=0.1)
    assert weights[1].abs().max() == pytest.approx(weights[1].size(1) ** -0.5, rel=0.05)


def test_scores_scaled_by_n_embd_are_only_for_the_published_model():
    with pytest.raises(LyricGPTError, match="scores_scaled_by"):
        arguments(variant="modern", scores_scaled_by="n_embd")
