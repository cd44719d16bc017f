"""Tasks of two classes each, one after another: 0 and 1, then 2 and 3, to 8 and 9.

    configs/split_tasks.py:VARIANT[,SCALE]

Split MNIST (quick: the digits in 8 x 8) for one net 784-100-100-10. Each task has two
outputs of its own, its head, and it is known which task a test image is of; or, in the
variants `one_...`, all ten outputs are one head, and the task is not known.

The methods are those of `configs/continual.py`, with its settings, which nobody tuned
here. vcl starts from random means, since no net may know a later task; a head that has
seen no example keeps N(0, 1) as its prior. At scale quick a row with a coreset is
tested with its noise off alone: what trains it, refreshes it and averages it are three
programs, and compiling them is most of its time.
"""

from ml_collections import ConfigDict

from configs import common, continual

# The method, and the outputs of a task.
ROWS = {
    "fine_tuning": ("fine_tuning", "each"),
    "vcl": ("vcl", "each"),
    "vcl_coreset": ("vcl", "each"),
    "ewc": ("ewc", "each"),
    "laplace_kronecker": ("laplace_kronecker", "each"),
    "joint": ("joint", "each"),
    "one_ewc": ("ewc", "one"),
    "one_laplace_kronecker": ("laplace_kronecker", "one"),
    "one_vcl": ("vcl", "one"),
    "one_vcl_coreset": ("vcl", "one"),
    "one_joint": ("joint", "one"),
}
VARIANTS = tuple(ROWS)
TASKS = 5
EPOCHS = {"quick": 60, "short": 20, "paper": 120}  # of each task
CORESET = {"quick": 20, "short": 40, "paper": 40}  # images of each task


def get_config(which: str = "vcl") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    method, heads = ROWS[variant]
    sizes = TASKS, CORESET, EPOCHS
    config = continual.in_turn(variant, scale, method, *sizes, start="")
    config.continual.of, config.continual.heads = "split", heads
    if scale == "quick" and "coreset" in config.continual:
        config.evals.columns = ("det",)
    return config
