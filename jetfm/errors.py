"""The one error that jetfm raises for bad input.

Every message names the file, branch or setting, what was found and what was expected, so that a
user can act on it without reading a traceback. The command line prints it as a single line.
"""


class JetfmError(Exception):
    """Bad input: a file, branch, setting or request that jetfm cannot work with.

    Parameters
    ----------
    where : str
        The file, branch or setting at fault.
    found, expected : str
        What was there, and what should have been.
    """

    def __init__(self, where: object, found: str, expected: str):
        self.where, self.found, self.expected = str(where), found, expected
        super().__init__(f"{where}: found {found}; expected {expected}")

    def __reduce__(self):  # survive the trip back from a worker process
        return type(self), (self.where, self.found, self.expected)
