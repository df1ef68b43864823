"""What two commands share; nothing here prints, parses or exits but `cli`."""

__version__ = "0.2.0"
