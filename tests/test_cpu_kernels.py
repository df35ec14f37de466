"""Kernels for training on a CPU: the same loss and gradients as the model's, dropout with the right distribution."""

import pytest
import torch

from modeling_lyricgpt import LyricGPTConfig, LyricGPTForCausalLM
from training_lyricgpt.engine.cpu_kernels import Attention, Dropout, cpu_kernels


def build(variant, length, **values):
    torch.manual_seed(0)
    config = LyricGPTConfig(
        variant=variant,
        vocab_size=30,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=length,
        **{"attention_dropout": 0.0 if variant == "classic" else None, "hidden_dropout": 0.0} | values,
    )
    return LyricGPTForCausalLM(config).train()


def loss_and_gradients(model, ids, enabled):
    model.zero_grad()
    with cpu_kernels(model, enabled):
        loss = model(input_ids=ids, labels=ids, shift_labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["hidden_dropout", "attention_dropout"])
def test_each_kind_of_dropout_is_applied_in_training(kind):
    model = build("classic", 32, **{kind: 0.5})
    ids = torch.randint(0, 30, (2, 32))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(loss_and_gradients(model, ids, True)[0])
    assert losses[0] == losses[1] != losses[2]
    with torch.no_grad(), cpu_kernels(model.eval()):
        assert model(ids, labels=ids, shift_labels=ids, use_cache=False).loss.item() not in losses


def test_the_kernels_keep_another_activation():
    model = build("modern", 32, hidden_act="gelu")
    ids = torch.randint(0, 30, (2, 32))
    assert loss_and_gradients(model, ids, True)[0] == pytest.approx(loss_and_gradients(model, ids, False)[0], abs=1e-6)
    assert loss_and_gradients(build("modern", 32), ids, True)[0] != pytest.approx(
        loss_and_gradients(model, ids, True)[0], abs=1e-6
    )


@pytest.mark.parametrize("length", [16, 64, 150])
@pytest.mark.parametrize(("variant", "window"), [("classic", None), ("modern", 5), ("modern", 64), ("modern", None)])
def test_loss_and_gradients_are_the_same_as_without_the_kernels(variant, window, length):
    model = build(variant, length, **({"sliding_window": min(window, length)} if window else {}))
    ids = torch.randint(0, 30, (3, length))
    (loss, gradients), (expected_loss, expected) = (loss_and_gradients(model, ids, on) for on in (True, False))
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-6 * value.abs().max().item(), msg=name)


def test_evaluation_has_no_dropout():
    model = build("classic", 32, attention_dropout=0.5, hidden_dropout=0.5).eval()
    ids = torch.randint(0, 30, (2, 32))
    with torch.no_grad(), cpu_kernels(model):
        first, second = model(ids, use_cache=False).logits, model(ids, use_cache=False).logits
    assert torch.equal(first, second)
    torch.testing.assert_close(first, model(ids, use_cache=False).logits)


def test_after_the_with_block_the_model_is_as_before():
    model = build("modern", 32)
    with cpu_kernels(model), pytest.raises(RuntimeError, match="stop"):
        raise RuntimeError("stop")
    assert not [module for module in model.modules() if "forward" in vars(module)]
    assert model.eval().generate(torch.tensor([[1, 2]]), max_new_tokens=3, do_sample=False).shape == (1, 5)


def test_a_cache_is_refused():
    model = build("modern", 32)
    with cpu_kernels(model), pytest.raises(ValueError, match="do not support a cache"):
        model(torch.zeros((1, 4), dtype=torch.long), use_cache=True)


@pytest.mark.parametrize("p", [0.001, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_scales_it_to_the_same_mean(p):
    torch.manual_seed(0)
    count = 2_000_001  # not a multiple of the lanes in a word
    output = Dropout.apply(torch.ones(count), p)
    kept = (output > 0).double()
    assert kept.mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / count) ** 0.5)
    assert output.max().item() == pytest.approx(1 / (1 - p), rel=2e-4)
    for distance in (1, 2, 3, 4, 5):  # the lanes of a word are independent
        product = ((kept[:-distance] - kept.mean()) * (kept[distance:] - kept.mean())).mean().item()
        assert abs(product) < 5 * p * (1 - p) / count**0.5


def test_dropout_uses_torchs_generator_and_its_gradient_uses_the_same_mask():
    x = torch.randn(100, 30, requires_grad=True)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(Dropout.apply(x, 0.3))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    (gradient,) = torch.autograd.grad(outputs[0].sum(), x)
    assert torch.equal(gradient != 0, outputs[0] != 0)
    torch.testing.assert_close(gradient * x, outputs[0])


def test_attention_with_dropout_has_the_same_mean_as_without():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 70, 8) for _ in range(3))
    expected = Attention.apply(query, key, value, 0.3, 0.0, 70)
    mean = torch.stack([Attention.apply(query, key, value, 0.3, 0.2, 70) for _ in range(2000)]).mean(0)
    assert not torch.equal(mean, expected)
    torch.testing.assert_close(mean, expected, atol=0.08, rtol=0)


def test_gradients_of_attention_with_dropout_match_finite_differences():
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attend(*tensors):
        torch.manual_seed(3)  # the same mask each time
        return Attention.apply(*tensors, 0.5, 0.4, 4)

    assert torch.autograd.gradcheck(attend, inputs)
