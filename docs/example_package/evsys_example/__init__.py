"""An algorithm, a backend and a verifier from outside. Start reading at `algorithm.py`."""
