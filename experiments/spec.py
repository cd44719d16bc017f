"""From the fields of a config to the parts of the library, with errors that help.

Every function takes plain values or a ConfigDict and raises `ConfigError`, which names
the field and the valid choices.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Hashable, Mapping
from types import MappingProxyType

import numpy as np
import optax

from experiments import ranges
from experiments.config_files import ConfigError
from vnets import (
    edits,
    initializers,
    ivon,
    nets,
    nodes,
    optimizers,
    priors,
    projections,
    samplers,
    svgd,
    train,
)
from vnets.augment import CropAndFlip
from vnets.estimators import ESTIMATORS
from vnets.layers import PRECISIONS, Mode
from vnets.loss import knots
from vnets.nodes import Factory
from vnets.types import Initializer, choose

POSTERIORS: dict[str, Callable[..., Factory]] = {
    "point": nodes.point,
    "gaussian": nodes.gaussian,
    "additive": nodes.additive,
    "multiplicative": nodes.multiplicative,
    "variance": nodes.variance,
    "dropout": nodes.dropout,
    "adaptive_dropout": nodes.adaptive_dropout,
    "adaptive_binary_dropout": nodes.adaptive_binary_dropout,
    "masked": nodes.masked,
    "structured": nodes.structured,
    "group_normal_jeffreys": nodes.group_normal_jeffreys,
    "group_horseshoe": nodes.group_horseshoe,
}
OPTIMIZERS: dict[str, Callable] = {
    **optimizers.OPTIMIZERS,
    **samplers.SAMPLERS,
    "svgd": svgd.svgd,
    "ivon": ivon.ivon,
}
WAVES = {"cosine": samplers.cyclical, "triangle": samplers.triangular}
WHITENED_IMAGES = 5000


def _whitening(images: np.ndarray, spec: Mapping, eps: float = 5e-4) -> Initializer:
    """By the first images, standardized as a net of this spec does it."""
    mean, std = spec.get("input_mean", (0.0,)), spec.get("input_std", (1.0,))
    seen = (images[:WHITENED_IMAGES] / np.float32(255) - mean) / std
    return initializers.whitening(seen, eps)


def call(field: str, function: Callable, arguments: Mapping):
    """Calls with keyword arguments from a config; unknown or wrong ones are named."""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        valid = [
            name for name in inspect.signature(function).parameters if name != "self"
        ]
        raise ConfigError(f"config.{field}: {error}; it takes {valid}") from None
    try:
        return function(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.{field}: {error}") from error


def pick(field: str, name: Hashable, choices):
    """`types.choose` that names the config's field."""
    try:
        return choose(f"config.{field}", name, choices)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def positive(field: str, value: int) -> None:
    """Refuses a count below one."""
    ranges.COUNT.check(f"config.{field}", value)


def several(field: str, draws: int) -> None:
    """Refuses fewer draws than a variance needs."""
    if draws < 2:
        raise ConfigError(
            f"config.{field} must be at least 2, not {draws}: a variance needs two "
            "draws"
        )


def posterior(
    field: str,
    spec: Mapping,
    starts: Mapping[str, Callable] = initializers.INITIALIZERS,
) -> Factory:
    """A posterior factory from {"kind": name, **arguments}.

    An "init" among these is {"name": of `starts`, **arguments}; a "weight", that noise
    on units is put on, is another such spec.
    """
    arguments = dict(spec)
    kind = arguments.pop("kind", "")
    if "init" in arguments:
        init = dict(arguments["init"])
        make = pick(f"{field}.init.name", init.pop("name", ""), starts)
        arguments["init"] = call(f"{field}.init", make, init)
    if "weight" in arguments:
        inner = arguments["weight"]
        arguments["weight"] = posterior(f"{field}.weight", inner, starts)
    return call(field, pick(f"{field}.kind", kind, POSTERIORS), arguments)


def model(spec: Mapping, classes: int, images: np.ndarray | None = None):
    """A net from {"name": ..., "posteriors": {layer: spec}, **arguments}.

    `images`, uint8 [N, H, W, C] of the training set, are what a weight that starts by
    "whitening" looks at, standardized as the net does.
    """
    arguments = dict(spec)
    net = pick("model.name", arguments.pop("name", ""), nets.NETS)
    starts = dict(initializers.INITIALIZERS)
    if images is not None:
        starts["whitening"] = functools.partial(_whitening, images, spec)
    arguments["posteriors"] = {
        layer: posterior(f"model.posteriors.{layer}", one, starts)
        for layer, one in arguments.pop("posteriors", {}).items()
    }
    return call("model", net, {**arguments, "classes": classes})


