"""CartPole and Acrobot by policy gradient: deterministic, variance and noisy policies.

    configs/rl.py:VARIANT[,SCALE]

Variants: {cartpole,acrobot}_{deterministic,variance,noisy}. Scales: quick (4 updates a
point of the curve, 15 points), short (2 updates of 16 episodes a point), paper (5 of
64); both have the 100 points of the published figure.

A policy is a perceptron of 64 and 256 hidden units. The published one is reported, at
second hand, to have one hidden layer of 256: a variance layer there would not know the
sign of what it reads, so a deterministic layer of 64 comes first, in all three alike.
`variance` has no means in the layer of 256, and draws its noise at every step; `noisy`
has Gaussian weights everywhere, drawn once for an episode, from the standard deviation
0.017 on of NoisyNet's independent noise (Fortunato et al. 2018, section 3.2). Nothing
else differs between them. What the published runs took for rate, batch, discount and
baseline is not known.

The rate was chosen on seeds 100 and 101, never on 0 to 4, and for all policies at
once: with batches of 16, Adam at 1e-3 leaves the variance policy of CartPole at a
return of 60 after 100 updates, 3e-3 brings it to 200 after 100, and 2e-3 after 120;
the other two are at 200 after 20 to 40 updates of 2e-3. On Acrobot all three end
between -82 and -88 at 2e-3, the variance policy learning slowest. Paper's rate, batch
and number of updates were not tried.
"""

from ml_collections import ConfigDict

from configs import common

# CartPole of version 0 ends after 200 steps, as the published returns do.
GAMES = {"cartpole": "CartPole-v0", "acrobot": "Acrobot-v1"}
NOISY = {"kind": "gaussian", "log_var": -8.15}  # 2 log 0.017
POSTERIORS = {
    "deterministic": {},
    "variance": {"dense2": {"kind": "variance", "noise": "normal"}},
    "noisy": dict.fromkeys(("dense1", "dense2", "dense3"), NOISY),
}
VARIANTS = tuple(f"{game}_{policy}" for game in GAMES for policy in POSTERIORS)


def get_config(which: str = "cartpole_variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    game, policy = variant.split("_")
    config = common.start("policy_gradient", variant, scale)
    config.dataset = {"name": GAMES[game]}
    config.model = {
        "name": "mlp",
        "widths": (64, 256),
        "posteriors": POSTERIORS[policy],
    }
    config.noise = "episode" if policy == "noisy" else "step"
    config.discount = 0.99
    config.epochs = {"quick": 15, "short": 100, "paper": 100}[scale]
    config.updates = {"quick": 4, "short": 2, "paper": 5}[scale]  # in an epoch
    config.batch_size = {"quick": 16, "short": 16, "paper": 64}[scale]  # episodes
    config.chunk_steps = 10
    rate = {"quick": 3e-3, "short": 2e-3, "paper": 1e-3}[scale]
    config.optimizer = {"name": "adam", "learning_rate": ((0.0, rate),)}
    # The test with noise off along the training; with noise it is the training's own.
    # As many episodes as of the final test share what is compiled for it.
    episodes = {"quick": 50, "short": 50, "paper": 200}[scale]
    config.probe = {"every": 10, "episodes": episodes}
    # Fresh episodes for each column; samples: averaged at each step by ens.
    config.evals = {"episodes": episodes, "samples": 20 if scale == "paper" else 10}
    return config
