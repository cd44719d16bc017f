r"""Downloads data sets and prepares them for `vnets.data.load`, without TensorFlow.

    python scripts/fetch_data.py mnist cifar10 [--data_dir=DIR]

Each is written to DIR/NAME/VERSION in TFDS's array_record format; DIR is
$TFDS_DATA_DIR or ~/tensorflow_datasets unless given. What is already there is left
alone. generated_shapes is not downloaded, but generated: pictures of coloured shapes in
the format of ImageNet, to try the pieces on.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.config_files import ConfigError
from vnets import data

_DATA_DIR = cli.define_path("data_dir", None, "TFDS data directory to write to.")


def main(argv: list[str]) -> int:
    names = argv[1:]
    choices = f"valid names: {', '.join(data.PREPARABLE)}"
    unknown = [name for name in names if name not in data.PREPARABLE]
    if not names:
        raise ConfigError(f"Name at least one data set; {choices}")
    if unknown:
        raise ConfigError(f"Cannot fetch {', '.join(unknown)}; {choices}")
    for name in names:
        try:
            print(f"{name}: {data.prepare(name, _DATA_DIR.value)}", flush=True)
        except data.DataError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
