"""Batch prediction: offsets on the original text, pieces of files, resuming in the middle, no text in logs."""

import csv
import io
import json
import subprocess

import pytest
from command import call, command, everything_written
from hypothesis import given, settings
from hypothesis import strategies as st

from pentad.core.errors import NoInputError
from pentad.nlp.documents import Document
from pentad.nlp.infer import PredictRequest, answer
from pentad.nlp.page import highlight
from pentad.nlp.predict import Entity
from pentad.nlp.predictors import load_predictor
from pentad.nlp.streams import StreamConfig, Unreadable, find_chunks, read_chunk

SECRET = "zebrafinch"


def predict(model, out, *inputs, **options):
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return call(
        "nlp", "predict", *inputs, "-o", out, "--model", model, "--run", "r", "--quiet", "--device", "cpu", *flags
    )


def lines(run):
    files = sorted((run / "cases").glob("*/predictions.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def tagger(tagged):
    return load_predictor(str(tagged / "bundles" / "bert_tokens"), "cpu")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["क्षि ", "👩‍👩‍👧", "שלום ", "\u0000", "e\u0301", "\ud800", "🇮🇳 "]), st.text(max_size=3)
        ),
        max_size=12,
    ).map("".join)
)
def test_entities_lie_in_the_original_text_in_order_and_never_overlap(tagger, text):
    import regex

    found = tagger.run([Document("x", text)])[0].found
    edges = {0, len(text), *(match.start() for match in regex.finditer(r"\X", text))}
    places = [place for entity in found for place in (entity.start, entity.end)]
    assert places == sorted(places)
    assert set(places) <= edges
    assert all(0 <= entity.score <= 1 for entity in found)


def test_a_line_of_a_hundred_thousand_characters_is_tagged_through_windows(tagger):
    text = "सुनेला हसले " * 8400
    one = tagger.run([Document("x", text)])[0]
    assert len(text) > 100_000
    assert len(one.tags) == 16_800


def test_a_document_is_tagged_alike_alone_and_in_company(tagger):
    documents = [Document(str(n), "सुनेला कामो हसले " * n) for n in range(1, 9)]
    together = tagger.run(documents)
    assert [one.tags for one in together] == [tagger.run([document])[0].tags for document in documents]


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "conll"])
def test_pieces_of_a_file_hold_every_document_once_and_in_order(tmp_path, kind):
    rows = [f'row {n}, "quoted"\nand broken' if n % 5 == 0 else f"row {n}" for n in range(300)]
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("text", "other"), *((row, "y") for row in rows)])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    elif kind == "conll":
        rows = [f"row {n}" for n in range(300)]
        path.write_text("\n".join(f"row\n{n}\n" for n in range(300)))
    else:
        rows = [f"row {n}" for n in range(300)]
        path.write_text("\n".join(rows))
    config = StreamConfig(chunk_bytes=500)
    cases, refused = find_chunks([path], config)
    assert len(cases) > 4
    assert refused == []
    assert [document.text for case in cases for document in read_chunk(case, config)] == rows


def test_what_cannot_be_read_is_said_line_by_line_and_the_rest_goes_on(tmp_path, classified):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(
        b'{"text": "fine"}\n{"text": 1\n{"txt": "x"}\n{"text": "\xff"}\n{"text": " "}\n'
    )
    (tmp_path / "in" / "b.csv").write_text("text,n\nfine,1\nragged,1,2\nalso fine,2\n")
    (tmp_path / "in" / "c.parquet").write_bytes(b"PAR1")
    (tmp_path / "in" / "d.txt").write_bytes("a\n".encode("utf-16"))
    (tmp_path / "in" / "e.txt").write_text("\n\n")
    (tmp_path / "in" / "f.csv").write_text("text,text\na,b\n")
    done = predict(classified / "bundles" / "char_tfidf", tmp_path / "out", tmp_path / "in")
    assert done.code == 3
    found = lines(tmp_path / "out" / "r")
    codes = [line["error"]["code"] for line in found if "error" in line]
    assert codes == ["PTD-775", "PTD-772", "PTD-766", "PTD-773", "PTD-770"]
    assert sum("label" in line for line in found) == 3
    rows = {
        row["id"]: (row["status"], row["code"])
        for row in csv.DictReader((tmp_path / "out" / "r" / "worklist.csv").open())
    }
    assert rows["c.parquet"] == ("rejected", "PTD-799")
    assert rows["e.txt"] == ("rejected", "PTD-800")
    assert rows["d.txt"] == ("rejected", "PTD-766")
    assert rows["f.csv-000001"] == ("failed", "PTD-816")


