"""Sampling follows the model's probabilities under every setting, from Python and from the command line."""

import copy
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from namemlp import NameModule, NamesDataModule, UserError, sampling
from namemlp.corpus import read_names
from tests.helpers import SMALL_LIST
from tests.processes import Command

LAST = "lightning_logs/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def tiny():
    """Two characters and the end mark, two characters of context, probabilities of all sizes."""
    return NameModule(".ab", context_length=2, embedding_dim=3, hidden_size=10, init="scaled", init_seed=5)


def name_probabilities(model, max_length, temperature=1.0, top_k=None):
    """The probability of every name, computed character by character."""
    network, characters = copy.deepcopy(model.network).double(), model.vocabulary.characters
    probabilities = Counter()

    def extend(name, probability):
        if len(name) == max_length:
            probabilities[name] += probability
            return
        context = model.vocabulary.encode("\0" * model.hparams.context_length + name)[-model.hparams.context_length :]
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
                probabilities[name] += probability * p
            else:
                extend(name + character, probability * p)

    extend("", 1.0)
    return probabilities


@pytest.mark.parametrize("table", [True, False], ids=["table", "no table"])
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, None), (1.0, 2), (0.7, 2)])
def test_frequencies_of_200_000_names_match_their_probabilities(tiny, monkeypatch, temperature, top_k, table):
    if not table:
        monkeypatch.setattr(sampling, "MAX_TABLE_SIZE", 0)
    probabilities = name_probabilities(tiny, 6, temperature, top_k)
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


def test_characters_with_probability_0_are_never_drawn(tiny):
    start = torch.zeros(3, 2, dtype=torch.int64)
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)  # 0 would be the end mark
    sums, likeliest = (sampling.running_sums(tiny.network, 3, 2, 1.0, top_k)(start) for top_k in (None, 1))
    assert 0 not in torch.searchsorted(sums, numbers[:, None], right=True)
    assert len(set(torch.searchsorted(likeliest, numbers[:, None], right=True)[:, 0].tolist())) == 1


def test_the_names_of_a_seed_do_not_depend_on_batches_or_the_table(tiny, monkeypatch):
    names = tiny.sample(3000, seed=7)
    assert tiny.sample(3000, seed=7) == names
    assert tiny.sample(3000, seed=8) != names
    for fewer in (1, 2, 5, 1111):
        assert tiny.sample(fewer, seed=7) == names[:fewer]
    monkeypatch.setattr(sampling, "MAX_BATCH_SIZE", 1000)  # batches of 8
    assert tiny.sample(3000, seed=7) == names
    monkeypatch.setattr(sampling, "MAX_TABLE_SIZE", 0)
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


def test_sampling_with_a_seed_leaves_the_global_generator_alone(tiny):
    before = torch.get_rng_state()
    tiny.sample(50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_prefix_and_length(tiny):
    names = tiny.sample(500, prefix="abba", max_length=7, seed=1)
    assert all(name.startswith("abba") for name in names)
    assert {len(name) for name in names} == {4, 5, 6, 7}
    assert tiny.sample(3, prefix="ab", max_length=2) == ["ab"] * 3
    assert min(len(name) for name in tiny.sample(5000, seed=1)) == 1  # never empty


def test_top_k_1_gives_the_likeliest_name(tiny):
    [(name, count)] = Counter(tiny.sample(100, top_k=1, max_length=30)).items()
    assert count == 100
    assert tiny.sample(1, temperature=1e-300, max_length=30) == [name]


def test_unique_names(tiny):
    names = tiny.sample(60, unique=True, seed=1)
    assert len(set(names)) == 60
    with_repeats = tiny.sample(5000, seed=1)
    assert names == list(dict.fromkeys(with_repeats))[:60]
    with pytest.raises(UserError, match=r"only 6 such names came in 1\d\d,\d\d\d draws: ask for fewer"):
        tiny.sample(7, unique=True, max_length=2)


@pytest.mark.parametrize(
    ("settings", "message"),
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
        (dict(prefix="a."), r"prefix 'a\.' has 1 character that the model does not know: '\.'; it knows ab"),
        (dict(prefix="a\0b"), r"prefix 'a\\x00b' has 1 character that the model does not know: '\\x00'; it knows ab"),
        (dict(prefix="\udcff"), "prefix '.udcff' has 1 character that the model does not know"),
        (dict(novel=True), "novel: it is not known which names this model was trained on; omit it"),
    ],
)
def test_invalid_settings_are_errors(tiny, settings, message):
    with pytest.raises(UserError, match=message):
        tiny.sample(**settings)


