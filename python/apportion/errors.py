"""Exceptions of apportion. Depends on nothing.

All derive from `ApportionError`. Messages name the argument, the index, what
was got and what was expected.
"""


class ApportionError(Exception):
    """Base of all exceptions that apportion raises on its own."""


class InputError(ApportionError, ValueError):
    """A value, shape, length or type that the function cannot take."""


class DtypeError(InputError, TypeError):
    """An array or object of the wrong type."""


class OptionError(InputError):
    """An unknown method, option or preset, or an option out of its range."""


class MissingColumnError(InputError):
    """A method needs a column that the rollouts do not have."""


class ExtraMissingError(ApportionError, ImportError):
    """An optional package is not installed; the message prints the command."""


class FileFormatError(InputError):
    """A file holds something that cannot be read; names file, line and field."""


class EvaluatorError(ApportionError, RuntimeError):
    """A model or server that a search asks did not answer, or not as it must."""


class InternalError(ApportionError, RuntimeError):
    """A bug in apportion. Please report it."""