def test_a_quote_without_its_pair_does_not_swallow_a_huge_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\n"never closed\n' + ("x" * 999 + "\n") * 68_000)
    cases, refused = find_chunks([path], StreamConfig())
    assert (cases, [item.code for item in refused]) == ([], ["PTD-801"])
    assert len(find_chunks([path], StreamConfig(quoting=False))[0]) > 60


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pentad.nlp.reading.MAX_LINE_BYTES", 1000)
    (tmp_path / "a.txt").write_text("x" * 5000 + "\nshort\n")
    cases, refused = find_chunks([tmp_path / "a.txt"], StreamConfig())
    assert (cases, [item.code for item in refused]) == ([], ["PTD-768"])


def test_a_run_goes_on_in_the_middle_of_a_file(tmp_path, classified):
    path = tmp_path / "posts.txt"
    path.write_text("".join(f"the red fox {n}\n" for n in range(150)))
    model = classified / "bundles" / "char_tfidf"
    assert predict(model, tmp_path / "out", path, chunk_kib=1).code == 0
    run = tmp_path / "out" / "r"
    pieces = sorted((run / "cases").iterdir())
    before = {piece.name: (piece / "predictions.jsonl").stat().st_mtime_ns for piece in pieces}
    (pieces[2] / "predictions.jsonl").unlink()
    done = call(
        "nlp", "predict", path, "-o", tmp_path / "out", "--model", model, "--resume", "r", "--quiet", "--chunk-kib", "1"
    )
    after = {piece.name: (piece / "predictions.jsonl").stat().st_mtime_ns for piece in pieces}
    assert done.code == 0
    assert [name for name in before if before[name] != after[name]] == [pieces[2].name]
    assert len(lines(run)) == 150


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_standard_input_is_answered_line_by_line_as_the_file_is(tmp_path, classified, kind):
    texts = [f"the red fox bites {n}" for n in range(120)]
    lines_of = {"txt": texts, "csv": ["text", *texts], "jsonl": [json.dumps({"text": text}) for text in texts]}
    path = tmp_path / f"posts.{kind}"
    path.write_text("\n".join(lines_of[kind]) + "\n")
    model = str(classified / "bundles" / "char_tfidf")
    config = StreamConfig(chunk_bytes=1024)
    answered = io.StringIO()
    with path.open("rb") as source:
        code = answer(PredictRequest((), model, config, device="cpu"), kind, source, answered)
    found = [json.loads(line) for line in answered.getvalue().splitlines()]
    predictor = load_predictor(model, "cpu")
    wanted = predictor.run([Document(str(n), text) for n, text in enumerate(texts)])
    assert code == 0
    assert [(line["label"], line["confidence"]) for line in found] == [
        (one.label, round(one.confidence, 6)) for one in wanted
    ]
    assert found[-1]["id"] == f"stdin, line {121 if kind == 'csv' else 120}"


