"""Why mutants are equivalent: a row for each, or for some of a kind, and the reasons that several rows have."""

from typing import NamedTuple


class Row(NamedTuple):
    function: str  # with its module where another one has a function of this name
    mistake: str
    reason: str


EDGE = "it differs at the edge of the domain alone, where the verdict is DOMAIN-EDGE whatever the rule says"
NOT_FINITE = "it differs beside a NaN alone, where the function is not finite"
INFINITE = "it differs at -inf or inf alone, where the function is not finite, and where the rule's own test looks"
IGNORED = "the engine takes no cotangent for an operand that needs none"
SAME_PATH = "the other branch, which is general, gives the same numbers"
NOUGHT = "x is 0 where its size is, and what is divided is 0 in any case"
SINGULAR = "it differs where a value is 0 and the function has no derivative: there it gives 0, and not NaN"
SQUARE = "its matrices are square"
JUMPING = "it differs where Q₂ jumps, and the verdict is JUMP whatever the rule says"
PLACEMENT = "it says where a value lies, and changes no number"
CHECKPOINTS = "other checkpoints are kept, each with its step: it costs time, and changes no number"
VANISHES = "what vanishes counts for nothing, tied or not; what is tied and does not vanish has no derivative"
IN_ITS_OWN_DERIVATIVE = "it guards the rule's own derivative alone"
BOUND = "it is a bound on rounding as well"
SUBSTITUTION = "t = x·exp(2s) is a substitution as good as t = x·exp(s)"
COST = "it costs time or memory, and changes no number"
REPORT = "it is told in a report, and changes no number"
WARNING = "it is told in a warning, which tests/rules/loops/test_decisions.py expects, and changes no number"
ONE_BATCH = "JAX does not batch a loop twice over examples that are divided among devices"
FLOAT64 = "it is for float64, as in tests/rules/pointwise/test_special.py, and the programs are float32"
NOTHING = "what is shifted in at the end decays or multiplies a sum of nothing, s = 0"
TWO_AXES = "its arrays have two axes, and 1 is the last as -1 is; or one, which is the first and the last"
NOT_ASKED_FOR = "what is computed and not asked for is left out of the results"
NO_SIZE = "it differs where an axis is empty alone, and there is nothing to divide"
UNSELECTED = "it is a number that is not selected, and has a finite derivative all the same"
AS_EXACT_AS_JAX = "between 10 and 30 the slope is then as exact as JAX's; `accuracy ulp` asks for more"
PROMISE = "it is a promise of which a CPU makes no use"
BUDGET = "it is for a budget: it costs time or memory, and changes no number"
EXPLICIT = "a test of the rule has it, on a mesh with explicit axes, which would stand around the whole comparison"
ENDLESS = "it does not end, and so use shows it, as it does an error"
AT_INFINITY = "it differs at x = ∞ alone: test_gammainc_at_infinity"
ROUNDED = "the engine gives a cotangent the type of its operand all the same"
PRECISION = (
    "a CPU multiplies as precisely whatever is asked for: test_filter_products_take_the_precision_of_each_operand"
)
IN_FLOAT32 = "on a CPU float32 is what bfloat16 accumulates in anyway; test_filter_products_are_rounded_once"
FLOAT64_BESIDE = "it is for float64 beside bfloat16: test_dot_general_vjp_of_a_wide_operand_accumulates_in_its_own_type"
