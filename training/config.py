"""What can be set of a training: one dataclass, whose fields carry default, help and limits; flags and checks are made from it."""

import dataclasses
import math


def setting(default, help, least=None, above=None, most=None, choices=None):
    """A field of a settings dataclass.

    Args:
        default: int, float, str, or a list of ints; the values that are given must be of its type.
        help: what it is, with its unit.
        least, most: bounds that are allowed themselves. above: a bound that is not.
        choices: the only values allowed.
    """
    metadata = {"help": help, "least": least, "above": above, "most": most, "choices": choices}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata | {"list": default})
    return dataclasses.field(default=default, metadata=metadata)


def check(settings):
    """Compare each field of a settings dataclass with its limits; for its __post_init__.

    Raises:
        ValueError: a value that is out of its limits, or not finite.
    """
    for field in dataclasses.fields(settings):
        value, limits = getattr(settings, field.name), field.metadata
        if limits["choices"] and value not in limits["choices"]:
            raise ValueError(f"--{field.name} {value}: use {', '.join(limits['choices'])}")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and number != field.default and not _within(number, limits):
                raise ValueError(f"--{field.name} {number}: expected {_expected(number, limits)}")


def _within(number, limits):
    least, above, most = (limits[k] for k in ("least", "above", "most"))
    low = (least is None or number >= least) and (above is None or number > above)
    return math.isfinite(number) and low and (most is None or number <= most)


def _expected(number, limits):
    words = {"least": "at least", "above": "above", "most": "at most"}
    bounds = [f"{word} {limits[key]:,}" for key, word in words.items() if limits[key] is not None]
    return f"a {'whole' if isinstance(number, int) else 'finite'} number {' and '.join(bounds)}".strip()


def add_flags(parser, settings, leave_out=()):
    """Add a flag for each field of a settings class, but for those named in `leave_out`."""
    for field in dataclasses.fields(settings):
        if field.name in leave_out:
            continue
        default = field.metadata.get("list", field.default)
        kind = {"type": type(default[0]), "nargs": "+"} if isinstance(default, list) else {"type": type(default)}
        shown = " ".join(map(str, default)) if isinstance(default, list) else f"{default:g}" if isinstance(default, float) else default
        parser.add_argument(
            f"--{field.name}",
            default=default,
            choices=field.metadata["choices"],
            help=f"{field.metadata['help']} (default: {shown})",
            **kind,
        )


def add_device_flag(parser):
    """Add --device, as the editing commands have it; `session.device` reads it."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def from_flags(settings, args):
    """A settings dataclass from what `add_flags` made argparse read.

    Raises:
        ValueError: a value out of its limits.
    """
    return settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(settings)})
