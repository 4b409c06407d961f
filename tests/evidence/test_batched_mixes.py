"""The batched mixes are the package's: weight by weight at every step, on the same gradients."""

import pytest
import torch

import gap_hf

from .streams import Stream

THREE = (0.5, 0.9, 0.99)
MIXES = [
    pytest.param("mix_.5_.9_.99", THREE, None, "mix", id="constant"),
    pytest.param("mix_.5_.9", (0.5, 0.9), [0.5, 0.5], "mix", id="halves"),
    pytest.param("qhm", (0.0, 0.9), [0.3, 0.7], "mix", id="qhm"),
    pytest.param("mix_score_.5_.9_.99", THREE, "score", "mix", id="by scores"),
    pytest.param("mix_score_pw_.5_.9_.99", THREE, "score", "mix_parameter_wise", id="by scores, for each"),
]


@pytest.mark.parametrize("family", ["adam", "sgdm"])
@pytest.mark.parametrize(("contender", "betas", "weights", "type_"), MIXES)
def test_weights(family, contender, betas, weights, type_):
    decay = 0.01 if family == "adam" else 0.0

    def package(params, lr):
        if family == "adam":
            pairs = [(beta, 0.999) for beta in betas]
            return gap_hf.GapAdamW(params, lr=lr, betas=pairs, weight_decay=decay, type=type_, weights=weights)
        return gap_hf.SGDM(params, lr=lr, momentum=list(betas), type=type_, weights=weights)

    stream = Stream(contender, family, package, decay)
    for t in stream.steps():
        for run, twin in enumerate(stream.twins):
            theirs = torch.tensor(twin.param_groups[0]["last_weights"], dtype=torch.float64).view(-1, len(betas))
            ours = stream.decided(run)
            torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=1e-4, atol=1e-6, msg=f"step {t}, run {run}")
    stream.assert_same_weights()
