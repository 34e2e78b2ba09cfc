"""README and docs say what is there: links lead somewhere, code compiles, names exist.

Tables of options, settings, errors and commands are compared in both directions: what is documented
exists, and what exists is documented.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import shmq
import shmq.errors
from shmq._native import lib
from shmq.cli.main import parser
from shmq.options import QueueOptions
from shmq.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SEMANTICS, OPERATIONS, ARCHITECTURE, SAFETY = (
    ROOT / "docs" / f"{name}.md"
    for name in ("semantics", "operations", "architecture", "crash-safety")
)

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """The text without fenced blocks, in which # is no heading and []() is no link."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def blocks_of(page: Path, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, text_of(page), re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    seen: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose_of(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        anchors.add(slug if slug not in seen else f"{slug}-{seen[slug]}")
        seen[slug] = seen.get(slug, 0) + 1
    return anchors


def section_of(page: Path, heading: str) -> str:
    """The text from a heading to the next one of the same or a higher level."""
    found = re.search(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)",
        text_of(page),
        re.DOTALL | re.MULTILINE,
    )
    assert found, f"{page.name} has no heading {heading!r}"
    return found[2]


def column(section: str, n: int = 0) -> list[str]:
    """The words in `backticks` that are a whole cell of the n-th column of tables."""
    cells = [
        row.strip("|").split("|")[n].strip()
        for row in re.findall(r"^\|.*\|$", section, re.MULTILINE)
        if row.count("|") > n + 1
    ]
    return [cell.strip("`") for cell in cells if re.fullmatch(r"`[^`]+`", cell)]


# ---- links and code -----------------------------------------------------------------------------


@by_name
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or ROOT not in file.parents:
            broken.append(f"{target}: no such file")
        elif anchor and (file.suffix != ".md" or anchor not in anchors_of(file)):
            broken.append(f"{target}: no such heading")
    assert broken == []


