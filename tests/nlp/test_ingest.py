"""Reading labelled files: every layout, and one sentence for each thing that is wrong, while the rest goes on."""

import gzip
import io
import json
import zipfile

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from pentad.core.cases import read_cases
from pentad.core.errors import NoInputError, UsageError
from pentad.nlp.ingest import PrepareConfig, prepare, read_documents

CLASSES = PrepareConfig("classes")
ENTITIES = PrepareConfig("entities")
ROWS = [("कसे आहात", "NOT"), ('x, "y"', "HATE")]


def texts(folder, config=CLASSES):
    documents, refused = read_documents(folder, config)
    return [(document.text, document.label) for document in documents], [item.code for item in refused]


def test_csv_jsonl_parquet_and_xlsx_say_the_same(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\nकसे आहात,NOT\n"x, ""y""",HATE\n')
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in ROWS))
    columns = {"text": [t for t, _ in ROWS], "label": [c for _, c in ROWS]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "c.parquet")
    book = openpyxl.Workbook()
    for row in [("text", "label"), *ROWS]:
        book.active.append(row)
    book.save(tmp_path / "d.xlsx")
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert texts(tmp_path) == (ROWS * 5, [])


def test_documents_of_files_of_one_name_have_ids_of_their_own(tmp_path):
    for name in ("a-2.csv", "x/a.csv", "y/a.csv", "z/a-2.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text,label\n{name},NOT\n")
    documents, _ = read_documents(tmp_path, CLASSES)
    assert [document.id for document in documents] == ["a-2-000001", "a-000001", "a-3-000001", "a-2-2-000001"]


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
CELL = '<c r="{}" t="inlineStr"><is><t>{}</t></is></c>'


def sheet(path, rows, part="xl/worksheets/sheet1.xml"):
    """Write a workbook, one part of which is replaced."""
    book = io.BytesIO()
    openpyxl.Workbook().save(book)
    with zipfile.ZipFile(book) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, rows if name == part else old.read(name))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (SHEET[:-30], "xl/worksheets/sheet1.xml"),
        (SHEET.format(f"<row>{CELL.format('!!', 'text')}</row>"), "xl/worksheets/sheet1.xml"),
        (SHEET.format('<row><c r="A1"><v>many</v></c></row>'), "xl/worksheets/sheet1.xml"),
        ("<a", "xl/workbook.xml"),
    ],
)
def test_a_damaged_sheet_is_one_refusal(tmp_path, content, part):
    sheet(tmp_path / "a.xlsx", content, part)
    assert texts(tmp_path) == ([], ["PTD-776"])


def test_stray_cells_far_away_make_no_sheet_endless(tmp_path):
    head = "".join(CELL.format(f"{place}1", name) for place, name in (("A", "text"), ("B", "label"), ("XFD", "stray")))
    row = CELL.format("A2", "hello") + CELL.format("B2", "NOT")
    far = '<row r="100000"><c r="XFD100000"><v>1</v></c></row>'
    sheet(tmp_path / "a.xlsx", SHEET.format(f'<row r="1">{head}</row><row r="2">{row}</row>{far}'))
    assert texts(tmp_path) == ([("hello", "NOT")], [])


@pytest.mark.parametrize("name", ["a.csv.gz", "a.xlsx"])
def test_what_unpacks_to_fill_the_memory_is_refused_before(tmp_path, name):
    empty = bytes(1 << 28) + b"x"
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(empty, 1))
    else:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("xl/sharedStrings.xml", empty)
    assert texts(tmp_path)[1] == [{"a.csv.gz": "PTD-767", "a.xlsx": "PTD-776"}[name]]


def test_literal_quotes_are_read_with_quoting_off(tmp_path):
    (tmp_path / "olid.tsv").write_text('id\ttext\tlabel\n1\t"half a quote\tOFF\n')
    assert texts(tmp_path, PrepareConfig("classes", quoting=False)) == ([('"half a quote', "OFF")], [])


