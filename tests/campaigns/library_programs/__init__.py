"""Right programs as users of JAX's libraries write them, each at operands that are drawn anew for each comparison."""

from . import losses, models, scipy, statistics
from .table import LibraryProgram as LibraryProgram

PROGRAMS: tuple[LibraryProgram, ...] = (*losses.PROGRAMS, *statistics.PROGRAMS, *scipy.PROGRAMS, *models.PROGRAMS)
