"""The one exception type for mistakes a user can mend."""


class UserError(Exception):
    """Bad input: the message names the file or value and says what to do.

    The command line prints it as one sentence without a traceback.
    """
