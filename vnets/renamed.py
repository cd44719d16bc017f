"""Names that changed: an old one is an error that says the new one, for one release."""

RENAMED = {
    "vnets.posteriors": "vnets.nodes",
    "vnets.scales": "vnets.nodes",
    "vnets.names": "vnets.tree",
    "vnets.group_priors": "vnets.priors",
    "vnets.normal_priors": "vnets.priors",
    "vnets.student_t": "vnets.priors.jensen",
    "vnets.soft_sharing": "vnets.priors.soft_sharing",
    "vnets.objectives": "vnets.loss",
    "vnets.metrics": "vnets.likelihoods",
    "vnets.labels": "vnets.targets",
    "vnets.attacks.Predictor": "vnets.attacks.LogP",
    "vnets.evaluate.predict": "vnets.predictor.Predictor",
    "vnets.evaluate.sample_predictions": "vnets.predictor.Predictor",
    "vnets.bits.quantize": "vnets.bits.rounded_to",
    "vnets.edits.layer_name": "vnets.tree.Place.layer",
    "vnets.edits.path_name": "vnets.tree.Place.name",
    "vnets.edits.is_vector": "vnets.tree.Place.is_vector",
    "vnets.edits.unit_uselessness": "vnets.nodes.Posterior.uselessness",
    "vnets.learned_dropout.adaptive_binary_dropout": (
        "vnets.nodes.adaptive_binary_dropout"
    ),
    "vnets.learned_dropout.bernoulli": "vnets.priors.bernoulli",
    "vnets.ops.NativeConv": "vnets.ops.GeneralConv",
    "vnets.priors.one_draw": "vnets.priors.shared_draws",
    "vnets.pruning.magnitude": "vnets.pruning.by_magnitude",
    "vnets.pruning.masked": "vnets.nodes.masked",
}


def check(module: str, name: str) -> None:
    """Raises ImportError for a name that a module had once; the message has the new."""
    old = f"{module}.{name}"
    if old in RENAMED:
        # `from vnets import posteriors` would hide the message of an AttributeError.
        raise ImportError(f"{old} is called {RENAMED[old]} now")


def getter(module: str):
    """A `__getattr__` for a module with names that changed."""

    def get(name: str):
        check(module, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get
