"""New names: drawn as the model says, in every way that they can be asked for."""

import copy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from namemlp import NameModule, UserError, sampling
from tests.conftest import SMALL_LIST

LAST = "lightning_logs/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def tiny():
    """Two characters and the end mark, two characters of context, probabilities of all sizes."""
    return NameModule(".ab", context_length=2, embedding_dim=3, hidden_size=10, init="scaled", init_seed=5)


def exact(model, max_length, temperature=1.0, top_k=None):
    """The probability of every name, worked out one character after the other."""
    network, characters = copy.deepcopy(model.network).double(), model.vocabulary.characters
    found = Counter()

    def go_on(name, probability):
        if len(name) == max_length:
            found[name] += probability
            return
        context = model.vocabulary.encode("." * model.hparams.context_length + name)[-model.hparams.context_length :]
        with torch.no_grad():
            logits = network(context[None])[0] / temperature
        if not name:
            logits[0] = -torch.inf
        order = logits.argsort(descending=True)
        if top_k is not None:
            logits[order[top_k:]] = -torch.inf
        for character, p in zip(characters, logits.softmax(0).tolist(), strict=True):
            if p == 0:
                continue
            if character == ".":
                found[name] += probability * p
            else:
                go_on(name + character, probability * p)

    go_on("", 1.0)
    return found


@pytest.mark.parametrize("table", [True, False], ids=["table", "no table"])
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, None), (1.0, 2), (0.7, 2)])
def test_200_000_names_are_as_frequent_as_the_model_says(tiny, monkeypatch, temperature, top_k, table):
    if not table:
        monkeypatch.setattr(sampling, "LARGEST_TABLE", 0)
    probabilities = exact(tiny, 6, temperature, top_k)
    assert sum(probabilities.values()) == pytest.approx(1)
    n = 200_000
    drawn = Counter(tiny.sample(n, temperature=temperature, top_k=top_k, max_length=6, seed=1))
    assert drawn.keys() <= probabilities.keys()
    # Pearson's statistic over all names that are expected at least 5 times, and the others together.
    often = [name for name, p in probabilities.items() if n * p >= 5]
    cells = [(drawn[name], n * probabilities[name]) for name in often]
    rest = n - sum(seen for seen, _ in cells), n - sum(expected for _, expected in cells)
    cells += [rest] if rest[1] >= 5 else []
    chi_square = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    freedom = len(cells) - 1
    assert len(cells) > 10
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5  # its mean and standard deviation


def test_what_has_no_probability_is_never_drawn(tiny):
    start = torch.zeros(3, 2, dtype=torch.int64)
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)  # 0 would be the end mark
    assert 0 not in sampling.NextCharacters(tiny.network, 3, 2, 1.0, None).draw(start, numbers)
    assert len(set(sampling.NextCharacters(tiny.network, 3, 2, 1.0, 1).draw(start, numbers).tolist())) == 1


def test_the_names_of_a_seed_do_not_depend_on_how_they_are_drawn(tiny, monkeypatch):
    names = tiny.sample(3000, seed=7)
    assert tiny.sample(3000, seed=7) == names
    assert tiny.sample(3000, seed=8) != names
    for fewer in (1, 2, 5, 1111):
        assert tiny.sample(fewer, seed=7) == names[:fewer]
    monkeypatch.setattr(sampling, "PART", 1000)  # batches of 8
    assert tiny.sample(3000, seed=7) == names
    monkeypatch.setattr(sampling, "LARGEST_TABLE", 0)
    assert tiny.sample(3000, seed=7) == names
    some = tiny.sample(500, seed=7, unique=True)
    monkeypatch.undo()
    assert tiny.sample(500, seed=7, unique=True) == some


def test_large_seeds_differ(tiny):
    assert len({tuple(tiny.sample(20, seed=seed)) for seed in (0, 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)}) == 6


def test_without_a_seed_names_differ_unless_torch_is_seeded(tiny):
    assert tiny.sample(50) != tiny.sample(50)
    torch.manual_seed(3)
    names = tiny.sample(50)
    torch.manual_seed(3)
    assert tiny.sample(50) == names