def test_a_filter_answers_before_its_input_ends_and_says_what_it_cannot_read(classified):
    model = str(classified / "bundles" / "char_tfidf")
    flags = ("-", "--format", "jsonl", "-o", "-", "--model", model, "--chunk-kib", "1", "--device", "cpu")
    row = json.dumps({"text": "the red fox " * 20}) + "\n"
    with subprocess.Popen(
        command("nlp", "predict", *flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        running.stdin.write(row * 5)
        running.stdin.flush()
        first = [json.loads(running.stdout.readline()) for _ in range(5)]
        rest, _ = running.communicate("{broken\n" + row)
    last = [json.loads(line) for line in rest.splitlines()]
    assert all("label" in line for line in first)
    assert ["error" in line for line in last] == [True, False]
    assert running.returncode == 3


def test_an_empty_stream_is_one_sentence(classified):
    model = str(classified / "bundles" / "char_tfidf")
    with pytest.raises(NoInputError, match="PTD-812"):
        answer(PredictRequest((), model, device="cpu"), "txt", io.BytesIO(b"\n \n"), io.StringIO())


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("-", "-o", "out", "--format", "txt"), "PTD-811"),
        (("x.txt", "-o", "-"), "PTD-811"),
        (("-", "-o", "-"), "PTD-810"),
    ],
)
def test_half_a_filter_is_one_sentence(classified, flags, code):
    done = call("nlp", "predict", *flags, "--model", classified / "bundles" / "char_tfidf")
    assert (done.code, done.sentence()[:7]) == (2, code)


def test_words_of_a_text_stand_in_its_page_alone(tmp_path, classified):
    path = tmp_path / "posts.jsonl"
    path.write_text(json.dumps({"text": f"{SECRET} <script>"}) + "\n" + f'{{"text": "{SECRET}\n')
    done = predict(classified / "bundles" / "char_tfidf", tmp_path / "out", path)
    run = tmp_path / "out" / "r"
    page = run / "cases" / "posts.jsonl-000001" / "page.html"
    assert SECRET in page.read_text()
    assert "<script>" not in page.read_text()
    page.unlink()
    assert SECRET not in everything_written(run) + done.out + done.err


def test_the_review_queue_holds_the_unsure_documents_the_least_sure_first(tmp_path, classified):
    path = tmp_path / "posts.txt"
    path.write_text("".join(f"{'the red fox bites' if n % 3 else 'abc'} {n}\n" for n in range(200)))
    predict(classified / "bundles" / "char_tfidf", tmp_path / "out", path, chunk_kib=1)
    run = tmp_path / "out" / "r"
    queue = list(csv.DictReader((run / "review.csv").open()))
    found = lines(run)
    assert len(queue) == sum(line["abstained"] for line in found) > 0
    uncertainties = [float(row["uncertainty"]) for row in queue]
    assert uncertainties == sorted(uncertainties, reverse=True)


def test_highlighting_escapes_every_character_and_marks_the_spans():
    made = highlight("a <b> & c", [Entity(2, 5, "X<", 0.9)], {})
    assert "&lt;b&gt;</bdi><small>X&lt;</small></mark> &amp; c" in made
    assert "<b>" not in made


def test_an_unreadable_document_keeps_its_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n[]\n')
    config = StreamConfig()
    found = read_chunk(find_chunks([path], config)[0][0], config)
    assert [type(item) for item in found] == [Document, Unreadable]


def test_a_missing_tokenizer_is_one_sentence(tmp_path, classified):
    import shutil

    bundle = shutil.copytree(classified / "bundles" / "bert_cnn", tmp_path / "b")
    (bundle / "tokenizer.json").unlink()
    (tmp_path / "a.txt").write_text("x\n")
    done = predict(bundle, tmp_path / "out", tmp_path / "a.txt")
    assert done.code == 5
    assert "tokenizer.json is missing" in done.sentence()


def test_a_dry_run_writes_nothing_and_names_the_pieces(tmp_path, classified):
    (tmp_path / "a.txt").write_text("x\n")
    model = classified / "bundles" / "char_tfidf"
    done = call("nlp", "predict", tmp_path / "a.txt", "-o", tmp_path / "out", "--model", model, "--dry-run")
    assert (done.code, "would process a.txt-000001" in done.out) == (0, True)
    assert not (tmp_path / "out").exists()
