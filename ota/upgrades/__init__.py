"""An upgrade's way: issued, reported on, proven, or ended by its limits of time."""
