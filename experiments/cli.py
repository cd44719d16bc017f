"""What the scripts share: the config flag, and errors without a traceback.

Exit codes: 0 done, 1 it could not be done (data, disk, a diverged run), 2 it was asked
for wrongly (flags, config).
"""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from experiments.build import ConfigError
from experiments.table_specs import TableError
from vnets.checkpoint import WorkdirError
from vnets.data import DataError
from vnets.results import RecordError


def define_config():
    """The --config flag: FILE:VARIANT[,SCALE], overridden by --config.FIELD=VALUE."""
    return config_flags.DEFINE_config_file(
        "config", None, "FILE:VARIANT[,SCALE]; override by --config.FIELD=VALUE."
    )


def run_name(config) -> str:
    """ "configs/<file>.py:<variant>" of the --config flag, for the record."""
    path = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    return f"configs/{path.name}:{config.variant}"


def no_arguments(argv: list[str]) -> None:
    """Refuses words on the command line that are no flags."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}", exitcode=2)


def run(main: Callable[[list[str]], int]) -> None:
    """`app.run` that turns the errors a user can mend into one message."""

    def guarded(argv: list[str]) -> int:
        try:
            return main(argv)
        except (ConfigError, TableError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except (DataError, RecordError, WorkdirError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a bad config, key or value ends with a message and exit code 2."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        message = str(error)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # What a config file or an override raises passes through absl unchanged.
        message = str(error.args[0] if error.args else error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
