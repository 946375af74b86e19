"""What the garbage collector need not look at."""

import gc

# Python looks for garbage after 700 new objects. A batch makes tens of thousands, none of them in circles.
SELDOM = 5000


def leave_startup() -> None:
    """Takes what a process has loaded out of garbage collection: it lives to the end anyway.

    Looking through it took the bridge 80 ms now and then, and workers a quarter of their time; to look for
    new garbage seldom saves another twentieth. To be called once a process has started, or before it forks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(SELDOM, *gc.get_threshold()[1:])
