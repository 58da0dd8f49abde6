"""What the example `provisioning` is made of: reading a site, making a data set, asking it."""

import sqlite3
from functools import partial
from pathlib import Path

import pytest
import trio

from examples.provisioning.asking import Query, look_up
from examples.provisioning.crawl import CrawlError, Limits, read_site
from examples.provisioning.dataset import DataSet, Row, faults, reading, write
from examples.provisioning.designs import Column, Customer, Design, Table, tables_of
from examples.provisioning.pages import Page, read_page
from examples.provisioning.site import running_site

pytestmark = pytest.mark.real


async def test_a_crawl_keeps_to_its_host_to_robots_txt_and_to_pages() -> None:
    seen: list[str] = []
    async with running_site() as address:
        site = await read_site(address, Limits(), lambda page: seen.append(page.address))
        two = await read_site(address, Limits(pages=2), lambda _: None)
    assert seen == [page.address for page in site.pages]
    paths = ("/", "/boats", "/courses", "/prices", "/tides", "/find-us")
    assert seen == [f"{address}{path}" for path in paths]
    assert {left_out.removeprefix(address) for left_out in site.left_out} == {
        "/staff/rota", "/brochure.pdf", "/gone",
    }  # fmt: skip
    assert len(two.pages) == 2


async def test_a_site_that_falls_silent_is_left_after_its_time() -> None:
    async def silence(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, silence, 0, host="127.0.0.1"))
        address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with pytest.raises(CrawlError, match=r"0\.3 s had passed"):
            await read_site(address, Limits(seconds=0.3), lambda _: None)
        nursery.cancel_scope.cancel()


def test_a_page_is_read_however_badly_it_is_written() -> None:
    content = (
        b"<title>A &amp; B</title><script>var x = '<p>'</script><p>one<p>tw\xff <b>words"
        b"<a href=/next#part>go</a><a href='http://[/'>bad</a><a>none</a><!-- <"
    )
    page, links = read_page("http://h/a", {"content-type": "text/html; charset=nonsense"}, content)
    assert page.title == "A & B"
    assert page.text.startswith("one tw\ufffd words")
    assert links == ["http://h/next"]


def test_names_that_a_model_gives_become_identifiers_each_once() -> None:
    columns = [Column(name, "text") for name in ("id", "Größe (cm)", "größe cm", "日本", "hits")]
    names = ["select", "pages", "sqlite_x", "1st", '"; DROP TABLE pages; --']
    tables = tables_of(Design([Table(name, "", columns) for name in names]))
    assert [table.name for table in tables] == [
        "select", "pages_2", "table_sqlite_x", "table_1st", "drop_table_pages",
    ]  # fmt: skip
    assert [column.name for column in tables[0].columns] == [
        "id_2", "groe_cm", "groe_cm_2", "column", "hits_2",
    ]  # fmt: skip


def small(folder: Path) -> Path:
    """A data set with a table whose names and values are as awkward as can be."""
    [table] = tables_of(Design([Table("select", "boats", [Column("from", "text")])]))
    rows = [Row(1, {"from": "Petrel, 100% new"}), Row(2, {"from": "Otter's"}), Row(1, {})]
    pages = [Page("http://h/1", "One", "petrel"), Page("http://h/2", "Two", "ÄPFEL")]
    path = folder / "sets" / "small.db"
    data_set = DataSet(Customer("n", "s", ["t"]), pages, [table], {"select": rows})
    assert write(data_set, path) == {"pages": 2, "select": 3}
    assert write(data_set, path) == {"pages": 2, "select": 3}  # again, in its place
    return path


def test_a_data_set_is_checked_against_what_it_was_made_of(tmp_path: Path) -> None:
    path = small(tmp_path)
    assert faults(path, {"pages": 2, "select": 3}) == []
    assert faults(path, {"pages": 2, "select": 4, "more": 1}) == [
        "table more is missing", "table select has 3 rows, not 4",
    ]  # fmt: skip
    with pytest.raises(sqlite3.OperationalError, match="moved or deleted"):
        faults(tmp_path / "other.db", {})


def test_an_answer_cites_the_rows_that_have_most_of_the_words(tmp_path: Path) -> None:
    path = small(tmp_path)
    answer = look_up(path, "?", Query("select", "which rows", ["PETREL", "100%", "x'--"]))
    assert [(cited.table, cited.id, cited.page) for cited in answer.rows] == [
        ("select", 1, "http://h/1")
    ]
    elsewhere = look_up(path, "?", Query("select", "which rows", ["äpfel"]))
    assert [(cited.table, cited.id) for cited in elsewhere.rows] == [("pages", 2)]
    assert look_up(path, "?", Query("select", "how many", [])).answer.startswith("3 of select")
    nothing = look_up(path, "?", Query("select", "which rows", ["nowhere"]))
    assert (nothing.answer, nothing.rows) == ("Nothing in the data set speaks of that.", [])


def test_a_data_set_can_only_be_read(tmp_path: Path) -> None:
    with (
        reading(small(tmp_path)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM pages")
