"""``pyro-priors list`` and ``--version``."""

import re
from dataclasses import dataclass

import pytest

import pyro_priors as pp
from pyro_priors import experiments, metrics
from pyro_priors.cli.list import GROUPS, help_of, summary
from pyro_priors.cli.main import main
from pyro_priors.priors.base import PRIORS
from pyro_priors.registry import Entry


def lines(capsys, *arguments):
    assert main(["list", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def names(rows):
    return [row.split()[0] for row in rows]


def test_list_shows_every_group_with_a_line_for_each(capsys):
    groups = {}
    for row in lines(capsys):
        if row and not row.startswith(" "):
            groups[row] = []
        elif row:
            groups[[*groups][-1]].append(row)
    assert [*groups] == [*GROUPS]
    assert names(groups["presets"]) == pp.names()
    assert names(groups["families"]) == ["cp_vae", "cvae", "hvae", "vae"]
    assert names(groups["priors"]) == list(PRIORS)
    assert names(groups["networks"]) == ["conv", "mlp"]
    assert names(groups["likelihoods"]) == list(pp.nn.likelihoods.LIKELIHOODS)
    assert names(groups["objectives"]) == sorted(pp.objectives.OBJECTIVES)
    assert names(groups["data"]) == [*pp.data.names(), "FILE.npz"]
    assert names(groups["metrics"]) == list(metrics.METRICS)
    assert names(groups["experiments"]) == sorted(experiments.names())
    # each is described
    assert all(len(row.split()) > 2 for rows in groups.values() for row in rows)
    marked = [row.split()[0] for row in groups["metrics"] if row.endswith("(only if it is named)")]
    assert sorted(marked) == sorted(metrics.ON_REQUEST)


@pytest.mark.parametrize("name", [*GROUPS, *(group.singular for group in GROUPS.values())])
def test_list_shows_one_group(name, capsys):
    found = lines(capsys, name)
    group = next(group for key, group in GROUPS.items() if name in (key, group.singular))
    assert set(names(found)) == {*group.values(), *(["FILE.npz"] if name == "data" else [])}


@pytest.mark.parametrize("group", GROUPS)
def test_list_describes_every_part_and_its_options(group, capsys):
    for name, value in GROUPS[group].values().items():
        first, *rows = lines(capsys, f"{group}.{name}")
        assert first == f"{name}: {GROUPS[group].text(value)}"
        options = [row.split()[0] for row in rows if row.startswith("  --")]
        if GROUPS[group].options is not None:
            known = help_of(GROUPS[group].options(value))
            assert len(options) == len(known.keys() - {"condition_shape", "x_shape"})
            assert all(text for _, text in known.values()), f"an option of {name} is not described"


def test_options_are_listed_with_defaults_and_texts(capsys):
    rows = [" ".join(row.split()) for row in lines(capsys, "prior.flow")]
    assert "--prior.num-transforms 6 Number of transforms." in rows
    assert "--prior.hidden-features 64 64 Sizes of the hidden layers in each transform." in rows
    assert "--objective.beta 4.0" in " ".join(" ".join(lines(capsys, "objective.beta")).split())
    assert lines(capsys, "prior.standard")[1:] == ["no options"]
    assert lines(capsys, "preset.cvae")[1:] == ["options: pyro-priors train cvae --help"]


def test_what_a_plugin_registers_is_listed(monkeypatch, capsys):
    @dataclass(frozen=True)
    class Own(pp.priors.PriorOptions):
        """A prior of somebody's own. It has a second sentence."""

        df: float = 5.0
        """Degrees of freedom."""

    monkeypatch.setitem(PRIORS._entries, "own_prior", Entry("own_prior", Own))
    rows = [" ".join(row.split()) for row in lines(capsys, "priors")]
    assert "own_prior A prior of somebody's own" in rows
    assert [" ".join(row.split()) for row in lines(capsys, "prior.own_prior")][-1] == (
        "--prior.df 5.0 Degrees of freedom."
    )


def test_a_summary_is_one_line_without_markup():
    def function():
        """As :func:`~pyro_priors.data.mnist` of
        ``x`` (Lavda et al. 2019), here. More."""

    assert summary(function) == "As mnist of x (Lavda et al. 2019), here"
    function.__doc__ = "word " * 20 + "; " + "word " * 20
    assert summary(function).split() == ["word"] * 20
    function.__doc__ = "word " * 50
    assert summary(function).endswith("word ...") and len(summary(function)) <= 120
    function.__doc__ = None
    assert summary(function) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prior"], None),
        (["prios"], "group 'prios' is unknown: did you mean 'priors'?"),
        (["prior.flo"], "prior 'flo' is unknown: did you mean 'flow'?"),
        (["prior."], "prior '' is unknown: choose one of cdv, "),
        (["priors", "more"], "list cannot use the argument more: give one group"),
        (["--all"], "list has no option --all: give one group"),
    ],
)
def test_a_wrong_group_is_one_line(arguments, message, capsys):
    status = main(["list", *arguments])
    assert status == (0 if message is None else 2)
    error = capsys.readouterr().err
    assert error == "" if message is None else message in error and error.count("\n") == 1


def test_help_of_list_names_the_groups(capsys):
    assert main(["list", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in GROUPS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(
        rf"pyro-priors {re.escape(pp.__version__)} \(Python 3\.\S+, torch \S+, Pyro \S+\)\n", capsys.readouterr().out
    )
