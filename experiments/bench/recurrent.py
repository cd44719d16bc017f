"""A training step of a recurrent text classifier: without noise, and with noise on all
weights, in vnets and by hand in PyTorch.

An embedding, an LSTM and a dense layer, the last state classified; noise is one draw of
the weights a step (`vnets.layers.recurrent`), the KL that from the log-uniform prior.
PyTorch's is `nn.LSTM`, whose weights are drawn before the call.
"""

import functools

import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import timing, torch_nets
from experiments.bench.measuring import Benchmark, Case
from experiments.bench.steps import chunk
from vnets import data, likelihoods, nodes, priors, sources, train
from vnets.layers import TRAIN
from vnets.loss import forward, neg_elbo
from vnets.nets import RecurrentNet
from vnets.predictor import as_is

LOG_VAR, RATE, CLASSES = -10.0, 1e-3, 2
SIZES = {False: (10_003, 50, 128, 64, 8), True: (50, 5, 4, 8, 2)}
NOISY = {"noiseless": False, "W noise": True}
LAYERS = ("embed", "lstm", "dense1")


def benchmark(quick: bool) -> Benchmark:
    """The step with and without noise, and PyTorch's."""
    words, length, batch, width, steps = SIZES[quick]
    theirs = {"imports": ("torch",), "optional": True}
    cases = {
        **{
            name: Case(functools.partial(_build, quick, noisy), steps)
            for name, noisy in NOISY.items()
        },
        **{
            f"torch, {name}": Case(
                functools.partial(_build_torch, quick, noisy), steps, **theirs
            )
            for name, noisy in NOISY.items()
        },
    }
    return Benchmark(
        title="A recurrent text classifier: the price of noise on all weights",
        unit="ms per step",
        rounds=15,
        cases=cases,
        settings={
            "vocabulary": words,
            "length": length,
            "batch": batch,
            "width": width,
            "steps_per_call": steps,
            "dtype": "float32",
        },
        pairs={
            "W noise / noiseless": ("W noise", "noiseless"),
            "W noise / PyTorch's": ("W noise", "torch, W noise"),
        },
        check=torch_nets.load,
    )


def _batches(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [steps, B, T] and classes [steps, B]."""
    words, length, batch, _, steps = SIZES[quick]
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, words, (steps, batch, length), np.int32)
    return tokens, draw.integers(0, CLASSES, (steps, batch), np.int32)


def _build(quick: bool, noisy: bool) -> timing.Ready:
    words, length, batch, width, steps = SIZES[quick]
    make = nodes.gaussian(LOG_VAR)
    posteriors = dict.fromkeys(LAYERS, make) if noisy else {}
    net = RecurrentNet(CLASSES, words, width, width, posteriors=posteriors)
    tokens, classes = _batches(quick)
    split = data.Split(tokens.reshape(-1, length), classes.ravel())
    source = sources.Resident(split, batch, prepare=as_is)
    loss = neg_elbo(
        forward(net, TRAIN),
        likelihoods.Categorical(),
        priors.log_uniform,
        source.n,
    )
    init = train.initializer(net, jnp.asarray(tokens[0, :1]))
    return chunk(train.Task(init, loss, optax.adam(RATE), source), steps)


def _build_torch(quick: bool, noisy: bool) -> timing.Ready:
    torch = torch_nets.load()
    words, _, _, width, _ = SIZES[quick]
    device = torch_nets.device_of(torch)
    embed = torch.nn.Embedding(words, width)
    lstm = torch.nn.LSTM(width, width, batch_first=True)
    head = torch.nn.Linear(width, CLASSES)
    modules = torch.nn.ModuleList([embed, lstm, head]).to(device)
    weights = [
        (module, name)
        for module in modules
        for name, one in module.named_parameters()
        if one.ndim > 1
    ]
    log_vars = [torch.full_like(getattr(*one), LOG_VAR) for one in weights]
    log_vars = [one.detach().requires_grad_() for one in log_vars] if noisy else []
    optimizer = torch.optim.Adam([*modules.parameters(), *log_vars], RATE)
    tokens, classes = (
        torch.as_tensor(one, dtype=torch.long, device=device) for one in _batches(quick)
    )
    examples = classes.numel()

    def drawn(mean, log_var):
        return mean + torch.exp(log_var / 2) * torch.randn_like(mean)

    def kl(mean, log_var):
        log_alpha = log_var - torch.log(mean.square() + torch_nets.LOG_FLOOR)
        steep = 0.63576 * torch.sigmoid(-(1.87320 + 1.48695 * log_alpha))
        return (steep + 0.5 * torch.nn.functional.softplus(-log_alpha)).sum()

    def call():
        for x, y in zip(tokens, classes, strict=True):
            pairs = [
                (getattr(*at), v) for at, v in zip(weights, log_vars, strict=False)
            ]
            draws = [drawn(*pair) for pair in pairs]
            held = {
                (id(m), name): w for (m, name), w in zip(weights, draws, strict=False)
            }

            def run(module, *inputs, held=held):
                own = {n: w for (m, n), w in held.items() if m == id(module)}
                return torch.func.functional_call(module, own, inputs)

            states = run(lstm, run(embed, x))[0]
            objective = torch.nn.functional.cross_entropy(run(head, states[:, -1]), y)
            objective = objective + sum(kl(*pair) for pair in pairs) / examples
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
        torch_nets.wait(torch)

    return timing.Ready(call, None)


BENCHMARKS = {"recurrent": benchmark}
