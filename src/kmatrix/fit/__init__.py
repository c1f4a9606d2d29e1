"""Dense in, structured out: the fitting algorithms and the certificate of the error."""
