"""One command a module: each parses its arguments, calls the library and prints what that returns."""
