"""How a log line looks, in the server and in its engine processes alike."""

LOG_FORMAT = "%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
