"""Programs that use jobguard: read them, run them, copy them."""
