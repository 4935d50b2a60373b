"""Trust in a card: the same checkpoint on two devices, compared component by component and end to end.

A family offers its parts in `models/<family>/components.py`, as `ports.py` asks for them. One side is
loaded at a time:

    reference: cases ──► run ──► answers      (kept on the host, then freed)
    examined:            run ──► answers ──► figures ──► verdict for each component

Each component of the examined side gets the inputs that the reference side had, so that an error does
not spread: the component whose line fails is the one that computes otherwise.
"""
