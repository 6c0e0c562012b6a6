"""A function and its arguments as a program."""

import pytest

from fnbackprop.comparing.program import first_line, make_program


@pytest.mark.parametrize("argnums", [3, (0, 4), ()])
def test_argnums_out_of_range(argnums):
    with pytest.raises(TypeError, match="must name some of the 3 arguments"):
        make_program(lambda a, b, c: a, (1.0, 2.0, 3.0), argnums, None)


def test_an_error_without_a_message_is_told():
    assert first_line(AssertionError()) == "AssertionError" and first_line(ValueError("a\nb")) == "ValueError: a"