def test_a_seed_draws_nothing_from_the_generators_of_training(tiny):
    before = torch.get_rng_state()
    tiny.sample(50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_prefix_and_length(tiny):
    names = tiny.sample(500, prefix="abba", max_length=7, seed=1)
    assert all(name.startswith("abba") for name in names)
    assert {len(name) for name in names} == {4, 5, 6, 7}
    assert tiny.sample(3, prefix="ab", max_length=2) == ["ab"] * 3
    assert min(len(name) for name in tiny.sample(5000, seed=1)) == 1  # never empty


def test_the_likeliest_character_alone_makes_one_name(tiny):
    [(name, count)] = Counter(tiny.sample(100, top_k=1, max_length=30)).items()
    assert count == 100
    assert tiny.sample(1, temperature=1e-300, max_length=30) == [name]


def test_names_that_are_to_differ_do(tiny):
    names = tiny.sample(60, unique=True, seed=1)
    assert len(set(names)) == 60
    everyone = tiny.sample(5000, seed=1)
    assert names == list(dict.fromkeys(everyone))[:60]
    with pytest.raises(UserError, match=r"only 6 such names came in 1\d\d,\d\d\d draws: ask for fewer"):
        tiny.sample(7, unique=True, max_length=2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(num_names=0), "num_names is 0: it must be at least 1"),
        (dict(num_names=10**9), "num_names is 1,000,000,000: at most 100,000,000 are held at once"),
        (dict(top_k=0), "top_k is 0: it must be at least 1"),
        (dict(temperature=0.0), "temperature is 0.0: it must be above 0; top_k 1 takes the likeliest character"),
        (dict(temperature=float("nan")), "temperature is nan: "),
        (dict(seed=-1), r"seed is -1: it must be from 0 to 2\*\*64 - 1"),
        (dict(max_length=0), "max_length is 0: it must be at least 1"),
        (dict(max_length=20_000), "max_length is 20000: it must be from 1 to 10,000"),
        (dict(max_length=2, prefix="aba"), "max_length is 2: it must be from 3, as long as the prefix, to 10,000"),
        (dict(prefix="aéb"), "prefix 'aéb' has 1 character that the model does not know: 'é'; it knows ab"),
        (dict(prefix="a."), "prefix 'a.': '.' inside a name is not allowed"),
        (dict(prefix="\udcff"), "prefix '.udcff' has 1 character that the model does not know"),
        (dict(novel=True), "novel: this model does not tell which names it was trained on: leave it out"),
    ],
)
def test_what_cannot_be_drawn_is_told(tiny, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny.sample(**settings)


def test_weights_that_are_not_finite_give_no_names():
    model = NameModule(".ab")
    torch.nn.init.constant_(model.network.output.bias, torch.nan)
    with pytest.raises(UserError, match="weights are not finite"):
        model.sample()


def test_scores_are_the_probabilities_of_names(tiny):
    probabilities = exact(tiny, 12)
    names = [name for name in probabilities if len(name) < 5]
    start = 1 - torch.softmax(tiny(torch.zeros(1, 2, dtype=torch.int64)), 1)[0, 0].item()  # that a name is not empty
    expected = [probabilities[name] * start for name in names]
    assert tiny.score(names).exp().tolist() == pytest.approx(expected, rel=1e-5)
    assert tiny.score([]).shape == (0,)
    with pytest.raises(UserError, match="'xa' has 1 character that the model does not know: 'x'"):
        tiny.score(["ab", "xa"])


def test_a_checkpoint_is_enough(fit, namemlp, tmp_path, monkeypatch):
    fit(30)
    (tmp_path / "empty").mkdir()
    shutil.copy(LAST, tmp_path / "empty" / "model.ckpt")
    shutil.rmtree("lightning_logs")
    Path("names.txt").unlink()
    monkeypatch.chdir(tmp_path / "empty")
    names = namemlp("sample", "--ckpt_path=model.ckpt", "--num_names=40", "--seed=5", "--prefix=Jü")
    assert (names.code, names.err) == (0, "")
    names = names.out.splitlines()
    assert len(names) == 40
    assert all(name.startswith("Jü") for name in names)
    model = NameModule.load_from_checkpoint("model.ckpt")
    assert model.sample(40, seed=5, prefix="Jü") == names

    scored = namemlp("sample", "--ckpt_path=model.ckpt", "--num_names=40", "--seed=5", "--prefix=Jü", "--scores")
    for line, name, score in zip(scored.out.splitlines(), names, model.score(names).tolist(), strict=True):
        assert line == f"{name}\t{score:.4f}"
    written = namemlp(
        "sample", "--ckpt_path=model.ckpt", "--num_names=40", "--seed=5", "--prefix=Jü", "--output=new.txt"
    )
    assert (written.code, written.out) == (0, "")
    assert Path("new.txt").read_text(encoding="utf-8").splitlines() == names
    assert sorted(path.name for path in Path().iterdir()) == ["model.ckpt", "new.txt"]


def test_the_example_goes_from_a_list_to_new_names(folder):
    example = Path(__file__).parent.parent / "examples" / "fit_and_sample.py"
    code = example.read_text().replace("max_steps=50_000", "max_steps=200").replace("10_000", "100")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *scored, started = run.stdout.splitlines()[-11:]
    names = [line.split()[1] for line in scored]
    model = NameModule.load_from_checkpoint("names.ckpt")
    assert names == model.sample(10, temperature=0.8, seed=1, novel=True)
    assert started == str(model.sample(5, prefix="mari", top_k=5, seed=1))


def test_novel_names_are_in_no_split_of_the_list(fit, namemlp):
    fit(60, "--model.context_length=8", "--optimizer.lr=1", "--model.init=scaled")  # learns the ten names by heart
    sample = ("sample", "--ckpt_path=last", "--num_names=300", "--seed=1")
    assert set(namemlp(*sample).out.splitlines()) & set(SMALL_LIST)
    novel = namemlp(*sample, "--novel", "--unique")
    names = novel.out.splitlines()
    assert len(set(names)) == 300, novel.err
    assert not set(names) & set(SMALL_LIST)
    model = NameModule.load_from_checkpoint(LAST)
    assert all(model.knows(SMALL_LIST))
    assert model.knows(["emma", "emm", "emmaa", "amme", "bo", "ob", ""]) == [True] + [False] * 3 + [True, False, False]


def test_a_model_trained_on_with_another_list_knows_both(fit):
    fit(5)
    Path("other.txt").write_text("bob\nanna\neva\n" * 20)
    fit(10, "--ckpt_path=last", "--data.path=other.txt", "--allow_changes")
    assert NameModule.load_from_checkpoint(LAST).knows(["bob", "emma", "eve"]) == [True, True, False]


@pytest.mark.parametrize("command", ["sample", "plot"])
def test_a_checkpoint_with_other_weights_is_refused(fit, namemlp, command):
    fit(5)
    checkpoint = torch.load(LAST, weights_only=True)
    checkpoint["state_dict"]["network.hidden.bias"] = torch.zeros(3)
    torch.save(checkpoint, "other.ckpt")
    result = namemlp(command, "--ckpt_path=other.ckpt")
    assert result.code == 2
    assert result.err.startswith("namemlp: error: other.ckpt does not hold the weights of its model: ")
    assert result.err.count("\n") == 1


def test_mistakes_on_the_command_line_end_in_a_sentence(fit, namemlp):
    fit(5)
    for args, sentence in {
        (): "sample needs a checkpoint: --ckpt_path last, or the path of one",
        ("--ckpt_path=none.ckpt",): "--ckpt_path none.ckpt: no such file; give a .ckpt file, or last for the newest "
        "run's last one",
        ("--ckpt_path=last", "--output=no/where.txt"): "no/where.txt cannot be written (No such file or directory): "
        "give another --output",
        ("--ckpt_path=last", "--num_names=many"): "num_names cannot be many; give what --help shows",
        ("--ckpt_path=last", "--top_k=0"): "top_k is 0: it must be at least 1",
    }.items():
        result = namemlp("sample", *args)
        assert (result.code, result.out, result.err) == (2, "", f"namemlp: error: {sentence}\n")