def augment(spec: Mapping | None) -> CropAndFlip | None:
    """What changes the training images, from the arguments of `CropAndFlip`."""
    return None if spec is None else call("dataset.augment", CropAndFlip, spec)


def edit(field: str, spec: Mapping, also: Mapping = MappingProxyType({})) -> edits.Edit:
    """The edit that a spec of a net names in "edit"; none leaves the net as it is.

    `also` are edits that only the caller has.
    """
    return pick(f"{field}.edit", spec.get("edit", "nothing"), {**edits.EDITS, **also})


def mode(estimator: str, precision: str = "float32", remat: bool = False) -> Mode:
    """How a net is run, by the names of its estimator and precision (`layers.Mode`)."""
    return Mode(
        pick("estimator", estimator, ESTIMATORS),
        precision=pick("precision", precision, PRECISIONS),
        remat=pick("remat", remat, (False, True)),
    )


PRIORS = priors.PRIORS


def prior(spec: str | Mapping):
    """A prior by name, or from {"kind": name, **arguments}.

    "factors" among these are of `priors.WeightedPrior`, by layer.
    """
    arguments = {"kind": spec} if isinstance(spec, str) else dict(spec)
    make = pick("prior", arguments.pop("kind", ""), PRIORS)
    factors = dict(arguments.pop("factors", {}))
    made = call("prior", make, arguments)
    return priors.WeightedPrior(made, factors) if factors else made


def schedule(field: str, points, total_steps: int):
    """A piecewise linear schedule from (fraction of the run, value) knots."""
    return call(field, knots, {"points": points, "unit": total_steps})


def clip(spec: Mapping | None) -> projections.Projection:
    """Bounds of log alpha, from the arguments of `projections.clip_log_alpha`."""
    if spec is None:
        return projections.nothing
    return call("clip_log_alpha", projections.clip_log_alpha, spec)


def projection(max_log_alpha: float | None, prior_spec: str | Mapping | None):
    """Keeps log alpha within the config's bound and the prior's domain."""
    named = prior_spec is None or isinstance(prior_spec, str)
    kind = prior_spec if named else prior_spec.get("kind")
    high = float("inf") if max_log_alpha is None else float(max_log_alpha)
    high = min(high, 0.0) if kind == "log_uniform_2015" else high
    if high == float("inf"):
        return projections.nothing
    return projections.clip_log_alpha(high=high)


def early_stopping(
    config, columns: Collection[str], dataset
) -> train.EarlyStopping | None:
    """When training ends before its last epoch, if `config.early_stopping` is.

    `columns` are those of the probe, one of which it watches on the data set's
    validation split.
    """
    if "early_stopping" not in config:
        return None
    early = call("early_stopping", train.EarlyStopping, config.early_stopping)
    if dataset is None or dataset.validation is None:
        raise ConfigError(
            "config.early_stopping needs a split to watch: set dataset.validation to "
            "as many images"
        )
    pick("early_stopping.metric", early.metric, columns)
    return early


def scheduled(
    field: str, spec: Mapping, choices: Mapping, total_steps: int
) -> projections.Projection:
    """A projection: {"method": name of `choices`, **arguments}, times as fractions."""
    arguments = dict(spec)
    make = pick(f"{field}.method", arguments.pop("method", ""), choices)
    every = arguments.get("every", 1)
    if isinstance(every, int) and every > total_steps:
        raise ConfigError(
            f"config.{field}.every is {every}, but the run has {total_steps} updates: "
            "nothing would be done"
        )
    if "ramp" in arguments:
        arguments["ramp"] = schedule(f"{field}.ramp", arguments["ramp"], total_steps)
    for name in {"begin", "end"} & set(arguments):
        arguments[name] = int(arguments[name] * total_steps)
    return call(field, make, arguments)


def collect(spec: Mapping | None, total_steps: int) -> tuple[int, ...]:
    """The updates whose nets are kept, from the arguments of `train.spaced`."""
    if spec is None:
        return ()
    return call("collect", train.spaced, {"steps": total_steps, **spec})


