"""The list of what is refused by design: in which check, where, with which error, and why."""

from typing import NamedTuple

from .variants import CHOOSE, CONTROL, TYPES, Variant

SEVERAL = CHOOSE
TORCH = (CONTROL,)


class Refusal(NamedTuple):
    """An error that is meant to be raised.

    Attributes:
        check: the check that meets it.
        rows: where: rows of variants.
        error: the type of the error.
        message: what its text must match.
        reason: why.
        families: where, if not in all.
        kernels: where, if not in all.
    """

    check: str
    rows: tuple[str, ...]
    error: type[Exception]
    message: str
    reason: str
    families: tuple[str, ...] = ("adam", "sgd")
    kernels: tuple[str, ...] = ("auto", "fused", "foreach", "loop")

    def covers(self, variant: Variant) -> bool:
        return variant.row in self.rows and variant.family in self.families and variant.kernel in self.kernels


ADAM, SGD = ("adam",), ("sgd",)

NO_FLOAT64 = (
    SEVERAL,
    RuntimeError,
    "fused=True can't be done: it takes float32, bfloat16 and float16",
    "our fused CPU kernel computes in float32; by itself the optimizer takes the loop there",
    ("adam", "sgd"),
    ("fused",),
)

REFUSALS = [
    Refusal("float64", *NO_FLOAT64),
    Refusal("float32_beside_float64", *NO_FLOAT64),
    Refusal("default_dtype_float64", *NO_FLOAT64),
    Refusal("float32_state_into_float64_parameters", *NO_FLOAT64),
    Refusal("good_inputs_in_float64", *NO_FLOAT64),
    Refusal(
        "integer_step",
        TORCH,
        RuntimeError,
        "Tensors of the same index must be .* the same dtype",
        "foreach can't add 1.0 to it",
        ADAM,
        ("foreach",),
    ),
    Refusal(
        "differentiable",
        TYPES,
        ValueError,
        "differentiable=True",
        "a choice is no smooth function of the gradients, and the kernels work in place",
    ),
    Refusal("amsgrad", TYPES, TypeError, "'amsgrad'", "not an option: GAP is defined on Adam's second moment", ADAM),
    Refusal(
        "tensor_betas",
        TYPES,
        ValueError,
        "betas=",
        "candidates are numbers, compared and shown; torch takes tensors for CUDA graphs",
        ADAM,
    ),
    Refusal(
        "tensor_betas",
        TORCH,
        ValueError,
        r"betas\[0\] as a Tensor is not supported",
        "not with foreach",
        ADAM,
        ("foreach",),
    ),
    Refusal(
        "tensor_lr",
        TORCH,
        ValueError,
        "lr as a Tensor is not supported",
        "not with foreach",
        ADAM,
        ("foreach",),
    ),
    Refusal(
        "capturable",
        ("torch", "default"),
        AssertionError,
        "capturable=True, params .* must be on supported devices",
        "for CUDA graphs: an accelerator's",
        ADAM,
        ("auto", "foreach", "loop"),
    ),
    Refusal("capturable", TORCH, TypeError, "'capturable'", "SGD has no such option", SGD),
    Refusal("capturable", SEVERAL, RuntimeError, "capturable=True needs", "for CUDA graphs: an accelerator's"),
    Refusal(
        "capturable", ("default",), ValueError, "can.t be captured", "torch.optim.SGD has no such option, either", SGD
    ),
    Refusal("complex_parameters", TYPES, ValueError, "complex", "scores of complex gradients are not defined"),
    Refusal(
        "complex_parameters",
        TORCH,
        RuntimeError,
        "requires all the params to be floating point",
        "not in the fused kernel",
        kernels=("fused",),
    ),
    Refusal("sparse_gradients", TYPES, RuntimeError, "sparse", "moments of all elements enter the scores"),
    Refusal("sparse_gradients", TORCH, RuntimeError, "does not support sparse", "SparseAdam takes them", ADAM),
    Refusal(
        "sparse_gradients",
        TORCH,
        RuntimeError,
        "does not support sparse",
        "not in the fused kernel",
        SGD,
        ("fused",),
    ),
    Refusal(
        "schedulers_that_cycle_momentum",
        SEVERAL,
        ValueError,
        "cycle_momentum=False",
        "they would replace the candidates by one momentum",
    ),
    Refusal(
        "parameters_on_meta",
        TORCH,
        RuntimeError,
        "requires all the params to be floating point Tensors of supported devices",
        "not in the fused kernel",
        kernels=("fused",),
    ),
    Refusal(
        "parameters_on_meta",
        ("default",),
        RuntimeError,
        "fused=True needs .* on the meta device",
        "not in the fused kernel",
        kernels=("fused",),
    ),
    Refusal("parameters_on_meta", SEVERAL, RuntimeError, "meta", "there are no numbers to choose by"),
    Refusal(
        "parameters_with_gaps",
        ("default",),
        RuntimeError,
        "fused=True needs parameters that fill their memory",
        "torch's fused kernel would write into the gaps",
        kernels=("fused",),
    ),
    Refusal(
        "the_first_gradient_comes_late",
        ("torch",),
        TypeError,
        "expected Tensor as element",
        "torch's fused SGD takes no parameters whose first gradients come in different steps",
        SGD,
        ("fused",),
    ),
]


def refusal(check: str, variant: Variant) -> Refusal | None:
    """Return what ``variant`` must raise in ``check``, or None where it must pass."""
    found = [entry for entry in REFUSALS if entry.check == check and entry.covers(variant)]
    assert len(found) < 2, f"{check} on {variant.name} is refused twice"
    return found[0] if found else None
