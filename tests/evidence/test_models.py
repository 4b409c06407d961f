"""The batched models: runs don't touch each other, and the encoder's layer is the encoder's."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from evidence.batched.layout import Layout
from evidence.data import Labelled
from evidence.models import Autoencoder, Cnn, Gru, Mlp, Quadratic, Regression
from evidence.text_models import BYTES, Decoder, Lora


def pictures():
    rows = torch.randn(50, 196, generator=torch.Generator().manual_seed(0))
    return Labelled(rows, torch.arange(50) % 10, rows[:20], torch.arange(20) % 10)


def layer(width=24):
    """Random weights by the names of transformers' BertLayer, whose heads are 12."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        num_attention_heads=12,
        intermediate_size=40,
        attn_implementation="eager",
        layer_norm_eps=1e-12,
    )
    made = BertLayer(config).eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


def lora(size=3):
    rows = Labelled(torch.randn(30, 7, 24), torch.arange(30) % 4, torch.randn(8, 7, 24), torch.arange(8) % 4)
    masks = tuple(torch.arange(7) < 2 + torch.arange(n)[:, None] % 6 for n in (30, 8))
    return Lora(rows, masks, {name: p.detach() for name, p in layer().named_parameters()}, size, rank=2)


TASKS = {
    "mlp": lambda: Mlp(pictures(), 4, (196, 8, 10)),
    "autoencoder": lambda: Autoencoder(pictures(), 4, (196, 8, 3, 8, 196)),
    "cnn": lambda: Cnn(pictures(), 4, (2, 3)),
    "gru": lambda: Gru(pictures(), 4, 5),
    "decoder": lambda: Decoder((torch.arange(500) % BYTES, torch.arange(300) % 7), 2, 8, layers=2, context=10),
    "lora": lora,
    "quadratic": lambda: Quadratic(9, 100.0),
    "regression": lambda: Regression(3, 6, 1.0, 0.5),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_run_is_as_if_alone(name):
    """Losses, gradients and held-out losses of 2 seeds x 3 learning rates are those of single runs."""
    task = TASKS[name]()
    layout = Layout(task.shapes)
    seeds = [torch.Generator().manual_seed(seed) for seed in range(2)]
    start = torch.stack([torch.cat([w.flatten() for w in task.start(g)]) for g in seeds]).repeat_interleave(3, 0)
    start = start + 0.1 * torch.randn(start.shape, generator=torch.Generator().manual_seed(9))
    drawn = torch.stack([task.draw(g, 2) for g in seeds])
    p = start.clone().requires_grad_()
    losses = task.losses(layout.cut(p), task.batch(drawn[:, 0]))
    (g,) = torch.autograd.grad(losses.sum(), p)
    held_out = task.evaluate(layout.cut(start))
    for run in range(6):
        alone = start[run : run + 1].clone().requires_grad_()
        loss = task.losses(layout.cut(alone), task.batch(drawn[run // 3 : run // 3 + 1, 0]))
        torch.testing.assert_close(loss[0], losses[run])
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), alone)[0][0], g[run], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(task.evaluate(layout.cut(start[run : run + 1]))[0], held_out[run])
    assert losses.unique().numel() == 6


def test_the_adapted_layer_is_transformers():
    """Adapters merged into the weights of the whole layer, over all tokens, give the same loss."""
    task, whole = lora(), layer()
    weights = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)) * 0.3 for shape in task.shapes]
    with torch.no_grad():
        for linear, (down, up) in (
            (whole.attention.self.query, weights[:2]),
            (whole.attention.self.value, weights[2:4]),
        ):
            linear.weight += (down[0] @ up[0]).T
        hidden, labels, mask = (part[0] for part in task.held_out())
        ignored = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        out = whole(hidden, ignored)
        first = (out[0] if isinstance(out, tuple) else out)[:, 0]
        expected = F.cross_entropy(first @ weights[4][0] + weights[5][0], labels)
    torch.testing.assert_close(task.evaluate(weights)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_decoder_does_not_see_what_comes():
    """Its prediction of a byte depends on the bytes before alone."""
    task = TASKS["decoder"]()
    weights = [w[None] for w in task.start(torch.Generator().manual_seed(0))]
    text = torch.randperm(BYTES, generator=torch.Generator().manual_seed(1))[:11].view(1, 1, 11)  # no byte twice
    other = text.clone()
    other[..., -1] = (other[..., -1] + 1) % BYTES
    table = weights[0].clone().requires_grad_()
    last = int(text[0, 0, -2])
    short = SimpleNamespace(loss=task.losses([table, *weights[1:]], (text,)), other=task.losses(weights, (other,)))
    assert short.loss != short.other, "the last target counts"
    # without its last target the loss must not depend on the last input byte
    rows = Decoder((torch.arange(500) % BYTES, torch.arange(300) % 7), 2, 8, layers=2, context=9)
    shorter = [w[:, :9] if k == 1 else w for k, w in enumerate([table, *weights[1:]])]
    (g,) = torch.autograd.grad(rows.losses(shorter, (text[..., :10],)).sum(), table)
    assert not g[0, last].any()


def test_the_recurrent_layer_is_torchs():
    task = Gru(pictures(), 4, 5)
    weights = task.start(torch.Generator().manual_seed(0))
    own = torch.nn.GRU(14, 5, batch_first=True)
    for parameter, weight in zip(own.parameters(), weights[:4], strict=True):
        parameter.data = weight.T.squeeze(-1)
    rows, labels = task.data.held_out, task.data.held_out_labels
    last = own(rows.view(-1, 14, 14))[0][:, -1]
    expected = F.cross_entropy(last @ weights[4] + weights[5], labels)
    ours = task.losses([w[None] for w in weights], task.held_out())
    torch.testing.assert_close(ours, expected[None])
