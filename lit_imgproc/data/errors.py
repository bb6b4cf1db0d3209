"""What is wrong with a data set."""

from lit_imgproc.errors import UserError


class DataError(UserError):
    """A data set that cannot be read or used as asked, with everything that is wrong with it."""
