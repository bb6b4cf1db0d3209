"""Style transfer: by optimisation, by a network for one style, and by one for any style."""
