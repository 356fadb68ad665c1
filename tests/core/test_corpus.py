"""Messages that are signed once: the same again, whole or not there, and never too old."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cbor2
import msgspec
import pytest

from ingest.core.device import Algorithm
from loadtest.corpus import Content, Corpus, Order, cache_of, provide
from loadtest.corpus.cache import AGE_S_MAX, About
from loadtest.corpus.content import WRITERS, write

NOW_S = 1_800_000_000.0
ORDER = Order(devices=3, messages=7, samples=10)
WAIT_S_MAX = 30.0


def quiet(_done: int, _of: int) -> None:
    pass


def claims(value: bytes) -> dict[int, object]:
    header: dict[int, dict[int, object]] = cbor2.loads(cbor2.loads(value).value[0])
    return header[15]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return provide(ORDER, tmp_path_factory.mktemp("corpora"), quiet)


def place(corpus: Corpus) -> Path:
    return corpus.registrations.parent


def test_an_order_always_gives_the_same_messages() -> None:
    assert list(write(ORDER, NOW_S, 0, 7)) == list(write(ORDER, NOW_S, 0, 7))
    other = msgspec.structs.replace(ORDER, seed=2)
    assert not {*write(ORDER, NOW_S, 0, 7)} & {*write(other, NOW_S, 0, 7)}


def test_devices_take_turns_and_count_on_from_one_stretch_to_the_next() -> None:
    said = [claims(value) for value in (*write(ORDER, NOW_S, 0, 4), *write(ORDER, NOW_S, 4, 7))]
    assert [one[2] for one in said] == [f"load-1-{number:06d}" for number in (0, 1, 2, 0, 1, 2, 0)]
    assert [said[3][-70002], said[6][-70002]] == [said[0][-70002] + 1, said[0][-70002] + 2]  # type: ignore[operator]
    assert all(NOW_S - 1 <= float(str(one[6])) <= NOW_S for one in said)


@pytest.mark.parametrize("samples", [1, 10, 50])
def test_each_message_has_as_many_samples_as_were_ordered(samples: int) -> None:
    order = msgspec.structs.replace(ORDER, samples=samples, algorithm=Algorithm.P256)
    for value in write(order, NOW_S, 0, 3):
        payload = cbor2.loads(value).value[2]
        assert payload[10] == samples * 2  # a zigzag varint


def test_every_content_has_its_writer() -> None:
    assert set(WRITERS) == set(Content)
    honest = set(write(ORDER, NOW_S, 0, 3))
    for content in set(Content) - {Content.HONEST}:
        assert not honest & set(write(msgspec.structs.replace(ORDER, content=content), NOW_S, 0, 3)), content


def test_what_is_read_is_what_was_written(made: Corpus) -> None:
    assert list(made) == list(write(ORDER, made.about.made_at_s, 0, 7))
    assert [made[index] for index in range(7)] == list(made)
    assert list(made.values(2, 5)) == list(made)[2:5]
    assert [claims(value)[2] for value in made] == [made.device_ids()[made.number(index)] for index in range(7)]
    registered = [msgspec.json.decode(line)["device_id"] for line in made.registrations.read_bytes().splitlines()]
    assert registered == made.device_ids()


def test_it_is_signed_once(made: Corpus) -> None:
    assert provide(ORDER, place(made).parent, quiet).about == made.about


@pytest.mark.parametrize("spoiled", ["old", "from the future", "of another format", "cut off", "not there"])
def test_one_that_is_unfit_is_made_again(tmp_path: Path, spoiled: str) -> None:
    made = provide(ORDER, tmp_path, quiet)
    about, envelopes = place(made) / "about.json", place(made) / "envelopes"
    known = msgspec.json.decode(about.read_bytes(), type=About)
    changes: dict[str, dict[str, float]] = {
        "old": {"made_at_s": time.time() - AGE_S_MAX - 1},
        "from the future": {"made_at_s": time.time() + 60},
        "of another format": {"format": known.format + 1},
    }
    about.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, **changes.get(spoiled, {}))))
    if spoiled == "cut off":
        envelopes.write_bytes(envelopes.read_bytes()[:-9])
    if spoiled == "not there":
        envelopes.unlink()
    again = provide(ORDER, tmp_path, quiet)
    assert again.about.made_at_s > known.made_at_s
    assert len(list(again)) == 7


def test_one_whose_making_broke_off_leaves_nothing(tmp_path: Path) -> None:
    def give_up(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provide(ORDER, tmp_path, give_up)
    assert list(tmp_path.iterdir()) == []


def test_one_whose_making_was_killed_is_no_corpus_and_is_swept_away(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from loadtest.corpus import Order, provide\n"
        f"if __name__ == '__main__': provide(Order(10, 10**6), Path({str(tmp_path)!r}), lambda done, of: None)\n"
    )
    script = tmp_path / "make.py"
    script.write_text(program)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    maker = subprocess.Popen([sys.executable, str(script)], env=environ, start_new_session=True)
    try:
        until = time.monotonic() + WAIT_S_MAX
        while not list(tmp_path.glob(".*")) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
    script.unlink()
    assert [path.name.startswith(".") for path in tmp_path.iterdir()] == [True]
    made = provide(ORDER, tmp_path, quiet)
    assert list(tmp_path.iterdir()) == [place(made)]


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_of(None) == tmp_path / "weighbridge" / "corpora"
    assert cache_of(tmp_path / "mine") == tmp_path / "mine"
