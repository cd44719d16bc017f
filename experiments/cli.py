"""What the scripts share: the config flag, and errors without a traceback.

Exit codes: 0 done, 1 it could not be done (data, disk, a diverged run), 2 it was asked
for wrongly (flags, config), 75 (EX_TEMPFAIL) it was stopped by a signal, and goes on
from what it saved when it is called again: what a scheduler may requeue.
"""

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.build import ConfigError
from experiments.config_files import load_config
from experiments.launch import LaunchError
from experiments.preemption import REQUEUE
from experiments.table_specs import TableError
from vnets.data import DataError
from vnets.parallel import ClusterError, abandon, several
from vnets.results import RecordError
from vnets.train import Preempted


def define_config():
    """The --config flag: FILE:VARIANT[,SCALE], overridden by --config.FIELD=VALUE."""
    config = config_flags.DEFINE_config_file(
        "config", None, "FILE:VARIANT[,SCALE]; override by --config.FIELD=VALUE."
    )
    flags.mark_flag_as_required("config")
    return config


def define_cluster() -> Callable[[], None]:
    """The flags of a run by several processes.

    Returns:
      What joins them, to be called before anything that uses a device. Without flags
      the environment decides (`vnets.parallel.initialize`), and one process stays one.
    """
    coordinator = flags.DEFINE_string(
        "coordinator", None, "host:port of process 0, of several."
    )
    processes = flags.DEFINE_integer(
        "processes", None, "How many run this together; 1: this one alone."
    )
    process_id = flags.DEFINE_integer("process_id", None, "Which of them this is.")
    seconds = flags.DEFINE_float(
        "connect_seconds", 120.0, "Until when all of them must be there."
    )

    def join() -> None:
        from vnets import parallel

        try:
            parallel.initialize(
                coordinator.value,
                processes.value,
                process_id.value,
                timeout=seconds.value,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    return join


def run_name(config) -> str:
    """ "configs/<file>.py:<variant>" of the --config flag, for the record."""
    return f"configs/{_config_file().name}:{config.variant}"


def no_arguments(argv: list[str]) -> None:
    """Refuses words on the command line that are no flags."""
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}", exitcode=2)


def run(main: Callable[[list[str]], int]) -> None:
    """`app.run` that turns the errors a user can mend into one message."""

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # JAX tells of each missing backend
        try:
            code = main(argv)
        except (ConfigError, TableError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except (ClusterError, DataError, LaunchError, RecordError, OSError) as e:
            print(f"error: {e}", file=sys.stderr)  # OSError: the disk, a path
            code = 1
        except Preempted as stopped:
            print(stopped, file=sys.stderr)
            code = REQUEUE
        except Exception:
            if several():
                traceback.print_exc()
                abandon(1)
            raise
        if code:
            abandon(code)
        return code

    app.run(guarded, flags_parser=_parse)


def _config_file() -> Path:
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    return Path(name.partition(":")[0])


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a bad config, key or value ends with a message and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
        if config is not None and not isinstance(config, str):  # of `define_config`
            file = _config_file()
            if not file.is_file():
                valid = ", ".join(map(str, sorted(Path("configs").glob("*.py"))))
                raise flags.Error(f"no config file {file}; there are {valid}")
        return rest
    except flags.Error as error:
        # A config file's own error arrives as a traceback in the text: its last line.
        message = str(error).strip().splitlines()
        message = message[-1] if "Traceback" in str(error) else "\n".join(message)
    except (TypeError, ValueError) as error:
        message = str(error)
    except Exception as error:  # whatever a config file raises passes through absl
        message = _explained(error, _given(argv))
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _given(argv: list[str]) -> str:
    """The value of --config on the command line, be it the next word."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else following
    return ""


def _explained(error: Exception, which: str) -> str:
    """What is wrong with the config `which`, or with a field of it that was given."""
    file, _, variant = which.partition(":")
    path = Path(file).absolute()
    try:
        fields = ", ".join(_names(load_config(f"{path}:{variant}")))
    except Exception as own:
        frames = traceback.extract_tb(own.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f"{file}, line {lines[-1]}" if lines else file
        return f"{where}: {type(own).__name__}: {own}"
    if isinstance(error, AttributeError | KeyError):  # an override of what is not there
        whole = str(error).rpartition("lookup: ")[2]
        wrong = "".join(re.findall(r"[\w.]+", whole)[:1])
        return f"the config has no field {wrong!r}; it has {fields}"
    return f"{type(error).__name__}: {error}"


def _names(config, prefix: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        inner = hasattr(value, "items")
        names += _names(value, f"{prefix}{name}.") if inner else [prefix + name]
    return names