def test_the_layout_of_mahaner_and_blank_lines_give_the_same_sentences(tmp_path):
    (tmp_path / "a.tsv").write_text("words\tlabels\tsentence_id\nरिया\tBNEP\t1.0\nराव\tINEP\t1.0\nपुणे\tBNEL\t2.0\n")
    (tmp_path / "b.conll").write_text("रिया\tB-NEP\nराव\tI-NEP\n\nपुणे\tB-NEL\n")
    documents, refused = read_documents(tmp_path, PrepareConfig("entities", types=("NEP", "NEL")))
    assert [document.tags for document in documents] == [("B-NEP", "I-NEP"), ("B-NEL",)] * 2
    assert documents[0].text == "रिया राव"
    assert refused == []


@pytest.mark.parametrize(
    ("name", "content", "code", "left"),
    [
        ("latin.csv", "text,label\nça va,NOT\n".encode("latin-1"), "PTD-766", 0),
        ("utf16.csv", "text,label\na,NOT\n".encode("utf-16"), "PTD-766", 0),
        ("ragged.csv", b"text,label\na,NOT\nb,NOT,more\nc,NOT\n", "PTD-770", 2),
        ("empty.csv", b"text,label\n ,NOT\nc,NOT\n", "PTD-773", 1),
        ("columns.csv", b"txt,label\nc,NOT\n", "PTD-772", 0),
        ("half.jsonl", b'{"text": "a", "label": "NOT"}\n{"text": \n', "PTD-775", 1),
        ("list.jsonl", b'["text"]\n{"text": "a", "label": "NOT"}\n', "PTD-775", 1),
        ("no.parquet", b"PAR1", "PTD-776", 0),
        ("no.xlsx", b"PK", "PTD-776", 0),
        ("cut.csv.gz", gzip.compress(b"text,label\na,NOT\n", mtime=0)[:-4], "PTD-767", 0),
        ("words.conll", b"a\tB-X\n", "PTD-781", 0),
        ("header.csv", b"text,label\n", "PTD-800", 0),
        ("nothing.jsonl", b"", "PTD-800", 0),
        ("twice.csv", b"text,text,label\na,b,NOT\n", "PTD-816", 0),
        ("object.jsonl", b'{"text": {"a": 1}, "label": "NOT"}\n', "PTD-815", 0),
        ("half.jsonl", b'{"text": "\\ud800 x", "label": "NOT"}\n', "PTD-815", 0),
        ("number.jsonl", b'{"text": NaN, "label": "NOT"}\n', "PTD-773", 0),
        ("long.jsonl", json.dumps({"text": "x" * 1_000_001, "label": "NOT"}).encode(), "PTD-760", 0),
    ],
)
def test_what_is_wrong_with_a_table_is_one_refusal_and_the_rest_goes_on(tmp_path, name, content, code, left):
    (tmp_path / name).write_bytes(content)
    found, codes = texts(tmp_path)
    assert codes == [code]
    assert len(found) == left


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("a\tO\n\tB-X\n\nb\tO\n", "PTD-769"),
        ("a\tO\nb\n\nb\tO\n", "PTD-770"),
        ("a\nb\n\nb\tO\n", "PTD-769"),
        ("a\tI-X\n\nb\tO\n", "PTD-762"),
        ("a\tB-Y\n\nb\tO\n", "PTD-771"),
    ],
)
def test_what_is_wrong_with_a_sentence_is_one_refusal_and_the_rest_goes_on(tmp_path, content, code):
    (tmp_path / "a.conll").write_text(content)
    documents, refused = read_documents(tmp_path, PrepareConfig("entities", types=("X",)))
    assert [item.code for item in refused] == [code]
    assert [document.text for document in documents] == ["b"]


def test_a_label_that_is_not_named_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,NOT\nb,NTO\n")
    config = PrepareConfig("classes", labels={"NOT": "none"})
    assert texts(tmp_path, config) == ([("a", "none")], ["PTD-771"])


