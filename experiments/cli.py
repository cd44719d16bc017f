"""What the scripts share: flags that are checked, and errors without a traceback.

Exit codes: 0 done, 1 it could not be done (data, disk, a diverged run), 2 it was asked
for wrongly (flags, config), 75 (EX_TEMPFAIL) it was stopped by a signal, and goes on
from what it saved when it is called again: what a scheduler may requeue.
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import config_files
from experiments.config_files import ConfigError
from experiments.ranges import COUNT, FINITE, INDEX, NOT_NEGATIVE, Range

flags.disclaim_key_flags()  # what is defined here is a flag of the script that asks


class _Number(flags.ArgumentParser):
    """A number of a range."""

    def __init__(self, allowed: Range):
        self.allowed = allowed
        self.syntactic_help = f"must {allowed}"

    def parse(self, argument) -> float:
        value = float(argument)
        self.allowed.check("it", value)
        return int(value) if self.allowed.whole else value

    def flag_type(self) -> str:
        return "int" if self.allowed.whole else "float"


def define_number(name: str, default: float | None, help: str, allowed: Range):
    """A flag whose value is a number of `experiments.ranges`."""
    return flags.DEFINE(_Number(allowed), name, default, help)


def define_numbers(name: str, help: str):
    """A flag of one number or several, "0.49,0.48,0.45"; its value is a tuple."""

    class Numbers(flags.ArgumentParser):
        def parse(self, argument):
            if isinstance(argument, tuple):
                return argument
            found = tuple(float(one) for one in argument.split(","))
            for one in found:
                FINITE.check(f"--{name}", one)
            return found

    return flags.DEFINE(Numbers(), name, None, help, serializer=None)


def one_of(choices: Mapping[str, Any], own: Mapping[str, Sequence]) -> str:
    """Which one of some flags was given.

    Args:
      choices: the flags by name.
      own: of each, the flags that belong to it alone.

    Raises:
      ConfigError: none or several of them, or a flag of another.
    """
    given = [name for name, flag in choices.items() if flag.value is not None]
    if len(given) != 1:
        names = " or ".join(f"--{name}" for name in choices)
        raise ConfigError(f"give {names}, one of them")
    for other, of in own.items():
        for flag in of if other != given[0] else ():
            if flag.value is not None:
                raise ConfigError(f"--{flag.name} is of --{other}, not of --{given[0]}")
    return given[0]


def define_path(name: str, default: str | None, help: str, required: bool = False):
    """A flag that names a file or folder; an empty one would be the current folder."""
    return _given_text(name, default, help, required, "a path, . for this folder")


def define_scale(default: str | None, help: str, required: bool = False):
    """The flag --scale of scripts that need one."""
    return _given_text("scale", default, help, required, "a scale")


def _given_text(name: str, default: str | None, help: str, required: bool, what: str):
    """A flag whose text is not empty."""
    made = flags.DEFINE_string(name, default, help, required=required)
    flags.register_validator(
        name, lambda text: text is None or bool(text.strip()), f"it must name {what}"
    )
    return made


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
    processes = define_number(
        "processes", None, "How many run this together; 1: this one alone.", COUNT
    )
    process_id = define_number("process_id", None, "Which of them this is.", INDEX)
    seconds = define_number(
        "connect_seconds", 120.0, "Until when all of them must be there.", NOT_NEGATIVE
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
    """ "configs/<file>.py:<variant>" of the --config flag, for the record.

    Raises:
      ConfigError: variant or scale are not those of the flag: the record, and the
        folder that it is published to, would have another's name.
    """
    given = _given_config()
    for field in ("variant", "scale"):
        if config.get(field) != given.get(field):
            raise ConfigError(
                f"config.{field} is {config.get(field)!r}, but --config gives "
                f"{given.get(field)!r}: choose it there, FILE:VARIANT,SCALE"
            )
    return f"configs/{_config_file().name}:{config.variant}"


def no_arguments(argv: list[str]) -> None:
    """Refuses words on the command line that are no flags."""
    if argv[1:]:
        raise ConfigError(f"unexpected arguments: {' '.join(argv[1:])}")


def run(main: Callable[[list[str]], int]) -> None:
    """`app.run` that turns the errors a user can mend into one message."""

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # JAX tells of each missing backend
        try:
            code = main(argv)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a stop that was asked for is no Exception
            code = _told(error)
            if code is None:
                _abandon(1, traceback.format_exc())
                raise
        if code:
            _abandon(code)
        return code

    app.run(guarded, flags_parser=_parse)


def _told(error: BaseException) -> int | None:
    """Says what a user can mend, and returns the exit code; None for what is no such
    error. The classes are imported here: where one was raised, its module is loaded.
    """
    from experiments.launch import LaunchError
    from experiments.preemption import REQUEUE
    from experiments.tables.specs import TableError
    from vnets.data import DataError
    from vnets.extras import advice
    from vnets.files import FileError
    from vnets.parallel import ClusterError
    from vnets.train import Preempted

    failures = (ClusterError, DataError, LaunchError, FileError, OSError)  # disk
    if isinstance(error, Preempted):
        print(error, file=sys.stderr)
        return REQUEUE
    if isinstance(error, ConfigError | TableError):
        code, text = 2, str(error)
    elif isinstance(error, failures):
        code, text = 1, str(error)
    elif isinstance(error, ImportError) and advice(error):
        code, text = 1, str(advice(error))
    elif _is_of_a_config(error):
        code, text = 2, f"the config lacks {_lacking(error)}"
    else:
        return None
    print(f"error: {text}", file=sys.stderr)
    return code


def _is_of_a_config(error: Exception) -> bool:
    """Whether a config was asked for a field that it does not have."""
    if not isinstance(error, AttributeError | KeyError):
        return False
    *_, frame = traceback.extract_tb(error.__traceback__)
    return "ml_collections" in Path(frame.filename).parts


def _lacking(error: BaseException) -> str:
    """The field that an error is about, and where --config has one of its name."""
    text = " ".join(str(error.args[0]).split())  # "'labels'", or with a guess behind it
    field = re.findall(r"\w+", text)[0]
    held = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if not hasattr(held, "items"):  # of `define_config`, that is
        return f"the field {field!r}"
    lost = sorted({*_names(_given_config())} - {*_names(held)})
    places = [name for name in lost if name.rpartition(".")[2] == field]
    return " or ".join(places) or f"the field {field!r}"


def _abandon(code: int, text: str = "") -> None:
    """Ends one of several processes at once; without any it does nothing."""
    if "vnets.parallel" not in sys.modules:  # then this process has joined no others
        return
    from vnets.parallel import abandon, several

    if text and several():
        print(text, file=sys.stderr)
    abandon(code)


def _config_file() -> Path:
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    return Path(name.partition(":")[0])


def _given_config():
    """The config of the --config flag, without what overrides it."""
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    _, colon, variant = name.partition(":")
    path = _config_file().absolute()
    config_files.allow(path)
    module = config_files.load_module(str(path))
    return module.get_config(variant) if colon else module.get_config()


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a bad config, key or value ends with a message and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
        if config is not None and not isinstance(config, str):  # of `define_config`
            file = _config_file()
            if not file.is_file():
                valid = ", ".join(config_files.names())
                raise flags.Error(f"no config file {file}; there are {valid}")
            config_files.allow(file.absolute())
        return rest
    except flags.Error as error:
        # A config file's own error arrives as a traceback in the text: its last line.
        message = str(error).strip().splitlines()
        message = message[-1] if "Traceback" in str(error) else " ".join(message)
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
    path = Path(file).resolve()
    config_files.allow(path)
    try:
        module = config_files.load_module(str(path))
        fields = ", ".join(_names(module.get_config(variant)))
    except Exception as found:
        if isinstance(found, ConfigError) and found.__cause__ is None:
            return str(found)
        own = found.__cause__ or found
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
