"""Wider, narrower, deeper or shallower members of timm's scaled families: ``channel_multiplier=0.25`` as any argument.

timm's EfficientNet, MobileNet and MnasNet families are one generator each, and each model's function fixes the
generator's multipliers before it hands its other arguments on; so an argument of that name reaches the generator twice.
Here the model's own function runs with a generator whose multipliers are the ones that were asked for. timm itself is
left as it is. Refuses nothing: what has no such generator is timm's to take or to refuse.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

SCALES = frozenset({"channel_multiplier", "depth_multiplier"})


def scaled(arch: str, kwargs: Mapping[str, object]) -> Callable[..., Any] | None:
    """The function that makes a timm model with the multipliers among ``kwargs``.

    Args:
        arch: timm's name, known to exist.
        kwargs: arguments of its constructor; only multipliers are looked at.

    Returns:
        A function of the other arguments, or None where no multiplier is asked for, or the model has no generator that
        takes those.
    """
    from timm.models import model_entrypoint

    asked = {name: value for name, value in kwargs.items() if name in SCALES}
    entry = inspect.unwrap(model_entrypoint(arch.partition(".")[0]))
    if not asked or not isinstance(entry, types.FunctionType):
        return None
    for name in entry.__code__.co_names:
        generator = entry.__globals__.get(name)
        if isinstance(generator, types.FunctionType) and asked.keys() <= inspect.signature(generator).parameters.keys():
            own = dict(entry.__globals__)
            own[name] = _with(generator, asked)
            return types.FunctionType(entry.__code__, own, entry.__name__, entry.__defaults__, entry.__closure__)
    return None


def _with(generator: Callable[..., Any], asked: Mapping[str, object]) -> Callable[..., Any]:
    signature = inspect.signature(generator)

    def generate(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.arguments.update(asked)
        return generator(*given.args, **given.kwargs)

    return generate