def test_texts_without_a_label_at_their_level_are_left_out_and_counted(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "olid.tsv").write_text("tweet\tsubtask_b\nfirst one\tTIN\nsecond\tNULL\nthird\t\nfourth\tUNT\nfifth\tTIM\n")
    config = PrepareConfig(
        "classes", text="tweet", label="subtask_b", labels={"TIN": "TIN", "UNT": "UNT"}, absent=("NULL", "")
    )
    done = prepare(raw, tmp_path / "out", config)
    assert done.text.startswith("2 documents")
    assert "2 without a label left out" in done.text
    assert done.refused == 1


def test_near_duplicates_across_splits_are_reported_and_dropped_from_training_on_demand(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train.csv").write_text("text,label\nThe quick brown fox jumps over it,NOT\nSomething else again,HATE\n")
    (raw / "test.csv").write_text("text,label\n@you the quick brown fox JUMPS over it!!,NOT\n")
    prepare(raw, tmp_path / "kept", CLASSES)
    prepare(raw, tmp_path / "dropped", PrepareConfig("classes", duplicates="drop"))
    assert json.loads((tmp_path / "kept" / "duplicates.jsonl").read_text())["similarity"] == 1.0
    assert len(read_cases(tmp_path / "kept" / "cases.jsonl")) == 3
    assert [case.id for case in read_cases(tmp_path / "dropped" / "cases.jsonl", "train")] == ["train-000002"]


def test_files_go_to_the_splits_that_their_names_say(tmp_path):
    for name in ("wnut17train.conll", "emerging.dev.conll", "x_valid.tsv", "test.conll"):
        (tmp_path / name).write_text("a\tO\n")
    documents, _ = read_documents(tmp_path, ENTITIES)
    assert [document.split for document in documents] == ["val", "test", "train", "val"]


def test_files_of_other_formats_and_links_to_nowhere_are_named(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("text,label\na,NOT\n")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF")
    (tmp_path / "README.md").write_text("what this is")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    assert texts(tmp_path) == ([("a", "NOT")], ["PTD-767"])
    assert [record.getMessage() for record in caplog.records] == ["left out, of another format: scan.pdf"]


def test_a_limit_takes_so_many_of_a_split(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train.csv").write_text("text,label\n" + "".join(f"text number {n},NOT\n" for n in range(30)))
    done = prepare(raw, tmp_path / "out", PrepareConfig("classes", limit={"train": 10}))
    assert "10 train" in done.text


def test_nothing_usable_is_said_with_the_first_reason(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(NoInputError, match="PTD-779"):
        prepare(tmp_path, tmp_path / "out", CLASSES)


def test_prepared_cases_are_not_replaced_unasked(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,NOT\nb,NOT\nc,NOT\n")
    prepare(tmp_path, tmp_path / "out", CLASSES)
    with pytest.raises(UsageError, match="PTD-778"):
        prepare(tmp_path, tmp_path / "out", CLASSES)


def test_a_name_in_prepare_files_that_is_not_there_is_said(tmp_path):
    (tmp_path / "posts.csv").write_text("text,label\na,NOT\n")
    with pytest.raises(UsageError, match=r"did you mean 'posts\.csv'"):
        prepare(tmp_path, tmp_path / "out", PrepareConfig("classes", files={"train": ["post.csv"]}))


@pytest.mark.real_data
def test_the_real_marathi_files_are_read_without_a_refusal(real_data):
    folder = real_data / "nlp" / "maha_ner"
    if not folder.is_dir():
        pytest.skip("no MahaNER here")
    types = ("NEP", "NEL", "NEO", "NEM", "NETI", "NED", "ED")
    documents, refused = read_documents(folder, PrepareConfig("entities", types=types, repair=True))
    assert len(documents) == 1500 + 1500 + 999 + 1350
    assert refused == []
