"""The progress line is on the terminal, or nowhere."""

from fnbackprop.comparing.show.status_line import StatusLine


def test_nothing_is_said_without_a_terminal(capsys):
    with StatusLine(None) as say:
        say("the manual gradient")
    assert capsys.readouterr() == ("", "")


def test_what_is_being_done_is_said(monkeypatch):
    import rich.console

    said = []
    monkeypatch.setattr("rich.status.Status.update", lambda self, text: said.append(text))
    with StatusLine(True) as say:
        say("the manual gradient")
    assert len(said) == 1 and said[0].startswith("comparing, 0 s: the manual gradient")
    assert rich.console
