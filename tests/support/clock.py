"""A clock that stands still."""


class Clock:
    """A clock that a test turns on; each look at it takes `step` seconds."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 1000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now
