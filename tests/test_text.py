"""Laws of text as data: files of one content, numbers of words, a known entropy."""

import hashlib
import io
import lzma

import numpy as np
import pytest

from vnets import data
from vnets.data import automaton, text
from vnets.data.types import digest

pytestmark = pytest.mark.usefixtures("places")  # not this machine's own data


def bring(monkeypatch, folder, origin, contents, packed=False):
    """Lays files of some content where those of an origin would lie."""
    (folder / origin.folder).mkdir(parents=True)
    files = {}
    for key, content in contents.items():
        name = origin.files[key].name
        files[key] = text.File(name, hashlib.sha256(content).hexdigest())
        path = folder / origin.folder / (f"{name}.xz" if packed else name)
        path.write_bytes(lzma.compress(content) if packed else content)
    name = next(key for key, value in vars(text).items() if value is origin)
    monkeypatch.setattr(text, name, origin._replace(files=files))


def test_words_are_numbered_by_how_common_they_are():
    assert text.words("It's GOOD.<br />very good") == ["it's", "good", "very", "good"]
    known = text.commonest(["b", "a", "c", "c"], 2)
    assert known == {"c": 0, "a": 1}


def test_rows_are_padded_in_front_and_lose_their_ends():
    rows = [[1, 5], [], [1, 2, 3, 4]]
    assert text.padded(rows, 3).tolist() == [[0, 1, 5], [0, 0, 0], [1, 2, 3]]


@pytest.mark.parametrize("packed", [False, True])
def test_sentences_have_a_test_set_of_their_own(packed, places, monkeypatch):
    lines = [f"good film number {n}\n" for n in range(700)]
    pos = "".join(lines).encode()
    neg = pos.replace(b"good", b"dull")
    bring(
        monkeypatch,
        places[0],
        text.RT_POLARITY,
        {"pos": pos, "neg": neg},
        packed=packed,
    )
    loaded = data.load("rt_polarity", validation=40)
    assert loaded.validation is not None
    sizes = [len(s) for s in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [198, 40, 1162]
    assert loaded.test.target.mean() == 0.5
    rows = loaded.train.inputs
    assert rows.shape[1] == 50
    assert (rows[:, -5] == text.START).all()
    assert (rows[:, :-5] == 0).all()
    # "film" and "number" are in every sentence of the training part.
    assert set(np.unique(rows[:, [-3, -2]])) == {text.FIRST, text.FIRST + 1}
    unseen = np.setdiff1d(loaded.test.inputs, data.load("rt_polarity").train.inputs)
    assert set(unseen) <= {text.UNKNOWN}


def test_articles_are_of_four_topics(places, monkeypatch):
    lines = "".join(f'"{1 + n % 4}","Title","And, text"\n' for n in range(2000))
    bring(monkeypatch, places[0], text.AGNEWS, {"test": lines.encode()})
    loaded = data.load("agnews_test_part")
    assert (len(loaded.train), len(loaded.test), loaded.classes) == (1000, 1000, 4)
    assert np.bincount(loaded.test.target).tolist() == [250] * 4


def test_a_stream_has_the_next_token_as_its_target(places, monkeypatch):
    lines = {
        "train": b" a b <unk> \n a c \n",
        "validation": b" a b \n",
        "test": b" c zebra a \n",
    }
    bring(monkeypatch, places[0], text.PTB, lines)
    with pytest.raises(data.DataError, match="a next outside"):
        data.load("ptb_chars")  # "z" is in no training text and has no "<unk>"
    with pytest.raises(data.DataError, match="has a validation split of its own"):
        data.load("ptb_2k", validation=1)
    words = data.load("ptb_2k")
    # By count, then by spelling: <eos> and a twice, then <unk>, b, c.
    assert words.train.inputs.tolist() == [1, 3, 2, 0, 1, 4]
    assert words.train.target.tolist() == [3, 2, 0, 1, 4, 0]
    assert words.test.inputs.tolist() == [4, 2, 1]
    assert words.validation is not None
    assert words.validation.target.tolist() == [3, 0]
    assert set(words.checksum) == {"train", "validation", "test"}


def archive(**arrays):
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


def test_reviews_are_checked_by_what_they_say(places, monkeypatch):
    tokens = np.arange(1, 7, dtype=np.uint16)
    parts = {
        "tokens": tokens,
        "length": np.array([4, 2], np.int32),
        "label": np.array([0, 1], np.uint8),
    }
    monkeypatch.setattr(text, "IMDB_SIZE", 2)
    both = {"train": archive(**parts), "test": archive(**parts)}
    bring(monkeypatch, places[0], text.IMDB, both)
    with pytest.raises(data.DataError, match=r"reviews that it should.*aclImdb"):
        data.load("imdb")
    files = {
        key: file._replace(sha256=digest(tokens))
        for key, file in text.IMDB.files.items()
    }
    monkeypatch.setattr(text, "IMDB", text.IMDB._replace(files=files))
    loaded = data.load("imdb")
    assert loaded.train.inputs.shape == (2, 200)
    assert loaded.test.inputs[1, -3:].tolist() == [0, 5, 6]


@pytest.mark.parametrize("name", ["imdb", "rt_polarity", "agnews_test_part", "ptb_2k"])
def test_what_is_missing_or_other_is_named(name, places):
    origin = {
        "imdb": text.IMDB,
        "rt_polarity": text.RT_POLARITY,
        "agnews_test_part": text.AGNEWS,
        "ptb_2k": text.PTB,
    }[name]
    with pytest.raises(data.DataError) as raised:
        data.load(name, download=True)
    told = str(raised.value)
    assert str(places[0] / origin.folder) in told
    assert origin.source in told
    (places[0] / origin.folder).mkdir(parents=True)
    for file in origin.files.values():
        (places[0] / origin.folder / file.name).write_bytes(b"something else")
    with pytest.raises(data.DataError) as raised:
        data.load(name)
    told = str(raised.value)
    assert str(places[0] / origin.folder) in told
    assert origin.source in told
    for file in origin.files.values():
        path = places[0] / origin.folder / file.name
        path.rename(path.with_name(f"{file.name}.xz"))
    with pytest.raises(data.DataError, match="is damaged"):
        data.load(name)


def test_no_model_is_better_than_the_automaton(assert_mean):
    probability, following = automaton.rules()
    written = automaton.written(20_000, 5)
    state, costs = 0, []
    for symbol in written:
        costs.append(-np.log(probability[state, symbol]))
        state = following[state, symbol]
    rate = automaton.entropy_rate()
    error = np.std(costs) / np.sqrt(len(costs))
    assert abs(np.mean(costs) - rate) < 4 * error
    # Of pairs alone it is not known: what came long before counts.
    pairs = np.zeros((automaton.SYMBOLS,) * 2)
    np.add.at(pairs, (written[:-1], written[1:]), 1)
    given = pairs / pairs.sum(1, keepdims=True)
    log = np.log(given, out=np.zeros_like(given), where=given > 0)
    assert -(pairs / pairs.sum() * log).sum() > rate + 0.2


def test_the_automaton_writes_the_same_text_for_ever():
    loaded = data.load("automaton")
    assert loaded.train.inputs[:12].tolist() == [4, 0, 0, 0, 7, 5, 0, 0, 0, 7, 4, 1]
    assert [len(s) for s in (loaded.train, loaded.test)] == [100_000, 100_000]
    np.testing.assert_array_equal(loaded.train.inputs[1:], loaded.train.target[:-1])