def test_sampling_with_weights_that_are_not_finite_is_an_error():
    model = NameModule(".ab")
    torch.nn.init.constant_(model.network.output.bias, torch.nan)
    with pytest.raises(UserError, match="weights are not finite"):
        model.sample()


def test_log_prob_is_that_of_the_whole_name(tiny):
    probabilities = name_probabilities(tiny, 12)
    names = [name for name in probabilities if len(name) < 5]
    # The model gives an empty name a probability, sampling gives it none.
    not_empty = 1 - torch.softmax(tiny(torch.zeros(1, 2, dtype=torch.int64)), 1)[0, 0].item()
    expected = [probabilities[name] * not_empty for name in names]
    assert tiny.log_prob(names).exp().tolist() == pytest.approx(expected, rel=1e-5)
    assert tiny.log_prob([]).shape == (0,)
    for name, unknown in {"xa": "'x'", "a.b": "'.'", "a\0b": r"'\x00'", "é.": "'.', 'é'"}.items():
        count = "2 characters" if name == "é." else "1 character"
        with pytest.raises(UserError) as error:
            tiny.log_prob(["ab", name, "ba"])
        assert str(error.value) == f"{name!r} has {count} that the model does not know: {unknown}"


def test_a_full_stop_is_a_character_like_others(tiny):
    dotted = NameModule("..b", **{k: v for k, v in tiny.hparams.items() if k != "vocabulary"})
    for prefix in ("", "baa"):
        names = tiny.sample(500, prefix, seed=3)
        dotted_names = [name.replace("a", ".") for name in names]
        assert dotted.sample(500, prefix.replace("a", "."), seed=3) == dotted_names
        assert torch.equal(dotted.log_prob(dotted_names), tiny.log_prob(names))


def test_names_with_full_stops_are_trained_on_and_found_again(fit, namemlp):
    names = [f"{kind}. {name}" for name in ("Ives", "Hood", "Ann", "Bee", "Elmo") for kind in ("St", "Mt", "Ft", "Pt")]
    Path("names.txt").write_text("\n".join(names * 10))
    settings = ("--model.context_length=6", "--optimizer.lr=0.5", "--model.init=scaled")
    fit(200, *settings, "--trainer.val_check_interval=100")
    fit(300, "--ckpt_path=last")
    model = NameModule.load_from_checkpoint(LAST)
    assert model.vocabulary.characters == ". .ABEFHIMPSdelmnostv"
    assert all(model.seen_in_training(names))
    drawn = namemlp("sample", "--ckpt_path=last", "--prefix=St.", "--num_names=50", "--seed=1").out.splitlines()
    assert all(name.startswith("St. ") for name in drawn)
    assert set(drawn) & set(names)
    assert not set(model.sample(50, seed=1, novel=True)) & set(names)
    lines = namemlp("predict", "--ckpt_path=last").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == names * 10
    values = [float(line.split("\t")[1]) for line in lines[:20]]
    assert values == pytest.approx(model.log_prob(names).tolist(), abs=1e-4)
    for command in ("validate", "test", "plot"):
        result = namemlp(command, "--ckpt_path=last")
        assert (result.code, result.err) == (0, "")
    Path("other.txt").write_text("Ava\n")
    result = namemlp("predict", "--ckpt_path=last", "--data.path=other.txt")
    assert result.err == "namemlp: error: other.txt has 1 character that the model does not know: 'a'\n"


def test_sampling_needs_only_the_checkpoint(fit, namemlp, tmp_path, monkeypatch):
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
    for line, name, log_prob in zip(scored.out.splitlines(), names, model.log_prob(names).tolist(), strict=True):
        assert line == f"{name}\t{log_prob:.4f}"
    written = namemlp(
        "sample", "--ckpt_path=model.ckpt", "--num_names=40", "--seed=5", "--prefix=Jü", "--output=new.txt"
    )
    assert (written.code, written.out) == (0, "")
    assert Path("new.txt").read_text(encoding="utf-8").splitlines() == names
    assert sorted(path.name for path in Path().iterdir()) == ["model.ckpt", "new.txt"]


