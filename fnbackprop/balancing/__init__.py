"""Is the step that a gradient leads to too large, too small or balanced? Facts, a verdict, its presentation."""
