"""Adams: a bounded step by the angle of moment and root, and a decay of matrices by their largest singular value."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...candidate import Candidate
from ..arithmetic.boxes import Place
from ..arithmetic.operations import Operations
from ..arithmetic.power import columns, is_matrix, left_product, no_vector, right_product, rows, subtract, turn, unit
from ..arithmetic.precision import cast, store, update
from ..family import Option, Round, Scored, modulation
from ..kernels.adams_cpu import AdamsOnCPU
from ..kernels.adams_cuda import AdamsOnCUDA
from ..options import given, is_number, number
from ..spectral import SPECTRAL_DECAY, DecaysSpectrally
from ..uploads import constant
from ..work import Buffer, Work
from .common import Betas, complete_betas, filtered, pairs_of_text, parse_betas
from .moments import nu

BIAS_CORRECTIONS = ("outside", "inside")


class AdamsNumbers(NamedTuple):
    """The options as a step of Adams needs them.

    Attributes:
        betas: the K candidates' beta1.
        beta2: decay rate of the second moments.
        first: K places among the buffers.
        gains: K factors of the scores.
        modulation: K factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        decay: of matrices.
        scalar_vector_decay: of everything else.
        spectral: whether matrices have a decay of their own: all, none, or one flag for each parameter of the group.
        inside: whether the moments are corrected for their bias before the angle is taken.
        l2: none.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the first moments at a reset.
        stochastic: never.
    """

    betas: tuple[float, ...]
    beta2: float
    first: tuple[int, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    decay: float
    scalar_vector_decay: float
    spectral: bool | Sequence[bool]
    inside: bool
    l2: float = 0.0
    maximize: bool = False
    soft_reset: float = 1.0
    stochastic: bool = False

    def decays_spectrally(self, place: Place, value: Tensor) -> bool:
        """Whether the fragment ``value`` is of a matrix that decays by its largest singular value."""
        wanted = self.spectral if isinstance(self.spectral, bool) else self.spectral[place.row]
        return bool(wanted and is_matrix(place.shape) and value.numel())


class AdamsFamily(Scored):
    r"""The arithmetic of Adams (imoneoi/Adams): all elementwise, but for the two products of the power iteration.

    For each gradient \(g\), candidate \(\beta_{1,j}\) and matrix \(W\) with R rows:

    \[
    m_j \leftarrow m_j + (1-\beta_{1,j})(g - m_j), \qquad n \leftarrow \beta_2 n + (1-\beta_2) g^2, \qquad
    s = \sqrt{n/(1-\beta_2^t)}, \qquad \theta_j = \operatorname{atan2}(m_j, s)
    \]
    \[
    v = \frac{W^\top u}{|W^\top u|}, \qquad u \leftarrow \frac{W v}{|W v|}, \qquad
    W \leftarrow W - \eta\lambda\sqrt{R}\, |W v|\, u v^\top - \eta\, \frac{\theta_j}{1-\beta_{1,j}^t}
    \]

    In the score the angle's slope \(r = \theta_j/m_j\) stands for Adam's \(1/(\sqrt{\hat v}+\epsilon)\), and W is its
    mean over the elements that have had a gradient.
    """

    # fmt: off
    name, candidate_name, candidate_option = "adams", "beta1", "betas"
    grid = (0.5, 0.8, 0.9, 0.95, 0.99)
    rounds: ClassVar = (Round("vectors", columns), Round("vectors", rows))
    placed = True
    fused: ClassVar = {"cpu": AdamsOnCPU, "cuda": AdamsOnCUDA}
    examples: ClassVar = (
        {
            "betas": [(0.5, 0.9), (0.95, 0.9)], "lr": 0.1, "weight_decay": 0.2, "scalar_vector_weight_decay": 0.1,
            "use_spectral_decay": True, "bias_correction": "outside", "maximize": True, "lr_modulation": True,
            "soft_reset": 0.7, "type": "switch",
        },
        {
            "betas": [(0.9, 0.95), (0.0, 0.95)], "lr": 0.1, "weight_decay": 0.2, "scalar_vector_weight_decay": 0.0,
            "use_spectral_decay": [True, False, True, True], "bias_correction": "inside", "maximize": False,
            "lr_modulation": False, "soft_reset": 0.7, "type": "switch",
        },
    )
    options: ClassVar = {
        "betas": Option(
            "one ``(beta1, beta2)``, or a list of K of them with the same beta2: the candidates.",
            example="betas=0.8:0.9 or betas=0.8/0.95:0.9/0.95", read=pairs_of_text,
        ),
        "scalar_vector_weight_decay": Option(
            "decay coefficient of everything that is no matrix.", lambda x: is_number(x) and x >= 0, "a number >= 0",
        ),
        "use_spectral_decay": SPECTRAL_DECAY,
        "bias_correction": Option(
            "``'outside'`` (as released) takes the angle of the moment as it is, and divides it by 1 - beta1^t; "
            "``'inside'`` (as described) corrects the moment first.",
            lambda x: x in BIAS_CORRECTIONS, f"one of {', '.join(BIAS_CORRECTIONS)}",
            example="bias_correction=inside",
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[Betas]:
        pairs = parse_betas(options["betas"])
        if len({beta2 for _, beta2 in pairs}) > 1:
            raise ValueError(f"betas={options['betas']!r}: all candidates have the same beta2; give them one")
        return pairs

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        return [Candidate(f"{beta1:g}", beta1, self.name) for beta1, _ in self.parse(options)]

    def from_training_arguments(
        self, options: dict[str, Any], given: Mapping[str, Any], adam: Mapping[str, float]
    ) -> None:
        complete_betas(options, 0.95)

    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(beta1 for beta1, _ in self.parse(options))

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        wide, K = torch.float32, len(self.parse(options))
        return [
            *(Buffer(f"exp_avg_{j}", dtype=wide, soft_reset=float(options["soft_reset"])) for j in range(K)),
            Buffer("exp_avg_sq", dtype=wide, nonnegative=True),
            # u, each number as often as its row has elements: so it is cut, saved and loaded as parameters are
            Buffer("left_vector", dtype=wide, fill=1.0),
        ]

    def numbers(self, options: Mapping[str, Any]) -> AdamsNumbers:
        pairs = self.parse(options)
        betas = tuple(beta1 for beta1, _ in pairs)
        return AdamsNumbers(
            betas=betas,
            beta2=pairs[0][1],
            first=tuple(range(len(betas))),
            gains=tuple(math.sqrt(1 - b**2) / (1 - b) for b in betas),
            modulation=modulation(options, list(map(nu, betas)), [1.0] * len(betas)),
            lr=number(options["lr"]),
            decay=float(options["weight_decay"]),
            scalar_vector_decay=float(options["scalar_vector_weight_decay"]),
            spectral=options["use_spectral_decay"],
            inside=options["bias_correction"] == "inside",
            maximize=options["maximize"],
            soft_reset=float(options["soft_reset"]),
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Any]) -> Any:
        numbers: AdamsNumbers = work.numbers
        if len(answers) < 2:
            return [self.product(work, answers, i) for i in range(len(work.values))]
        grads, K = filtered(ops, work), len(numbers.betas)
        squares = work.buffers[K]
        wide = cast(grads, squares[0].dtype)
        ops.mul_(squares, numbers.beta2)
        ops.addcmul_(squares, wide, wide, value=1 - numbers.beta2)
        dots, slopes, roots = [], [], self.roots(ops, work)
        for j, beta1 in enumerate(numbers.betas):

            def filtering(m: list[Tensor], g: list[Tensor], weight: float = 1 - beta1) -> None:
                ops.lerp_(m, g, weight)

            update(ops, work.buffers[j], grads, filtering)
            if work.scored:
                moments, angles = self.angles(ops, work, roots, j)
                dots.append([t.sum(dtype=torch.float64) for t in ops.mul(wide, angles)])
                slopes.append(
                    [slope(*three).sum(dtype=torch.float64) for three in zip(angles, moments, roots, strict=True)]
                )
        if not work.scored:
            return torch.zeros(len(grads), 0, dtype=torch.float64, device=grads[0].device)
        live = [(s > 0).sum().double() for s in roots]
        return torch.stack([torch.stack(column) for column in [*dots, *slopes, live]], dim=1)

    def product(self, work: Work, answers: list[Any], i: int) -> Tensor:
        """The fragment's part of W'u or, once that is known, of W v."""
        W, place = work.values[i], work.places[i]
        if not self.has_spectral_decay(work, i):
            return no_vector((rows if answers else columns)(place.shape), W)
        if not answers:
            return left_product(W, work.buffers[-1][i], place)
        return right_product(W, unit(answers[0][i], place.shape[-1]), place)

    @staticmethod
    def has_spectral_decay(work: Work, i: int) -> bool:
        """Whether fragment ``i`` is of a matrix that decays by its largest singular value."""
        return work.numbers.decays_spectrally(work.places[i], work.values[i])

    def roots(self, ops: Operations, work: Work) -> list[Tensor]:
        """The roots of the second moments, corrected for their bias."""
        numbers: AdamsNumbers = work.numbers
        found = list(ops.div(work.buffers[len(numbers.betas)], [1 - numbers.beta2 ** t.item() for t in work.steps]))
        ops.sqrt_(found)
        return found

    def angles(self, ops: Operations, work: Work, roots: list[Tensor], j: int) -> tuple[list[Tensor], list[Tensor]]:
        """The moments of candidate ``j`` that enter the angle, and the angles."""
        numbers: AdamsNumbers = work.numbers
        moments = work.buffers[j]
        if numbers.inside:
            moments = list(ops.div(moments, [1 - numbers.betas[j] ** t.item() for t in work.steps]))
        return moments, [torch.atan2(m, s) for m, s in zip(moments, roots, strict=True)]

    def sums(self, numbers: AdamsNumbers) -> int:
        return 2 * len(numbers.betas) + 1

    def scores(self, numbers: AdamsNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        K = len(numbers.betas)
        W = sums[:, K:-1] / sums[:, -1:]
        gains = constant(numbers.gains, sums.dtype, sums.device)
        # a parameter that has had no gradient but 0 scores 0, not 0 / 0
        return torch.where(sums[:, -1:] > 0, gains * sums[:, :K] / W.sqrt(), 0.0)

    def apply(self, ops: Operations, work: Work, answers: list[Any], candidate: int) -> None:
        sizes = [float(j == candidate) for j in range(len(work.numbers.betas))]
        self.mix(ops, work, answers, [sizes] * len(work.values))

    def mix(self, ops: Operations, work: Work, answers: list[Any], weights: Sequence[Sequence[float]]) -> None:
        numbers: AdamsNumbers = work.numbers
        lr, values = float(numbers.lr), cast(work.values, work.buffers[0][0].dtype)
        for i, value in enumerate(values):
            self.decay(work, answers, i, value, lr)
        roots = self.roots(ops, work)
        for j, beta1 in enumerate(numbers.betas):
            if not any(of_each[j] for of_each in weights):
                continue
            _, angles = self.angles(ops, work, roots, j)
            sizes = [-lr * numbers.modulation[j] * of_each[j] for of_each in weights]
            if not numbers.inside:
                sizes = [size / (1 - beta1 ** t.item()) for size, t in zip(sizes, work.steps, strict=True)]
            ops.add_(values, list(ops.mul(angles, sizes)))
        store(ops, work.values, values)

    def decay(self, work: Work, answers: list[Any], i: int, value: Tensor, lr: float) -> None:
        """Decay fragment ``i``, whose elements are ``value``."""
        numbers: AdamsNumbers = work.numbers
        if not self.has_spectral_decay(work, i):
            value.mul_(1 - lr * numbers.scalar_vector_decay)
            return
        (v, Wv), place, left = (answer[i] for answer in answers), work.places[i], work.buffers[-1][i]
        R, C = place.shape[-2:]
        turn(left, Wv, place)
        subtract(value, left, unit(v, C), Wv, lr * numbers.decay * math.sqrt(R), place)


def slope(angle: Tensor, moment: Tensor, root: Tensor) -> Tensor:
    """The slopes of the angles: at a moment of 0 the limit; 0 for an element that has had no gradient but 0."""
    found = torch.where(moment != 0, angle / moment, 1 / root)
    return torch.where(root > 0, found, 0.0)


class Adams(DecaysSpectrally):
    r"""Adams: steps bounded by an angle, and matrices that decay by their largest singular value.

    It is the published method (imoneoi/Adams), with its defaults.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    Spectral decay is for tensors whose last two dimensions are those of a matrix (neither is 1); dimensions before
    these are a batch. A parameter with the attribute ``use_spectral_decay = False`` decays like a vector, whatever the
    option says. A regular expression needs names: ``Adams(model.named_parameters(), ...)``; Trainer gives them.

    State per parameter: ``step`` (0-dim), ``exp_avg_0`` ... ``exp_avg_{K-1}``, ``exp_avg_sq`` and ``left_vector``, each
    of the parameter's shape, in float32 at least.

    Raises:
        ValueError: an option is out of range, or a regular expression can't be read or has no names to search.
    """

    family = AdamsFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas | Sequence[Betas] = (0.9, 0.95),
        weight_decay: float = 0.1,
        scalar_vector_weight_decay: float = 0.1,
        use_spectral_decay: bool | str | list[bool] = True,
        bias_correction: str = "outside",
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))