def optimizer(
    spec: Mapping, total_steps: int, n_train: int = 1
) -> optax.GradientTransformation:
    """An optax optimizer whose rate is scheduled; noise may learn faster.

    `accumulate` averages the gradients of so many batches for one update: a large batch
    where its activations do not fit. The rate's schedule is over the updates.
    `log_alpha_rate` multiplies the updates of every log alpha, and of every log sigma^2
    of additive noise, which moves its log alpha. `factors` multiply the updates of
    parameters by a pattern of their path, such as "mixture/*"; the first match counts,
    and only one that starts with "*" may match nothing.
    `weight_decay` c adds c w to the gradient of the mean w of every weight (an L2
    penalty of c / 2), and nothing to that of variances, biases and normalization.
    `clip_norm` scales the whole gradient down to at most this norm.
    `restarts` is how many times all of it begins, its schedule too, each for an equal
    part of the run.
    `groups` gives parameters an optimizer of their own by a pattern of their path, each
    {"name": ..., "learning_rate": ..., **arguments}; the first match counts.
    A rate is knots, or {"peak": ..., "cycles": ...} of `samplers.cyclical`, or with
    {"shape": "triangle", ...} the arguments of `samplers.triangular`; a sampler's
    temperature is a number, or the arguments of `samplers.late`. `n_train` is for those
    that sample.
    """
    arguments = dict(spec)
    groups = dict(arguments.pop("groups", {}))
    make = pick("optimizer.name", arguments.pop("name", ""), OPTIMIZERS)
    batches = int(arguments.pop("accumulate", 1))
    positive("optimizer.accumulate", batches)
    restarts = int(arguments.pop("restarts", 1))
    positive("optimizer.restarts", restarts)
    total_steps //= restarts
    rate = _rate("optimizer", arguments, total_steps // batches)
    factor = float(arguments.pop("log_alpha_rate", 1.0))
    factors = dict(arguments.pop("factors", {}))
    decay = float(arguments.pop("weight_decay", 0.0))
    ranges.NOT_NEGATIVE.check("config.optimizer.weight_decay", decay)
    chain = [optimizers.decay_means(decay)] if decay else []
    if "clip_norm" in arguments:
        norm = float(arguments.pop("clip_norm"))
        ranges.POSITIVE.check("config.optimizer.clip_norm", norm)
        chain.append(optax.clip_by_global_norm(norm))
    if hasattr(arguments.get("temperature"), "items"):
        heat = {**arguments["temperature"], "steps": total_steps // batches}
        arguments["temperature"] = call("optimizer.temperature", samplers.late, heat)
    if "n_train" in inspect.signature(make).parameters:
        arguments["n_train"] = n_train
    own = call("optimizer", make, {"learning_rate": rate, **arguments})
    if groups:
        others = {
            pattern: _group(f"optimizer.groups.{pattern}", one, total_steps // batches)
            for pattern, one in groups.items()
        }
        own = _named("optimizer.groups", optimizers.by_pattern(others, own))
    chain.append(own)
    if factor != 1.0:
        chain.append(optimizers.faster_noise(factor))
    if factors:
        scaled = optimizers.scale_by_pattern(factors)
        chain.append(_named("optimizer.factors", scaled))
    whole = optax.chain(*chain) if len(chain) > 1 else chain[0]
    if batches > 1:
        whole = optax.MultiSteps(whole, batches).gradient_transformation()
    if restarts == 1:
        return whole
    return call(
        "optimizer.restarts",
        optimizers.restarted,
        {"inner": whole, "every": total_steps},
    )


def _group(field: str, spec: Mapping, updates: int) -> optax.GradientTransformation:
    """The optimizer of some parameters."""
    arguments = dict(spec)
    make = pick(f"{field}.name", arguments.pop("name", ""), optimizers.OPTIMIZERS)
    rate = _rate(field, arguments, updates)
    return call(field, make, {"learning_rate": rate, **arguments})


def _rate(field: str, arguments: dict, updates: int):
    """Takes the learning rate out of an optimizer's arguments, as a schedule."""
    if "learning_rate" not in arguments:
        raise ConfigError(
            f"config.{field} lacks learning_rate: (fraction of the run, rate) pairs, "
            "such as ((0.0, 1e-3), (1.0, 0.0))"
        )
    points = arguments.pop("learning_rate")
    if hasattr(points, "items"):
        wave = {**points, "steps": max(updates, 1)}
        field = f"{field}.learning_rate"
        make = pick(f"{field}.shape", wave.pop("shape", "cosine"), WAVES)
        return call(field, make, wave)
    return schedule(f"{field}.learning_rate", points, max(updates, 1))


def _named(field: str, made: optax.GradientTransformation):
    """The same, with the config's field in what its `init` refuses."""

    def init(params):
        return call(field, made.init, {"params": params})

    update = optax.with_extra_args_support(made).update
    return optax.GradientTransformationExtraArgs(init, update)
