"""What a person did that cannot work, said so that they can mend it."""


class UserError(Exception):
    """One or more sentences for the person at the keyboard.

    The command line prints them without a traceback and exits with code 2. Subclasses live where
    they are raised; a bug in this package is never a ``UserError``.
    """


class TrainingFailed(Exception):
    """A training that failed as trainings do, said in a sentence; its run holds the traceback.

    The command line prints the sentence and exits with code 1.
    """
