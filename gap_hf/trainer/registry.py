"""Make Trainer know the ``gap_*`` optimizer names.

transformers has no public way to register an optimizer: ``TrainingArguments`` turns ``optim`` into a member of the
closed enum ``OptimizerNames``, and ``Trainer.get_optimizer_cls_and_kwargs`` maps members to classes. So two things are
done, in the same way for every supported version: the enum gets more members, and that static method is wrapped to
answer for them. (``card.py`` wraps the function that describes them in model cards, too, ``batch.py`` the one that
fetches the batches of a step, and ``resume.py`` those that save and load checkpoints.)
"""

import importlib.metadata
import logging
import warnings
from collections.abc import Callable
from typing import Any

from accelerate.state import AcceleratorState
from packaging.version import Version

from ..choices.naming import plain_name
from ..optim import GapOptimizer
from ..optim.spectral import mark
from ..sharding.launch import downgrade
from . import optim_args
from .presets import PRESETS, options_of
from .wrapping import wrap

logger = logging.getLogger(__name__)

OLDEST, NEWEST = Version("4.57"), Version("6.0.dev0")


def register() -> bool:
    """Add the names to Trainer and ``GapCallback`` to its default callbacks; a second call changes nothing.

    Returns:
        Whether the names are there. It is False, with a warning that says why, if this does not work with the
        installed version of transformers.
    """
    version = importlib.metadata.version("transformers")
    if not OLDEST <= Version(version) < NEWEST:
        warnings.warn(
            f"gap_hf can't add its names to Trainer: it knows transformers {OLDEST} and 5.x, this is {version}. "
            "Install one of those, or pass Trainer(optimizer_cls_and_kwargs=(gap_hf.GapAdamW, {...})).",
            stacklevel=2,
        )
        return False
    from transformers import trainer

    from .batch import count_batches
    from .callback import DefaultGapCallback
    from .card import describe_in_model_cards
    from .resume import resume_anywhere

    for name in PRESETS:
        add_optimizer_name(name)
    if DefaultGapCallback not in trainer.DEFAULT_CALLBACKS:
        trainer.DEFAULT_CALLBACKS.append(DefaultGapCallback)
    wrap(trainer, "get_reporting_integration_callbacks", with_callback)
    describe_in_model_cards()
    count_batches()
    resume_anywhere()
    wrap(trainer.Trainer, "get_optimizer_cls_and_kwargs", answer)
    return True


def answer(original: Callable[..., tuple[Any, Any]], args: Any, model: Any = None) -> tuple[Any, Any]:
    """Return the class and the options that ``args.optim`` names, ours or Trainer's."""
    name = getattr(args.optim, "value", args.optim)
    return optimizer_and_options(name, args, model) if name in PRESETS else original(args, model)


def with_callback(original: Callable[..., list[Any]], *args: Any, **kwargs: Any) -> list[Any]:
    """Return the callbacks that Trainer puts behind its default ones, with ours if somebody replaced those.

    ms-swift does (``swift/trainers/patcher.py``).
    """
    from transformers import trainer

    from .callback import DefaultGapCallback

    found = original(*args, **kwargs)
    return found if DefaultGapCallback in trainer.DEFAULT_CALLBACKS else [DefaultGapCallback, *found]


def add_optimizer_name(value: str) -> None:
    """Add ``value`` to ``OptimizerNames``, unless it is there already."""
    from aenum import extend_enum
    from transformers.training_args import OptimizerNames

    if value in OptimizerNames._value2member_map_:
        return
    extend_enum(OptimizerNames, value.upper(), value)
    # An enum member pickles as "OptimizerNames(value)", which fails where gap_hf was not imported: training_args.bin
    # must bring the plugin along.
    OptimizerNames(value).__reduce_ex__ = lambda protocol: (optimizer_name, (value,))


def optimizer_name(value: str) -> Any:
    """Return a member that is being unpickled: importing gap_hf to reach this function has registered it."""
    from transformers.training_args import OptimizerNames

    return OptimizerNames(value)


def optimizer_and_options(name: str, args: Any, model: Any = None) -> tuple[type[GapOptimizer], dict[str, Any]]:
    """Return a name's optimizer class, and its options from ``TrainingArguments`` and their ``optim_args``.

    Raises:
        ValueError: ``optim_args`` can't be read, or the launch gave something other than what it was asked for.
    """
    state = AcceleratorState._shared_state  # empty where nobody has built an Accelerator
    if message := downgrade(state["distributed_type"].value if state else None):
        raise ValueError(message)
    options = options_of(name, args.optim_args, args.adam_beta1, args.adam_beta2, args.adam_epsilon)
    if model is not None and isinstance(pattern := options.get("use_spectral_decay"), str):
        mark(pattern, ((plain_name(key), p) for key, p in model.named_parameters()))  # Trainer's groups have no names
        options["use_spectral_decay"] = True
    options["lr"] = args.learning_rate
    if args.should_log:
        advise(name, args, options)
    return PRESETS[name].optimizer, options


def advise(name: str, args: Any, options: dict[str, Any]) -> None:
    """Warn about a setting without effect, and about a preset that runs with Trainer's default learning rate."""
    untouched = {key: field.default for key, field in type(args).__dataclass_fields__.items()}
    optimizer = PRESETS[name].optimizer
    for key in optimizer.family.ignored_training_arguments(options):
        if getattr(args, key) != untouched[key]:
            listed = optimizer.family.candidate_option
            logger.warning(
                f"{key}={getattr(args, key)} has no effect with optim={name}: the candidates are {options[listed]}; "
                f"set them by optim_args, for example {optim_args.example(optimizer, listed)}"
            )
    if "batch_size" in optimizer.options and args.max_grad_norm:
        logger.warning(
            f"optim={name} divides by an average of the gradients' squares: clipping them by max_grad_norm="
            f"{args.max_grad_norm} makes steps larger, not smaller. Set max_grad_norm=0"
        )
    advised = PRESETS[name].recommended
    if advised and args.learning_rate == untouched["learning_rate"] != advised["learning_rate"]:
        logger.warning(
            f"optim={name} is meant for {', '.join(f'{key}={value}' for key, value in advised.items())}; this run uses "
            f"the default learning_rate={args.learning_rate}. gap_hf.recommended({name!r}) gives all of them as "
            "TrainingArguments."
        )
