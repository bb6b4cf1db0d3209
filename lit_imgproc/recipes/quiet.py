"""What Lightning need not say."""

import logging
import warnings


def quiet() -> None:
    """Leave out what Lightning says in every run and nobody can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",
        ".*overridden `on_after_batch_transfer`.*",  # the module's is the one that is wanted
        ".*sync_dist=True.*",  # what is logged here has been gathered over the ranks
        ".*does not have many workers.*",  # speed/data_wait tells whether that matters
        ".*smaller than the logging interval.*",  # epochs are logged all the same
    ):
        warnings.filterwarnings("ignore", message)
