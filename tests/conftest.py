"""What holds for every test."""

import signal

# A shell that begins the tests in the background ignores Ctrl-C, and so would every process that
# a test starts; some tests are about just that signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
