"""What two commands share; nothing here prints, parses or exits but `cli`."""
