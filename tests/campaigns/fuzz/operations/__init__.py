"""The table of operations that a random program is made of, by family."""

from .arrays import INDEXING, REDUCTIONS, SHAPES
from .contractions import CONTRACTIONS, GENERIC, LINEAR_ALGEBRA, SPARSE, WINDOWS
from .elementwise import BINARY, COMPLEX, ELEMENTWISE, SIDE
from .rows import Operation as Operation

# How often each family is drawn.
FAMILIES = [
    (12, ELEMENTWISE),
    (8, BINARY),
    (3, SIDE),
    (8, REDUCTIONS),
    (7, SHAPES),
    (5, INDEXING),
    (5, CONTRACTIONS),
    (2, WINDOWS),
    (2, GENERIC),
    (3, COMPLEX),
    (1, LINEAR_ALGEBRA),
    (2, SPARSE),
]