def test_links_lead_to_files_that_git_keeps() -> None:
    """A link to something built or ignored is broken for everybody else."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    kept = {ROOT / name for name in listed.stdout.split("\0") if name}
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s#:]+)[^)\s:]*\)", prose_of(page))
    }
    folders = {parent for file in kept for parent in file.parents}
    assert sorted(str(file) for file in linked - kept - folders) == []


@by_name
def test_python_blocks_compile(page: Path) -> None:
    for i, block in enumerate(blocks_of(page, "python")):
        compile(block, f"{page.name}, block {i + 1}", "exec")


def test_the_settings_file_in_the_docs_is_read(tmp_path: Path) -> None:
    (block,) = blocks_of(OPERATIONS, "toml")
    file = tmp_path / "shmq.toml"
    file.write_text(block, encoding="utf-8")
    settings = Settings.load({}, {}, file)
    for name in tomllib.loads(block)["shmq"]:
        assert getattr(settings, name) != getattr(Settings(), name)


# ---- tables -------------------------------------------------------------------------------------


def test_every_queue_option_is_documented_and_no_other() -> None:
    options = [field.name for field in dataclasses.fields(QueueOptions)]
    assert sorted(column(section_of(SEMANTICS, "Queue options"))) == sorted(options)


def test_every_setting_is_documented_with_its_variable_and_no_other() -> None:
    section = section_of(OPERATIONS, "Settings")
    settings = sorted(field.name for field in dataclasses.fields(Settings))
    assert sorted(column(section)) == settings
    assert sorted(column(section, 1)) == sorted(f"SHMQ_{name.upper()}" for name in settings)


def test_every_error_is_documented_and_no_other() -> None:
    errors = {
        name
        for name in shmq.errors.__all__
        if isinstance(getattr(shmq.errors, name), type) and name != "ShmqError"
    }
    assert sorted(column(section_of(SEMANTICS, "Errors"))) == sorted(errors)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(commands.choices)


def test_every_command_is_documented_with_options_that_it_has() -> None:
    rows = re.findall(r"^\| `shmq (\w+)[^`]*` \|(.*)$", text_of(OPERATIONS), re.MULTILINE)
    commands = subcommands()
    assert sorted(name for name, _ in rows) == sorted(commands)
    for name, row in rows:
        known = commands[name]._option_string_actions
        assert [option for option in re.findall(r"`(--[\w-]+)`", row) if option not in known] == []


def arguments_of(line: str) -> list[str]:
    """The words of a command line in the docs; a name for a command that was shown without one."""
    words = re.sub(r"\[[^]]*\]|…", "", line).split()
    return [*words, "NAME"] if words in (["up"], ["down"]) else words


@by_name
def test_command_lines_shown_can_be_parsed(page: Path) -> None:
    shown = re.findall(
        r"^ {4}(?:ExecStart=\S+ )?shmq +(.+?)(?: +#.*)?$", text_of(page), re.MULTILINE
    )
    shown += re.findall(r"`shmq ([^`]+)`", text_of(page))
    refused = []
    for line in shown:
        try:
            parser().parse_args(arguments_of(line))
        except SystemExit as end:
            refused += [line] if end.code else []
    assert refused == []


# ---- what GoMQ has --------------------------------------------------------------------------------

# Line by line, as its README writes it.
GOMQ = {
    "Features": """
        In-memory and persistent storage backends
        Point-to-point (Queue) messaging
        Publish-Subscribe (Topic) messaging
        Message acknowledgment (manual and auto)
        Message TTL (Time-To-Live)
        Dead Letter Queue (DLQ)
        Consumer groups for load balancing
        Message priority queues
        Retry mechanism with exponential backoff
        Delayed/Scheduled messages
        Message deduplication
        Message ordering guarantees
        Graceful shutdown
        Metrics and monitoring
        TCP server for remote access
        Thread-safe operations
    """,
    "Delivery semantics": """
        At-most-once
        At-least-once
        Exactly-once
    """,
    "Broker": """
        broker.New(config)
        b.Start(ctx)
        b.Shutdown(ctx)
        b.CreateQueue(name string)
        b.GetQueue(name string)
        b.DeleteQueue(name string)
        b.ListQueues()
        b.CreateTopic(name string)
        b.GetTopic(name string)
        b.DeleteTopic(name string)
        b.ListTopics()
        b.CreateConsumerGroup(group, queue)
        group.AddConsumer(id)
        Messages are distributed among consumers in round-robin fashion
        server.New(b, addr)
        srv.ListenAndServe()
        client.Connect(addr)
        c.Publish(ctx, queue, payload)
        c.Subscribe(ctx, queue)
        c.Close()
    """,
    "Message": """
        message.New(payload []byte)
        msg.SetHeader(key, value string)
        msg.SetPriority(priority int)
        msg.SetTTL(duration time.Duration)
        msg.SetDelay(duration time.Duration)
        msg.SetDeduplicationID(id string)
        msg.ID()
        msg.Header(key string)
        msg.Headers()
        msg.Priority()
        msg.Timestamp()
        msg.TTL()
        msg.Payload
        msg.Ack()
        msg.Nack()
        msg.Reject()
    """,
    "Queue": """
        q.Publish(ctx, msg)
        case <-ctx.Done(): return ctx.Err()
        q.PublishBatch(ctx, msgs []*message.Message)
        q.Subscribe(consumerID string)
        consumer.Messages()
        consumer.Close()
        q.Depth()
        q.Purge()
        q.Stats()
    """,
    "Topic": """
        t.Publish(ctx, msg)
        t.Subscribe(subscriberID string)
        t.Unsubscribe(subscriberID string)
        t.SubscriberCount()
        t.Stats()
    """,
    "Queue options and errors": """
        queue.WithDLQ("orders-dlq")
        WithMaxSize(size int)
        WithTTL(ttl time.Duration)
        msg.Header("x-error")
        QueueNotFoundError
        ErrQueueFull
        ErrQueueClosed
        ErrMessageExpired
    """,
    "Configuration": """
        StorageBackend
        DataDir
        DefaultTTL
        MaxMessageSize
        MaxQueueDepth
        MaxRetries
        EnableMetrics
        MetricsInterval
        GOMQ_STORAGE
        GOMQ_DATA_DIR
        GOMQ_DEFAULT_TTL
        GOMQ_MAX_MESSAGE_SIZE
        GOMQ_MAX_QUEUE_DEPTH
        GOMQ_MAX_RETRIES
        GOMQ_LISTEN_ADDR
    """,
    "Examples": """
        Embedded Usage (In-Process)
        Client-Server Usage
        basic
        pubsub
        persistent
        consumer-groups
        delayed-messages
        priority-queue
        Dead Letter Queue
    """,
}
# What comes with storage on disk and access over TCP, and nothing else.
LATER = {
    "In-memory and persistent storage backends: persistent", "TCP server for remote access",
    "server.New(b, addr)", "srv.ListenAndServe()", "client.Connect(addr)",
    "c.Publish(ctx, queue, payload)", "c.Subscribe(ctx, queue)", "c.Close()", "DataDir",
    "GOMQ_DATA_DIR", "GOMQ_LISTEN_ADDR", "Client-Server Usage", "persistent",
}  # fmt: skip
MISSING = "not in this version"
HANDLES = {
    "broker": shmq.Broker, "queue": shmq.Queue, "topic": shmq.Topic, "consumer": shmq.Consumer,
    "delivery": shmq.Delivery, "group": shmq.ConsumerGroup,
}  # fmt: skip


class Row(NamedTuple):
    """One line of a table about GoMQ: what it has, what shmq has, where that is described, its tests."""

    gomq: str
    shmq: str
    described: str
    tests: str

    @property
    def words(self) -> set[str]:
        """The names in what shmq has."""
        code = " ".join(re.findall(r"`([^`]+)`", self.shmq))
        return set(re.findall(r"[A-Za-z_]{3,}", code))


def gomq_rows(heading: str) -> list[Row]:
    section = part_of(SEMANTICS, heading.lower().replace(" ", "-"))
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [Row(*line.split(" | ")) for line in lines if not line.startswith("GoMQ | shmq |")]


def part_of(page: Path, anchor: str) -> str:
    """The text under the heading that has ``anchor``, to the next one of its level or above."""
    parts = re.split(r"^(#+ .+)$", text_of(page), flags=re.MULTILINE)
    found, level = "", 0
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        depth = len(heading.partition(" ")[0])
        slug = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")
        if slug == anchor:
            level = depth
        elif depth <= level:
            break
        found += text if level else ""
    assert found, f"{page.name} has no heading for #{anchor}"
    return found


ALL_ROWS = [(heading, row) for heading in GOMQ for row in gomq_rows(heading)]
gomq = pytest.mark.parametrize(
    ("heading", "row"), ALL_ROWS, ids=[f"{heading}: {row.gomq}" for heading, row in ALL_ROWS]
)


@pytest.mark.parametrize("heading", GOMQ)
def test_every_line_of_gomq_has_its_row_and_no_other(heading: str) -> None:
    lines = [line.strip() for line in GOMQ[heading].strip().splitlines()]
    found = [
        row.gomq.strip("`") if row.gomq.startswith("`") else row.gomq.partition(": ")[0]
        for row in gomq_rows(heading)
    ]
    assert list(dict.fromkeys(found)) == lines


def test_every_table_about_gomq_is_checked() -> None:
    text = text_of(SEMANTICS).partition("## Coming from GoMQ")[2]
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == list(GOMQ)


def test_only_disk_and_tcp_are_missing() -> None:
    missing = {row.gomq.strip("`") for _, row in ALL_ROWS if MISSING in (row.described, row.tests)}
    assert missing == LATER
    for _, row in ALL_ROWS:
        assert (row.described == MISSING) == (row.tests == MISSING)
    assert text_of(SEMANTICS).count(MISSING) == 2 * len(LATER) + 1  # and the sentence above


@gomq
def test_a_row_leads_to_its_description(heading: str, row: Row) -> None:
    if row.described == MISSING:
        return
    (target,) = re.findall(r"^\[[^]]+\]\(([^)]+)\)$", row.described)
    file, _, anchor = target.partition("#")
    text = part_of(ROOT / "docs" / file if file else SEMANTICS, anchor)
    assert any(re.search(rf"\b{word}", text, re.IGNORECASE) for word in row.words), row.words


@gomq
def test_a_row_leads_to_tests_of_what_it_names(heading: str, row: Row) -> None:
    if row.tests == MISSING:
        return
    tests = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[^)]+)\)", row.tests)
    assert len(tests) == row.tests.count("](") > 0
    for name, file in tests:
        source = text_of(ROOT / file)
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
        used = source
        for example in re.findall(r"\.\./(examples/\w+\.py)", row.shmq):
            assert Path(example).name in source
            used = text_of(ROOT / example)
        used = used.replace("--", "").replace("-", "_")  # options of the command line
        words = {word for word in row.words if re.search(rf"\b{word}\b", used, re.IGNORECASE)}
        assert words, f"{file} uses none of {row.words}"


@gomq
def test_a_row_names_what_exists(heading: str, row: Row) -> None:
    code = " ".join(re.findall(r"`([^`]+)`", row.shmq))
    for handle, name in re.findall(r"\b(broker|queue|topic|consumer|delivery|group)\.(\w+)", code):
        assert hasattr(HANDLES[handle], name)
    for name in re.findall(r"\b[A-Z][a-z]+[A-Za-z]*\b", code):
        assert name == "None" or hasattr(shmq, name)
    for name in re.findall(r"\bSHMQ_(\w+)", code):
        assert name.lower() in {field.name for field in dataclasses.fields(Settings)}


def test_every_delivery_mode_has_a_test_that_exists() -> None:
    rows = [
        line
        for line in part_of(SEMANTICS, "delivery-modes").splitlines()
        if line.startswith(("| at ", "| exactly "))
    ]
    assert {row.split(" | ")[0].lstrip("| ") for row in rows} == {
        "at most once", "at least once", "exactly once",
    }  # fmt: skip
    for row in rows:
        tests = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[^)]+)\)", row.split(" | ")[-1])
        assert tests, row
        for name, file in tests:
            assert re.search(rf"^def {name}\(", text_of(ROOT / file), re.MULTILINE), name


def test_every_guarantee_has_something_that_holds_it() -> None:
    rows = re.findall(
        r"^\| (.+) \|$", section_of(ROOT / "README.md", "What is guaranteed"), re.MULTILINE
    )
    promises = [row.split(" | ") for row in rows if not row.startswith("promise | ")]
    assert len(promises) > 10
    for _promise, _against, held_by in promises:
        assert re.search(r"\]\((?:tests|native/tests)/[^)]+\)", held_by), held_by


@by_name
def test_tests_linked_by_name_exist(page: Path) -> None:
    for name, target in re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", text_of(page)):
        source = text_of((page.parent / target).resolve())
        assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{target}: {name}"


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    shown = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|^ {4})make ([a-z-]+)", text_of(page), re.MULTILINE)
    }
    assert shown
    assert shown - targets == set()


def test_every_probe_of_multiprocessing_is_a_test_and_no_other() -> None:
    page = ROOT / "docs" / "multiprocessing.md"
    rows = column(section_of(page, "What goes wrong there, and what happens here"))
    probes = text_of(ROOT / "tests" / "mp" / "test_probes.py")
    assert sorted(rows) == sorted(re.findall(r"^def test_(\w+)", probes, re.MULTILINE))


def test_limits_are_those_of_the_header() -> None:
    limits = "".join(section_of(page, "Limits") for page in (SEMANTICS, OPERATIONS))
    for number in (lib.SHMQ_OWNERS, lib.SHMQ_QUEUES, lib.SHMQ_BLOCKS, lib.SHMQ_HELD):
        assert f"{number:,}" in limits


# ---- the argument -------------------------------------------------------------------------------


def test_every_source_file_has_its_place_in_the_architecture() -> None:
    linked = {
        (ROOT / "docs" / target).resolve()
        for target in re.findall(r"\]\((\.\./[^)]+)\)", section_of(ARCHITECTURE, "Floors"))
    }
    folders = {file.parent for file in linked} - {ROOT / "shmq"}
    sources = {*(ROOT / "native" / "src").glob("*.c"), *(ROOT / "shmq").glob("*.py")}
    sources |= set((ROOT / "shmq").glob("*/__init__.py"))
    missing = {
        file for file in sources - linked if file.parent not in folders or file.suffix == ".c"
    }
    assert sorted(str(file.relative_to(ROOT)) for file in missing) == []


def test_every_mutant_of_the_core_is_named_in_the_argument_and_no_other() -> None:
    source = "".join(text_of(path) for path in (ROOT / "native" / "src").glob("*.c"))
    mutants = {int(n) for n in re.findall(r"MUTANT\((\d+)\)", source)}
    named = {int(n) for n in re.findall(r"\*M(\d+)\*", text_of(SAFETY))}
    assert named == mutants


def test_every_mutant_of_a_model_that_is_named_exists() -> None:
    models = text_of(ROOT / "tests" / "model" / "run.py")
    known = set(re.findall(r'^    \("([A-Z0-9_]+)", "\w+"', models, re.MULTILINE))
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z0-9]+)+)`", text_of(SAFETY)))
    named -= {name for name in named if name.startswith(("SHMQ_", "MADV_"))}
    assert named
    assert named - known == set()


# ---- the heads of files --------------------------------------------------------------------------


def heads() -> dict[Path, str]:
    """What each module and C file says of itself at its beginning."""
    found = {}
    for path in sorted((ROOT / "shmq").rglob("*.py")):
        if text := ast.get_docstring(ast.parse(text_of(path))):
            found[path] = text
    for path in sorted((ROOT / "native").rglob("*.[ch]")):
        if text_of(path).startswith("/*"):
            found[path] = text_of(path).partition("*/")[0]
    return found


def test_what_the_head_of_a_file_names_exists() -> None:
    folders = [ROOT / name for name in ("shmq", "native", "tests", "tools", "docs")]
    files = {path for folder in folders for path in folder.rglob("*.*")}
    code = {path: text_of(path) for path in files if path.suffix in {".py", ".c", ".h", ".pyi"}}
    ends = {path.as_posix() for path in files}
    gone = []
    spoken = {"baggage", "tracestate"}  # names of headers by the standard of another one
    for path, head in heads().items():
        words = {
            word for tick in re.findall(r"`([^`\n]+)`", head) for word in re.findall(r"[A-Za-z_]\w*", tick)
        }  # fmt: skip
        for word in sorted(words):
            here = re.compile(rf"\b{word}\b")
            beyond = len(here.findall(code[path])) > len(here.findall(head))
            if word in spoken or beyond:
                continue
            if not any(here.search(code[each]) for each in code if each != path):
                gone.append(f"{path.relative_to(ROOT)}: `{word}`")
        for name in re.findall(r"\b([\w/]+\.(?:py|c|h|md|pml))\b", head):
            if name.removesuffix(".py") in sys.stdlib_module_names or name.endswith("__main__.py"):
                continue
            if not any(end.endswith(f"/{name}") for end in ends):
                gone.append(f"{path.relative_to(ROOT)}: {name}")
    assert gone == []


def test_the_commit_points_of_the_code_are_those_of_the_docs() -> None:
    text = (ROOT / "docs" / "crash-safety.md").read_text()
    section = text.partition("## Commit points")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| ([a-z-]+) \| ([a-z., ]+) \|", section)
    told = {name: set(files.split(", ")) for name, files in rows}
    marked: dict[str, set[str]] = {}
    for source in sorted((ROOT / "native" / "src").glob("*.c")):
        for name in re.findall(r"COMMIT ([a-z-]+)\b(?=,|:| \*/)", source.read_text()):
            marked.setdefault(name, set()).add(source.name)
    assert len(told) > 5
    assert marked == told
