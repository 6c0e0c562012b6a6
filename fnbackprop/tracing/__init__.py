"""Every value and cotangent of a program, with the user's line, and the origin of a number that is wrong."""
