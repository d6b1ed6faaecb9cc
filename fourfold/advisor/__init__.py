"""The advisor: which mode, which configuration, what cost, and why the others lost. Pure: needs no server."""