def test_the_example_script_prints_names_of_its_model(folder):
    example = Path(__file__).parents[2] / "examples" / "fit_and_sample.py"
    code = example.read_text().replace("max_steps=50_000", "max_steps=200").replace("10_000", "100")
    Path("example.py").write_text(code)
    command = Command(script="example.py")
    *scored, started = command.result().splitlines()[-11:]
    assert command.err == ""  # no warnings, and none of Lightning's tips
    names = [line.split()[1] for line in scored]
    model = NameModule.load_from_checkpoint("names.ckpt")
    assert names == model.sample(10, temperature=0.8, seed=1, novel=True)
    assert started == str(model.sample(5, prefix="mari", top_k=5, seed=1))


def test_novel_names_are_in_no_split_of_the_list(fit, namemlp):
    fit(60, "--model.context_length=8", "--optimizer.lr=1", "--model.init=scaled")  # memorizes the ten names
    sample = ("sample", "--ckpt_path=last", "--num_names=300", "--seed=1")
    assert set(namemlp(*sample).out.splitlines()) & set(SMALL_LIST)
    novel = namemlp(*sample, "--novel", "--unique")
    names = novel.out.splitlines()
    assert len(set(names)) == 300, novel.err
    assert not set(names) & set(SMALL_LIST)
    model = NameModule.load_from_checkpoint(LAST)
    assert all(model.seen_in_training(SMALL_LIST))
    seen = model.seen_in_training(["emma", "emm", "emmaa", "amme", "bo", "ob", ""])
    assert seen == [True] + [False] * 3 + [True, False, False]


def test_a_run_resumed_with_another_list_has_seen_both(fit):
    fit(5)
    Path("other.txt").write_text("bob\nanna\neva\n" * 20)
    fit(10, "--ckpt_path=last", "--data.path=other.txt", "--allow_changes")
    assert NameModule.load_from_checkpoint(LAST).seen_in_training(["bob", "emma", "eve"]) == [True, True, False]


@pytest.mark.parametrize("command", ["sample", "plot"])
def test_weights_of_another_model_are_an_error(fit, namemlp, command):
    fit(5)
    checkpoint = torch.load(LAST, weights_only=True)
    checkpoint["state_dict"]["network.hidden.bias"] = torch.zeros(3)
    torch.save(checkpoint, "other.ckpt")
    result = namemlp(command, "--ckpt_path=other.ckpt")
    assert result.code == 2
    assert result.err.startswith("namemlp: error: other.ckpt does not hold the weights of its model: ")
    assert result.err.count("\n") == 1


def test_mistakes_on_the_command_line_are_one_line_errors(fit, namemlp):
    fit(5)
    for args, message in {
        ("--ckpt_path=none.ckpt",): "--ckpt_path none.ckpt: no such file; give a .ckpt file, or last for the newest "
        "run's last one",
        ("--ckpt_path=last", "--output=no/where.txt"): "no/where.txt cannot be written (No such file or directory): "
        "give another --output",
        ("--ckpt_path=last", "--num_names=many"): "invalid value many for num_names (see --help)",
        ("--ckpt_path=last", "--top_k=0"): "top_k is 0: it must be at least 1",
    }.items():
        result = namemlp("sample", *args)
        assert (result.code, result.out, result.err) == (2, "", f"namemlp: error: {message}\n")


def test_without_a_checkpoint_the_bundled_model_is_sampled(namemlp):
    result = namemlp("sample", "--num_names=50", "--seed=1", "--novel")
    assert (result.code, result.err) == (0, "sampling the bundled model; your own: --ckpt_path last\n")
    names = result.out.splitlines()
    assert len(names) == 50
    assert not set(names) & set(read_names())
    path = files("namemlp") / "names.ckpt"
    assert path.stat().st_size <= 200_000
    data = NamesDataModule(context_length=6)
    data.setup("fit")
    model = NameModule.load_from_checkpoint(path)
    assert model.evaluate(data.val_dataloader())["loss"] == pytest.approx(2.0286, abs=1e-3)
    assert namemlp("sample", "--apart=2", "--num_names=5", "--seed=1").code == 0  # it finds its list


def test_top_k_1_gives_one_name_only():
    model = NameModule(".ab", hidden_size=10)
    with pytest.raises(UserError, match=r"only 1 such names came in 1\d\d,\d\d\d draws: with top_k 1 all are the same"):
        model.sample(2, top_k=1, unique=True, seed=1)
