"""How many updates of an attack it takes to fool a net, and whether the net notices.

After the figure of Neklyudov et al. 2019 ("Variance Networks: When Expectation Does Not
Meet Your Expectations"): success of an iterated attack against its number of updates,
for a deterministic net, dropout, a variance net, and ensembles. The figure states
neither radius nor step, nor how the attack treats the noise; here all three are in the
config and in the record. Beside it stand

  draws<d>   the attack with gradients averaged over d noise draws of each member: with
             one, noise looks like robustness
  unbounded  a radius of 1, against which no net can stand: else it is the attack that
             is at fault (Carlini et al. 2019)
  fgsm       one step to the edge of the ball
  clean      no attack at all

and how well the entropy of the prediction tells attacked images from clean ones. Only
images that were classified correctly count, as judged by draws of their own. A noisy
net errs on some of these without an attack: that is clean's `success`.
"""

import functools

import jax.numpy as jnp
import numpy as np

from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from vnets import attacks, backend, evaluate, uncertainty
from vnets.data import Split
from vnets.predictor import Predictor
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = (
    *("dataset", "nets.net", "samples", "images", "batch_size", "loss", "updates"),
    *("attack", "unbounded"),
)

# When the success of an attack is read; the figure has 50, 100 and 200 updates.
QUARTERS = {"success_quarter": 1, "success_half": 2, "success": 4}


def build(config) -> Study:
    """The study of a config; see `configs/adversarial.py` for its fields."""
    if config.updates % 4:
        raise parts.ConfigError(
            f"config.updates must be a multiple of 4, not {config.updates}: success is "
            "read after each quarter"
        )
    if not config.attack.draws:
        raise parts.ConfigError("config.attack.draws must hold at least one number")
    for group in ("attack", "unbounded"):
        for field in ("epsilon", "step"):
            value = config[group][field]
            if not 0 < value <= 1:
                raise parts.ConfigError(
                    f"config.{group}.{field} must be above 0 and at most 1, the range "
                    f"of a pixel, not {value}"
                )
    parts.pick("loss", config.loss, attacks.LOSSES)
    spec = NetSpec(**config.nets.net)
    dataset = load_data(config.dataset)
    test = dataset.validation or dataset.test
    if config.images > len(test) or config.images % config.batch_size:
        raise parts.ConfigError(
            f"config.images must be a multiple of config.batch_size, "
            f"{config.batch_size}, and at most {len(test)}, not {config.images}"
        )
    chosen = test.take(np.arange(config.images))
    return Study({"net": spec}, functools.partial(_measure, config, chosen), dataset)


def _measure(config, test: Split, nets: dict[str, list[Net]], key: Key) -> Measured:
    """Counts what every attack does to one predictor, made of the members of "net"."""
    label = jnp.asarray(test.target)
    clean, traces = _run(config, test, nets["net"], key)
    counted = attacks.is_right(clean, label)
    if not jnp.any(counted):
        raise ValueError(
            f"the net classifies none of {len(test)} images correctly: there is "
            "nothing to attack"
        )
    curves = {name: _curve(trace, label, counted) for name, trace in traces.items()}
    evals = {
        name: {axis: curve[axis][-1] for axis in ("success", "auroc", "entropy")}
        for name, curve in curves.items()
    }
    for name in evals.keys() - {"fgsm"}:
        evals[name] |= {
            metric: curves[name]["success"][quarters * config.updates // 4]
            for metric, quarters in QUARTERS.items()
        }
    start = curves["fgsm"]  # all attacks start alike
    evals["clean"] = {
        "accuracy": float(jnp.mean(counted)),
        "counted": int(jnp.sum(counted)),
        "success": start["success"][0],
        "entropy": start["entropy"][0],
    }
    return Measured(evals, curves)


def _run(
    config, test: Split, members: list[Net], key: Key
) -> tuple[Array, dict[str, Array]]:
    """Log predictive probabilities of all images: clean [N, K], attacked [T + 1, N, K].

    All attacks have the same key: they differ in what they do, not in their luck.
    """
    nets = [member.member for member in members]
    judge = Predictor(nets, samples=config.samples)

    def over_batches(function, name: str, *args) -> Array:
        size = config.batch_size
        batches = [
            function(
                evaluate.to_float(jnp.asarray(test.inputs[i : i + size])),
                jnp.asarray(test.target[i : i + size]),
                stream(key, name, i),
                *args,
            )
            for i in range(0, len(test), size)
        ]
        return jnp.concatenate(batches, axis=-2)

    @backend.jit
    def clean(image, label, key):
        del label
        return uncertainty.log_mean(judge(image, key))

    @functools.cache
    def attack(draws: int, updates: int):
        log_p = Predictor(nets, samples=draws)

        def run(image, label, key, epsilon, step):
            return attacks.iterated(
                log_p,
                image,
                label,
                epsilon=epsilon,
                step=step,
                updates=updates,
                key=key,
                judge=judge,
                loss=attacks.LOSSES[config.loss],
            ).log_p

        return backend.jit(run)

    # Without noise all draws are the same, and so is their mean gradient.
    tried = config.attack.draws if any(net.noisy for net in members) else (1,)
    most = max(tried)
    bounded = config.attack.epsilon, config.attack.step
    unbounded = config.unbounded.epsilon, config.unbounded.step
    by_draws = {
        draws: over_batches(attack(draws, config.updates), "attack", *bounded)
        for draws in tried
    }
    traces = {
        f"draws{draws}": by_draws.get(draws, by_draws[most])
        for draws in config.attack.draws
    }
    traces["unbounded"] = over_batches(
        attack(most, config.updates), "attack", *unbounded
    )
    traces["fgsm"] = over_batches(attack(most, 1), "attack", bounded[0], bounded[0])
    return over_batches(clean, "clean"), traces


def _curve(trace: Array, label: Array, counted: Array) -> dict[str, list[float]]:
    """What an attack has achieved after 0, 1, ..., T updates, from [T + 1, N, K].

    Returns:
      updates; success, the fraction of the counted images that are misclassified;
      entropy, of the prediction, its mean over them in nats; auroc, the probability
      that an attacked image has more of it than a clean one (1/2 at 0 updates).
    """
    entropy = np.asarray(uncertainty.entropy(trace))[:, np.asarray(counted)]
    return {
        "updates": list(range(len(trace))),
        "success": attacks.success_rate(trace, label, counted).tolist(),
        "entropy": entropy.mean(-1).tolist(),
        "auroc": [uncertainty.auroc(entropy[0], one) for one in entropy],
    }
